//! The tasks of the roll, as a value that is cheap to clone, and the ways to find one.
//!
//! Nothing here is looked through from end to end: a commit costs the same with one task and with
//! 100,000. Pairs are kept in one tree each, as most agents and most tasks have few tasks: a tree
//! for each of them would be larger than the tasks.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use muster_model::{ClassName, SpiffeId, Task, TaskId, TaskState, Timestamp};

use super::{Agents, Multi, membership};
use crate::Page;
use crate::roll::page;

const FIRST: TaskId = TaskId::ENDS.0;
const LAST: TaskId = TaskId::ENDS.1;

/// Every task that is not forgotten.
#[derive(Clone)]
pub(super) struct TaskTable {
    all: OrdMap<TaskId, Arc<Task>>,
    of_agent: OrdSet<(SpiffeId, TaskId)>,
    below: OrdSet<(TaskId, TaskId)>,
    /// Those that have not ended: by node, by the classes that their agent is or may be of, by
    /// deadline.
    live_on: Multi<SpiffeId, TaskId>,
    live_of: Multi<ClassName, TaskId>,
    live_until: OrdSet<(Timestamp, TaskId)>,
    suspended: OrdSet<TaskId>,
    /// Those that have, by when.
    ended: OrdSet<(Timestamp, TaskId)>,
}

impl Default for TaskTable {
    fn default() -> Self {
        Self {
            all: OrdMap::new(),
            of_agent: OrdSet::new(),
            below: OrdSet::new(),
            live_on: Multi::new(),
            live_of: Multi::new(),
            live_until: OrdSet::new(),
            suspended: OrdSet::new(),
            ended: OrdSet::new(),
        }
    }
}

impl TaskTable {
    pub(super) fn put(&mut self, task: Arc<Task>) {
        self.delete(task.id);
        let id = task.id;
        self.of_agent.insert((task.instance.clone(), id));
        if let Some(parent) = task.parent {
            self.below.insert((parent, id));
        }
        if task.is_live() {
            self.live_on.insert(task.node.clone(), id);
            for class in named(&task) {
                self.live_of.insert(class, id);
            }
            self.live_until.insert((task.deadline, id));
            if !task.is_open() {
                self.suspended.insert(id);
            }
        } else {
            self.ended.insert((end_of(&task), id));
        }
        self.all.insert(id, task);
    }

    pub(super) fn delete(&mut self, id: TaskId) {
        let Some(old) = self.all.remove(&id) else {
            return;
        };
        self.of_agent.remove(&(old.instance.clone(), id));
        if let Some(parent) = old.parent {
            self.below.remove(&(parent, id));
        }
        if old.is_live() {
            self.live_on.remove(&old.node, &id);
            for class in named(&old) {
                self.live_of.remove(&class, &id);
            }
            self.live_until.remove(&(old.deadline, id));
            self.suspended.remove(&id);
        } else {
            self.ended.remove(&(end_of(&old), id));
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.all.values()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn found<'a>(
        &'a self,
        ids: impl Iterator<Item = TaskId> + 'a,
    ) -> impl Iterator<Item = &'a Arc<Task>> {
        ids.filter_map(|id| self.all.get(&id))
    }
}

/// The classes that have the task in their hand.
fn named(task: &Task) -> impl Iterator<Item = ClassName> {
    membership::named(&task.instance, Some(&task.class))
        .filter_map(|name| ClassName::parse(name).ok())
}

fn end_of(task: &Task) -> Timestamp {
    task.ended_at.unwrap_or(task.deadline)
}

/// Which tasks a list has: those for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// The agent whose work they are.
    pub agent: Option<SpiffeId>,
    /// The class.
    pub class: Option<ClassName>,
    /// The node on which they run.
    pub node: Option<SpiffeId>,
    /// Where they stand; empty is anywhere.
    pub states: BTreeSet<TaskState>,
    /// The first of all tasks that they are part of.
    pub root: Option<TaskId>,
}

impl TaskFilter {
    fn admits(&self, task: &Task) -> bool {
        let is = |wanted: Option<&SpiffeId>, found| wanted.is_none_or(|wanted| wanted == found);
        is(self.agent.as_ref(), &task.instance)
            && is(self.node.as_ref(), &task.node)
            && self.class.as_ref().is_none_or(|class| *class == task.class)
            && (self.states.is_empty() || self.states.contains(&task.state))
            && self.root.is_none_or(|root| root == task.root)
    }

