//! What the machine wants done.

use muster_model::{EntryId, SelectorSet, TaskId};
use muster_proto::muster::agent::v1 as api;
use muster_roster::Event as RosterEvent;
use muster_task::{Action, Ended, Event, ProcessId, Seen, What};
use muster_wire::trace::TraceId;

use super::super::binding::Bound;
use super::super::desk::Command;
use super::super::journal;
use super::super::refused::{Reason, Refused};
use super::super::{sockets, wire};
use super::Keeper;

impl Keeper {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Remember(id) => {
                if let Some(live) = self.journalled(id) {
                    self.journal.live(id, &live);
                }
            }
            Action::RememberEnd(ended) => self.journal.ended(&ended),
            Action::Forget(id) => self.journal.forget(id),
            Action::OpenSocket(id) => self.open_socket(id),
            Action::CloseSocket(id) => {
                if let Some(record) = self.records.get_mut(&id) {
                    record.held = None;
                    if let Some(socket) = record.socket.take() {
                        socket.close();
                    }
                }
            }
            Action::Withdraw(id) => {
                if let Ok(entry) = EntryId::parse(&id.to_string()) {
                    // A loop that has ended has no keys any more.
                    let _ended = self
                        .parts
                        .driver
                        .tell(RosterEvent::Withdraw(entry))
                        .is_err();
                }
            }
            Action::WatchProcess(process) => self.watch_process(process),
            Action::UnwatchProcess(process) => {
                if let Some((_, Some(watching))) = self.processes.remove(&process) {
                    watching.abort();
                }
            }
            Action::WatchCgroup(cgroup) => self.watch_cgroup(cgroup),
            Action::UnwatchCgroup(cgroup) => {
                if let Some((_, Some(watching))) = self.cgroups.remove(&cgroup) {
                    watching.abort();
                }
            }
            Action::Tell(ended) => self.tell(&ended),
            Action::Ask(ids) => self.ask(&ids),
            Action::News(id, what) => self.news(id, what),
            Action::Drop(id) => {
                self.records.remove(&id);
            }
        }
    }

    fn journalled(&self, id: TaskId) -> Option<journal::Live> {
        let record = self.records.get(&id)?;
        let cgroup = match &record.bound {
            Bound::Cgroup(group) => group.path().to_owned(),
            Bound::Process(_) | Bound::Lease(_) => String::new(),
        };
        Some(journal::Live {
            task: self.present(id),
            opener_pid: record.opener.pid,
            opener_start: record.opener.start_time,
            uid: record.owner.uid,
            gid: record.owner.gid,
            cgroup,
        })
    }

    pub(super) fn open_socket(&mut self, id: TaskId) {
        let Some(record) = self.records.get_mut(&id) else {
            self.heard.push(Event::NotListening(id));
            return;
        };
        match self
            .parts
            .sockets
            .open(id, record.bound.clone(), record.owner)
        {
            Ok(socket) => {
                record.socket = Some(socket);
                self.heard.push(Event::Listening(id));
            }
            Err(error) => {
                tracing::error!(task_id = %id, %error, "a task has no socket");
                self.heard.push(Event::NotListening(id));
            }
        }
    }

    fn watch_process(&mut self, id: ProcessId) {
        let desk = self.parts.desk.clone();
        if let Some((process, watching)) = self.processes.get_mut(&id) {
            let process = process.clone();
            let watch = tokio::spawn(async move {
                if let Err(error) = process.exited().await {
                    tracing::error!(pid = id.pid, %error, "a process cannot be watched; its tasks end");
                }
                let status = process.exit_status();
                desk.tell(Command::Heard(Event::ProcessExited(id, status)));
            });
            *watching = Some(watch.abort_handle());
        }
    }

    fn watch_cgroup(&mut self, id: u64) {
        let desk = self.parts.desk.clone();
        if let Some((Bound::Cgroup(group), watching)) = self.cgroups.get_mut(&id) {
            let group = group.clone();
            let watch = tokio::spawn(async move {
                if let Err(error) = group.emptied().await {
                    tracing::error!(cgroup = group.path(), %error, "a control group cannot be watched; its tasks end");
                }
                desk.tell(Command::Heard(Event::CgroupEmptied(id)));
            });
            *watching = Some(watch.abort_handle());
        }
    }

    fn tell(&self, ended: &[Ended]) {
        let (desk, server) = (self.parts.desk.clone(), self.parts.server.clone());
        let ended = ended.iter().map(wire::write_end).collect();
        tokio::spawn(async move {
            let trace = TraceId::new();
            match server.end(ended, trace).await {
                Ok(tasks) => {
                    tracing::debug!(trace_id = %trace, tasks = tasks.len(), "the server was told of the end of tasks");
                    desk.tell(Command::Heard(Event::Told));
                    // Where the server knew of another end before, that is the one.
                    let standings = tasks.iter().filter_map(wire::standing).collect();
                    desk.tell(Command::Heard(Event::Stands(standings)));
                }
                Err(status) => {
                    let error = crate::words::status(&status);
                    tracing::debug!(
                        error,
                        "the server was not told of the end of tasks, will try again"
                    );
                    desk.tell(Command::Heard(Event::NotTold));
                }
            }
        });
    }

    fn ask(&self, ids: &[TaskId]) {
        let (desk, server) = (self.parts.desk.clone(), self.parts.server.clone());
        let ids = ids.iter().map(ToString::to_string).collect();
        tokio::spawn(async move {
            desk.tell(match server.list(ids).await {
                Ok(tasks) => Command::Answered(tasks),
                Err(status) => {
                    let error = crate::words::status(&status);
                    tracing::debug!(
                        error,
                        "the server was not asked about tasks, will try again"
                    );
                    Command::Heard(Event::NotAnswered)
                }
            });
        });
    }

    fn news(&mut self, id: TaskId, what: What) {
        let Some(task) = self.present(id) else {
            return;
        };
        match what {
            What::Opened | What::Resumed => {
                // It is the call's only once: what resumes it is no part of that trace.
                let trace = self
                    .records
                    .get_mut(&id)
                    .and_then(|record| record.trace.take());
                tracing::info!(
                    task_id = %id,
                    spiffe_id = task.spiffe_id,
                    trace_id = trace.map(tracing::field::display),
                    what = what.as_str(),
                    "task"
                );
                self.hold(id);
            }
            What::Ended => {
                tracing::info!(
                    task_id = %id,
                    spiffe_id = task.spiffe_id,
                    state = task.state,
                    cause = task.cause,
                    what = what.as_str(),
                    "task"
                );
                metrics::counter!("muster_node_tasks_ended_total", "state" => state_of(&self.machine, id)).increment(1);
            }
            What::Extended | What::Spent => {
                tracing::debug!(task_id = %id, what = what.as_str(), "task");
            }
        }
        self.tell_watchers(id, what, &task);
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        if let Some(changes) = &record.changes {
            changes.send_replace(Some(task.clone()));
        }
        if what == What::Ended {
            // Its streams have heard it all.
            record.changes = None;
            record.place = None;
        }
        let answer = match what {
            What::Ended => Err(Refused::new(
                Reason::NotInForce,
                format!(
                    "the task ended before it was in force: {} ({})",
                    task.state, task.cause
                ),
            )),
            What::Opened | What::Extended | What::Spent | What::Resumed => Ok(task),
        };
        if !matches!(what, What::Opened | What::Ended) {
            return;
        }
        if let Some(waiting) = record.waiting.take()
            && waiting.send(answer).is_err()
            && what == What::Opened
        {
            self.heard
                .push(Event::Failed(id, muster_task::Cause::CallerGone));
        }
    }

    /// Has the roster keep the task's X509-SVID.
    fn hold(&mut self, id: TaskId) {
        let selectors: SelectorSet = sockets::selector_of(id).into_iter().collect();
        let who = std::sync::Arc::new(selectors).into();
        let held = self.parts.driver.x509_svids(who);
        if let (Some(record), Ok(held)) = (self.records.get_mut(&id), held) {
            record.held = Some(held);
        }
    }

    fn tell_watchers(&mut self, id: TaskId, what: What, task: &api::Task) {
        let Some(record) = self.records.get(&id) else {
            return;
        };
        let at = wire::write_time(self.parts.clock.now().wall);
        self.watchers.retain(|watcher| {
            if watcher.events.is_closed() {
                return false;
            }
            if !record.is_for(id, &watcher.viewer) {
                return true;
            }
            let event = api::TaskEvent {
                at: Some(at),
                what: what.as_str().to_owned(),
                task: Some(task.clone()),
            };
            // Who does not read is let go: a gap would be worse than an end.
            let kept = watcher.events.try_send(event).is_ok();
            // A watcher on the task's own socket ends with it.
            kept && !(what == What::Ended && watcher.viewer.on == Some(id))
        });
    }
}

fn state_of(machine: &muster_task::Tasks, id: TaskId) -> &'static str {
    match machine.see(id) {
        Some(Seen::Ended(_, end)) => end.state.as_str(),
        Some(Seen::Live(..)) | None => "unknown",
    }
}
