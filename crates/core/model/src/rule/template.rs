//! Templates of SPIFFE IDs.
//!
//! ```text
//! template    = "spiffe://" domain 1*( "/" segment )
//! domain      = "{td}" / trust domain name
//! segment     = [literal] [placeholder] [literal]      ; not empty
//! literal     = 1*( letter / digit / "." / "-" / "_" )
//! placeholder = "{class}" / "{node}" / "{instance}" / "{" TYPE ":" KEY "}"
//! ```
//!
//! A segment has one placeholder at the most: what stood for each can then be read off the name
//! again, and two processes that differ in one of them differ in their names.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::TrustDomain;

const SCHEME: &str = "spiffe://";
/// The longest template in bytes: names grow with their facts, and an ID has at most 2048.
const MAX_LEN: usize = 1024;

/// A template of SPIFFE IDs, parsed. Two are equal where their texts are.
#[derive(Clone)]
pub struct Template {
    text: Arc<str>,
    domain: Option<TrustDomain>,
    segments: Arc<[Segment]>,
}

/// One segment of the path of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the template, in bytes.
    pub at: usize,
    /// What stands before the placeholder; the whole segment where there is none.
    pub before: String,
    /// The placeholder, and where its brace stands.
    pub part: Option<Part>,
    /// What stands after it.
    pub after: String,
}

/// A placeholder at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where its brace stands in the template, in bytes.
    pub at: usize,
    /// Which it is.
    pub placeholder: Placeholder,
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `{class}`: the agent class of the rule.
    Class,
    /// `{node}`: a digest of the node's ID.
    Node,
    /// `{instance}`: a digest of rule, node and process.
    Instance,
    /// `{TYPE:KEY}`: the value of a fact, such as `{unix:uid}`.
    Fact {
        /// The type of the selectors that tell it.
        kind: String,
        /// What stands before the value in them.
        key: String,
    },
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// It does not begin with the scheme.
    #[error("a template begins with \"spiffe://\"")]
    Scheme,
    /// It is too long.
    #[error("a template has at most {MAX_LEN} bytes")]
    TooLong,
    /// The trust domain is not a name, and not `{{td}}`.
    #[error("the trust domain is \"{{td}}\", or the server's own by its name")]
    Domain,
    /// There is no path.
    #[error("a template has a path: the trust domain's own ID is nobody's")]
    NoPath,
    /// A segment of the path is empty.
    #[error("a path has no empty segment and no trailing slash")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("a path segment is neither \".\" nor \"..\"")]
    DotSegment,
    /// A character that a path may not have.
    #[error("a path has only letters, digits, '.', '-' and '_', and placeholders in braces")]
    Character,
    /// A brace that is not closed.
    #[error("the brace is not closed")]
    Unclosed,
    /// A second placeholder in a segment.
    #[error(
        "a segment has one placeholder at the most: with two, different processes could get one \
         name; put a '/' between them"
    )]
    SecondInSegment,
    /// A placeholder that is none.
    #[error(
        "there is no placeholder {0:?}; they are {{class}}, {{node}}, {{instance}}, and facts such as \
         {{unix:uid}}"
    )]
    UnknownPlaceholder(String),
    /// `{{td}}` in the path.
    #[error("{{td}} is the trust domain, and stands at the beginning only")]
    DomainInPath,
}

impl TemplateFault {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownPlaceholder(_) | Self::DomainInPath => "UNKNOWN_PLACEHOLDER",
            Self::SecondInSegment => "AMBIGUOUS_TEMPLATE",
            Self::Scheme
            | Self::TooLong
            | Self::Domain
            | Self::NoPath
            | Self::EmptySegment
            | Self::DotSegment
            | Self::Character
            | Self::Unclosed => "INVALID_TEMPLATE",
        }
    }
}

/// A fault, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {fault}")]
pub struct TemplateError {
    /// Where, in bytes from the beginning of the template, from 0.
    pub at: usize,
    /// What is wrong.
    pub fault: TemplateFault,
}

impl Template {
    /// Parses a template, or says what is wrong with it and where.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let fail = |at: usize, fault: TemplateFault| Err(TemplateError { at, fault });
        if text.len() > MAX_LEN {
            return fail(MAX_LEN, TemplateFault::TooLong);
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return fail(0, TemplateFault::Scheme);
        };
        let name = rest.split('/').next().unwrap_or_default();
        let domain = match name {
            "{td}" => None,
            name => match TrustDomain::parse(name) {
                Ok(domain) => Some(domain),
                Err(_) => return fail(SCHEME.len(), TemplateFault::Domain),
            },
        };
        let Some(path) = rest.get(name.len()..).filter(|path| !path.is_empty()) else {
            return fail(text.len(), TemplateFault::NoPath);
        };
        let mut at = SCHEME.len() + name.len();
        let mut segments = Vec::new();
        let mut rest = path;
        while let Some(begun) = rest.strip_prefix('/') {
            let (piece, next) = begun.split_at(end_of_segment(begun));
            segments.push(segment(piece, at + 1)?);
            at += 1 + piece.len();
            rest = next;
        }
        Ok(Self {
            text: text.into(),
            domain,
            segments: segments.into(),
        })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain where it is written out; `None` for `{td}`.
    pub fn domain(&self) -> Option<&TrustDomain> {
        self.domain.as_ref()
    }

    /// Where the trust domain stands, in bytes.
    pub const fn domain_at(&self) -> usize {
        SCHEME.len()
    }

    /// The segments of the path, at least one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The placeholders at their places, in order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.segments
            .iter()
            .filter_map(|segment| segment.part.as_ref())
    }

    /// Whether each process has a name of its own.
    pub fn names_each_process(&self) -> bool {
        self.parts()
            .any(|part| part.placeholder == Placeholder::Instance)
    }
}

