//! Whose agent is named no longer: what entries and rules that go or change take from tasks.
//!
//! The server does not keep what the caller of a task was attested as. So an entry or a rule that asks
//! for a selector that it did not ask for counts as one that gives the name no longer: a task that
//! ends is opened again, and one that outlives its ground is not noticed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use muster_model::{Entry, Rule, SelectorSet, SpiffeId, Task, TaskId};

use crate::agents::AgentChange;
use crate::matching;
use crate::naming::{self, OwnDigest, Pattern};
use crate::{Change, Roll};

/// The tasks that have not ended and whose agent is given by nothing on their node once `changes` are
/// made to `roll`: no entry of the node has the name, and no rule of it comes to the name. A class that
/// withholds an identity takes no name; what it does to tasks is said elsewhere.
pub(super) fn lost(roll: &Roll, changes: &[Change]) -> Vec<Arc<Task>> {
    if roll.agents().task_counts().1 == 0 {
        return Vec::new();
    }
    let mut touched = Touched::new(roll);
    for change in changes {
        touched.look(change);
    }
    if touched.tasks.is_empty() {
        return Vec::new();
    }
    let mut after = roll.clone();
    after.apply(roll.head().next(), changes);
    let givers = Givers::new(roll, &after);
    let mut tasks: Vec<Arc<Task>> = touched.tasks.into_values().collect();
    tasks.retain(|task| !givers.give(task));
    tasks
}

/// The tasks that changes may take the ground from.
struct Touched<'r> {
    roll: &'r Roll,
    tasks: BTreeMap<TaskId, Arc<Task>>,
    /// Names below which everything was looked at.
    names: HashSet<SpiffeId>,
}

impl<'r> Touched<'r> {
    fn new(roll: &'r Roll) -> Self {
        Self {
            roll,
            tasks: BTreeMap::new(),
            names: HashSet::new(),
        }
    }

    fn look(&mut self, change: &Change) {
        let roll = self.roll;
        match change {
            Change::DeleteEntry(id) => {
                if let Some(old) = roll.entry(id) {
                    self.below(&old.spiffe_id);
                }
            }
            Change::PutEntry(new) => {
                if let Some(old) = roll.entry(&new.id).filter(|old| !gives_as_before(old, new)) {
                    self.below(&old.spiffe_id);
                }
            }
            Change::DeleteRule(name) => {
                if let Some(old) = roll.rule(name.as_str()) {
                    self.rule(old);
                }
            }
            Change::PutRule(new) => {
                if let Some(old) = roll.rule(new.name.as_str()) {
                    self.rule(old);
                }
            }
            Change::PutNode(new) => {
                let old = roll.node(&new.id);
                if old.is_some_and(|old| !old.selectors.is_subset(&new.selectors)) {
                    self.take(roll.agents().live_tasks_on(&new.id));
                }
            }
            Change::Agent(AgentChange::PutClass(new)) => {
                let old = roll.agents().class(new.name.as_str());
                let asks_more =
                    old.is_some_and(|old| !new.spec.attestation.is_subset(&old.spec.attestation));
                if asks_more {
                    for rule in roll.rules_of_class(new.name.as_str()) {
                        self.rule(rule);
                    }
                }
            }
            Change::DeleteNode(_)
            | Change::PutJoinToken(_)
            | Change::DeleteJoinToken(_)
            | Change::PutBundle(_)
            | Change::DeleteBundle(_)
            | Change::PutJournal { .. }
            | Change::Agent(
                AgentChange::PutInstance(_)
                | AgentChange::DeleteInstance(_)
                | AgentChange::PutTask(_)
                | AgentChange::DeleteTask(_)
                | AgentChange::PutDeparture(_)
                | AgentChange::DeleteDeparture(_)
                | AgentChange::PutPolicies { .. }
                | AgentChange::DeletePolicies(_)
                | AgentChange::PutSighting(_)
                | AgentChange::DeleteSighting(_),
            ) => {}
        }
    }

    /// The tasks of the agent of that name, and of those that stand under it.
    fn below(&mut self, name: &SpiffeId) {
        let roll = self.roll;
        let mut waiting = vec![name.clone()];
        while let Some(name) = waiting.pop() {
            if !self.names.insert(name.clone()) {
                continue;
            }
            self.take(roll.agents().tasks_of(&name));
            for rule in roll.rules_under(&name) {
                self.rule(rule);
            }
            waiting.extend(roll.children(&name).map(|child| child.spiffe_id.clone()));
        }
    }

    /// The tasks of agents that a rule could have named. Whoever opens a task is of a class, and that
    /// of the rule is among those of the agent.
    fn rule(&mut self, rule: &Rule) {
        let pattern = Pattern::of(rule);
        for class in naming::classes(rule) {
            let tasks = self.roll.agents().live_tasks_of(class);
            self.take(tasks.filter(|task| pattern.fits(&task.instance)));
        }
    }

    fn take<'t>(&mut self, tasks: impl Iterator<Item = &'t Arc<Task>>) {
        let live = tasks.filter(|task| task.is_live());
        self.tasks
            .extend(live.map(|task| (task.id, Arc::clone(task))));
    }
}

/// Whether nothing of an entry differs on which it depends whom it gives which name.
fn gives_as_before(old: &Entry, new: &Entry) -> bool {
    old.spiffe_id == new.spiffe_id
        && old.parent_id == new.parent_id
        && old.selectors == new.selectors
}

/// What gives names after the changes.
struct Givers<'r> {
    before: &'r Roll,
    after: &'r Roll,
    rules: Vec<(&'r Arc<Rule>, Pattern)>,
}

impl<'r> Givers<'r> {
    fn new(before: &'r Roll, after: &'r Roll) -> Self {
        let sure = |rule: &&Arc<Rule>| {
            let asked = |roll: &Roll, rule: &Arc<Rule>| -> SelectorSet {
                let rule = naming::with_classes(roll.agents(), rule);
                rule.spec.selectors.clone()
            };
            let old = before.rule(rule.name.as_str());
            old.is_none_or(|old| asked(after, rule).is_subset(&asked(before, old)))
        };
        let rules = after.rules().filter(sure);
        Self {
            before,
            after,
            rules: rules.map(|rule| (rule, Pattern::of(rule))).collect(),
        }
    }

    fn give(&self, task: &Task) -> bool {
        self.by_entry(task) || self.by_rule(task)
    }

    fn by_entry(&self, task: &Task) -> bool {
        let asks_no_more = |entry: &Entry| {
            let old = self.before.entry(&entry.id);
            old.is_none_or(|old| {
                old.spiffe_id != entry.spiffe_id || entry.selectors.is_subset(&old.selectors)
            })
        };
        self.after
            .named(&task.instance)
            .any(|entry| asks_no_more(entry) && matching::is_of_node(self.after, &task.node, entry))
    }

    fn by_rule(&self, task: &Task) -> bool {
        self.rules.iter().any(|(rule, pattern)| {
            // Of a task whose caller an entry named, or that is older than this field, any rule may
            // give the name.
            let own = match &task.rule {
                Some(name) if *name != rule.name => OwnDigest::NotTaken,
                Some(_) | None => OwnDigest::Taken,
            };
            pattern.gives_on(&task.node, &task.instance, own)
                && matching::is_under(self.after, &task.node, &rule.spec.parent_id)
        })
    }
}

#[cfg(test)]
mod tests;
