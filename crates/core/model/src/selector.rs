//! Selectors: facts about a workload or a node, as `type:value`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A set of selectors in a stable order: an entry matches a caller whose set contains the entry's.
pub type SelectorSet = BTreeSet<Selector>;

/// One attested fact, such as `unix:uid:1000`: the attestor's type and a value of its own making.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    kind: String,
    value: String,
}

/// Why two texts do not make a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The type is empty.
    #[error("a selector needs a type before the first ':'")]
    EmptyType,
    /// The type has a colon, which would make the text form ambiguous.
    #[error("a selector type has no ':'")]
    ColonInType,
    /// The value is empty.
    #[error("a selector needs a value after the first ':'")]
    EmptyValue,
}

impl Selector {
    /// Makes a selector from its two parts.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Result<Self, SelectorError> {
        let (kind, value) = (kind.into(), value.into());
        if kind.is_empty() {
            return Err(SelectorError::EmptyType);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInType);
        }
        if value.is_empty() {
            return Err(SelectorError::EmptyValue);
        }
        Ok(Self { kind, value })
    }

    /// The attestor's type, the text before the first colon.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The value, everything after the first colon.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(s: &str) -> Result<Self, SelectorError> {
        let (kind, value) = s.split_once(':').ok_or(SelectorError::EmptyValue)?;
        Self::new(kind, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_divides() {
        let s: Selector = "unix:path:/usr/bin/env".parse().unwrap();
        assert_eq!((s.kind(), s.value()), ("unix", "path:/usr/bin/env"));
        assert_eq!(s.to_string(), "unix:path:/usr/bin/env");
    }

    #[test]
    fn each_fault_has_its_reason() {
        assert_eq!("unix".parse::<Selector>(), Err(SelectorError::EmptyValue));
        assert_eq!("unix:".parse::<Selector>(), Err(SelectorError::EmptyValue));
        assert_eq!(":x".parse::<Selector>(), Err(SelectorError::EmptyType));
        assert_eq!(Selector::new("a:b", "c"), Err(SelectorError::ColonInType));
    }
}
