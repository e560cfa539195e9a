//! The nouns of Muster: what the parts of the house say to each other.
//!
//! Start at [`SpiffeId`], then [`Entry`] (these selectors under this parent get this SPIFFE ID),
//! [`Node`] (an attested machine) and [`Bundle`] (what a trust domain's signatures are verified
//! with). A [`Rule`] names processes by a template over what they were attested as.
//! [`AgentClass`], [`AgentInstance`] and [`Task`] are what AI agents are known by.
//!
//! Deliberately not here: wire formats (`edge/wire`), rules about entries (`core/roll`), key
//! material of any kind (`core/crypto`). Nothing in this crate reads a clock, does I/O or logs.

mod agent;
mod bundle;
mod entry;
mod id;
mod node;
mod policy;
mod rule;
mod selector;
mod time;

pub use agent::{
    Acknowledged, AgentClass, AgentInstance, BindingKind, BootId, BoundTo, Cause, ClassName,
    ClassSpec, ClassStanding, Confidence, Consent, DataClass, Delegation, Departure, FieldError,
    Heir, Inherited, InstanceState, Lifecycle, Line, MAX_LIST, MayActFor, Note, Permissions,
    PersonId, Prose, Purpose, Resource, Reviewed, RiskTier, RuleName, Scope, Sha256, Shown,
    Sighted, Sighting, SightingClue, SightingEvidence, SightingId, SightingKey, SightingKind,
    SightingStanding, SightingState, Starter, Task, TaskDefaults, TaskId, TaskState, TextFault,
    Word,
};
pub use bundle::{Bundle, JwtAuthority, WitAuthority, X509Authority};
pub use entry::{Entry, EntryId, EntryIdError};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use node::{JoinToken, Joined, Node, NodeStanding, SerialNumber};
pub use policy::{PolicyText, PolicyVersion};
pub use rule::{
    Facts, Part, Placeholder, ProcessMark, Rule, RuleSpec, Segment, Template, TemplateError,
    TemplateFault,
};
pub use selector::{Selector, SelectorError, SelectorSet};
pub use time::{Now, Timestamp};

/// A point in the server's ordered history of changes.
///
/// Every transaction that changes the roll gets the next number, without gaps and in commit
/// order; 0 is the empty roll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision that the next transaction gets.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
