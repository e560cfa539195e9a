//! Between the messages of the wire and what the machine knows.

use muster_model::{TaskId, TaskState, Timestamp};
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::node::v1 as node;
use muster_task::{End, Ended, Listed, Standing};

/// An instant as protobuf writes it.
pub(crate) fn write_time(at: Timestamp) -> prost_types::Timestamp {
    crate::events::timestamp(at)
}

/// An instant as protobuf writes it, in whole milliseconds.
pub(crate) fn read_time(at: &prost_types::Timestamp) -> Timestamp {
    let millis = at
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(at.nanos / 1_000_000));
    Timestamp::from_unix_millis(millis)
}

/// How a task stands by a message of the server; `None` where it has no ID or no deadline, or
/// stands in a way that this node does not know.
pub(crate) fn standing(task: &api::Task) -> Option<Standing> {
    let state = TaskState::from_word(&task.state)?;
    let stands = match state {
        TaskState::Open => Listed::Open,
        TaskState::Suspended => Listed::Suspended,
        TaskState::Completed
        | TaskState::Failed
        | TaskState::Expired
        | TaskState::Revoked
        | TaskState::ProcessExited => Listed::Ended(End {
            state,
            cause: task.cause.as_str().into(),
            at: read_time(
                task.ended_at
                    .as_ref()
                    .unwrap_or(&prost_types::Timestamp::default()),
            ),
            exit_status: task.exit_status,
        }),
    };
    Some(Standing {
        id: TaskId::parse(&task.id).ok()?,
        deadline: read_time(task.deadline.as_ref()?),
        spent: task.spent,
        stands,
    })
}

/// An end, for the server.
pub(crate) fn write_end(ended: &Ended) -> node::Ended {
    node::Ended {
        id: ended.id.to_string(),
        state: ended.end.state.as_str().to_owned(),
        cause: ended.end.cause.to_string(),
        ended_at: Some(write_time(ended.end.at)),
        exit_status: ended.end.exit_status,
    }
}

/// An end, as the journal has it.
pub(crate) fn read_end(ended: &node::Ended) -> Option<Ended> {
    Some(Ended {
        id: TaskId::parse(&ended.id).ok()?,
        end: End {
            state: TaskState::from_word(&ended.state)?,
            cause: ended.cause.as_str().into(),
            at: read_time(ended.ended_at.as_ref()?),
            exit_status: ended.exit_status,
        },
    })
}
