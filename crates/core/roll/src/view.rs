//! What one node may see, kept up to date change by change.

mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_model::{
    Bundle, Entry, EntryId, Revision, Rule, RuleName, SelectorSet, SpiffeId, Task, TaskId,
    TrustDomain,
};

use crate::agents::{AgentChange, membership, task};
use crate::matching::{self, Reach};
use crate::{Change, Digest, Roll};

/// One step of a view: what a node must do to its copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Entries to add or to replace, by ascending ID.
    pub upserts: Vec<Arc<Entry>>,
    /// Entries that are no longer the node's, by ascending ID.
    pub removed_entries: Vec<EntryId>,
    /// Bundles to add or to replace, by ascending name.
    pub bundles: Vec<Arc<Bundle>>,
    /// Bundles that are no longer the node's, by ascending name.
    pub removed_bundles: Vec<TrustDomain>,
    /// Identity rules to add or to replace, by ascending name.
    pub rules: Vec<Arc<Rule>>,
    /// Identity rules that are no longer the node's, by ascending name.
    pub removed_rules: Vec<RuleName>,
    /// Names that its rules could give and that are withheld from now on, ascending.
    pub withheld: Vec<SpiffeId>,
    /// Names that are withheld no longer, ascending.
    pub released: Vec<SpiffeId>,
}

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty()
            && self.removed_entries.is_empty()
            && self.bundles.is_empty()
            && self.removed_bundles.is_empty()
            && self.rules.is_empty()
            && self.removed_rules.is_empty()
            && self.withheld.is_empty()
            && self.released.is_empty()
    }
}

/// What one node may see: its entries, and the bundles that go with them.
///
/// A node that is not attested, or is banned, sees nothing.
#[derive(Clone, Debug)]
pub struct NodeView {
    node: SpiffeId,
    revision: Revision,
    /// What the node is attested as; `None` while it may see nothing.
    selectors: Option<SelectorSet>,
    entries: HashMap<EntryId, Arc<Entry>>,
    /// The entries of its open tasks. Nothing stands under the name of a task.
    tasks: HashMap<EntryId, Arc<Entry>>,
    /// The names under which entries are the node's, and how many reasons each has: one for the
    /// node's own, and one for each entry of the view that gives it.
    names: HashMap<SpiffeId, usize>,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// How many entries of the view name a trust domain to federate with.
    federated: BTreeMap<TrustDomain, usize>,
    /// The identity rules in force under its names.
    rules: BTreeMap<RuleName, Arc<Rule>>,
    /// Agents that an operator barred, as far as these rules could name them.
    withheld: BTreeSet<SpiffeId>,
    digest: Digest,
}

/// What stood in a view before a step began, for each row that the step touched.
#[derive(Default)]
struct Before {
    entries: BTreeMap<EntryId, Option<Arc<Entry>>>,
    bundles: BTreeMap<TrustDomain, Option<Arc<Bundle>>>,
    rules: BTreeMap<RuleName, Option<Arc<Rule>>>,
    /// All names that were withheld, where that was looked at anew.
    withheld: Option<BTreeSet<SpiffeId>>,
}

impl NodeView {
    /// The view of `node` in `roll`.
    pub fn of(roll: &Roll, node: &SpiffeId) -> Self {
        let mut view = Self {
            node: node.clone(),
            revision: Revision::default(),
            selectors: None,
            entries: HashMap::new(),
            tasks: HashMap::new(),
            names: HashMap::new(),
            bundles: BTreeMap::new(),
            federated: BTreeMap::new(),
            rules: BTreeMap::new(),
            withheld: BTreeSet::new(),
            digest: Digest::default(),
        };
        view.rebuild(roll, &mut Before::default());
        view.revision = roll.head();
        view
    }

    /// Whose view it is.
    pub fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// The revision of the roll that the view was last brought up to.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many entries the node may see.
    pub fn entry_count(&self) -> usize {
        self.entries.len() + self.tasks.len()
    }

