//! What callers may ask lists for (spire-behaviour 2.10, "List").

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_model::{Entry, Node, SelectorSet, SpiffeId, Timestamp, TrustDomain};

/// How the set of a row and the set that a caller gave must relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The two sets are equal.
    Exact,
    /// The row's set is a subset of the given one.
    Subset,
    /// The row's set is a superset of the given one.
    Superset,
    /// The two sets have an element in common.
    Any,
}

/// A set that can be compared with another.
pub trait Comparable: Eq {
    /// Whether everything in this set is in `other` too.
    fn is_within(&self, other: &Self) -> bool;
    /// Whether the sets have nothing in common.
    fn is_apart(&self, other: &Self) -> bool;
}

impl<T: Ord> Comparable for BTreeSet<T> {
    fn is_within(&self, other: &Self) -> bool {
        self.is_subset(other)
    }
    fn is_apart(&self, other: &Self) -> bool {
        self.is_disjoint(other)
    }
}

impl Comparable for SelectorSet {
    fn is_within(&self, other: &Self) -> bool {
        self.is_subset(other)
    }
    fn is_apart(&self, other: &Self) -> bool {
        self.is_disjoint(other)
    }
}

impl Overlap {
    /// Whether the set of a `row` relates so to the `given` one.
    pub fn holds<S: Comparable>(self, row: &S, given: &S) -> bool {
        match self {
            Self::Exact => row == given,
            Self::Subset => row.is_within(given),
            Self::Superset => given.is_within(row),
            Self::Any => !row.is_apart(given),
        }
    }
}

/// Which entries a list has: those for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// The entry's SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// The entry's parent.
    pub parent_id: Option<SpiffeId>,
    /// The entry's selectors.
    pub selectors: Option<(Overlap, SelectorSet)>,
    /// The trust domains that the entry federates with.
    pub federates_with: Option<(Overlap, BTreeSet<TrustDomain>)>,
    /// The entry's hint, exactly; the empty text asks for entries without one.
    pub hint: Option<String>,
    /// Whether the entry must be downstream.
    pub downstream: bool,
}

impl EntryFilter {
    /// Whether `entry` is in the list.
    pub fn admits(&self, entry: &Entry) -> bool {
        self.spiffe_id
            .as_ref()
            .is_none_or(|id| *id == entry.spiffe_id)
            && self
                .parent_id
                .as_ref()
                .is_none_or(|id| *id == entry.parent_id)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(how, given)| how.holds(&entry.selectors, given))
            && self
                .federates_with
                .as_ref()
                .is_none_or(|(how, given)| how.holds(&entry.federates_with, given))
            && self.hint.as_ref().is_none_or(|hint| *hint == entry.hint)
            && (entry.downstream || !self.downstream)
    }
}

/// Which nodes a list has: those for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFilter {
    /// The node's attestor.
    pub attestation_type: Option<String>,
    /// The node's selectors.
    pub selectors: Option<(Overlap, SelectorSet)>,
    /// Whether the node is banned.
    pub banned: Option<bool>,
    /// Whether the node can attest again by itself.
    pub can_reattest: Option<bool>,
    /// The certificate in use expires before this instant; a banned node has none and is not
    /// listed.
    pub expires_before: Option<Timestamp>,
}

