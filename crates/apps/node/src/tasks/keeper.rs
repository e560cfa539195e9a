//! The loop that does what the machine of tasks decides.

mod act;
mod past;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Now, TaskId};
use muster_peer::{HeldProcess, Owner, Processes};
use muster_proto::muster::agent::v1 as api;
use muster_rt::Clock;
use muster_rt::lifecycle::{Reason as Why, Shutdown};
use muster_task::{Event, Opened, Phase, ProcessId, Seen, Tasks};
use muster_wire::trace::TraceId;
use tokio::sync::{OwnedSemaphorePermit, RwLock, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::binding::{Bound, id_of};
use super::desk::{Command, Desk, How, Order, Sight, Viewer, Which};
use super::journal::Journal;
use super::refused::{Reason, Refused};
use super::server::Server;
use super::sockets::{self, Sockets};
use super::wire;
use crate::driver::{Driver, Subscription, TaskEntries};
use crate::material::HeldX509;

/// How many things may have happened before the loop looks at the clock again.
const BATCH: usize = 256;
/// So many events may a watcher be behind.
pub(crate) const WATCH_BEHIND: usize = 256;

/// What the loop keeps of a task besides what the machine does.
struct Record {
    /// As the server said it last.
    task: api::Task,
    bound: Bound,
    owner: Owner,
    opener: ProcessId,
    socket: Option<sockets::Open>,
    /// Keeps its X509-SVID in the roster, so that its first caller has it at once and an outage is
    /// none for it.
    held: Option<Subscription<muster_roster::X509Update<HeldX509>>>,
    /// Who waits for it to be in force.
    waiting: Option<oneshot::Sender<Result<api::Task, Refused>>>,
    /// The stream that holds it.
    changes: Option<watch::Sender<Option<api::Task>>>,
    /// Its place among the live ones.
    place: Option<OwnedSemaphorePermit>,
    /// Of the call that opened it, in this run.
    trace: Option<TraceId>,
}

struct Watcher {
    viewer: Viewer,
    events: mpsc::Sender<api::TaskEvent>,
}

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) entries: mpsc::UnboundedReceiver<TaskEntries>,
    pub(crate) desk: Desk,
    pub(crate) server: Server,
    pub(crate) driver: Driver,
    pub(crate) sockets: Sockets,
    pub(crate) processes: Processes,
    pub(crate) boot_id: Arc<str>,
    pub(crate) turn: Arc<RwLock<()>>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The loop.
pub(crate) struct Keeper {
    machine: Tasks,
    parts: Parts,
    journal: Journal,
    records: HashMap<TaskId, Record>,
    processes: HashMap<ProcessId, (HeldProcess, Option<AbortHandle>)>,
    cgroups: HashMap<u64, (Bound, Option<AbortHandle>)>,
    watchers: Vec<Watcher>,
    /// What came of actions, to be heard when all of them are done.
    heard: Vec<Event>,
}

