//! Tasks: what one may have, less than its class allows and less than the task that it is part of,
//! and what becomes of it.
//!
//! Start at [`admit`]: whether a task may be opened; [`open`] says what it may have. Whether a caller
//! may open one at all is for policies; that a child is narrower in everything is for no policy to
//! change. [`entry`] is what its node sees, [`extend`], [`spend`] and [`Ends`] its course, [`follow`]
//! what becomes of tasks because of other changes, [`due`] what is due without anybody's asking.

mod admit;
mod course;
mod due;
mod entry;
mod follow;
mod ground;
mod refusal;

use std::collections::BTreeSet;
use std::time::Duration;

use muster_model::{
    AgentClass, BoundTo, DataClass, Permissions, Revision, Sha256, SpiffeId, Task, TaskId,
    TaskState, Timestamp, Word,
};

pub use admit::{Admitted, Asked, Bounds, Given, admit, given};
pub use course::{End, Ends, Spending, extend, spend, step};
pub use due::{Due, Patience, due};
pub use entry::{JWT_TTL, X509_TTL, entry, entry_id, id_of_entry};
pub use follow::follow;
pub use refusal::{Above, TaskError};

/// The task that a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// Its name.
    pub id: TaskId,
    /// The agent whose work it is.
    pub instance: SpiffeId,
    /// What kind of work it is.
    pub kind: Word,
    /// SHA-256 of the instruction.
    pub purpose: Option<Sha256>,
    /// What it may ask for; all of it must be allowed.
    pub permissions: Permissions,
    /// The most sensitive data that it may have.
    pub data_class: DataClass,
    /// How much it may spend; `None` is what is left above.
    pub budget: Option<u64>,
    /// When it ends at the latest; `None` is what the class and the task above give.
    pub deadline: Option<Timestamp>,
    /// The node on which it is to run.
    pub node: SpiffeId,
    /// What it is bound to there.
    pub bound_to: BoundTo,
    /// How surely its caller was attested, 0 to 3.
    pub level: u8,
}

/// The task that is opened for an agent of `class`, below `parent` (a task and the class of its
/// agent) if there is one.
pub fn open(
    class: &AgentClass,
    parent: Option<(&Task, &AgentClass)>,
    request: TaskRequest,
    now: Timestamp,
) -> Result<Task, TaskError> {
    active(class)?;
    let spec = &class.spec;
    allowed(&spec.permissions, &request.permissions, Above::Class)?;
    data_within(spec.data_ceiling, request.data_class, Above::Class)?;
    if let Some(deadline) = request.deadline
        && deadline <= now
    {
        return Err(TaskError::DeadlinePassed);
    }
    let last = now.plus(spec.task_defaults.max_ttl).min(spec.valid_until);
    let mut deadline = ends(request.deadline, last, Above::Class)?;
    if request.deadline.is_none() {
        deadline = deadline.min(now.plus(spec.task_defaults.ttl));
    }
    let mut budget = spends(request.budget, spec.task_defaults.budget, Above::Class)?;
    let (mut depth, mut root) = (0, request.id);
    if let Some((above, its_class)) = parent {
        active(its_class)?;
        if above.state != TaskState::Open {
            return Err(TaskError::ParentNotOpen(above.state));
        }
        if above.id == request.id {
            return Err(TaskError::Cycle);
        }
        if above.deadline <= now {
            return Err(TaskError::ParentNotOpen(TaskState::Expired));
        }
        depth = above.depth.saturating_add(1);
        for (most, which) in [
            (spec.delegation.max_depth, Above::Class),
            (its_class.spec.delegation.max_depth, Above::Parent),
        ] {
            if depth > most {
                return Err(TaskError::TooDeep {
                    depth,
                    most,
                    above: which,
                });
            }
        }
        allowed(&above.permissions, &request.permissions, Above::Parent)?;
        data_within(above.data_class, request.data_class, Above::Parent)?;
        ends(request.deadline, above.deadline, Above::Parent)?;
        deadline = deadline.min(above.deadline);
        let left = above.budget.map(|most| most.saturating_sub(above.spent));
        spends(request.budget, left, Above::Parent)?;
        budget = match (budget, left) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (some, None) | (None, some) => some,
        };
        root = above.root;
    }
    Ok(Task {
        id: request.id,
        instance: request.instance,
        class: class.name.clone(),
        parent: parent.map(|(above, _)| above.id),
        root,
        node: request.node,
        rule: None,
        bound_to: request.bound_to,
        level: request.level,
        kind: request.kind,
        purpose: request.purpose,
        permissions: shared(&spec.permissions, &request.permissions),
        data_class: request.data_class,
        budget,
        spent: 0,
        depth,
        opened_at: now,
        deadline,
        state: TaskState::Open,
        cause: None,
        ended_at: None,
        exit_status: None,
        edition: 0,
        changed_at: Revision::default(),
    })
}

