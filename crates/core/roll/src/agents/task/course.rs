//! What becomes of a task: it is extended, spends, pauses, and ends with all that are part of it.
//!
//! Each function says which rows are written; they are written together or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_model::{Cause, Task, TaskId, TaskState, Timestamp, Word};

use super::{Above, TaskError};
use crate::agents::Agents;
use crate::agents::lifecycle::{self, TaskStep};

/// How a task ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The step.
    pub step: TaskStep,
    /// Why, in a word.
    pub cause: Word,
    /// When.
    pub at: Timestamp,
    /// The exit status of its process, where that ended it.
    pub exit_status: Option<i32>,
}

impl End {
    /// An end that the server itself puts to a task.
    pub fn by_server(step: TaskStep, cause: Cause, at: Timestamp) -> Self {
        Self {
            step,
            cause: cause.into(),
            at,
            exit_status: None,
        }
    }
}

/// The row of a task after a step that its lifecycle has; `None` where it has no such step.
pub fn step(task: &Task, step: TaskStep, cause: Option<Word>) -> Option<Task> {
    let state = lifecycle::task(task.state, step)?;
    Some(Task {
        state,
        cause,
        ..task.clone()
    })
}

/// Tasks that end together.
///
/// First each that is named, so that it keeps its own reason; then, by [`Ends::cascade`], all that
/// are part of one of them.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    rows: BTreeMap<TaskId, Task>,
}

impl Ends {
    /// Ends one; says whether that changes anything.
    pub fn end(&mut self, task: &Task, end: &End) -> bool {
        if self.rows.contains_key(&task.id) {
            return false;
        }
        let Some(ended) = step(task, end.step, Some(end.cause.clone())) else {
            return false;
        };
        let row = Task {
            // A clock that goes wrong on a node makes no task that ended before it began.
            ended_at: Some(end.at.max(task.opened_at)),
            exit_status: end.exit_status,
            ..ended
        };
        self.rows.insert(row.id, row);
        true
    }

    /// Ends all that are part of those that ended.
    pub fn cascade(&mut self, agents: &Agents, at: Timestamp) {
        self.cascade_over(agents, &BTreeMap::new(), at);
    }

    /// The same where some rows are about to be written otherwise.
    fn cascade_over(&mut self, agents: &Agents, newer: &BTreeMap<TaskId, Task>, at: Timestamp) {
        let end = End::by_server(TaskStep::LoseParent, Cause::ParentEnded, at);
        let mut waiting: Vec<TaskId> = self.rows.keys().copied().collect();
        while let Some(above) = waiting.pop() {
            for task in agents.tasks_below(above) {
                let task = newer.get(&task.id).unwrap_or(task);
                if self.end(task, &end) {
                    waiting.push(task.id);
                }
            }
        }
    }

    /// Whether a task is among them.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.rows.contains_key(&task)
    }

    /// Whether nothing ends.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows of all that ended, by ascending ID.
    pub fn into_rows(self) -> impl Iterator<Item = Task> {
        self.rows.into_values()
    }
}

/// The rows of a task with another deadline, and of those that are part of it and would outlive it.
pub fn extend(
    agents: &Agents,
    task: &Task,
    deadline: Timestamp,
    now: Timestamp,
) -> Result<Vec<Task>, TaskError> {
    open_still(task, now)?;
    if deadline <= now {
        return Err(TaskError::DeadlinePassed);
    }
    for class in crate::agents::membership::classes(agents, &task.instance, Some(&task.class)) {
        super::active(class)?;
        let last = task.opened_at.plus(class.spec.task_defaults.max_ttl);
        super::ends(
            Some(deadline),
            last.min(class.spec.valid_until),
            Above::Class,
        )?;
    }
    if let Some(above) = task.parent.and_then(|id| agents.task(id)) {
        super::ends(Some(deadline), above.deadline, Above::Parent)?;
    }
    let until = |task: &Task| Task {
        deadline,
        edition: task.edition.saturating_add(1),
        ..task.clone()
    };
    let mut rows = vec![until(task)];
    let mut waiting = vec![task.id];
    while let Some(above) = waiting.pop() {
        for below in agents.tasks_below(above).filter(|below| below.is_live()) {
            // What is below a task that ends early enough ends early enough.
            if below.deadline > deadline {
                rows.push(until(below));
                waiting.push(below.id);
            }
        }
    }
    Ok(rows)
}

/// What a spending does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    /// The rows to write, by ascending ID.
    pub rows: Vec<Task>,
    /// Which of them it ended.
    pub ended: BTreeSet<TaskId>,
}

/// Counts `amount` against a task and all above it. What has spent its budget ends, with all that is
/// part of it: also the one that spends more than there is, and then more is on its account than it
/// had.
pub fn spend(
    agents: &Agents,
    task: &Arc<Task>,
    amount: u64,
    now: Timestamp,
) -> Result<Spending, TaskError> {
    open_still(task, now)?;
    let mut newer: BTreeMap<TaskId, Task> = BTreeMap::new();
    let mut next = Some(task);
    while let Some(task) = next {
        let row = Task {
            spent: task.spent.saturating_add(amount),
            ..Task::clone(task)
        };
        newer.insert(row.id, row);
        next = task.parent.and_then(|id| agents.task(id));
    }
    let mut ends = Ends::default();
    let end = End::by_server(TaskStep::SpendBudget, Cause::BudgetSpent, now);
    for row in newer.values() {
        if row.budget.is_some_and(|budget| row.spent >= budget) {
            ends.end(row, &end);
        }
    }
    ends.cascade_over(agents, &newer, now);
    let ended = ends.rows.keys().copied().collect();
    newer.append(&mut ends.rows);
    Ok(Spending {
        rows: newer.into_values().collect(),
        ended,
    })
}

fn open_still(task: &Task, now: Timestamp) -> Result<(), TaskError> {
    let state = if task.is_open() && task.deadline <= now {
        TaskState::Expired
    } else {
        task.state
    };
    if state == TaskState::Open {
        return Ok(());
    }
    Err(TaskError::NotOpen { id: task.id, state })
}
