//! Agent classes: what a kind of agent is for, and who answers for it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::{
    ClassName, DataClass, Line, Note, PersonId, Prose, Resource, RiskTier, Scope, TextFault, Word,
};
use crate::{Revision, SelectorSet, Timestamp};

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$word_doc])* $variant,)+ }

        impl $name {
            /// All of them, in the order in which they are written here.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// Their words, for errors and help.
            pub const WORDS: &'static str = words!(@join $($word)+);

            /// The word that stands for it in the API, in files and in records.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The one that a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
    (@join $first:literal $($rest:literal)*) => { concat!($first $(, ", ", $rest)*) };
}
pub(super) use words;

words! {
    /// What agents are for: a vocabulary that policies can rely upon.
    Purpose {
        /// Reads, writes and runs source code.
        Coding = "coding",
        /// Finds and condenses information.
        Research = "research",
        /// Computes upon data that is at hand.
        DataAnalysis = "data-analysis",
        /// Answers customers.
        CustomerSupport = "customer-support",
        /// Writes to people, in the name of others.
        Communication = "communication",
        /// Makes texts, pictures and other works.
        Content = "content",
        /// Runs and repairs machines and services.
        Operations = "operations",
        /// Looks for faults of others, or attacks.
        Security = "security",
        /// Tries out what others made.
        Testing = "testing",
        /// Moves money, or records that it moved.
        Finance = "finance",
        /// Starts other agents and divides work among them.
        Orchestration = "orchestration",
    }

    /// Where a class stands. The table of what leads where is in `core/roll/agents/lifecycle.rs`.
    Lifecycle {
        /// Written down, and not yet approved: no identity.
        Proposed = "proposed",
        /// Its agents receive identities.
        Active = "active",
        /// Paused, by an operator or because a date has passed: no identity.
        Suspended = "suspended",
        /// Nobody answers for it, or it is suspected: no identity, and only an operator lifts it.
        Quarantined = "quarantined",
        /// Over for good: no identity ever again under this name.
        Retired = "retired",
    }

    /// Why a class, an instance or a task stands where it does. The words are stable.
    Cause {
        /// An operator's word.
        Operator = "operator",
        /// The date of its review has passed.
        ReviewOverdue = "review_overdue",
        /// The end of its validity was reached.
        Expired = "expired",
        /// Nothing of it was seen for long.
        Idle = "idle",
        /// Its owner is gone.
        OwnerGone = "owner_gone",
        /// Its sponsor is gone.
        SponsorGone = "sponsor_gone",
        /// It was seen.
        Seen = "seen",
        /// It was not seen for long.
        NotSeen = "not_seen",
        /// Its node is no longer attested, or banned.
        NodeGone = "node_gone",
        /// Its class no longer gives identities.
        ClassNotActive = "class_not_active",
        /// The agent whose work it is no longer has an identity.
        AgentBarred = "agent_barred",
        /// Nothing gives its agent's name on its node any more.
        NameGone = "name_gone",
        /// Its deadline has passed.
        DeadlinePassed = "deadline_passed",
        /// Its budget is spent.
        BudgetSpent = "budget_spent",
        /// The task that it is part of has ended.
        ParentEnded = "parent_ended",
        /// Its node let its own SVID expire.
        NodeSilent = "node_silent",
    }

    /// For whom an agent may act.
    MayActFor {
        /// For nobody but itself.
        None = "none",
        /// For users.
        Users = "users",
        /// For users, and for agents that act for users.
        Agents = "agents",
    }

    /// How a user lets an agent act for them.
    Consent {
        /// Once, until it is withdrawn.
        Standing = "standing",
        /// Each time, in the user's browser.
        Interactive = "interactive",
        /// Each time, on another device of the user (OpenID CIBA).
        Ciba = "ciba",
    }
}

impl Purpose {
    /// Parses a word of the vocabulary.
    pub fn parse(word: &str) -> Result<Self, TextFault> {
        Self::from_word(word).ok_or(TextFault::Purpose)
    }
}

/// What an agent may ask for at the most. An empty set allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Scopes.
    pub scopes: BTreeSet<Scope>,
    /// Resources.
    pub resources: BTreeSet<Resource>,
}

