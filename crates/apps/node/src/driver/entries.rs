//! What the view says of the node's tasks: each is an entry, with the task's ID as its own.

use std::collections::BTreeSet;

use muster_model::{Entry, EntryId, TaskId};

use super::NodeEvent;
use muster_roster::Event;

/// The kind of the one selector that a task's entry has.
pub(crate) const SELECTOR_KIND: &str = "muster";

/// News of tasks' entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskEntries {
    /// The server is there again.
    LinkUp,
    /// These are all that there are.
    Whole(BTreeSet<TaskId>),
    /// These are there, and those are no longer.
    Changed {
        /// There.
        here: Vec<TaskId>,
        /// Gone.
        gone: Vec<TaskId>,
    },
}

impl TaskEntries {
    /// What an event says of tasks, if the roster believes it.
    pub(super) fn of(event: &NodeEvent) -> Option<Self> {
        let step = match event {
            Event::LinkUp => return Some(Self::LinkUp),
            Event::Step(step) => step,
            Event::Tick
            | Event::LinkDown
            | Event::NodeIs(_)
            | Event::ProcessGone(_)
            | Event::Call { .. }
            | Event::CallOnBehalf { .. }
            | Event::CallEnded(_)
            | Event::Withdraw(_)
            | Event::X509Signed { .. }
            | Event::X509SignFailed { .. }
            | Event::WitSigned { .. }
            | Event::WitSignFailed { .. }
            | Event::JwtSigned { .. } => return None,
        };
        let here = step.entries.iter().filter_map(of_entry);
        if step.replace {
            return Some(Self::Whole(here.collect()));
        }
        let (here, gone) = (
            here.collect::<Vec<_>>(),
            step.removed_entries
                .iter()
                .filter_map(task_of)
                .collect::<Vec<_>>(),
        );
        (!here.is_empty() || !gone.is_empty()).then_some(Self::Changed { here, gone })
    }

    pub(super) fn is_of_link(&self) -> bool {
        *self == Self::LinkUp
    }
}

fn of_entry(entry: &Entry) -> Option<TaskId> {
    let is_task = entry.selectors.iter().any(|s| s.kind() == SELECTOR_KIND);
    task_of(&entry.id).filter(|_| is_task)
}

fn task_of(entry: &EntryId) -> Option<TaskId> {
    TaskId::parse(entry.as_str()).ok()
}
