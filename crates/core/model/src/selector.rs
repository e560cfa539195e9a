//! Selectors: facts about a workload or a node, as `type:value`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// One attested fact, such as `unix:uid:1000`: the attestor's type and a value of its own making.
///
/// Clones share the text: what thousands of entries name can be in memory once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    /// `type:value`; the type is what stands before the first colon, which is always there.
    text: Arc<str>,
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
    pub fn new(kind: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self, SelectorError> {
        let (kind, value) = (kind.as_ref(), value.as_ref());
        if kind.is_empty() {
            return Err(SelectorError::EmptyType);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInType);
        }
        if value.is_empty() {
            return Err(SelectorError::EmptyValue);
        }
        Ok(Self {
            text: format!("{kind}:{value}").into(),
        })
    }

    /// The attestor's type, the text before the first colon.
    pub fn kind(&self) -> &str {
        self.parts().0
    }

    /// The value, everything after the first colon.
    pub fn value(&self) -> &str {
        self.parts().1
    }

    /// `type:value`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn parts(&self) -> (&str, &str) {
        self.text.split_once(':').unwrap_or((&self.text, ""))
    }
}

/// By type, then by value.
impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A set of selectors in a stable order: an entry matches a caller whose set contains the entry's.
///
/// A sorted slice: sets are small and read far more often than they are made, and there is one in
/// each entry of the roll.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorSet(Box<[Selector]>);

impl SelectorSet {
    /// The set with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many selectors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first in the order of the set.
    pub fn first(&self) -> Option<&Selector> {
        self.0.first()
    }

    /// The selectors, by type and then by value.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// Whether `selector` is in the set.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Whether everything in this set is in `other` too. The empty set is a subset of any.
    pub fn is_subset(&self, other: &Self) -> bool {
        let mut rest = other.iter();
        // Both are sorted: what was passed over is smaller than all that is still looked for.
        self.len() <= other.len() && self.iter().all(|wanted| rest.any(|found| found == wanted))
    }

    /// Whether the sets have nothing in common.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        !self.iter().any(|selector| other.contains(selector))
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut selectors: Vec<Selector> = selectors.into_iter().collect();
        selectors.sort_unstable();
        selectors.dedup();
        Self(selectors.into_boxed_slice())
    }
}

impl Extend<Selector> for SelectorSet {
    fn extend<I: IntoIterator<Item = Selector>>(&mut self, selectors: I) {
        let known = std::mem::take(&mut self.0).into_vec();
        *self = known.into_iter().chain(selectors).collect();
    }
}

impl<const N: usize> From<[Selector; N]> for SelectorSet {
    fn from(selectors: [Selector; N]) -> Self {
        selectors.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for SelectorSet {
    type Item = Selector;
    type IntoIter = std::vec::IntoIter<Selector>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl fmt::Debug for SelectorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
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

    fn set(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn types_come_before_values() {
        // As texts they would stand the other way round: '-' is before ':'.
        let (short, long): (Selector, Selector) =
            ("a:z".parse().unwrap(), "a-b:a".parse().unwrap());
        assert!(short < long);
        let words: Vec<String> = set(&["b:2", "a-b:a", "b:1", "a:z"])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(words, ["a:z", "a-b:a", "b:1", "b:2"]);
    }

    #[test]
    fn a_set_has_each_once_in_whatever_order_they_come() {
        assert_eq!(set(&["u:1", "g:2", "u:1"]), set(&["g:2", "u:1"]));
        assert_eq!(set(&["u:1", "g:2", "u:1"]).len(), 2);
        let mut grown = set(&["u:1"]);
        grown.extend(set(&["g:2", "u:1"]));
        assert_eq!(grown, set(&["g:2", "u:1"]));
        assert!(grown.contains(&"g:2".parse().unwrap()));
        assert!(!grown.contains(&"g:3".parse().unwrap()));
    }

    #[test]
    fn subsets() {
        let check = |small: &[&str], large: &[&str], expected: bool| {
            assert_eq!(
                set(small).is_subset(&set(large)),
                expected,
                "{small:?} in {large:?}"
            );
        };
        check(&[], &[], true);
        check(&[], &["u:1"], true);
        check(&["u:1"], &[], false);
        check(&["u:1"], &["g:1", "u:1", "x:1"], true);
        check(&["g:1", "x:1"], &["g:1", "u:1", "x:1"], true);
        check(&["g:1", "y:1"], &["g:1", "u:1", "x:1"], false);
        check(&["g:1", "u:1"], &["u:1"], false);
        assert!(set(&["u:1"]).is_disjoint(&set(&["u:2"])));
        assert!(!set(&["u:1", "u:2"]).is_disjoint(&set(&["u:2"])));
    }
}
