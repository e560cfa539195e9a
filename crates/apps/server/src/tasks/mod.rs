//! Tasks: opened, changed and ended on the word of their nodes, of operators, and of the clock.
//!
//! Start at `open.rs`. What a task may have, and what becomes of it, is in `core/roll/agents/task`;
//! what nodes see of it in `core/roll/view.rs`. A refusal leaves nothing behind but its record.

mod ask;
mod course;
mod follow;
mod ledger;
mod open;
mod upkeep;

use muster_audit::{Decision, Event, Record};
use muster_model::{FieldError, Scope, Task};
use muster_roll::agents::task::{Bounds, Patience, TaskError};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use tonic::{Code, Status};

pub(crate) use course::{end, extend, list, spend};
pub(crate) use follow::follow;
pub(crate) use ledger::{list as list_all, revoke, show};
pub(crate) use open::open;
pub(crate) use upkeep::reconcile;

use crate::agents::refusal;
use crate::policies::Answer;
use crate::server::Server;

/// How many tasks there may be, and how long they are remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How many that have not ended.
    pub bounds: Bounds,
    /// How long those that have.
    pub patience: Patience,
}

/// How many characters of a text that a caller chose are repeated to it.
const SHOWN: usize = 256;
/// How long an answer may be in bytes: gRPC's clients take 4 MiB unless they are told otherwise.
const ANSWER: usize = 3 * 1024 * 1024;

/// What a refusal looks like to who asked.
fn status(error: &TaskError) -> Status {
    let code = match error {
        TaskError::NotFound(_) | TaskError::NoParent(_) => Code::NotFound,
        TaskError::NotGiven { .. }
        | TaskError::NotInParent { .. }
        | TaskError::Scope { .. }
        | TaskError::Resource { .. }
        | TaskError::DataClass { .. } => Code::PermissionDenied,
        TaskError::Cycle
        | TaskError::DeadlinePassed
        | TaskError::DeadlineTooLate { .. }
        | TaskError::Name(_) => Code::InvalidArgument,
        TaskError::ClassNotActive { .. }
        | TaskError::ParentNotOpen(_)
        | TaskError::TooDeep { .. }
        | TaskError::Budget { .. }
        | TaskError::NoClass(_)
        | TaskError::Barred { .. }
        | TaskError::NotOpen { .. } => Code::FailedPrecondition,
        TaskError::TooManyOnNode { .. } | TaskError::TooManyOfClass { .. } => {
            Code::ResourceExhausted
        }
    };
    refusal(code, error.to_string(), error.reason())
}

fn field(error: &FieldError) -> Status {
    refusal(Code::InvalidArgument, error.to_string(), "INVALID_FIELD")
}

/// Something that was not done, and its record.
struct Refused {
    status: Status,
    /// What a policy adds to the record.
    by: Option<Box<Answer>>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, by: None }
    }
}

impl From<TaskError> for Refused {
    fn from(error: TaskError) -> Self {
        status(&error).into()
    }
}

impl From<FieldError> for Refused {
    fn from(error: FieldError) -> Self {
        field(&error).into()
    }
}

impl Refused {
    /// Puts it on record, and says what the caller is told. What could not be done for want of a
    /// store is no refusal.
    fn note(self, server: &Server, record: Record) -> Status {
        let Some(reason) = reason_of(MUSTER_DOMAIN, &self.status) else {
            return self.status;
        };
        let mut record = record
            .with("reason", reason)
            .with("message", shown(self.status.message()));
        record.decision = Decision::Refused;
        if let Some(answer) = &self.by {
            record = answer.onto(record);
        }
        server.refusals.note(record);
        self.status
    }
}

/// The beginning of a text that a caller chose.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// What a record says of a task.
fn of_task(record: Record, task: &Task) -> Record {
    let mut record = record
        .with("task", task.id.to_string())
        .with("agent", task.instance.as_str())
        .with("class", task.class.as_str())
        .with("node", task.node.as_str())
        .with("root", task.root.to_string())
        .with("kind", task.kind.as_str())
        .with("state", task.state.as_str());
    if let Some(parent) = task.parent {
        record = record.with("parent", parent.to_string());
    }
    if let Some(cause) = &task.cause {
        record = record.with("cause", cause.as_str());
    }
    if let Some(status) = task.exit_status {
        record = record.with("exit_status", status.to_string());
    }
    record
}

/// What a record says of the bounds of a task.
fn bounds_of(record: Record, task: &Task) -> Record {
    let words = |all: &mut dyn Iterator<Item = &str>| all.collect::<Vec<_>>().join(" ");
    let scopes = words(&mut task.permissions.scopes.iter().map(Scope::as_str));
    let mut record = record
        .with("deadline_ms", task.deadline.unix_millis().to_string())
        .with("data_class", task.data_class.to_string())
        .with("depth", task.depth.to_string())
        .with("binding", task.bound_to.kind.as_str());
    if !scopes.is_empty() {
        record = record.with("scopes", scopes);
    }
    if let Some(budget) = task.budget {
        record = record.with("budget", budget.to_string());
    }
    if let Some(purpose) = &task.purpose {
        record = record.with("purpose_sha256", purpose.as_str());
    }
    record
}

/// The event of a row that was changed by the clock, by a node or by an operator.
fn event_of(task: &Task) -> Event {
    use muster_model::TaskState as T;
    match task.state {
        T::Open => Event::TaskResumed,
        T::Suspended => Event::TaskSuspended,
        T::Completed => Event::TaskCompleted,
        T::Failed => Event::TaskFailed,
        T::Expired => Event::TaskExpired,
        T::Revoked => Event::TaskRevoked,
        T::ProcessExited => Event::TaskProcessExited,
    }
}
