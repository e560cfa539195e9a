//! Why a task may not be opened, or changed.

use muster_model::{
    ClassName, DataClass, IdError, InstanceState, Lifecycle, Resource, Scope, SpiffeId, TaskId,
    TaskState,
};

/// Who sets a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// The class of the agent.
    Class,
    /// The task that it is part of.
    Parent,
}

impl std::fmt::Display for Above {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Class => "its class",
            Self::Parent => "the task above",
        })
    }
}

/// Why a task may not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// Its class gives no identities.
    #[error("agent class {class} is {lifecycle}; only an active class has tasks")]
    ClassNotActive {
        /// The class.
        class: ClassName,
        /// Where it stands.
        lifecycle: Lifecycle,
    },
    /// The task above is over, or paused.
    #[error("the task above is {0}; only an open task has tasks below it")]
    ParentNotOpen(TaskState),
    /// It would be part of itself.
    #[error("a task cannot be part of itself; give it a new ID")]
    Cycle,
    /// It would stand too deep.
    #[error("a task at depth {depth} is deeper than {most}, which {above} allows")]
    TooDeep {
        /// How deep.
        depth: u8,
        /// How deep it may be.
        most: u8,
        /// Who says so.
        above: Above,
    },
    /// A scope that is not allowed.
    #[error("scope {scope} is not allowed by {above}; ask for less")]
    Scope {
        /// The scope.
        scope: Scope,
        /// Who says so.
        above: Above,
    },
    /// A resource that is not allowed.
    #[error("resource {resource} is not allowed by {above}; ask for less")]
    Resource {
        /// The resource.
        resource: Resource,
        /// Who says so.
        above: Above,
    },
    /// Data that is too sensitive.
    #[error("data class {wanted} is over {most}, which {above} allows")]
    DataClass {
        /// What was asked for.
        wanted: DataClass,
        /// What is allowed.
        most: DataClass,
        /// Who says so.
        above: Above,
    },
    /// It would be over at once.
    #[error("the deadline has passed already; give one that is still to come")]
    DeadlinePassed,
    /// It would live too long.
    #[error("the deadline is later than {above} allows; give an earlier one, or none")]
    DeadlineTooLate {
        /// Who says so.
        above: Above,
    },
    /// It would spend too much.
    #[error("a budget of {wanted} is over {left}, which {above} leaves")]
    Budget {
        /// What was asked for.
        wanted: u64,
        /// What is left.
        left: u64,
        /// Who says so.
        above: Above,
    },
    /// The facts give no such identity.
    #[error(
        "nothing that the caller was attested as gives it the identity {agent} on this node; \
         `muster node explain` on the node says why"
    )]
    NotGiven {
        /// The identity.
        agent: SpiffeId,
    },
    /// An identity that is no agent's.
    #[error(
        "{0} is of no agent class, and only agents have tasks; name a class in its path, \
         /agent/CLASS/..., or in its entry"
    )]
    NoClass(SpiffeId),
    /// The agent itself gives no identities.
    #[error("agent {id} is {state}; only an active agent has tasks")]
    Barred {
        /// The agent.
        id: SpiffeId,
        /// Where it stands.
        state: InstanceState,
    },
    /// There is no such task above.
    #[error("there is no task {0} on this node that a task could be part of")]
    NoParent(TaskId),
    /// The caller is in one task, and names another.
    #[error(
        "the caller is in task {within}, and what it opens is part of that task; name no other \
         parent than it"
    )]
    NotInParent {
        /// The task that the caller is in.
        within: TaskId,
    },
    /// The node has enough.
    #[error(
        "the node has {most} tasks that have not ended, and no more are allowed \
         (agents.max_tasks_per_node); end some first"
    )]
    TooManyOnNode {
        /// How many are allowed.
        most: usize,
    },
    /// The class has enough.
    #[error(
        "class {class} has {most} tasks that have not ended, and no more are allowed \
         (agents.max_tasks_per_class); end some first"
    )]
    TooManyOfClass {
        /// The class.
        class: ClassName,
        /// How many are allowed.
        most: usize,
    },
    /// Its identity would be no SPIFFE ID.
    #[error("the agent's name leaves no room for a task's: {0}")]
    Name(IdError),
    /// There is no such task, or it is another node's.
    #[error("there is no task {0:?} on this node")]
    NotFound(String),
    /// It has ended, or is paused.
    #[error("task {id} is {state}; only an open task can be changed")]
    NotOpen {
        /// The task.
        id: TaskId,
        /// Where it stands.
        state: TaskState,
    },
}

impl TaskError {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::ClassNotActive { .. } => "CLASS_NOT_ACTIVE",
            Self::ParentNotOpen(_) => "PARENT_NOT_OPEN",
            Self::Cycle => "TASK_CYCLE",
            Self::TooDeep { .. } => "TOO_DEEP",
            Self::Scope { .. } => "SCOPE_NOT_ALLOWED",
            Self::Resource { .. } => "RESOURCE_NOT_ALLOWED",
            Self::DataClass { .. } => "DATA_CLASS_NOT_ALLOWED",
            Self::DeadlinePassed => "DEADLINE_PASSED",
            Self::DeadlineTooLate { .. } => "DEADLINE_TOO_LATE",
            Self::Budget { .. } => "BUDGET_NOT_ALLOWED",
            Self::NotGiven { .. } => "AGENT_NOT_GIVEN",
            Self::NoClass(_) => "NOT_AN_AGENT",
            Self::Barred { .. } => "AGENT_NOT_ACTIVE",
            Self::NoParent(_) => "PARENT_NOT_FOUND",
            Self::NotInParent { .. } => "PARENT_NOT_CALLERS",
            Self::TooManyOnNode { .. } => "TOO_MANY_ON_NODE",
            Self::TooManyOfClass { .. } => "TOO_MANY_OF_CLASS",
            Self::Name(_) => "NAME_TOO_LONG",
            Self::NotFound(_) => "TASK_NOT_FOUND",
            Self::NotOpen { .. } => "TASK_NOT_OPEN",
        }
    }
}
