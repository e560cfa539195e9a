//! The rules of the roll.

use std::sync::Arc;

use imbl::OrdMap;
use muster_model::{Revision, Rule, RuleName, SpiffeId};

use super::classes;
use crate::agents::Multi;

/// The rules of the roll by their names, as a value that is cheap to clone.
#[derive(Clone)]
pub(crate) struct Rules {
    rows: OrdMap<RuleName, Arc<Rule>>,
    by_parent: Multi<SpiffeId, RuleName>,
    by_class: Multi<String, RuleName>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rows: OrdMap::new(),
            by_parent: Multi::new(),
            by_class: Multi::new(),
        }
    }
}

impl Rules {
    pub(crate) fn put(&mut self, revision: Revision, rule: &Arc<Rule>) {
        let mut rule = Arc::clone(rule);
        if rule.changed_at != revision {
            Arc::make_mut(&mut rule).changed_at = revision;
        }
        self.insert(rule);
    }

    /// A rule as a store held it.
    pub(crate) fn insert(&mut self, rule: Arc<Rule>) {
        self.remove(&rule.name);
        let name = &rule.name;
        self.by_parent
            .insert(rule.spec.parent_id.clone(), name.clone());
        for class in classes(&rule) {
            self.by_class.insert(class.to_owned(), name.clone());
        }
        self.rows.insert(name.clone(), rule);
    }

    pub(crate) fn remove(&mut self, name: &RuleName) {
        let Some(old) = self.rows.remove(name) else {
            return;
        };
        self.by_parent.remove(&old.spec.parent_id, name);
        for class in classes(&old) {
            self.by_class.remove(&class.to_owned(), name);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Rule>> {
        self.rows.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rows.values()
    }

    pub(crate) fn under(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Rule>> {
        self.by_parent
            .at(parent)
            .filter_map(|name| self.rows.get(name))
    }

    pub(crate) fn of_class(&self, class: &str) -> impl Iterator<Item = &Arc<Rule>> {
        self.by_class
            .at(class)
            .filter_map(|name| self.rows.get(name))
    }
}
