//! Whom a commit concerns.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use muster_model::{
    AgentClass, Entry, EntryId, Node, Rule, RuleName, SelectorSet, SpiffeId, TaskId,
};

use crate::agents::{AgentChange, membership};
use crate::matching::is_local;
use crate::naming::{self, Pattern};
use crate::{Change, Roll};

/// The nodes whose view a commit may have changed: all whose view it did change, and seldom others.
///
/// Found by climbing from each row that was written, as it was and as it is, to the nodes above it,
/// so that the cost depends on the commit and not on how many nodes there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concern {
    everyone: bool,
    nodes: BTreeSet<SpiffeId>,
    /// Selectors of the aliases that were come upon: nodes that have them all are concerned.
    aliases: Vec<SelectorSet>,
}

impl Concern {
    /// Every node there is.
    pub fn everyone() -> Self {
        Self {
            everyone: true,
            ..Self::default()
        }
    }

    /// Whom the step from `before` to `after` concerns; `changes` are all that lie between.
    pub fn of<'a>(
        before: &Roll,
        after: &Roll,
        changes: impl IntoIterator<Item = &'a Change>,
    ) -> Self {
        let mut concern = Self::default();
        let mut climbed = [HashSet::new(), HashSet::new()];
        for change in changes {
            match change {
                Change::PutEntry(entry) => {
                    concern.climb(before, after, &entry.id, &mut climbed);
                }
                Change::DeleteEntry(id) => concern.climb(before, after, id, &mut climbed),
                Change::PutNode(node) => {
                    concern.nodes.insert(node.id.clone());
                }
                Change::DeleteNode(id) => {
                    concern.nodes.insert(id.clone());
                }
                // Every node holds the own bundle, and foreign ones change seldom.
                Change::PutBundle(_) | Change::DeleteBundle(_) => concern.everyone = true,
                Change::PutRule(rule) => {
                    concern.climb_from_rule(before, after, &rule.name, &mut climbed);
                }
                Change::DeleteRule(name) => {
                    concern.climb_from_rule(before, after, name, &mut climbed);
                }
                Change::Agent(change) => {
                    for name in renamed(before, after, change) {
                        concern.climb_from_rule(before, after, &name, &mut climbed);
                    }
                    for entry in regranted(before, after, change) {
                        concern.climb(before, after, &entry.id, &mut climbed);
                    }
                    concern.tasks(before, after, change);
                }
                Change::PutJoinToken(_)
                | Change::DeleteJoinToken(_)
                | Change::PutJournal { .. } => {}
            }
        }
        concern
    }

    /// Whether nobody is concerned.
    pub fn is_nobody(&self) -> bool {
        !self.everyone && self.nodes.is_empty() && self.aliases.is_empty()
    }

    /// Whether all nodes are.
    pub fn is_everyone(&self) -> bool {
        self.everyone
    }

    /// The nodes that are concerned by name.
    pub fn nodes(&self) -> impl Iterator<Item = &SpiffeId> {
        self.nodes.iter()
    }

    /// Whether nodes may be concerned for what they were attested as: then each must be asked.
    pub fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// Whether `node` is concerned.
    pub fn includes(&self, node: &Node) -> bool {
        self.everyone
            || self.nodes.contains(&node.id)
            || self
                .aliases
                .iter()
                .any(|alias| alias.is_subset(&node.selectors))
    }

    /// The nodes of the tasks that are seen from now on, or no longer, or otherwise.
    fn tasks(&mut self, before: &Roll, after: &Roll, change: &AgentChange) {
        let mut look = |id: TaskId| {
            let seen = |roll: &Roll| -> Option<(u32, SpiffeId)> {
                let task = roll.agents().task(id)?;
                let granted = membership::is_task_granted(roll.agents(), task);
                granted.then(|| (task.edition, task.node.clone()))
            };
            let (old, new) = (seen(before), seen(after));
            if old != new {
                self.nodes
                    .extend(old.into_iter().chain(new).map(|(_, node)| node));
            }
        };
        let of_class = |roll: &Roll, class: &AgentClass| -> Vec<TaskId> {
            let tasks = roll.agents().live_tasks_of(class.name.as_str());
            tasks.map(|task| task.id).collect()
        };
        let of_agent = |id: &SpiffeId, look: &mut dyn FnMut(TaskId)| {
            let is_barred = |roll: &Roll| {
                let instance = roll.agents().instance(id);
                instance.is_some_and(|instance| instance.is_barred())
            };
            if is_barred(before) != is_barred(after) {
                after.agents().tasks_of(id).for_each(|task| look(task.id));
            }
        };
        match change {
            AgentChange::PutTask(task) => look(task.id),
            AgentChange::DeleteTask(id) => look(*id),
            AgentChange::PutClass(class) => {
                let name = class.name.as_str();
                // One that was not there bars nobody either.
                let standing = |roll: &Roll| roll.agents().class(name).map(|c| c.is_active());
                if standing(before) != standing(after) {
                    of_class(before, class).into_iter().for_each(&mut look);
                    of_class(after, class).into_iter().for_each(look);
                }
            }
            AgentChange::PutInstance(instance) => of_agent(&instance.id, &mut look),
            AgentChange::DeleteInstance(id) => of_agent(id, &mut look),
            AgentChange::PutDeparture(_)
            | AgentChange::DeleteDeparture(_)
            | AgentChange::PutPolicies { .. }
            | AgentChange::DeletePolicies(_)
            | AgentChange::PutSighting(_)
            | AgentChange::DeleteSighting(_) => {}
        }
    }

    fn climb(
        &mut self,
        before: &Roll,
        after: &Roll,
        id: &EntryId,
        climbed: &mut [HashSet<SpiffeId>; 2],
    ) {
        for (roll, climbed) in [before, after].into_iter().zip(climbed) {
            if let Some(entry) = roll.entry(id) {
                self.climb_in(roll, entry, climbed);
            }
        }
    }

    fn climb_from_rule(
        &mut self,
        before: &Roll,
        after: &Roll,
        name: &RuleName,
        climbed: &mut [HashSet<SpiffeId>; 2],
    ) {
        for (roll, climbed) in [before, after].into_iter().zip(climbed) {
            if let Some(rule) = roll.rule(name.as_str()) {
                let above = self.climb_name(roll, &rule.spec.parent_id, climbed);
                for entry in above {
                    self.climb_in(roll, entry, climbed);
                }
            }
        }
    }

    fn climb_in<'a>(&mut self, roll: &'a Roll, entry: &'a Entry, climbed: &mut HashSet<SpiffeId>) {
        let mut above = vec![entry];
        while let Some(entry) = above.pop() {
            if !is_local(roll, entry) {
                continue;
            }
            let name = &entry.parent_id;
            if name == roll.server_id() {
                self.aliases.push(entry.selectors.clone());
            }
            above.extend(self.climb_name(roll, name, climbed));
        }
    }

    /// The entries that give a name, unless they were climbed through already; the node of that name
    /// is concerned.
    fn climb_name<'a>(
        &mut self,
        roll: &'a Roll,
        name: &'a SpiffeId,
        climbed: &mut HashSet<SpiffeId>,
    ) -> Vec<&'a Entry> {
        if !climbed.insert(name.clone()) {
            return Vec::new();
        }
        if roll.node(name).is_some() {
            self.nodes.insert(name.clone());
        }
        roll.named(name).map(AsRef::as_ref).collect()
    }
}