    /// The entry of that ID, if the node may see it.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id).or_else(|| self.tasks.get(id))
    }

    /// The entries that the node may see, those of its open tasks among them, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values().chain(self.tasks.values())
    }

    /// The bundles that the node may see, by ascending name.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    /// The digest of the view.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The step from nothing to this view.
    pub fn full(&self) -> Delta {
        let mut upserts: Vec<_> = self.entries().cloned().collect();
        upserts.sort_by(|a, b| a.id.cmp(&b.id));
        Delta {
            upserts,
            bundles: self.bundles.values().cloned().collect(),
            rules: self.rules.values().cloned().collect(),
            withheld: self.withheld.iter().cloned().collect(),
            ..Delta::default()
        }
    }

    /// Brings the view up to `roll` and says what that changes for the node.
    ///
    /// `changes` must have all changes that lie between the view and `roll`; more, or some twice, do
    /// no harm. Only the rows that they name are looked at, and where they do not concern the node,
    /// that is two lookups in sets for each. Only when a name is lost that other entries stand
    /// under, or the node's own selectors change, the view is computed anew.
    pub fn update(&mut self, roll: &Roll, changes: &[Change]) -> Delta {
        self.revision = roll.head();
        let mut before = Before::default();
        if self.lost_names(roll, changes) {
            self.rebuild(roll, &mut before);
        } else {
            self.follow(roll, changes, &mut before);
        }
        self.delta(before)
    }

    /// Brings the view up to `roll` and says what that changes for the node, without knowing what
    /// lies between: for a view that nothing concerned for long, and whose changes would be many to
    /// look through, or are forgotten.
    pub fn refresh(&mut self, roll: &Roll) -> Delta {
        self.revision = roll.head();
        let mut before = Before::default();
        self.rebuild(roll, &mut before);
        self.delta(before)
    }

    /// Whether the changes take away a name under which entries stand, or change what the node is.
    fn lost_names(&self, roll: &Roll, changes: &[Change]) -> bool {
        changes.iter().any(|change| match change {
            Change::PutNode(node) => {
                node.id == self.node
                    && matching::seeing(roll, &self.node).map(|node| &node.selectors)
                        != self.selectors.as_ref()
            }
            Change::DeleteNode(id) => {
                *id == self.node
                    && matching::seeing(roll, &self.node).map(|node| &node.selectors)
                        != self.selectors.as_ref()
            }
            Change::PutEntry(entry) => self.loses_name_of(roll, &entry.id),
            Change::DeleteEntry(id) => self.loses_name_of(roll, id),
            Change::Agent(AgentChange::PutClass(class)) => roll
                .entries_of_class(class.name.as_str())
                .any(|entry| self.is_regranted(roll, entry)),
            Change::Agent(AgentChange::PutInstance(instance)) => roll
                .named(&instance.id)
                .any(|entry| self.is_regranted(roll, entry)),
            Change::Agent(AgentChange::DeleteInstance(id)) => {
                roll.named(id).any(|entry| self.is_regranted(roll, entry))
            }
            Change::PutJoinToken(_)
            | Change::DeleteJoinToken(_)
            | Change::PutBundle(_)
            | Change::DeleteBundle(_)
            | Change::PutRule(_)
            | Change::DeleteRule(_)
            | Change::Agent(
                AgentChange::PutTask(_)
                | AgentChange::DeleteTask(_)
                | AgentChange::PutDeparture(_)
                | AgentChange::DeleteDeparture(_)
                | AgentChange::PutPolicies { .. }
                | AgentChange::DeletePolicies(_)
                | AgentChange::PutSighting(_)
                | AgentChange::DeleteSighting(_),
            )
            | Change::PutJournal { .. } => false,
        })
    }

    fn loses_name_of(&self, roll: &Roll, id: &EntryId) -> bool {
        // Where nothing stands under the name in the new roll, whatever stood there before was
        // itself moved or deleted, and is looked at by its own change.
        self.entries.get(id).is_some_and(|old| {
            !self.keeps_place(roll, old) && roll.children(&old.spiffe_id).next().is_some()
        })
    }

    /// Whether an entry came into the view, or left it, because agents did.
    fn is_regranted(&self, roll: &Roll, entry: &Entry) -> bool {
        self.entries.contains_key(&entry.id) != self.is_due(roll, entry)
    }

    /// Whether the entry that `old` has become gives the same name, and is the node's for the same
    /// reason.
    fn keeps_place(&self, roll: &Roll, old: &Entry) -> bool {
        roll.entry(&old.id).is_some_and(|new| {
            matching::is_granted(roll, new)
                && new.parent_id == old.parent_id
                && new.spiffe_id == old.spiffe_id
                && (!self.is_alias(roll, old) || self.is_alias(roll, new))
        })
    }

    fn is_alias(&self, roll: &Roll, entry: &Entry) -> bool {
        self.selectors
            .as_ref()
            .is_some_and(|selectors| matching::is_alias_of(roll, entry, selectors))
    }

    /// Whether an entry is the node's: it is an alias of the node, or stands under a name of the view.
    fn is_due(&self, roll: &Roll, entry: &Entry) -> bool {
        matching::is_granted(roll, entry)
            && (self.names.contains_key(&entry.parent_id) || self.is_alias(roll, entry))
    }

    /// Follows changes that take no name away under which entries stand.
    fn follow(&mut self, roll: &Roll, changes: &[Change], before: &mut Before) {
        let mut arrivals: Vec<Arc<Entry>> = Vec::new();
        for change in changes {
            match change {
                Change::PutEntry(entry) => {
                    let known = self.entries.get(&entry.id).cloned();
                    // What comes under a name that the view only gets from a later change is found
                    // when that name is added.
                    let due = self.names.contains_key(&entry.parent_id)
                        || entry.parent_id == *roll.server_id();
                    if known.is_none() && !due {
                        continue;
                    }
                    let new = roll.entry(&entry.id);
                    if let Some(old) = known {
                        let kept = self.keeps_place(roll, &old);
                        if let Some(new) = new.filter(|_| kept) {
                            if !same(&old, new) {
                                self.drop_entry(&old, before);
                                self.take_entry(new, before);
                            }
                            continue;
                        }
                        self.drop_entry(&old, before);
                    }
                    arrivals.extend(new.cloned());
                }
                Change::DeleteEntry(id) => {
                    if roll.entry(id).is_none()
                        && let Some(old) = self.entries.get(id).cloned()
                    {
                        self.drop_entry(&old, before);
                    }
                }
                Change::PutBundle(bundle) => self.settle_bundle(roll, &bundle.trust_domain, before),
                Change::DeleteBundle(name) => self.settle_bundle(roll, name, before),
                Change::PutNode(_)
                | Change::DeleteNode(_)
                | Change::PutJoinToken(_)
                | Change::DeleteJoinToken(_)
                | Change::PutRule(_)
                | Change::DeleteRule(_)
                | Change::PutJournal { .. } => {}
                Change::Agent(change) => self.follow_tasks(roll, change, before),
            }
        }
        // Only now are all names gone that go: an arrival must not be let in by one of those.
        for entry in arrivals {
            if self.is_due(roll, &entry) {
                self.take_with_descendants(roll, &entry, before);
            }
        }
        self.follow_rules(roll, changes, before);
        let by_entries = before
            .entries
            .iter()
            .flat_map(|(id, old)| [old.as_ref(), self.entries.get(id)])
            .flatten()
            .flat_map(|entry| &entry.federates_with);
        let by_rules = before
            .rules
            .iter()
            .flat_map(|(name, old)| [old.as_ref(), self.rules.get(name)])
            .flatten()
            .flat_map(|rule| &rule.spec.federates_with);
        let named: BTreeSet<TrustDomain> = by_entries.chain(by_rules).cloned().collect();
        for name in named {
            self.settle_bundle(roll, &name, before);
        }
    }

    /// Computes the view anew.
    fn rebuild(&mut self, roll: &Roll, before: &mut Before) {
        for (id, entry) in self.entries.drain().chain(self.tasks.drain()) {
            before.entries.insert(id, Some(entry));
        }
        for (name, bundle) in std::mem::take(&mut self.bundles) {
            before.bundles.insert(name, Some(bundle));
        }
        for (name, rule) in std::mem::take(&mut self.rules) {
            before.rules.insert(name, Some(rule));
        }
        before.withheld = Some(std::mem::take(&mut self.withheld));
        self.names.clear();
        self.federated.clear();
        self.digest = Digest::default();
        self.selectors = None;
        let Some(node) = matching::seeing(roll, &self.node) else {
            return;
        };
        self.selectors = Some(node.selectors.clone());
        self.names.insert(node.id.clone(), 1);
        let mut reach = Reach::default();
        reach.start(roll, &node.id, &node.selectors);
        for entry in &reach.entries {
            self.take_entry(entry, before);
        }
        for task in roll.agents().live_tasks_on(&node.id) {
            self.settle_task(roll, task.id, before);
        }
        for rule in roll.rules() {
            self.settle_rule(roll, &rule.name, before);
        }
        self.settle_withheld(roll, before);
        let mut named: BTreeSet<TrustDomain> = self.federated.keys().cloned().collect();
        named.insert(roll.trust_domain().clone());
        for name in named {
            self.settle_bundle(roll, &name, before);
        }
    }

    /// Takes in and out what tasks have become by a change about agents.
    fn follow_tasks(&mut self, roll: &Roll, change: &AgentChange, before: &mut Before) {
        let agents = roll.agents();
        let mine = |task: &&Arc<Task>| task.node == self.node && task.is_live();
        let touched: Vec<TaskId> = match change {
            AgentChange::PutTask(task) if task.node == self.node => vec![task.id],
            AgentChange::DeleteTask(id) => vec![*id],
            // A node has fewer tasks than a class.
            AgentChange::PutClass(class) => agents
                .live_tasks_on(&self.node)
                .filter(|task| {
                    membership::named(&task.instance, Some(&task.class))
                        .any(|name| name == class.name.as_str())
                })
                .map(|task| task.id)
                .collect(),
            AgentChange::PutInstance(instance) => {
                let tasks = agents.tasks_of(&instance.id).filter(mine);
                tasks.map(|task| task.id).collect()
            }
            AgentChange::DeleteInstance(id) => {
                let tasks = agents.tasks_of(id).filter(mine);
                tasks.map(|task| task.id).collect()
            }
            AgentChange::PutTask(_)
            | AgentChange::PutDeparture(_)
            | AgentChange::DeleteDeparture(_)
            | AgentChange::PutPolicies { .. }
            | AgentChange::DeletePolicies(_)
            | AgentChange::PutSighting(_)
            | AgentChange::DeleteSighting(_) => return,
        };
        for id in touched {
            self.settle_task(roll, id, before);
        }
    }

    /// Takes the entry of a task in or out, as the roll now has it.
    fn settle_task(&mut self, roll: &Roll, id: TaskId, before: &mut Before) {
        let Some(entry_id) = task::entry_id(id) else {
            return;
        };
        let due = self.selectors.is_some();
        let new = roll.agents().task(id).filter(|task| {
            due && task.node == self.node && membership::is_task_granted(roll.agents(), task)
        });
        let new = new.and_then(|task| task::entry(task)).map(Arc::new);
        let old = self.tasks.get(&entry_id).cloned();
        if old == new {
            return;
        }
        before
            .entries
            .entry(entry_id.clone())
            .or_insert_with(|| old.clone());
        if let Some(old) = &old {
            self.digest.remove_entry(old);
            self.tasks.remove(&entry_id);
        }
        if let Some(new) = new {
            self.digest.add_entry(&new);
            self.tasks.insert(entry_id, new);
        }
    }

    fn take_with_descendants(&mut self, roll: &Roll, entry: &Arc<Entry>, before: &mut Before) {
        let mut waiting = vec![Arc::clone(entry)];
        while let Some(entry) = waiting.pop() {
            if self.entries.contains_key(&entry.id) {
                continue;
            }
            let known = self.names.contains_key(&entry.spiffe_id);
            self.take_entry(&entry, before);
            if !known {
                let below = roll.children(&entry.spiffe_id);
                waiting.extend(
                    below
                        .filter(|child| matching::is_granted(roll, child))
                        .cloned(),
                );
            }
        }
    }

    fn take_entry(&mut self, entry: &Arc<Entry>, before: &mut Before) {
        before.entries.entry(entry.id.clone()).or_insert(None);
        self.digest.add_entry(entry);
        *self.names.entry(entry.spiffe_id.clone()).or_default() += 1;
        self.federate(&entry.federates_with);
        self.entries.insert(entry.id.clone(), Arc::clone(entry));
    }

    /// A row that federates with these came.
    fn federate(&mut self, names: &BTreeSet<TrustDomain>) {
        for name in names {
            *self.federated.entry(name.clone()).or_default() += 1;
        }
    }

    /// A row that federates with these went.
    fn part(&mut self, names: &BTreeSet<TrustDomain>) {
        for name in names {
            if let Some(rows) = self.federated.get_mut(name) {
                *rows -= 1;
                if *rows == 0 {
                    self.federated.remove(name);
                }
            }
        }
    }

    fn drop_entry(&mut self, entry: &Arc<Entry>, before: &mut Before) {
        before
            .entries
            .entry(entry.id.clone())
            .or_insert_with(|| Some(Arc::clone(entry)));
        self.digest.remove_entry(entry);
        self.entries.remove(&entry.id);
        if let Some(reasons) = self.names.get_mut(&entry.spiffe_id) {
            *reasons -= 1;
            if *reasons == 0 {
                self.names.remove(&entry.spiffe_id);
            }
        }
        self.part(&entry.federates_with);
    }

    /// Takes the bundle of `name` in or out, as the entries and the roll now have it.
    fn settle_bundle(&mut self, roll: &Roll, name: &TrustDomain, before: &mut Before) {
        let due = self.selectors.is_some()
            && (name == roll.trust_domain() || self.federated.contains_key(name));
        let new = roll.bundle(name).filter(|_| due);
        let old = self.bundles.get(name);
        if old == new {
            return;
        }
        before
            .bundles
            .entry(name.clone())
            .or_insert_with(|| old.cloned());
        if let Some(old) = old {
            self.digest.remove_bundle(old);
        }
        match new {
            Some(new) => {
                self.digest.add_bundle(new);
                self.bundles.insert(name.clone(), Arc::clone(new));
            }
            None => {
                self.bundles.remove(name);
            }
        }
    }

    /// What the rows that were touched have become.
    fn delta(&self, before: Before) -> Delta {
        let mut delta = Delta::default();
        for (id, old) in before.entries {
            match (old, self.entry(&id)) {
                (Some(old), Some(new)) if same(&old, new) => {}
                (_, Some(new)) => delta.upserts.push(Arc::clone(new)),
                (Some(_), None) => delta.removed_entries.push(id),
                (None, None) => {}
            }
        }
        for (name, old) in before.bundles {
            match (old, self.bundles.get(&name)) {
                (Some(old), Some(new)) if old == *new => {}
                (_, Some(new)) => delta.bundles.push(Arc::clone(new)),
                (Some(_), None) => delta.removed_bundles.push(name),
                (None, None) => {}
            }
        }
        self.rules_of_delta(before.rules, before.withheld, &mut delta);
        delta
    }
}

