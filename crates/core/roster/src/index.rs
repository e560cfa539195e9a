//! Who matches whom, without comparing everyone with everyone.
//!
//! An entry applies to a caller whose attested selectors contain all of the entry's. Each entry
//! is filed under the one of its selectors that fewest entries share, and each group of callers
//! under all of its selectors: a new caller looks into one drawer per selector of its own, a new
//! entry into the smallest drawer of its own selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_model::{Entry, EntryId, Selector, SelectorSet};

use crate::groups::GroupId;

/// Entries by their rarest selector.
#[derive(Debug, Default)]
pub(crate) struct EntryIndex {
    drawers: HashMap<Selector, BTreeSet<EntryId>>,
    filed: BTreeMap<EntryId, Selector>,
}

impl EntryIndex {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.remove(&entry.id);
        let rarest = entry
            .selectors
            .iter()
            .min_by_key(|s| self.drawers.get(*s).map_or(0, BTreeSet::len));
        // A view has no entry without selectors: it would match everyone.
        if let Some(selector) = rarest {
            self.drawers
                .entry(selector.clone())
                .or_default()
                .insert(entry.id.clone());
            self.filed.insert(entry.id.clone(), selector.clone());
        }
    }

    pub(crate) fn remove(&mut self, id: &EntryId) {
        let Some(selector) = self.filed.remove(id) else {
            return;
        };
        if let Some(drawer) = self.drawers.get_mut(&selector) {
            drawer.remove(id);
            if drawer.is_empty() {
                self.drawers.remove(&selector);
            }
        }
    }

    /// The entries that apply to a caller with these selectors.
    pub(crate) fn matching(
        &self,
        selectors: &SelectorSet,
        entries: &BTreeMap<EntryId, Arc<Entry>>,
    ) -> BTreeSet<EntryId> {
        selectors
            .iter()
            .filter_map(|s| self.drawers.get(s))
            .flatten()
            .filter(|id| {
                entries
                    .get(*id)
                    .is_some_and(|e| e.selectors.is_subset(selectors))
            })
            .cloned()
            .collect()
    }
}

/// Groups of callers by each of their selectors.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    drawers: HashMap<Selector, BTreeSet<GroupId>>,
}

impl GroupIndex {
    pub(crate) fn add(&mut self, group: GroupId, selectors: &SelectorSet) {
        for selector in selectors {
            self.drawers
                .entry(selector.clone())
                .or_default()
                .insert(group);
        }
    }

    pub(crate) fn remove(&mut self, group: GroupId, selectors: &SelectorSet) {
        for selector in selectors {
            if let Some(drawer) = self.drawers.get_mut(selector) {
                drawer.remove(&group);
                if drawer.is_empty() {
                    self.drawers.remove(selector);
                }
            }
        }
    }

    /// The groups that have all of an entry's selectors.
    pub(crate) fn matching(&self, entry: &Entry) -> BTreeSet<GroupId> {
        let mut drawers = Vec::with_capacity(entry.selectors.len());
        for selector in &entry.selectors {
            match self.drawers.get(selector) {
                Some(drawer) => drawers.push(drawer),
                None => return BTreeSet::new(),
            }
        }
        drawers.sort_by_key(|d| d.len());
        let Some((smallest, others)) = drawers.split_first() else {
            return BTreeSet::new();
        };
        smallest
            .iter()
            .filter(|group| others.iter().all(|d| d.contains(group)))
            .copied()
            .collect()
    }
}
