//! What an earlier run of the node left, and a handover that did not come about.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use muster_model::TaskId;
use muster_peer::{Cgroup, HeldProcess, Owner, Processes};
use muster_rt::files::FileError;
use muster_task::{Config, Event, LeaseId, Opened, Past, Tasks};

use super::super::binding::Bound;
use super::super::journal::{Journal, Left, Live};
use super::super::wire;
use super::{Keeper, Parts, Record};

impl Keeper {
    /// A loop that takes up what the journal in `directory` has: tasks whose processes still live go
    /// on, the others end.
    pub(crate) fn new(directory: &Path, parts: Parts) -> Result<Self, FileError> {
        let (journal, left) = Journal::open(directory)?;
        if let Err(error) = parts.sockets.prepare() {
            tracing::error!(%error, "the directory of tasks' sockets cannot be made; no task can be opened");
        }
        let mut keeper = Self {
            machine: Tasks::new(Config::default()),
            parts,
            journal,
            records: HashMap::new(),
            processes: HashMap::new(),
            cgroups: HashMap::new(),
            watchers: Vec::new(),
            heard: Vec::new(),
        };
        for left in left {
            match left {
                Left::Ended(ended) => keeper.hear(Event::RecalledEnd(ended)),
                Left::Live(live) => keeper.recall(&live),
            }
        }
        let live: BTreeSet<TaskId> = keeper.machine.live().map(|(task, _)| task.id).collect();
        if !live.is_empty() {
            tracing::info!(tasks = live.len(), "tasks of an earlier run go on");
        }
        keeper.parts.sockets.sweep(|id| live.contains(&id));
        Ok(keeper)
    }

    fn recall(&mut self, live: &Live) {
        let Some(task) = live.task.clone() else {
            return;
        };
        let Some(standing) = wire::standing(&task) else {
            return;
        };
        let id = standing.id;
        let found = find(live, &self.parts.processes, &self.parts.boot_id);
        let Some((bound, past)) = found else {
            // Nothing is left that it could be bound to in this run: all there is to do is to say so.
            self.hear(Event::RecalledEnd(gone(id, self.now().wall)));
            return;
        };
        let opened = Opened {
            id,
            parent: TaskId::parse(&task.parent).ok(),
            deadline: standing.deadline,
            spent: standing.spent,
            opener: live.opener(),
            binding: bound.binding(LeaseId(0)),
        };
        let record = Record {
            task,
            bound,
            owner: Owner {
                uid: live.uid,
                gid: live.gid,
            },
            opener: live.opener(),
            socket: None,
            held: None,
            waiting: None,
            changes: None,
            place: None,
            trace: None,
        };
        self.take_in(id, record);
        self.hear(Event::Recalled(opened, past));
    }

    /// The successor did not come about: what it may have taken is taken back.
    pub(super) fn go_on(&mut self) {
        self.journal.go_on();
        let live: Vec<TaskId> = self
            .records
            .iter_mut()
            .filter_map(|(id, record)| {
                let socket = record.socket.take()?;
                socket.leave();
                Some(*id)
            })
            .collect();
        for id in live {
            self.open_socket(id);
        }
        self.hear(Event::LinkUp);
    }
}

fn gone(id: TaskId, at: muster_model::Timestamp) -> muster_task::Ended {
    muster_task::Ended {
        id,
        end: muster_task::End {
            state: muster_model::TaskState::ProcessExited,
            cause: muster_task::Cause::NodeRestarted.as_str().into(),
            at,
            exit_status: None,
        },
    }
}

/// What a task of an earlier run is bound to, if that is still there: a number counts only with the
/// start and the boot that it had.
fn find(live: &Live, processes: &Processes, boot_id: &str) -> Option<(Bound, Past)> {
    let task = live.task.as_ref()?;
    let bound_to = task.bound_to.as_ref()?;
    if bound_to.boot_id != boot_id {
        return None;
    }
    if bound_to.kind == "cgroup" {
        let group = Cgroup::open(&live.cgroup).ok()?;
        let same = group.id() == bound_to.cgroup_id;
        return same.then(|| (Bound::Cgroup(Arc::new(group)), Past::Lives));
    }
    let process = processes.by_number(bound_to.pid).ok()?;
    let same = process.start_time() == bound_to.start_time && HeldProcess::is_alive(&process);
    if !same {
        return None;
    }
    match bound_to.kind.as_str() {
        "process" => Some((Bound::Process(process), Past::Lives)),
        "lease" => Some((Bound::Lease(process), Past::Gone)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use muster_proto::muster::agent::v1 as api;

    use super::*;

    const BOOT: &str = "b0";

    /// What the journal says of a task that was bound to this process, changed.
    fn found(change: impl FnOnce(&mut api::BoundTo)) -> Option<Past> {
        let processes = Processes::default();
        let own = processes.by_number(std::process::id()).unwrap();
        let mut bound_to = Bound::Process(own).describe(BOOT);
        change(&mut bound_to);
        let live = Live {
            task: Some(api::Task {
                bound_to: Some(bound_to),
                ..api::Task::default()
            }),
            ..Live::default()
        };
        find(&live, &processes, BOOT).map(|(_, past)| past)
    }

    /// A number alone is nobody: the kernel gives it to another, also while the node is away.
    #[test]
    fn a_process_is_taken_up_by_number_start_and_boot() {
        assert_eq!(found(|_| {}), Some(Past::Lives));
        assert_eq!(found(|bound| bound.start_time += 1), None);
        assert_eq!(found(|bound| bound.start_time = 0), None);
        assert_eq!(found(|bound| bound.boot_id = "b1".into()), None);
        assert_eq!(found(|bound| bound.kind = "thread".into()), None);
        // The stream that held it ended with the node.
        assert_eq!(found(|bound| bound.kind = "lease".into()), Some(Past::Gone));
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = other.id();
        let start = Processes::default().by_number(pid).unwrap().start_time();
        let of_other = |start| {
            move |bound: &mut api::BoundTo| {
                (bound.pid, bound.start_time) = (pid, start);
            }
        };
        assert_eq!(found(of_other(start)), Some(Past::Lives));
        assert_eq!(found(of_other(start + 1)), None);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(found(of_other(start)), None);
    }
}
