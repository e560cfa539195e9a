//! The texts and numbers that agents are described with, each bounded and checked.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Cause, TextFault};
use crate::SpiffeId;

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $check:expr, $fault:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the text, or says what would be one.
            pub fn parse(text: &str) -> Result<Self, TextFault> {
                let good: fn(&str) -> bool = $check;
                if good(text) { Ok(Self(text.into())) } else { Err($fault) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = TextFault;
            fn from_str(text: &str) -> Result<Self, TextFault> {
                Self::parse(text)
            }
        }

        /// So that a map by names can be asked with a text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )+};
}
pub(super) use texts;

texts! {
    /// The name of an agent class: one segment of a SPIFFE ID, lower case, at most 63 characters,
    /// so that it is a DNS label as well.
    ClassName: is_label, TextFault::ClassName;
    /// The name of an identity rule, lower case, at most 63 characters.
    RuleName: is_label, TextFault::RuleName;
    /// A person, as an identity provider or an address names them.
    ///
    /// Two shapes: `mailto:` with an address (RFC 6068, one recipient, lower case), and `ISS#SUB`,
    /// the issuer of an OpenID provider (an https URL) with the subject there. Muster compares the
    /// text byte for byte and never looks it up: a person who has both is two persons here, so a
    /// trust domain keeps to one shape. A person is never a SPIFFE ID (agent-identity 4.1).
    PersonId: is_person, TextFault::Person;
    /// A scope as OAuth has it (RFC 6749, section 3.3); there are no wildcards.
    Scope: is_scope, TextFault::Scope;
    /// A resource as OAuth has it (RFC 8707, section 2): an absolute URI without a fragment.
    Resource: is_resource, TextFault::Resource;
    /// The name of a model, a provider, a team or a kind of task.
    Word: is_word, TextFault::Word;
    /// A name for people, on one line of at most 100 characters.
    Line: |text| !text.is_empty() && is_plain(text, 100), TextFault::Line { most: 100 };
    /// A description of at most 1000 characters, or none; line breaks are allowed.
    Prose: |text| is_plain(&text.replace('\n', " "), 1000), TextFault::Prose { most: 1000 };
    /// Why an operator did something: at most 256 characters on one line, or nothing.
    Note: |text| is_plain(text, 256), TextFault::Prose { most: 256 };
    /// The SHA-256 of something in lower-case hexadecimal: an executable, an instruction.
    Sha256: |text| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        TextFault::Sha256;
}

impl From<Cause> for Word {
    fn from(cause: Cause) -> Self {
        Self(cause.as_str().into())
    }
}

impl ClassName {
    /// The class that an identity names by its path, `/agent/CLASS/...` (agent-identity 4.1), as it
    /// is written there: whether there is such a class, the roll says.
    pub fn in_path(id: &SpiffeId) -> Option<&str> {
        let rest = id.path().strip_prefix("/agent/")?;
        let (class, instance) = rest.split_once('/')?;
        (!instance.is_empty()).then_some(class)
    }
}

fn is_label(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| word(b) || b == b'-')
        && text.bytes().next().is_some_and(word)
        && text.bytes().last().is_some_and(word)
}

fn is_visible(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_person(text: &str) -> bool {
    if !is_visible(text, 320) || text.contains(['"', '<', '>', '\\', ',']) {
        return false;
    }
    if let Some(address) = text.strip_prefix("mailto:") {
        // Names that differ only in case would be two persons.
        return !text.bytes().any(|b| b.is_ascii_uppercase())
            && !address.contains(['?', '#', '/'])
            && address
                .split_once('@')
                .is_some_and(|(local, domain)| !local.is_empty() && is_domain(domain));
    }
    let Some((issuer, subject)) = text.split_once('#') else {
        return false;
    };
    let host = issuer
        .strip_prefix("https://")
        .map(|rest| rest.split('/').next().unwrap_or_default());
    let named = host.map(|host| host.split_once(':').map_or(host, |(name, _)| name));
    named.is_some_and(is_domain) && !subject.is_empty() && !subject.contains('#')
}

fn is_domain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_scope(text: &str) -> bool {
    is_visible(text, 128) && !text.contains(['"', '\\'])
}

fn is_resource(text: &str) -> bool {
    let scheme = text.split_once(':').map(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && !rest.is_empty()
    });
    is_visible(text, 512) && scheme == Some(true) && !text.contains(['#', '"', '<', '>', '\\'])
}

fn is_word(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'-')
        })
}

fn is_plain(text: &str, most: usize) -> bool {
    // A character has at most four bytes: longer texts are not counted.
    text.len() <= most * 4 && text.chars().count() <= most && !text.chars().any(char::is_control)
}

macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u8);

        impl $name {
            /// The highest.
            pub const MAX: Self = Self(4);

            /// From a number of 0 to 4.
            pub fn new(level: impl TryInto<u8>) -> Result<Self, TextFault> {
                level
                    .try_into()
                    .ok()
                    .filter(|level| *level <= 4)
                    .map(Self)
                    .ok_or(TextFault::Level)
            }

            /// The number.
            pub const fn number(self) -> u8 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

levels! {
    /// How much harm an agent can do, from 0 (none worth the name) to 4 (to people or to the house).
    RiskTier;
    /// How sensitive data is, from 0 (public) to 4 (secret).
    DataClass;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each<T>(
        parse: fn(&str) -> Result<T, TextFault>,
        good: &[&str],
        bad: &[&str],
        fault: TextFault,
    ) {
        for text in good {
            assert!(parse(text).is_ok(), "{text:?} is refused");
        }
        for text in bad {
            assert_eq!(parse(text).err(), Some(fault), "{text:?}");
        }
    }

    #[test]
    fn class_names_are_labels() {
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        each(
            ClassName::parse,
            &["a", "0", "invoice-reader", &longest],
            &["", "-a", "a-", "A", "a.b", "a/b", "a_b", "\u{e9}", &longer],
            TextFault::ClassName,
        );
    }

    #[test]
    fn persons_have_one_of_two_shapes() {
        let long = format!("mailto:{}@example.org", "a".repeat(320));
        each(
            PersonId::parse,
            &[
                "mailto:ana@example.org",
                "mailto:o.k+x@a.b",
                "https://idp.example.org#00u1ab",
                "https://idp.example.org:8443/realms/x#A-1",
            ],
            &[
                "",
                "ana@example.org",
                "ana",
                "mailto:",
                "mailto:@x",
                "mailto:ana@",
                "mailto:Ana@example.org",
                "mailto:ana@example.org?cc=x",
                "mailto:a@b,c@d",
                "mailto:a b@c",
                "http://idp#x",
                "https://#x",
                "https://idp",
                "https://idp#",
                "https://idp#a#b",
                "spiffe://td/ana",
                &long,
            ],
            TextFault::Person,
        );
    }

    #[test]
    fn scopes_resources_and_words() {
        each(
            Scope::parse,
            &["mail.read", "a:b/c*"],
            &["", "a b", "a\"", "\u{e9}"],
            TextFault::Scope,
        );
        each(
            Resource::parse,
            &["https://api.example.org/", "urn:x:y"],
            &["", "/x", "https:", "1a:b", "https://a/#f", "https://a b"],
            TextFault::Resource,
        );
        each(
            Word::parse,
            &["gpt-5", "org/model:7b@q4"],
            &["", "a b", "a\n"],
            TextFault::Word,
        );
        each(
            Line::parse,
            &["A name"],
            &["", "a\nb", &"x".repeat(101)],
            TextFault::Line { most: 100 },
        );
        each(
            Prose::parse,
            &["", "a\nb"],
            &["a\tb", &"x".repeat(1001)],
            TextFault::Prose { most: 1000 },
        );
        each(
            Sha256::parse,
            &[&"0a".repeat(32)],
            &["", &"0A".repeat(32)],
            TextFault::Sha256,
        );
    }

    #[test]
    fn levels_end_at_four() {
        assert_eq!(RiskTier::new(4_u32).map(RiskTier::number), Ok(4));
        assert_eq!(DataClass::new(5_u32), Err(TextFault::Level));
        assert_eq!(DataClass::new(300_u32), Err(TextFault::Level));
        assert_eq!(DataClass::new(-1_i64), Err(TextFault::Level));
    }

    #[test]
    fn the_class_in_a_path() {
        let check = |path: &str, class: Option<&str>| {
            let id = SpiffeId::parse(&format!("spiffe://td{path}")).unwrap();
            assert_eq!(ClassName::in_path(&id), class, "{path}");
        };
        check("/agent/reader/7", Some("reader"));
        check(
            "/agent/reader/7/t/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            Some("reader"),
        );
        check("/agent/reader", None);
        check("/agents/reader/7", None);
        check("/spire/agent/x/7", None);
        check("", None);
    }

    #[test]
    fn an_error_names_field_value_and_remedy() {
        let error = TextFault::Person.at("owner", "ana").to_string();
        assert!(
            error.starts_with("invalid owner \"ana\": a person is \"mailto:\""),
            "{error}"
        );
        let long = TextFault::ClassName
            .at("name", &"x".repeat(500))
            .to_string();
        assert!(long.len() < 400, "{long}");
    }
}
