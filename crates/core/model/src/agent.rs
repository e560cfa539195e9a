//! Agents: their classes, who answers for them, their instances and their tasks.
//!
//! Start at [`AgentClass`]: what a kind of agent is for, what it may do at the most, and who
//! answers for it. An [`AgentInstance`] is one that runs; a [`Task`] is one piece of its work.
//! Every text in them is of a type that is bounded and checked when it is parsed; a [`FieldError`]
//! says which field is at fault, and what would be good.
//!
//! Lifecycles, what may be written, and what a child task may have are in `core/roll/agents`.

mod binding;
mod class;
mod fault;
mod inherited;
mod instance;
mod sighting;
mod task;
mod text;

pub use binding::{BindingKind, BootId, BoundTo};
pub use class::{
    AgentClass, Cause, ClassSpec, ClassStanding, Consent, Delegation, Departure, Lifecycle,
    MayActFor, Permissions, Purpose, Reviewed, TaskDefaults,
};
pub use fault::{FieldError, TextFault};
pub use inherited::{Heir, Inherited};
pub use instance::{AgentInstance, InstanceState};
pub use sighting::{
    Acknowledged, Confidence, Shown, Sighted, Sighting, SightingClue, SightingEvidence, SightingId,
    SightingKey, SightingKind, SightingStanding, SightingState, Starter,
};
pub use task::{Task, TaskId, TaskState};
pub use text::{
    ClassName, DataClass, Line, Note, PersonId, Prose, Resource, RiskTier, RuleName, Scope, Sha256,
    Word,
};

/// How many values a list of a class has at the most: scopes, resources, models, selectors.
pub const MAX_LIST: usize = 64;
