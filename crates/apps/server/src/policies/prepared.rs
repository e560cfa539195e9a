//! Callers and targets as decisions take them, kept for as long as their facts are the same.
//!
//! Preparing one takes longer than a decision, and an agent asks again and again. What is kept is
//! held against the facts of each request, so that nothing has to be told when a row changes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use muster_cedar::{FactsError, Principal, PrincipalFacts, Resource, ResourceFacts};

/// How many are kept of each kind before the older half is let go; one has a few kilobytes.
const KEPT: usize = 1024;

/// What is kept.
#[derive(Default)]
pub(super) struct Prepared {
    principals: Mutex<Halves<Arc<Principal>>>,
    resources: Mutex<Halves<Arc<Resource>>>,
}

/// A map that forgets what was not used while it filled once.
struct Halves<T> {
    young: HashMap<u64, T>,
    old: HashMap<u64, T>,
}

impl<T> Default for Halves<T> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<T: Clone> Halves<T> {
    fn find(&mut self, key: u64) -> Option<T> {
        if let Some(found) = self.young.get(&key) {
            return Some(found.clone());
        }
        let found = self.old.remove(&key)?;
        self.put(key, found.clone());
        Some(found)
    }

    fn put(&mut self, key: u64, value: T) {
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

impl Prepared {
    /// A caller with these facts.
    pub(super) fn principal(&self, facts: &PrincipalFacts) -> Result<Arc<Principal>, FactsError> {
        let key = match facts {
            PrincipalFacts::Agent(agent) => hash(&(&agent.id, &agent.class.id, &agent.node.id)),
            PrincipalFacts::Node(node) => hash(&(&node.id, "node")),
            PrincipalFacts::User(user) => hash(&(&user.id, "user")),
        };
        kept(
            &self.principals,
            key,
            |kept| kept.facts() == facts,
            || Principal::new(facts.clone()),
        )
    }

    /// A target with these facts.
    pub(super) fn resource(&self, facts: &ResourceFacts) -> Result<Arc<Resource>, FactsError> {
        let key = match facts {
            ResourceFacts::AgentClass(class) => hash(&(&class.id, "class")),
            ResourceFacts::TaskKind(kind) => hash(&(kind, "kind")),
            ResourceFacts::ResourceServer(server) => hash(&(&server.id, "server")),
            ResourceFacts::Tool(tool) => hash(&(&tool.id, "tool")),
        };
        kept(
            &self.resources,
            key,
            |kept| kept.facts() == facts,
            || Resource::new(facts.clone()),
        )
    }
}

/// The one that is kept, if it is the same, or a new one.
fn kept<T>(
    all: &Mutex<Halves<Arc<T>>>,
    key: u64,
    same: impl Fn(&T) -> bool,
    new: impl FnOnce() -> Result<T, FactsError>,
) -> Result<Arc<T>, FactsError> {
    let lock = || all.lock().unwrap_or_else(PoisonError::into_inner);
    let found = lock().find(key);
    if let Some(found) = found.filter(|found| same(found)) {
        return Ok(found);
    }
    let fresh = Arc::new(new()?);
    lock().put(key, Arc::clone(&fresh));
    Ok(fresh)
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use muster_cedar::facts::{AgentFacts, ClassFacts};

    use super::*;

    fn agent(id: &str, version: u64) -> PrincipalFacts {
        let class = ClassFacts {
            id: "reader".into(),
            version,
            ..ClassFacts::default()
        };
        PrincipalFacts::Agent(Box::new(AgentFacts {
            id: id.into(),
            class,
            ..AgentFacts::default()
        }))
    }

    #[test]
    fn what_is_kept_is_never_older_than_the_facts() {
        let prepared = Prepared::default();
        let first = prepared.principal(&agent("a", 1)).unwrap();
        let again = prepared.principal(&agent("a", 1)).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let changed = prepared.principal(&agent("a", 2)).unwrap();
        assert_eq!(*changed.facts(), agent("a", 2));
    }

    #[test]
    fn the_older_half_is_let_go() {
        let mut halves = Halves::default();
        for key in 0..10_000 {
            halves.put(key, key);
            // What is used again stays.
            assert_eq!(halves.find(0), Some(0));
            assert!(halves.young.len() + halves.old.len() <= 2 * KEPT);
        }
        assert_eq!(halves.find(1), None);
    }
}