/// Where a segment ends, in bytes: at the next slash that stands in no braces.
fn end_of_segment(text: &str) -> usize {
    let mut within = false;
    for (at, c) in text.char_indices() {
        match c {
            '{' => within = true,
            '}' => within = false,
            '/' if !within => return at,
            _ => {}
        }
    }
    text.len()
}

fn segment(text: &str, at: usize) -> Result<Segment, TemplateError> {
    let fail = |at: usize, fault: TemplateFault| Err(TemplateError { at, fault });
    match text {
        "" => return fail(at, TemplateFault::EmptySegment),
        "." | ".." => return fail(at, TemplateFault::DotSegment),
        _ => {}
    }
    let Some((before, rest)) = text.split_once('{') else {
        return Ok(Segment {
            at,
            before: literal(text, at)?,
            part: None,
            after: String::new(),
        });
    };
    let before = literal(before, at)?;
    let brace = at + before.len();
    let Some((name, after)) = rest.split_once('}') else {
        return fail(brace, TemplateFault::Unclosed);
    };
    let placeholder = match placeholder(name) {
        Ok(placeholder) => placeholder,
        Err(fault) => return fail(brace, fault),
    };
    let rest_at = brace + name.len() + 2;
    if let Some(second) = after.find('{') {
        return fail(rest_at + second, TemplateFault::SecondInSegment);
    }
    Ok(Segment {
        at,
        before,
        part: Some(Part {
            at: brace,
            placeholder,
        }),
        after: literal(after, rest_at)?,
    })
}

fn literal(text: &str, at: usize) -> Result<String, TemplateError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match text.char_indices().find(|(_, c)| !good(*c)) {
        None => Ok(text.to_owned()),
        Some((offset, _)) => Err(TemplateError {
            at: at + offset,
            fault: TemplateFault::Character,
        }),
    }
}

fn placeholder(name: &str) -> Result<Placeholder, TemplateFault> {
    match name {
        "class" => return Ok(Placeholder::Class),
        "node" => return Ok(Placeholder::Node),
        "instance" => return Ok(Placeholder::Instance),
        "td" => return Err(TemplateFault::DomainInPath),
        _ => {}
    }
    match name.split_once(':') {
        Some((kind, key)) if !kind.is_empty() && !key.is_empty() => Ok(Placeholder::Fact {
            kind: kind.to_owned(),
            key: key.to_owned(),
        }),
        Some(_) | None => Err(TemplateFault::UnknownPlaceholder(
            name.chars().take(128).collect(),
        )),
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class => f.write_str("{class}"),
            Self::Node => f.write_str("{node}"),
            Self::Instance => f.write_str("{instance}"),
            Self::Fact { kind, key } => write!(f, "{{{kind}:{key}}}"),
        }
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Template {}

impl Hash for Template {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_place() {
        use TemplateFault as F;

        let check = |text: &str, at: usize, fault: F| {
            assert_eq!(
                Template::parse(text),
                Err(TemplateError { at, fault }),
                "{text}"
            );
        };
        check("", 0, F::Scheme);
        check("SPIFFE://td/a", 0, F::Scheme);
        check("spiffe://", 9, F::Domain);
        check("spiffe:///a", 9, F::Domain);
        check("spiffe://TD/a", 9, F::Domain);
        check("spiffe://x{td}/a", 9, F::Domain);
        check("spiffe://{td}", 13, F::NoPath);
        check("spiffe://td", 11, F::NoPath);
        check("spiffe://{td}/", 14, F::EmptySegment);
        check("spiffe://{td}/a//b", 16, F::EmptySegment);
        check("spiffe://{td}/a/", 16, F::EmptySegment);
        check("spiffe://{td}/a/../b", 16, F::DotSegment);
        check("spiffe://{td}/a/b c", 17, F::Character);
        check("spiffe://{td}/a/b}", 17, F::Character);
        check("spiffe://{td}/a/\u{e9}", 16, F::Character);
        check("spiffe://{td}/a/x{node", 17, F::Unclosed);
        check("spiffe://{td}/a/{unix:path/x", 16, F::Unclosed);
        check("spiffe://{td}/a/{node}-{instance}", 23, F::SecondInSegment);
        check("spiffe://{td}/a/{td}", 16, F::DomainInPath);
        for name in ["", "uid", ":uid", "unix:", "CLASS", "{node"] {
            let text = format!("spiffe://{{td}}/a/{{{name}}}");
            check(&text, 16, F::UnknownPlaceholder(name.into()));
        }
        let long = format!("spiffe://td/{}", "a".repeat(MAX_LEN - 12));
        assert!(Template::parse(&long).is_ok());
        check(&format!("{long}a"), MAX_LEN, F::TooLong);
    }

    #[test]
    fn parts_and_their_places() {
        let template =
            Template::parse("spiffe://{td}/agent/{class}/u-{docker:label:a/b}-x/{instance}")
                .unwrap();
        let parts: Vec<(usize, String)> = template
            .parts()
            .map(|part| (part.at, part.placeholder.to_string()))
            .collect();
        let expected = [
            (20, "{class}"),
            (30, "{docker:label:a/b}"),
            (51, "{instance}"),
        ];
        assert_eq!(parts, expected.map(|(at, name)| (at, name.to_owned())));
        assert_eq!(template.segments()[2].before, "u-");
        assert_eq!(template.segments()[2].after, "-x");
        assert!(template.names_each_process() && template.domain().is_none());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            drop(Template::parse(&text));
            drop(Template::parse(&format!("spiffe://{{td}}/{text}")));
        }
    }
}
