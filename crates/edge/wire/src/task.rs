//! Tasks on Muster's API.

use std::time::Duration;

use muster_model::{
    BindingKind, BootId, BoundTo, DataClass, FieldError, Permissions, Resource, Scope, Sha256,
    Task, TaskId, TextFault, Timestamp, Word,
};
use muster_proto::muster::agent::v1;

use crate::agent::{instant, needed, number, one, optional, set, texts, write_time};

/// The longest that a duration of a request is taken for: a hundred years.
const LONGEST: u64 = 100 * 365 * 24 * 60 * 60;

/// Writes a task. Its socket is its node's to tell.
pub fn write(task: &Task) -> v1::Task {
    let text = |id: Option<&dyn ToString>| id.map(ToString::to_string).unwrap_or_default();
    v1::Task {
        id: task.id.to_string(),
        spiffe_id: task
            .spiffe_id()
            .map(|id| id.to_string())
            .unwrap_or_default(),
        agent: task.instance.to_string(),
        class: task.class.to_string(),
        parent: text(task.parent.as_ref().map(|id| id as &dyn ToString)),
        root: task.root.to_string(),
        kind: task.kind.to_string(),
        purpose_sha256: text(task.purpose.as_ref().map(|hash| hash as &dyn ToString)),
        permissions: Some(v1::Permissions {
            scopes: texts(&task.permissions.scopes),
            resources: texts(&task.permissions.resources),
        }),
        data_class: task.data_class.number().into(),
        budget: task.budget,
        spent: task.spent,
        depth: task.depth.into(),
        opened_at: Some(write_time(task.opened_at)),
        deadline: Some(write_time(task.deadline)),
        state: task.state.to_string(),
        cause: text(task.cause.as_ref().map(|cause| cause as &dyn ToString)),
        ended_at: task.ended_at.map(write_time),
        exit_status: task.exit_status,
        node_id: task.node.to_string(),
        bound_to: Some(write_bound_to(&task.bound_to)),
        socket: String::new(),
    }
}

fn write_bound_to(bound: &BoundTo) -> v1::BoundTo {
    v1::BoundTo {
        kind: bound.kind.to_string(),
        pid: bound.pid,
        start_time: bound.start_time,
        boot_id: bound.boot.map(|boot| boot.to_string()).unwrap_or_default(),
        cgroup_id: bound.cgroup,
    }
}

/// Reads what a task is bound to.
pub fn read_bound_to(message: Option<&v1::BoundTo>) -> Result<BoundTo, FieldError> {
    let message = message.ok_or_else(|| TextFault::Missing.at("bound_to", ""))?;
    let kind = |word: &str| {
        BindingKind::from_word(word).ok_or(TextFault::Choice {
            words: BindingKind::WORDS,
        })
    };
    Ok(BoundTo {
        kind: needed("bound_to.kind", &message.kind, kind)?,
        pid: message.pid,
        start_time: message.start_time,
        boot: optional("bound_to.boot_id", &message.boot_id, BootId::parse)?,
        cgroup: message.cgroup_id,
    })
}

/// A task as it is asked for, without who asks and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What kind of work it is.
    pub kind: Word,
    /// SHA-256 of the instruction.
    pub purpose: Option<Sha256>,
    /// What it may ask for.
    pub permissions: Permissions,
    /// The most sensitive data that it may have.
    pub data_class: DataClass,
    /// How much it may spend.
    pub budget: Option<u64>,
    /// When it ends at the latest.
    pub deadline: Option<Timestamp>,
    /// The task that it is part of.
    pub parent: Option<TaskId>,
}

/// Reads a task that is asked for; the first field that is at fault is the error. A text in place of
/// the digest of the purpose is not repeated in it: it was not meant for anybody.
pub fn read_wanted(message: &v1::OpenTaskRequest, now: Timestamp) -> Result<Wanted, FieldError> {
    let permissions = message.permissions.clone().unwrap_or_default();
    let purpose = match message.purpose_sha256.as_str() {
        "" => None,
        text => {
            Some(Sha256::parse(text).map_err(|fault| fault.at("purpose_sha256", "(not shown)"))?)
        }
    };
    Ok(Wanted {
        kind: needed("kind", &message.kind, Word::parse)?,
        purpose,
        permissions: Permissions {
            scopes: set("permissions.scopes", &permissions.scopes, Scope::parse)?,
            resources: set(
                "permissions.resources",
                &permissions.resources,
                Resource::parse,
            )?,
        },
        data_class: number("data_class", message.data_class, DataClass::new)?,
        budget: message.budget,
        deadline: read_deadline(message.deadline, message.ttl, now)?,
        parent: optional("parent", &message.parent, TaskId::parse)?,
    })
}

/// Reads a deadline that is an instant, or so long from now; not both.
pub fn read_deadline(
    deadline: Option<prost_types::Timestamp>,
    ttl: Option<prost_types::Duration>,
    now: Timestamp,
) -> Result<Option<Timestamp>, FieldError> {
    match (deadline, ttl) {
        (None, None) => Ok(None),
        (Some(_), None) => instant("deadline", deadline).map(Some),
        (None, Some(ttl)) => {
            let time = read_age(ttl).filter(|time| !time.is_zero());
            let seconds = ttl.seconds.to_string();
            let time = time.ok_or_else(|| TextFault::Lifetime.at("ttl", &seconds))?;
            Ok(Some(now.plus(time)))
        }
        (Some(_), Some(ttl)) => Err(TextFault::Contradiction.at("ttl", &ttl.seconds.to_string())),
    }
}

/// Reads a time that is not negative, whole milliseconds of it; `None` is not one.
pub fn read_age(time: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(time.seconds).ok()?.min(LONGEST);
    let nanos = u32::try_from(time.nanos).ok()?;
    Some(Duration::from_secs(seconds) + Duration::from_millis(u64::from(nanos / 1_000_000)))
}

/// Reads the ID of a task that must be there.
pub fn read_id(text: &str) -> Result<TaskId, FieldError> {
    needed("id", text, TaskId::parse)
}

/// Reads why a task ended.
pub fn read_cause(text: &str) -> Result<Word, FieldError> {
    if text.is_empty() {
        return Err(TextFault::Missing.at("cause", ""));
    }
    one("cause", text, Word::parse)
}
