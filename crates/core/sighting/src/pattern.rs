//! Patterns of paths and packages: whole segments, each of which may hold one `*`.

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// Exactly this.
    Exact(Box<str>),
    /// What begins and ends so; the two do not overlap.
    Around(Box<str>, Box<str>),
}

impl Segment {
    fn of(text: &str) -> Self {
        match text.split_once('*') {
            Some((before, after)) => Self::Around(before.into(), after.into()),
            None => Self::Exact(text.into()),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Around(before, after) => {
                text.len() >= before.len() + after.len()
                    && text.starts_with(&**before)
                    && text.ends_with(&**after)
            }
        }
    }
}

/// Segments that follow each other anywhere in a path: `@openai/codex`, `claude/versions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Segment>);

impl Pattern {
    pub(crate) fn of(text: &str) -> Self {
        Self(text.split('/').map(Segment::of).collect())
    }

    /// The first segment, if it is exactly one text: then it can be looked up.
    pub(crate) fn first(&self) -> Option<&str> {
        match self.0.first() {
            Some(Segment::Exact(text)) => Some(text),
            Some(Segment::Around(..)) | None => None,
        }
    }

    /// Whether the segments stand at the beginning of `path`.
    pub(crate) fn begins(&self, path: &[&str]) -> bool {
        path.len() >= self.0.len()
            && self
                .0
                .iter()
                .zip(path)
                .all(|(segment, text)| segment.fits(text))
    }
}

/// The segments of a path or of a package's name, the version that a package manager may have been
/// given left out: `@scope/name@1.2`, `name==1.2`, `name[extra]`.
pub(crate) fn segments(path: &str) -> Vec<&str> {
    path.split('/').map(bare).collect()
}

fn bare(segment: &str) -> &str {
    let at = segment
        .char_indices()
        .skip(1)
        .find(|(_, letter)| matches!(letter, '@' | '[' | '=' | '<' | '>' | '~'))
        .map_or(segment.len(), |(at, _)| at);
    segment.get(..at).unwrap_or(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match_whole() {
        let check = |pattern: &str, path: &str, expected: bool| {
            let (pattern, path) = (Pattern::of(pattern), segments(path));
            let found = (0..path.len()).any(|at| pattern.begins(&path[at..]));
            assert_eq!(found, expected, "{pattern:?} {path:?}");
        };
        check(
            "@openai/codex",
            "/usr/lib/node_modules/@openai/codex/bin/x.js",
            true,
        );
        check("@openai/codex", "@openai/codex@0.9.1", true);
        check("@openai/codex", "/x/@openai/codex-other/x", false);
        check("server-*", "@modelcontextprotocol/server-git", true);
        check("mcp-server-*", "mcp-server-git==2.1", true);
        check("aba*aba", "aba", false);
        check("claude", "/opt/claude/x", true);
        check("claude", "/opt/not-claude/x", false);
    }
}
