//! Who matches whom, without comparing everyone with everyone.
//!
//! An entry, and a rule, applies to a caller whose attested selectors contain all of its own. Each is
//! filed under the one of its selectors that fewest others share, and each group of callers under
//! all of its selectors: a new caller looks into one drawer per selector of its own, a new entry into
//! the smallest drawer of its own selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use muster_model::{Selector, SelectorSet};

use crate::groups::GroupId;

/// Entries or rules by their rarest selector.
#[derive(Debug)]
pub(crate) struct RarestIndex<K> {
    drawers: HashMap<Selector, BTreeSet<K>>,
    filed: BTreeMap<K, Selector>,
}

impl<K> Default for RarestIndex<K> {
    fn default() -> Self {
        Self {
            drawers: HashMap::new(),
            filed: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> RarestIndex<K> {
    pub(crate) fn add(&mut self, id: &K, selectors: &SelectorSet) {
        self.remove(id);
        let rarest = selectors
            .iter()
            .min_by_key(|s| self.drawers.get(*s).map_or(0, BTreeSet::len));
        // A view has nothing without selectors: it would match everyone.
        if let Some(selector) = rarest {
            self.drawers
                .entry(selector.clone())
                .or_default()
                .insert(id.clone());
            self.filed.insert(id.clone(), selector.clone());
        }
    }

    pub(crate) fn remove(&mut self, id: &K) {
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

    /// Those that apply to a caller with these selectors, in no order; `asks` says what each asks of
    /// a caller.
    pub(crate) fn matching<'a>(
        &'a self,
        selectors: &'a SelectorSet,
        asks: impl Fn(&K) -> Option<&'a SelectorSet> + 'a,
    ) -> impl Iterator<Item = &'a K> {
        selectors
            .iter()
            .filter_map(|s| self.drawers.get(s))
            .flatten()
            .filter(move |id| asks(id).is_some_and(|asked| asked.is_subset(selectors)))
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

    /// The groups that have all of these selectors.
    pub(crate) fn matching(&self, selectors: &SelectorSet) -> BTreeSet<GroupId> {
        let mut drawers = Vec::with_capacity(selectors.len());
        for selector in selectors {
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
