//! Why a call about tasks is refused: one place for codes, words and both ways to say them.

use std::borrow::Cow;

use muster_wire::error_info::{self, MUSTER_DOMAIN};
use tonic::{Code, Status};

/// The node's own reasons. The words stay; the server's are passed on as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The metadata `workload.spiffe.io: true` is missing.
    SecurityHeaderMissing,
    /// The caller, its user or everybody asks for too much.
    TooManyCalls,
    /// Who calls could not be found out, or is not what it was.
    NotAttested,
    /// The caller has no identity that could open a task.
    NoIdentity,
    /// The node is not in step with its server.
    NotInStep,
    /// The caller has several identities and named none.
    AgentAmbiguous,
    /// The caller does not have the identity that it named.
    AgentNotYours,
    /// A field is not what it should be.
    InvalidField,
    /// The process was not started by the caller.
    NotDescendant,
    /// The process has ended.
    ProcessGone,
    /// The caller counts processes otherwise than the node.
    PidNamespace,
    /// The machine has no control groups of version 2, or not this one.
    CgroupUnavailable,
    /// Neither the caller nor a descendant of it is in the control group.
    CgroupNotYours,
    /// The caller is not bound to the task above.
    ParentNotBound,
    /// There is no such task, or it is not the caller's to see.
    TaskNotFound,
    /// The task has ended.
    TaskEnded,
    /// The node has as many tasks as it may.
    TooManyTasks,
    /// The task did not come into force.
    NotInForce,
    /// The server is away.
    ServerUnavailable,
    /// The server refuses and gives no reason.
    ServerRefused,
    /// The node is shutting down.
    ShuttingDown,
    /// The watcher did not read what it was told.
    TooSlow,
    /// There is nothing at this path.
    NoSuchPath,
}

impl Reason {
    /// The word for programs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::SecurityHeaderMissing => "SECURITY_HEADER_MISSING",
            Self::TooManyCalls => "TOO_MANY_CALLS",
            Self::NotAttested => "NOT_ATTESTED",
            Self::NoIdentity => "NO_IDENTITY",
            Self::NotInStep => "NOT_IN_STEP",
            Self::AgentAmbiguous => "AGENT_AMBIGUOUS",
            Self::AgentNotYours => "AGENT_NOT_YOURS",
            Self::InvalidField => "INVALID_FIELD",
            Self::NotDescendant => "NOT_DESCENDANT",
            Self::ProcessGone => "PROCESS_GONE",
            Self::PidNamespace => "PID_NAMESPACE",
            Self::CgroupUnavailable => "CGROUP_UNAVAILABLE",
            Self::CgroupNotYours => "CGROUP_NOT_YOURS",
            Self::ParentNotBound => "PARENT_NOT_BOUND",
            Self::TaskNotFound => "TASK_NOT_FOUND",
            Self::TaskEnded => "TASK_ENDED",
            Self::TooManyTasks => "TOO_MANY_TASKS",
            Self::NotInForce => "NOT_IN_FORCE",
            Self::ServerUnavailable => "SERVER_UNAVAILABLE",
            Self::ServerRefused => "SERVER_REFUSED",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::TooSlow => "TOO_SLOW",
            Self::NoSuchPath => "NO_SUCH_PATH",
        }
    }

    /// The code: UNAVAILABLE for what may pass, as the Workload API has it.
    const fn code(self) -> Code {
        match self {
            Self::SecurityHeaderMissing | Self::InvalidField => Code::InvalidArgument,
            Self::TooManyCalls
            | Self::NotAttested
            | Self::NotInStep
            | Self::NotInForce
            | Self::ServerUnavailable
            | Self::ShuttingDown => Code::Unavailable,
            Self::NoIdentity
            | Self::AgentNotYours
            | Self::NotDescendant
            | Self::CgroupNotYours
            | Self::ParentNotBound
            | Self::ServerRefused => Code::PermissionDenied,
            Self::AgentAmbiguous
            | Self::ProcessGone
            | Self::PidNamespace
            | Self::CgroupUnavailable
            | Self::TaskEnded => Code::FailedPrecondition,
            Self::TaskNotFound | Self::NoSuchPath => Code::NotFound,
            Self::TooManyTasks | Self::TooSlow => Code::ResourceExhausted,
        }
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason: Cow::Borrowed(reason.as_str()),
            message: message.into(),
        }
    }

    /// What the Workload API's own steps say; `reason` is what it comes to.
    pub(crate) fn from_status(reason: Reason, status: &Status) -> Self {
        Self {
            code: status.code(),
            ..Self::new(reason, status.message())
        }
    }

    /// What the server says. Its words are passed on; whether it can be reached is told apart.
    pub(crate) fn by_server(status: &Status) -> Self {
        let known = error_info::reason_of(MUSTER_DOMAIN, status);
        let away = matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
        );
        if known.is_none() && away {
            let why = crate::words::status(status);
            tracing::debug!(error = why, "a task could not be spoken of with the server");
            return Self::new(
                Reason::ServerUnavailable,
                "the server cannot be reached; try again later",
            );
        }
        let message = if status.code() == Code::Unimplemented {
            "the server does not know tasks; upgrade it".to_owned()
        } else {
            status.message().to_owned()
        };
        Self {
            code: status.code(),
            reason: known.map_or(Reason::ServerRefused.as_str().into(), Cow::Owned),
            message,
        }
    }

    pub(crate) fn field(name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(Reason::InvalidField, format!("{name}: {why}"))
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(
            Reason::ShuttingDown,
            "the node is shutting down; connect again",
        )
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        error_info::status_of(
            MUSTER_DOMAIN,
            refused.code,
            refused.message,
            &refused.reason,
        )
    }
}
