//! The facts that templates may name.

/// How many values a fact has of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One at the most.
    One,
    /// Any number.
    Several,
}

/// What values of a fact look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A number in decimal.
    Number,
    /// 64 hexadecimal digits.
    Sha256,
    /// Anything that a selector can hold.
    Any,
}

impl Form {
    /// That of the values of the fact `KIND:KEY`.
    pub(super) fn of(kind: &str, key: &str) -> Self {
        match (kind, key) {
            ("unix", "uid" | "gid") => Self::Number,
            ("unix", "sha256") => Self::Sha256,
            _ => Self::Any,
        }
    }

    /// Whether a value looks so.
    pub(super) fn fits(self, value: &str) -> bool {
        match self {
            Self::Number => {
                let canonical = value == "0" || !value.starts_with('0');
                canonical
                    && (1..=20).contains(&value.len())
                    && value.bytes().all(|b| b.is_ascii_digit())
            }
            Self::Sha256 => value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()),
            Self::Any => !value.is_empty(),
        }
    }
}

/// The facts that the attestors of the house yield, as types and keys (docs/attestors.md); a key that
/// ends in a colon is followed by a name of the operator's.
const KNOWN: &[(&str, &str, Values)] = &[
    ("unix", "uid", Values::One),
    ("unix", "gid", Values::One),
    ("unix", "user", Values::One),
    ("unix", "group", Values::One),
    ("unix", "path", Values::One),
    ("unix", "sha256", Values::One),
    ("unix", "supplementary_gid", Values::Several),
    ("unix", "supplementary_group", Values::Several),
    ("systemd", "id", Values::One),
    ("systemd", "fragment_path", Values::One),
    ("systemd", "slice", Values::One),
    ("docker", "label:", Values::One),
    ("docker", "env:", Values::One),
    ("docker", "image_id", Values::One),
    ("docker", "image_config_digest", Values::One),
];

/// How many values the fact `KIND:KEY` has of a process; `None` if it is unknown. The facts of
/// plugins are: a server does not know what a plugin on some node has to say.
pub fn known(kind: &str, key: &str) -> Option<Values> {
    KNOWN
        .iter()
        .find(|(known_kind, known_key, _)| {
            kind == *known_kind
                && match known_key.strip_suffix(':') {
                    None => key == *known_key,
                    Some(_) => key
                        .strip_prefix(known_key)
                        .is_some_and(|name| !name.is_empty()),
                }
        })
        .map(|(_, _, values)| *values)
}

/// The facts that templates may name, for an error.
pub(super) fn words() -> String {
    let words: Vec<String> = KNOWN
        .iter()
        .filter(|(_, _, values)| *values == Values::One)
        .map(|(kind, key, _)| {
            let name = if key.ends_with(':') { "NAME" } else { "" };
            format!("{{{kind}:{key}{name}}}")
        })
        .collect();
    words.join(", ")
}