impl NodeFilter {
    /// Whether `node` is in the list.
    pub fn admits(&self, node: &Node) -> bool {
        self.attestation_type
            .as_ref()
            .is_none_or(|kind| *kind == node.attestation_type)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(how, given)| how.holds(&node.selectors, given))
            && self.banned.is_none_or(|wanted| wanted == node.is_banned())
            && self
                .can_reattest
                .is_none_or(|wanted| wanted == node.can_reattest)
            && self.expires_before.is_none_or(|instant| {
                crate::node::expires_at(node).is_some_and(|expires| expires < instant)
            })
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, Token> {
    /// The rows.
    pub rows: Vec<Arc<T>>,
    /// Where the next page begins: after the row that this names; `None` when this page is the last.
    pub next: Option<Token>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{entry, id, node, selectors, td};

    #[test]
    fn overlaps() {
        let check = |row: &[&str], given: &[&str], holds: [bool; 4]| {
            let (row, given) = (selectors(row), selectors(given));
            let all = [
                Overlap::Exact,
                Overlap::Subset,
                Overlap::Superset,
                Overlap::Any,
            ];
            assert_eq!(
                all.map(|how| how.holds(&row, &given)),
                holds,
                "{row:?} {given:?}"
            );
        };
        check(&["s:a", "s:b"], &["s:a", "s:b"], [true, true, true, true]);
        check(&["s:a"], &["s:a", "s:b"], [false, true, false, true]);
        check(&["s:a", "s:b"], &["s:a"], [false, false, true, true]);
        check(
            &["s:a", "s:b"],
            &["s:b", "s:c"],
            [false, false, false, true],
        );
        check(&["s:a"], &["s:b"], [false, false, false, false]);
    }

    #[test]
    fn every_given_condition_must_hold() {
        let mut row = entry("e", &id("/p"), &id("/w"), &["s:a"]);
        row.hint = "db".into();
        row.federates_with = BTreeSet::from([td("f1")]);
        let all = EntryFilter {
            spiffe_id: Some(id("/w")),
            parent_id: Some(id("/p")),
            selectors: Some((Overlap::Exact, selectors(&["s:a"]))),
            federates_with: Some((Overlap::Any, BTreeSet::from([td("f1"), td("f2")]))),
            hint: Some("db".into()),
            downstream: false,
        };
        assert!(all.admits(&row) && EntryFilter::default().admits(&row));
        let mut below = row.clone();
        below.downstream = true;
        let downstream = EntryFilter {
            downstream: true,
            ..all.clone()
        };
        assert!(all.admits(&below) && downstream.admits(&below));
        for but in [
            EntryFilter {
                spiffe_id: Some(id("/x")),
                ..all.clone()
            },
            EntryFilter {
                parent_id: Some(id("/x")),
                ..all.clone()
            },
            EntryFilter {
                selectors: Some((Overlap::Exact, selectors(&["s:b"]))),
                ..all.clone()
            },
            EntryFilter {
                federates_with: Some((Overlap::Exact, BTreeSet::new())),
                ..all.clone()
            },
            EntryFilter {
                hint: Some(String::new()),
                ..all.clone()
            },
            EntryFilter {
                downstream: true,
                ..all.clone()
            },
        ] {
            assert!(!but.admits(&row), "{but:?}");
        }
    }

    #[test]
    fn nodes_by_each_condition() {
        let row = node("/spire/agent/x", &["s:a"]);
        let banned = crate::node::banned(&row);
        let before = |seconds| NodeFilter {
            expires_before: Some(Timestamp::from_unix_seconds(seconds)),
            ..NodeFilter::default()
        };
        assert!(NodeFilter::default().admits(&row) && NodeFilter::default().admits(&banned));
        assert!(before(101).admits(&row) && !before(100).admits(&row));
        assert!(!before(101).admits(&banned));
        let only = |wanted| NodeFilter {
            banned: Some(wanted),
            ..NodeFilter::default()
        };
        assert!(only(true).admits(&banned) && !only(true).admits(&row) && only(false).admits(&row));
        let kind = |kind: &str| NodeFilter {
            attestation_type: Some(kind.into()),
            ..NodeFilter::default()
        };
        assert!(kind("join_token").admits(&row) && !kind("k8s_psat").admits(&row));
        let reattest = NodeFilter {
            can_reattest: Some(true),
            ..NodeFilter::default()
        };
        assert!(!reattest.admits(&row));
        let with = NodeFilter {
            selectors: Some((Overlap::Any, selectors(&["s:b"]))),
            ..NodeFilter::default()
        };
        assert!(!with.admits(&row));
    }
}