    fn is_live_only(&self) -> bool {
        let live = |state: &TaskState| matches!(state, TaskState::Open | TaskState::Suspended);
        !self.states.is_empty() && self.states.iter().all(live)
    }
}

impl Agents {
    /// The task of that name.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.all.get(&id)
    }

    /// The task whose identity that is, whatever its state.
    pub fn task_named(&self, id: &SpiffeId) -> Option<&Arc<Task>> {
        let (agent, task) = TaskId::in_path(id)?;
        self.task(task).filter(|task| {
            task.instance.path() == agent && task.instance.trust_domain() == id.trust_domain()
        })
    }

    /// How many tasks there are, and how many of them have not ended.
    pub fn task_counts(&self) -> (usize, usize) {
        (self.tasks.all.len(), self.tasks.live_until.len())
    }

    /// The tasks of an agent, the oldest first.
    pub fn tasks_of(&self, instance: &SpiffeId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (instance.clone(), FIRST)..=(instance.clone(), LAST);
        let ids = self.tasks.of_agent.range(range).map(|(_, id)| *id);
        self.tasks.found(ids)
    }

    /// The tasks directly below a task, the oldest first.
    pub fn tasks_below(&self, task: TaskId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (task, FIRST)..=(task, LAST);
        let ids = self.tasks.below.range(range).map(|(_, id)| *id);
        self.tasks.found(ids)
    }

    /// The tasks of a node that have not ended, the oldest first.
    pub fn live_tasks_on<'a>(&'a self, node: &SpiffeId) -> impl Iterator<Item = &'a Arc<Task>> {
        self.tasks.found(self.tasks.live_on.at(node).copied())
    }

    /// How many these are.
    pub fn live_count_on(&self, node: &SpiffeId) -> usize {
        self.tasks.live_on.0.get(node).map_or(0, OrdSet::len)
    }

    /// The nodes that have such tasks, by ascending ID.
    pub fn nodes_with_tasks(&self) -> impl Iterator<Item = &SpiffeId> {
        self.tasks.live_on.0.keys()
    }

    /// The tasks of agents of a class, or of agents that it has in its hand besides another, that
    /// have not ended; the oldest first.
    pub fn live_tasks_of<'a>(&'a self, class: &str) -> impl Iterator<Item = &'a Arc<Task>> {
        self.tasks.found(self.tasks.live_of.at(class).copied())
    }

    /// How many these are.
    pub fn live_count_of(&self, class: &str) -> usize {
        self.tasks.live_of.0.get(class).map_or(0, OrdSet::len)
    }

    /// The tasks that have not ended although their deadline has come, those that are overdue
    /// longest first.
    pub fn overdue_tasks(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Task>> {
        let range = self.tasks.live_until.range(..=(now, LAST));
        self.tasks.found(range.map(|(_, id)| *id))
    }

    /// The tasks that are paused, by ascending ID.
    pub fn suspended_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.found(self.tasks.suspended.iter().copied())
    }

    /// The tasks that have ended, those that did so first at the front.
    pub fn ended_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.found(self.tasks.ended.iter().map(|(_, id)| *id))
    }

    /// One page of the tasks that `filter` admits, by ascending ID, after the task `after`.
    /// A `limit` of 0 is no limit.
    pub fn list_tasks(
        &self,
        filter: &TaskFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Page<Task, TaskId> {
        let admitted = |task: &&Arc<Task>| filter.admits(task);
        let later = |id: &TaskId| after.is_none_or(|after| *id > after);
        let token = |task: &Task| task.id;
        if let Some(agent) = &filter.agent {
            let start = after.map_or(Bound::Included(FIRST), Bound::Excluded);
            let range = (
                start.map(|id| (agent.clone(), id)),
                Bound::Included((agent.clone(), LAST)),
            );
            let ids = self.tasks.of_agent.range(range).map(|(_, id)| *id);
            return page(self.tasks.found(ids).filter(admitted), limit, token);
        }
        let live = filter.is_live_only();
        if let Some(node) = filter.node.as_ref().filter(|_| live) {
            let ids = self.tasks.live_on.at(node).copied().filter(later);
            return page(self.tasks.found(ids).filter(admitted), limit, token);
        }
        if let Some(class) = filter.class.as_ref().filter(|_| live) {
            let ids = self.tasks.live_of.at(class).copied().filter(later);
            return page(self.tasks.found(ids).filter(admitted), limit, token);
        }
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.tasks.all.range((start, Bound::Unbounded));
        page(found.map(|(_, task)| task).filter(admitted), limit, token)
    }
}