impl Keeper {
    /// Runs until the shutdown begins. Tasks live on: the next run of the node takes them up again.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        let mut ending = std::pin::pin!(shutdown.begun());
        loop {
            let wait = self.wait();
            tokio::select! {
                biased;
                reason = &mut ending => {
                    self.end(reason);
                    return Ok(());
                }
                news = self.parts.entries.recv() => match news {
                    Some(news) => self.on_entries(news),
                    None => return Ok(()),
                },
                command = self.parts.commands.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    self.obey(command);
                    for _ in 0..BATCH {
                        let Ok(command) = self.parts.commands.try_recv() else { break };
                        self.obey(command);
                    }
                }
                () = tokio::time::sleep(wait) => self.hear(Event::Tick),
            }
        }
    }

    fn now(&self) -> Now {
        self.parts.clock.now()
    }

    fn wait(&self) -> Duration {
        let now = self.now().mono;
        self.machine
            .poll_timeout()
            // Rounded up, or the last part of a millisecond would be waited away in a spin.
            .map_or(Duration::from_hours(1), |at| {
                at.saturating_sub(now) + Duration::from_millis(1)
            })
    }

    /// Lets go of the sockets. Where a successor has them, they stay.
    fn end(&mut self, reason: Why) {
        for record in self.records.values_mut() {
            match (record.socket.take(), reason) {
                (Some(socket), Why::HandedOn) => socket.leave(),
                (Some(socket), _) => socket.close(),
                (None, _) => {}
            }
        }
    }

    fn hear(&mut self, event: Event) {
        self.heard.push(event);
        while let Some(event) = (!self.heard.is_empty()).then(|| self.heard.remove(0)) {
            self.machine.handle(event, self.parts.clock.now());
            while let Some(action) = self.machine.poll_action() {
                self.perform(action);
            }
        }
    }

    fn on_entries(&mut self, news: TaskEntries) {
        match news {
            TaskEntries::LinkUp => {
                self.hear(Event::LinkUp);
                self.reconcile();
            }
            TaskEntries::Whole(entries) => self.hear(Event::View(entries)),
            TaskEntries::Changed { here, gone } => {
                for id in here {
                    self.hear(Event::Entered(id));
                }
                for id in gone {
                    self.hear(Event::Left(id));
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(order, reply) => self.open(*order, reply),
            // Whoever asked may be gone.
            Command::See(id, viewer, reply) => drop(reply.send(self.see(id, &viewer))),
            Command::List(viewer, which, reply) => drop(reply.send(self.list(&viewer, which))),
            Command::End(id, how, reply) => {
                self.hear(match how {
                    How::Completed => Event::Completed(id),
                    How::Failed(cause) => Event::Failed(id, cause),
                });
                drop(reply.send(self.present(id)));
            }
            Command::Stands(tasks, reply) => {
                let first = tasks.first().and_then(|task| TaskId::parse(&task.id).ok());
                self.stands(&tasks);
                drop(reply.send(first.and_then(|id| self.present(id))));
            }
            Command::OpenFailed => self.reconcile(),
            Command::LeaseEnded(lease) => self.hear(Event::LeaseEnded(lease)),
            Command::Watch(viewer, events) => self.watchers.push(Watcher { viewer, events }),
            Command::Heard(event) => self.hear(event),
            Command::Answered(tasks) => {
                let standings = tasks.iter().filter_map(wire::standing).collect();
                self.hear(Event::Answered(standings));
            }
            Command::Reconciled(tasks, reply) => {
                let standings = tasks.iter().filter_map(wire::standing).collect();
                self.hear(Event::Reconciled(standings));
                let _gone = reply.send(()).is_err();
            }
            Command::Rest(reply) => {
                self.journal.rest();
                let _gone = reply.send(()).is_err();
            }
            Command::GoOn => self.go_on(),
            Command::Count(reply) => drop(reply.send(self.machine.live().count())),
        }
    }

    fn stands(&mut self, tasks: &[api::Task]) {
        let standings = tasks.iter().filter_map(wire::standing).collect();
        self.hear(Event::Stands(standings));
    }

    fn open(&mut self, order: Order, reply: oneshot::Sender<Result<api::Task, Refused>>) {
        let standing = wire::standing(&order.task);
        let parent = match order.task.parent.as_str() {
            "" => Ok(None),
            id => TaskId::parse(id).map(Some),
        };
        let (Some(standing), Ok(parent)) = (standing, parent) else {
            tracing::error!(
                task_id = order.task.id,
                "what the server says of a task is not believed"
            );
            let why = "what the server answered is no task; is it of another version?";
            drop(reply.send(Err(Refused::new(Reason::ServerRefused, why))));
            self.reconcile();
            return;
        };
        let opened = Opened {
            id: standing.id,
            parent,
            deadline: standing.deadline,
            spent: standing.spent,
            opener: id_of(&order.opener),
            binding: order.bound.binding(order.lease),
        };
        let record = Record {
            task: order.task,
            bound: order.bound,
            owner: order.owner,
            opener: opened.opener,
            socket: None,
            held: None,
            waiting: Some(reply),
            changes: order.changes,
            place: Some(order.place),
            trace: Some(order.trace),
        };
        self.take_in(opened.id, record);
        self.hear(Event::Opened(opened));
    }

    /// Keeps a task's things, and those that it is bound to, where the machine's actions find them.
    fn take_in(&mut self, id: TaskId, record: Record) {
        if let Some(process) = record.bound.process() {
            let known = (process.clone(), None);
            self.processes.entry(id_of(process)).or_insert(known);
        }
        if let Bound::Cgroup(group) = &record.bound {
            let known = (record.bound.clone(), None);
            self.cgroups.entry(group.id()).or_insert(known);
        }
        self.records.insert(id, record);
    }

    /// A task as it stands, for its callers.
    fn present(&self, id: TaskId) -> Option<api::Task> {
        let record = self.records.get(&id)?;
        let mut task = record.task.clone();
        match self.machine.see(id)? {
            Seen::Live(opened, phase) => {
                task.deadline = Some(wire::write_time(opened.deadline));
                task.spent = opened.spent;
                let state = match phase {
                    Phase::Opening | Phase::Open => "open",
                    Phase::Suspended => "suspended",
                };
                state.clone_into(&mut task.state);
                task.socket = match phase {
                    Phase::Opening | Phase::Open => {
                        self.parts.sockets.path(id).display().to_string()
                    }
                    Phase::Suspended => String::new(),
                };
            }
            Seen::Ended(opened, end) => {
                task.deadline = Some(wire::write_time(opened.deadline));
                task.spent = opened.spent;
                end.state.as_str().clone_into(&mut task.state);
                task.cause = end.cause.to_string();
                task.ended_at = Some(wire::write_time(end.at));
                task.exit_status = end.exit_status;
                task.socket = String::new();
            }
        }
        Some(task)
    }

    fn see(&self, id: TaskId, viewer: &Viewer) -> Option<Sight> {
        let record = self.records.get(&id)?;
        let bound = record.is_bound(id, viewer);
        if !bound && !record.is_openers(viewer) {
            return None;
        }
        Some(Sight {
            task: self.present(id)?,
            bound,
            live: matches!(self.machine.see(id)?, Seen::Live(..)),
        })
    }

    fn list(&self, viewer: &Viewer, which: Which) -> Vec<api::Task> {
        let live = self.machine.live().map(|(opened, _)| opened.id);
        let ended = self.machine.ended().map(|(opened, _)| opened.id);
        let mut ids: Vec<TaskId> = match which {
            Which::Live => live.collect(),
            Which::AlsoEnded => live.chain(ended).collect(),
        };
        ids.retain(|id| {
            let record = self.records.get(id);
            record.is_some_and(|record| record.is_for(*id, viewer))
        });
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.present(id)).collect()
    }

    /// Asks the server what it has of this node, when no task is being opened: of an answer that was
    /// lost, nobody else knows.
    fn reconcile(&self) {
        let (desk, server, turn) = (
            self.parts.desk.clone(),
            self.parts.server.clone(),
            self.parts.turn.clone(),
        );
        tokio::spawn(async move {
            let turn = turn.write().await;
            match server.list(Vec::new()).await {
                Ok(tasks) => {
                    let _ended = desk.reconciled(tasks).await.is_err();
                }
                Err(status) => {
                    let error = crate::words::status(&status);
                    tracing::debug!(error, "the server was not asked for this node's tasks");
                }
            }
            drop(turn);
        });
    }
}

impl Record {
    fn is_for(&self, id: TaskId, viewer: &Viewer) -> bool {
        self.is_openers(viewer) || self.is_bound(id, viewer)
    }

    fn is_openers(&self, viewer: &Viewer) -> bool {
        self.opener == id_of(&viewer.process)
    }

    fn is_bound(&self, id: TaskId, viewer: &Viewer) -> bool {
        viewer.on == Some(id) || self.bound.admits(&viewer.process)
    }
}