/// The rules whose names are given from now on, or no longer, or to others, because of a change about
/// agents.
fn renamed(before: &Roll, after: &Roll, change: &AgentChange) -> Vec<RuleName> {
    let names = |rules: &mut dyn Iterator<Item = &Arc<Rule>>| -> Vec<RuleName> {
        rules.map(|rule| rule.name.clone()).collect()
    };
    let of_agent = |id: &SpiffeId| {
        let is_barred = |roll: &Roll| {
            let instance = roll.agents().instance(id);
            instance.is_some_and(|instance| instance.is_barred())
        };
        if is_barred(before) == is_barred(after) {
            return Vec::new();
        }
        names(
            &mut before
                .rules()
                .chain(after.rules())
                .filter(|rule| Pattern::of(rule).fits(id)),
        )
    };
    match change {
        AgentChange::PutClass(class) => {
            let name = class.name.as_str();
            // Its agents were nobody's before, and what bars them counts only now.
            let bars =
                before.agents().class(name).is_none() && after.agents().barred().next().is_some();
            let differs = |rule: &&Arc<Rule>| {
                bars || naming::in_force(before.agents(), rule)
                    != naming::in_force(after.agents(), rule)
            };
            names(&mut after.rules_of_class(name).filter(differs))
        }
        AgentChange::PutInstance(instance) => of_agent(&instance.id),
        AgentChange::DeleteInstance(id) => of_agent(id),
        AgentChange::PutTask(_)
        | AgentChange::DeleteTask(_)
        | AgentChange::PutDeparture(_)
        | AgentChange::DeleteDeparture(_)
        | AgentChange::PutPolicies { .. }
        | AgentChange::DeletePolicies(_)
        | AgentChange::PutSighting(_)
        | AgentChange::DeleteSighting(_) => Vec::new(),
    }
}