/// The same permissions, with the texts of the class: tasks are many, and their texts are few.
fn shared(ceiling: &Permissions, wanted: &Permissions) -> Permissions {
    fn of<T: Ord + Clone>(ceiling: &BTreeSet<T>, wanted: &BTreeSet<T>) -> BTreeSet<T> {
        let text = |wanted| ceiling.get(wanted).unwrap_or(wanted).clone();
        wanted.iter().map(text).collect()
    }
    Permissions {
        scopes: of(&ceiling.scopes, &wanted.scopes),
        resources: of(&ceiling.resources, &wanted.resources),
    }
}

fn active(class: &AgentClass) -> Result<(), TaskError> {
    if class.is_active() {
        return Ok(());
    }
    Err(TaskError::ClassNotActive {
        class: class.name.clone(),
        lifecycle: class.standing.lifecycle,
    })
}

fn allowed(ceiling: &Permissions, wanted: &Permissions, above: Above) -> Result<(), TaskError> {
    if let Some(scope) = wanted.scopes.difference(&ceiling.scopes).next() {
        let scope = scope.clone();
        return Err(TaskError::Scope { scope, above });
    }
    if let Some(resource) = wanted.resources.difference(&ceiling.resources).next() {
        let resource = resource.clone();
        return Err(TaskError::Resource { resource, above });
    }
    Ok(())
}

fn data_within(most: DataClass, wanted: DataClass, above: Above) -> Result<(), TaskError> {
    if wanted > most {
        return Err(TaskError::DataClass {
            wanted,
            most,
            above,
        });
    }
    Ok(())
}

/// The end that was asked for, or the last that is allowed.
fn ends(wanted: Option<Timestamp>, last: Timestamp, above: Above) -> Result<Timestamp, TaskError> {
    match wanted {
        Some(wanted) if wanted > last => Err(TaskError::DeadlineTooLate { above }),
        Some(wanted) => Ok(wanted),
        None => Ok(last),
    }
}

/// The budget that was asked for, or what is left.
fn spends(wanted: Option<u64>, left: Option<u64>, above: Above) -> Result<Option<u64>, TaskError> {
    match (wanted, left) {
        (Some(wanted), Some(left)) if wanted > left => Err(TaskError::Budget {
            wanted,
            left,
            above,
        }),
        (wanted, left) => Ok(wanted.or(left)),
    }
}

/// What bounds the life of a credential (agent-identity 4.3, "TTL rule").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What was asked for.
    pub requested: Option<Duration>,
    /// The longest that the class allows.
    pub class_max: Duration,
    /// The end of the task.
    pub task_deadline: Option<Timestamp>,
    /// The end of the task above.
    pub parent_deadline: Option<Timestamp>,
    /// The end of the token of the user for whom it is.
    pub subject_token: Option<Timestamp>,
    /// The end of the SVID that it rests upon.
    pub svid: Option<Timestamp>,
}

/// Which bound was the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// What was asked for.
    Requested,
    /// The class.
    Class,
    /// The task.
    Task,
    /// The task above.
    Parent,
    /// The user's token.
    SubjectToken,
    /// The SVID.
    Svid,
}

/// When a credential ends: the nearest of all bounds, and which it was.
pub fn expiry(limits: &Limits, now: Timestamp) -> (Timestamp, Bound) {
    let others = [
        (limits.requested.map(|ttl| now.plus(ttl)), Bound::Requested),
        (limits.task_deadline, Bound::Task),
        (limits.parent_deadline, Bound::Parent),
        (limits.subject_token, Bound::SubjectToken),
        (limits.svid, Bound::Svid),
    ];
    let mut nearest = (now.plus(limits.class_max), Bound::Class);
    for (at, bound) in others {
        if let Some(at) = at
            && at < nearest.0
        {
            nearest = (at, bound);
        }
    }
    nearest
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree;