/// Two views are equal when the node's copies of them are.
impl PartialEq for NodeView {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
            && self.selectors == other.selectors
            && self.entries == other.entries
            && self.tasks == other.tasks
            && self.names == other.names
            && self.bundles == other.bundles
            && self.federated == other.federated
            && self.rules == other.rules
            && self.withheld == other.withheld
            && self.digest == other.digest
    }
}

fn same(old: &Arc<Entry>, new: &Arc<Entry>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::world::{self, bundle, entry, id, roll, step, td};

    fn put(entry: Entry) -> Change {
        Change::PutEntry(Arc::new(entry))
    }

    /// A node's own copy, kept by deltas alone.
    #[derive(Default, PartialEq, Debug)]
    struct Copy {
        entries: BTreeMap<EntryId, Arc<Entry>>,
        bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
        rules: BTreeMap<RuleName, Arc<Rule>>,
        withheld: BTreeSet<SpiffeId>,
    }

    impl Copy {
        fn of(view: &NodeView) -> Self {
            let mut copy = Self::default();
            copy.apply(view.full());
            copy
        }

        fn apply(&mut self, delta: Delta) {
            for entry in delta.upserts {
                self.entries.insert(entry.id.clone(), entry);
            }
            for id in delta.removed_entries {
                assert!(self.entries.remove(&id).is_some(), "{id} was not there");
            }
            for bundle in delta.bundles {
                self.bundles.insert(bundle.trust_domain.clone(), bundle);
            }
            for name in delta.removed_bundles {
                assert!(self.bundles.remove(&name).is_some(), "{name} was not there");
            }
            for rule in delta.rules {
                self.rules.insert(rule.name.clone(), rule);
            }
            for name in delta.removed_rules {
                assert!(self.rules.remove(&name).is_some(), "{name} was not there");
            }
            for name in delta.withheld {
                assert!(self.withheld.insert(name.clone()), "{name} was withheld");
            }
            for name in delta.released {
                assert!(self.withheld.remove(&name), "{name} was not withheld");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// However the roll changes, in steps taken one by one or several at once, the view is what
        /// it would be if it were computed from nothing, and so is the node's copy.
        #[test]
        fn following_is_the_same_as_computing_anew(
            history in world::history(),
            lag in 1..4_usize,
        ) {
            let mut roll = roll();
            let mut views: Vec<_> = (0..2).map(|n| NodeView::of(&roll, &id(&format!("/spire/agent/{n}")))).collect();
            let mut copies: Vec<_> = views.iter().map(Copy::of).collect();
            for several in history.chunks(lag) {
                let mut changes = Vec::new();
                for one in several {
                    changes.extend(step(&mut roll, one));
                }
                for (view, copy) in views.iter_mut().zip(&mut copies) {
                    let delta = view.update(&roll, &changes);
                    let anew = NodeView::of(&roll, view.node());
                    prop_assert_eq!(&*view, &anew);
                    let rules: Vec<_> = view.rules().cloned().collect();
                    prop_assert_eq!(rules, matching::rules_of_node(&roll, view.node()));
                    for rule in &delta.rules {
                        prop_assert!(copy.rules.get(&rule.name) != Some(rule), "{} did not change", rule.name);
                    }
                    for entry in &delta.upserts {
                        prop_assert!(copy.entries.get(&entry.id) != Some(entry), "{} did not change", entry.id);
                    }
                    copy.apply(delta);
                    prop_assert_eq!(&*copy, &Copy::of(&anew));
                    // The same changes once more are nothing new.
                    prop_assert!(view.update(&roll, &changes).is_empty());
                }
            }
        }
    }

    #[test]
    fn a_change_elsewhere_is_an_empty_step() {
        let (here, there) = (id("/spire/agent/here"), id("/spire/agent/there"));
        let mut roll = roll();
        step(
            &mut roll,
            &[Change::PutNode(Arc::new(world::node(
                "/spire/agent/here",
                &["s:a"],
            )))],
        );
        let mut view = NodeView::of(&roll, &here);
        let changes = step(
            &mut roll,
            &[
                put(entry("e", &there, &id("/w"), &["u:1"])),
                Change::PutNode(Arc::new(world::node("/spire/agent/there", &["s:b"]))),
                Change::PutBundle(Arc::new(bundle("f1", 1))),
            ],
        );
        assert!(view.update(&roll, &changes).is_empty());
        assert_eq!(view.revision(), roll.head());
        assert_eq!(view.digest(), Digest::default());
    }

    #[test]
    fn a_foreign_bundle_comes_and_goes_with_the_entry_that_names_it() {
        let here = id("/spire/agent/here");
        let mut roll = roll();
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/here", &["s:a"]))),
                Change::PutBundle(Arc::new(bundle("td", 1))),
                Change::PutBundle(Arc::new(bundle("f1", 1))),
            ],
        );
        let mut view = NodeView::of(&roll, &here);
        let names = |view: &NodeView| -> Vec<String> {
            view.bundles().map(|b| b.trust_domain.to_string()).collect()
        };
        assert_eq!(names(&view), ["td"]);
        let mut federated = entry("e", &here, &id("/w"), &["u:1"]);
        federated.federates_with.insert(td("f1"));
        let changes = step(&mut roll, &[put(federated)]);
        let delta = view.update(&roll, &changes);
        assert_eq!((delta.upserts.len(), delta.bundles.len()), (1, 1));
        assert_eq!(names(&view), ["f1", "td"]);
        let changes = step(&mut roll, &[Change::DeleteEntry(world::entry_id("e"))]);
        let delta = view.update(&roll, &changes);
        assert_eq!(delta.removed_bundles, [td("f1")]);
        assert_eq!(names(&view), ["td"]);
    }

    #[test]
    fn a_foreign_bundle_comes_and_goes_with_the_rule_that_names_it() {
        let here = id("/spire/agent/here");
        let mut roll = roll();
        let mut rule = world::rule("r", &here, "spiffe://{td}/w/{unix:uid}", &["unix:uid:1"]);
        rule.spec.federates_with = [td("f1")].into();
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/here", &["s:a"]))),
                Change::PutBundle(Arc::new(bundle("f1", 1))),
                Change::PutBundle(Arc::new(bundle("f2", 1))),
            ],
        );
        let mut view = NodeView::of(&roll, &here);
        let mut put = |roll: &mut Roll, domain: &str| {
            rule.spec.federates_with = [td(domain)].into();
            rule.version += 1;
            let changes = step(roll, &[Change::PutRule(Arc::new(rule.clone()))]);
            let delta = view.update(roll, &changes);
            let came = |b: &Arc<Bundle>| b.trust_domain.clone();
            let bundles: Vec<_> = delta.bundles.iter().map(came).collect();
            (delta.rules.len(), bundles, delta.removed_bundles)
        };
        assert_eq!(put(&mut roll, "f1"), (1, vec![td("f1")], vec![]));
        assert_eq!(put(&mut roll, "f2"), (1, vec![td("f2")], vec![td("f1")]));
        let gone = [Change::DeleteRule(rule.name.clone())];
        let changes = step(&mut roll, &gone);
        assert_eq!(view.update(&roll, &changes).removed_bundles, [td("f2")]);
        assert_eq!(view, NodeView::of(&roll, &here));
    }

    /// The definition in `muster.node.v1`, with SHA-256 values computed elsewhere.
    #[test]
    fn the_digest_is_the_sum_of_its_members() {
        let here = id("/spire/agent/here");
        let mut roll = roll();
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/here", &["s:a"]))),
                Change::PutBundle(Arc::new(bundle("td", 7))),
                put(entry("e", &here, &id("/w"), &["u:1"])),
            ],
        );
        let digest = NodeView::of(&roll, &here).digest();
        assert_eq!(
            muster_crypto::digest::hex(digest.as_bytes()),
            "2749683df7e38ed4ae46d39cf4574dc6b7ced6d228a95e4bd86ebfa2cc67a8d7"
        );
    }
}