/// The entries that nodes may see from now on, or no longer, because of a change about agents.
fn regranted<'a>(before: &Roll, after: &'a Roll, change: &'a AgentChange) -> Vec<&'a Arc<Entry>> {
    let differs = |entry: &&Arc<Entry>| {
        membership::is_granted(before.agents(), entry)
            != membership::is_granted(after.agents(), entry)
    };
    match change {
        AgentChange::PutClass(class) => after
            .entries_of_class(class.name.as_str())
            .filter(differs)
            .collect(),
        AgentChange::PutInstance(instance) => after.named(&instance.id).filter(differs).collect(),
        AgentChange::DeleteInstance(id) => after.named(id).filter(differs).collect(),
        AgentChange::PutTask(_)
        | AgentChange::DeleteTask(_)
        | AgentChange::PutDeparture(_)
        | AgentChange::DeleteDeparture(_)
        | AgentChange::PutPolicies { .. }
        | AgentChange::DeletePolicies(_)
        | AgentChange::PutSighting(_)
        | AgentChange::DeleteSighting(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::NodeView;
    use crate::world::{bundle, entry, history, id, node, roll, step};

    fn put(name: &str, parent: &str, spiffe_id: &str, given: &str) -> Change {
        let entry = entry(name, &id(parent), &id(spiffe_id), &[given]);
        Change::PutEntry(Arc::new(entry))
    }

    #[test]
    fn only_the_node_above_is_concerned() {
        let mut before = roll();
        let nodes = [
            node("/spire/agent/0", &["a:1"]),
            node("/spire/agent/1", &[]),
        ];
        let rows: Vec<Change> = nodes
            .iter()
            .map(|node| Change::PutNode(Arc::new(node.clone())))
            .collect();
        step(&mut before, &rows);
        let whom = |before: &mut crate::Roll, change: Change| -> Vec<bool> {
            let old = before.clone();
            let changes = step(before, &[change]);
            let concern = Concern::of(&old, before, &changes);
            nodes.iter().map(|node| concern.includes(node)).collect()
        };
        let check = |before: &mut crate::Roll, change: Change, expected: [bool; 2]| {
            assert_eq!(whom(before, change), expected);
        };
        // Under one node, and under what stands there.
        check(
            &mut before,
            put("e1", "/spire/agent/0", "/w", "u:1"),
            [true, false],
        );
        check(&mut before, put("e2", "/w", "/below", "u:1"), [true, false]);
        // Under nobody.
        check(
            &mut before,
            put("e3", "/nowhere", "/x", "u:1"),
            [false, false],
        );
        // Moved: the old place and the new one.
        check(
            &mut before,
            put("e1", "/spire/agent/1", "/w", "u:1"),
            [true, true],
        );
        // An alias of whoever was attested so, and what stands under it.
        check(
            &mut before,
            put("e4", "/spire/server", "/alias", "a:1"),
            [true, false],
        );
        check(&mut before, put("e5", "/alias", "/y", "u:1"), [true, false]);
        check(
            &mut before,
            Change::DeleteEntry(crate::world::entry_id("e5")),
            [true, false],
        );
        check(
            &mut before,
            Change::PutBundle(Arc::new(bundle("td", 9))),
            [true, true],
        );
        check(
            &mut before,
            Change::DeleteNode(id("/spire/agent/1")),
            [false, true],
        );
    }

    proptest! {
        /// Whose view differs is concerned, whatever happens.
        #[test]
        fn nobody_is_forgotten(history in history()) {
            let mut now = roll();
            for changes in history {
                let before = now.clone();
                let changes = step(&mut now, &changes);
                let concern = Concern::of(&before, &now, &changes);
                for path in ["/spire/agent/0", "/spire/agent/1"] {
                    let id = id(path);
                    let mut view = NodeView::of(&before, &id);
                    let delta = view.update(&now, &changes);
                    let known = before.node(&id).or_else(|| now.node(&id));
                    let included = known.is_some_and(|node| concern.includes(node))
                        || now.node(&id).is_some_and(|node| concern.includes(node));
                    prop_assert!(delta.is_empty() || included, "{path}: {delta:?}, {concern:?}");
                }
            }
        }
    }
}
