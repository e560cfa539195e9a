//! The way to the loop that keeps the tasks, for everyone else.

use muster_model::TaskId;
use muster_peer::{HeldProcess, Owner};
use muster_proto::muster::agent::v1 as api;
use muster_task::{Cause, LeaseId};
use muster_wire::trace::TraceId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::binding::Bound;
use super::refused::Refused;

/// A task that the server has just opened.
pub(crate) struct Order {
    pub(crate) task: api::Task,
    pub(crate) bound: Bound,
    pub(crate) lease: LeaseId,
    pub(crate) owner: Owner,
    pub(crate) opener: HeldProcess,
    pub(crate) place: OwnedSemaphorePermit,
    /// Where a stream that holds it hears of it.
    pub(crate) changes: Option<watch::Sender<Option<api::Task>>>,
    /// Of the call that opened it.
    pub(crate) trace: TraceId,
}

/// How a caller ends a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Completed,
    Failed(Cause),
}

/// Who asks: a process, and the task on whose socket it does.
#[derive(Clone)]
pub(crate) struct Viewer {
    pub(crate) process: HeldProcess,
    pub(crate) on: Option<TaskId>,
}

pub(crate) enum Command {
    Open(Box<Order>, oneshot::Sender<Result<api::Task, Refused>>),
    See(TaskId, Viewer, oneshot::Sender<Option<Sight>>),
    List(Viewer, Which, oneshot::Sender<Vec<api::Task>>),
    End(TaskId, How, oneshot::Sender<Option<api::Task>>),
    /// What the server says of tasks after a call; the answer is the first of them as it stands.
    Stands(Vec<api::Task>, oneshot::Sender<Option<api::Task>>),
    /// The server did not answer well: it may have opened a task nevertheless.
    OpenFailed,
    LeaseEnded(LeaseId),
    Watch(Viewer, mpsc::Sender<api::TaskEvent>),
    Heard(muster_task::Event),
    Answered(Vec<api::Task>),
    Reconciled(Vec<api::Task>, oneshot::Sender<()>),
    /// The node is handed on: nothing is written any more.
    Rest(oneshot::Sender<()>),
    GoOn,
    Count(oneshot::Sender<usize>),
}

/// Which tasks are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Live,
    AlsoEnded,
}

/// A task that a caller may see.
pub(crate) struct Sight {
    pub(crate) task: api::Task,
    /// Whether the caller is bound to it, and did not only open it.
    pub(crate) bound: bool,
    pub(crate) live: bool,
}

/// The way to the loop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::UnboundedSender<Command>);

impl Desk {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Tells the loop something. A loop that has ended needs no telling.
    pub(crate) fn tell(&self, command: Command) {
        let _ended = self.0.send(command).is_err();
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply));
        answer.await.map_err(|_ended| Refused::shutting_down())
    }

    /// Has a task come into force; the answer is the task, or why it did not.
    pub(crate) async fn open(&self, order: Order) -> Result<api::Task, Refused> {
        self.ask(|reply| Command::Open(Box::new(order), reply))
            .await?
    }

    /// A task that the viewer may see, if there is one.
    pub(crate) async fn see(&self, id: TaskId, viewer: Viewer) -> Result<Option<Sight>, Refused> {
        self.ask(|reply| Command::See(id, viewer, reply)).await
    }

    pub(crate) async fn list(
        &self,
        viewer: Viewer,
        which: Which,
    ) -> Result<Vec<api::Task>, Refused> {
        self.ask(|reply| Command::List(viewer, which, reply)).await
    }

    pub(crate) async fn end(&self, id: TaskId, how: How) -> Result<Option<api::Task>, Refused> {
        self.ask(|reply| Command::End(id, how, reply)).await
    }

    pub(crate) async fn stands(&self, tasks: Vec<api::Task>) -> Result<Option<api::Task>, Refused> {
        self.ask(|reply| Command::Stands(tasks, reply)).await
    }

    pub(crate) async fn reconciled(&self, tasks: Vec<api::Task>) -> Result<(), Refused> {
        self.ask(|reply| Command::Reconciled(tasks, reply)).await
    }

    /// Writes nothing any more until [`Desk::go_on`].
    pub(crate) async fn rest(&self) {
        let _ended = self.ask(Command::Rest).await.is_err();
    }

    pub(crate) fn go_on(&self) {
        self.tell(Command::GoOn);
    }

    /// How many tasks are live.
    pub(crate) async fn count(&self) -> Option<usize> {
        self.ask(Command::Count).await.ok()
    }
}