/// How far authority may be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// For whom.
    pub may_act_for: MayActFor,
    /// How deep tasks may stand below the first: 0 is no task below a task, at most
    /// [`Delegation::DEEPEST`].
    pub max_depth: u8,
    /// How users agree.
    pub consent: Consent,
}

impl Delegation {
    /// The deepest that any class may allow.
    pub const DEEPEST: u8 = 16;
}

/// What a task has where it does not say, and at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskDefaults {
    /// How long a task lives that does not say, in whole seconds.
    pub ttl: Duration,
    /// How long a task may live, in whole seconds; at most [`TaskDefaults::LONGEST`].
    pub max_ttl: Duration,
    /// How much a task may spend, in units that the operator chooses, such as tokens or cents;
    /// `None` is no bound.
    pub budget: Option<u64>,
}

impl TaskDefaults {
    /// The longest life that any class may give its tasks.
    pub const LONGEST: Duration = Duration::from_hours(24 * 30);
}

/// What operators write about a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSpec {
    /// For people.
    pub display_name: Line,
    /// For people.
    pub description: Prose,
    /// What its agents are for; never empty.
    pub purposes: BTreeSet<Purpose>,
    /// Who runs it from day to day.
    pub owner: PersonId,
    /// Who is accountable for it; never the owner.
    pub sponsor: PersonId,
    /// The team, if there is one.
    pub team: Option<Word>,
    /// How much harm its agents can do.
    pub risk_tier: RiskTier,
    /// The most sensitive data that they may have.
    pub data_ceiling: DataClass,
    /// Models that they may use; empty is none.
    pub allowed_models: BTreeSet<Word>,
    /// Providers of models that they may use; empty is none.
    pub allowed_providers: BTreeSet<Word>,
    /// What they may ask for at the most.
    pub permissions: Permissions,
    /// How far they may hand it on.
    pub delegation: Delegation,
    /// What their tasks have.
    pub task_defaults: TaskDefaults,
    /// What a process is attested as that is an agent of the class; empty while nothing is said.
    pub attestation: SelectorSet,
    /// When the class ends unless it is renewed.
    pub valid_until: Timestamp,
    /// When someone must have looked at it again.
    pub review_by: Timestamp,
}

/// Where a class stands, since when, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassStanding {
    /// Where.
    pub lifecycle: Lifecycle,
    /// Since when.
    pub since: Timestamp,
    /// Why, in a word.
    pub cause: Cause,
    /// Why, as the operator put it.
    pub note: Note,
    /// Who: a SPIFFE ID, a local user, or the server.
    pub by: String,
}

/// Who looked at a class, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// Who vouches for it.
    pub by: PersonId,
    /// When.
    pub at: Timestamp,
}

/// An agent class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentClass {
    /// Its name, unique for ever: a class that is retired keeps it.
    pub name: ClassName,
    /// What operators wrote.
    pub spec: ClassSpec,
    /// Where it stands.
    pub standing: ClassStanding,
    /// The last review.
    pub last_reviewed: Option<Reviewed>,
    /// The `review_by` that was warned of, so that each date is warned of once.
    pub review_warned: Option<Timestamp>,
    /// Who proposed it.
    pub created_by: String,
    /// When it was proposed.
    pub created_at: Timestamp,
    /// Counts the writes, from 1: who writes names the version that they saw.
    pub version: u64,
    /// The transaction that last wrote it.
    pub changed_at: Revision,
}

impl AgentClass {
    /// Whether its agents receive identities.
    pub fn is_active(&self) -> bool {
        self.standing.lifecycle == Lifecycle::Active
    }
}

/// A person who is known to be gone: classes that they own or sponsor have nobody to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Who.
    pub person: PersonId,
    /// Since when that is known.
    pub at: Timestamp,
    /// Why, as the operator put it.
    pub note: Note,
    /// Who said so.
    pub by: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::parse(purpose.as_str()), Ok(*purpose));
        }
        assert_eq!(Purpose::parse("everything"), Err(TextFault::Purpose));
        assert!(TextFault::Purpose.to_string().contains("coding, research"));
        assert_eq!(Lifecycle::from_word("active"), Some(Lifecycle::Active));
    }
}
