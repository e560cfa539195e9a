//! The facts that templates may name.

/// How many values a fact has of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One at the most.
    One,
    /// Any number.
    Several,
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
