//! How many names each rule gives.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::{RuleName, SpiffeId, Timestamp};

/// The bounds of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// On one node.
    pub(super) per_node: u32,
    /// On all nodes together.
    pub(super) in_all: u32,
}

/// Which bound is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The one of the node.
    OnNode,
    /// The one of all.
    InAll,
}

/// The names that rules gave and that have not expired, in memory: a server that starts anew counts
/// anew, from what nodes renew.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<RuleName, OfRule>>);

/// A name on a node. The texts are shared: a name is in memory once.
type Key = (SpiffeId, SpiffeId);

#[derive(Default)]
struct OfRule {
    expiries: HashMap<Key, Timestamp>,
    /// The same by the instant, so that what has expired is found without looking at the rest.
    by_expiry: BTreeSet<(Timestamp, Arc<Key>)>,
    per_node: HashMap<SpiffeId, u32>,
}

impl Names {
    /// Counts a name until it expires; one that is counted already only lives longer.
    ///
    /// It is counted before it is signed. One whose signature then fails counts as well: its node asks
    /// for it again.
    pub(super) fn take(
        &self,
        (rule, node, name): (&RuleName, &SpiffeId, &SpiffeId),
        bounds: Bounds,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Full> {
        let mut rules = self.lock();
        let of_rule = rules.entry(rule.clone()).or_default();
        of_rule.forget(now);
        of_rule.take((node.clone(), name.clone()), bounds, expires_at)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RuleName, OfRule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many names a rule gives, and on how many nodes.
    pub(crate) fn of(&self, rule: &RuleName, now: Timestamp) -> (u64, u64) {
        let mut rules = self.lock();
        let Some(of_rule) = rules.get_mut(rule) else {
            return (0, 0);
        };
        of_rule.forget(now);
        let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
        (count(of_rule.expiries.len()), count(of_rule.per_node.len()))
    }

    /// Forgets a rule that is gone.
    pub(crate) fn forget(&self, rule: &RuleName) {
        self.lock().remove(rule);
    }
}

impl OfRule {
    fn take(&mut self, key: Key, bounds: Bounds, expires_at: Timestamp) -> Result<(), Full> {
        match self.expiries.get_mut(&key) {
            Some(known) if *known >= expires_at => {}
            Some(known) => {
                let old = std::mem::replace(known, expires_at);
                let key = Arc::new(key);
                self.by_expiry.remove(&(old, Arc::clone(&key)));
                self.by_expiry.insert((expires_at, key));
            }
            None => {
                let on_node = self.per_node.get(&key.0).copied().unwrap_or_default();
                if on_node >= bounds.per_node {
                    return Err(Full::OnNode);
                }
                let most = usize::try_from(bounds.in_all).unwrap_or(usize::MAX);
                if self.expiries.len() >= most {
                    return Err(Full::InAll);
                }
                self.per_node.insert(key.0.clone(), on_node + 1);
                self.expiries.insert(key.clone(), expires_at);
                self.by_expiry.insert((expires_at, Arc::new(key)));
            }
        }
        Ok(())
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.by_expiry.first() {
            if *at > now {
                return;
            }
            let Some((_, key)) = self.by_expiry.pop_first() else {
                return;
            };
            self.expiries.remove(&*key);
            if let Some(count) = self.per_node.get_mut(&key.0) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.per_node.remove(&key.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td{path}")).unwrap()
    }

    #[test]
    fn names_count_until_they_expire() {
        let (names, rule) = (Names::default(), RuleName::parse("r").unwrap());
        let bounds = Bounds {
            per_node: 2,
            in_all: 3,
        };
        let take = |node: &str, name: &str, expires: i64, now: i64| {
            names.take((&rule, &id(node), &id(name)), bounds, at(expires), at(now))
        };
        assert_eq!(take("/n/1", "/a", 10, 0), Ok(()));
        assert_eq!(take("/n/1", "/b", 20, 0), Ok(()));
        assert_eq!(take("/n/1", "/c", 20, 0), Err(Full::OnNode));
        // The same name again is no new one, and lives longer.
        assert_eq!(take("/n/1", "/a", 30, 1), Ok(()));
        assert_eq!(take("/n/1", "/a", 5, 1), Ok(()));
        // On another node it is another.
        assert_eq!(take("/n/2", "/a", 30, 1), Ok(()));
        assert_eq!(take("/n/3", "/a", 30, 1), Err(Full::InAll));
        assert_eq!(names.of(&rule, at(1)), (3, 2));
        assert_eq!(names.of(&rule, at(19)), (3, 2));
        assert_eq!(take("/n/3", "/a", 30, 20), Ok(()));
        assert_eq!(names.of(&rule, at(20)), (3, 3));
        assert_eq!(names.of(&rule, at(30)), (0, 0));
        assert_eq!(take("/n/1", "/c", 50, 31), Ok(()));
        names.forget(&rule);
        assert_eq!(names.of(&rule, at(31)), (0, 0));
    }
}
