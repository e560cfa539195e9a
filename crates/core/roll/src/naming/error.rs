//! Why a rule may not be written.

use muster_model::{EntryId, Placeholder, RuleName, SpiffeId, TrustDomain};

use super::facts;
use crate::rules::EntryError;

/// Why a rule may not be written: the first fault found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The template, at a place of it.
    #[error("invalid template {template:?} at byte {at}: {why}")]
    Template {
        /// The template.
        template: String,
        /// Where the fault begins, in bytes from 0.
        at: usize,
        /// What is wrong.
        why: TemplateWrong,
    },
    /// The parent is of another trust domain, or has no path, or is the server.
    #[error(
        "invalid parent_id {0:?}: a rule stands under a node, a node alias or another name of this \
         trust domain"
    )]
    Parent(String),
    /// There is no agent class of that name.
    #[error(
        "invalid class {0:?}: there is none of that name; create it first, or name one that `muster \
         agent class list` shows"
    )]
    NoClass(String),
    /// What a rule has as entries have it is no good.
    #[error(transparent)]
    AsEntry(#[from] EntryError),
    /// A bound is missing or too high.
    #[error("invalid {field} {value}: say how many names the rule may give at a time, 1 to {most}")]
    Unbounded {
        /// The bound.
        field: &'static str,
        /// What was given.
        value: u32,
        /// The highest.
        most: u32,
    },
    /// Less in all than on one node.
    #[error("invalid in_all {in_all}: it is less than per_node, {per_node}")]
    BoundsCross {
        /// The bound of one node.
        per_node: u32,
        /// The bound of all.
        in_all: u32,
    },
    /// There are as many rules as there may be.
    #[error("there are {most} rules, as many as there may be; delete one that is not needed")]
    TooMany {
        /// How many there may be.
        most: usize,
    },
    /// There is one of that name.
    #[error("there is a rule {0} already; update it, or choose another name")]
    Exists(RuleName),
    /// There is none of that name.
    #[error("there is no rule {0:?}; `muster rule list` shows all")]
    NotFound(String),
    /// Somebody else wrote it meanwhile.
    #[error(
        "rule {name} is at version {actual}, not {seen}: it was changed meanwhile; read it again"
    )]
    VersionMismatch {
        /// The rule.
        name: RuleName,
        /// The version that the caller saw.
        seen: u64,
        /// The version that is there.
        actual: u64,
    },
}

/// What is wrong with a template, beyond its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateWrong {
    /// It is of another trust domain.
    #[error("the trust domain is {own}; write \"{{td}}\"")]
    Foreign {
        /// The server's own.
        own: TrustDomain,
    },
    /// Its names would be below `/spire`.
    #[error(
        "what is below /spire is reserved for Muster and SPIRE themselves; choose another path"
    )]
    Reserved,
    /// The beginning of its path depends on a fact.
    #[error(
        "the first segment has no placeholder: where names lie, the rule says, and not the process"
    )]
    OpenBeginning,
    /// The class of its names depends on a fact.
    #[error(
        "behind /agent/ stands the class of an agent: write {{class}} or its name, a process must not \
         choose it"
    )]
    OpenClass,
    /// It names the class of the rule, which has none.
    #[error("the rule has no class; give one, or leave {{class}} out")]
    NoClass,
    /// Its names would be those of tasks.
    #[error("names that end in /t/ and a ULID belong to tasks; choose another segment than \"t\"")]
    TaskName,
    /// No attestor yields the fact.
    #[error(
        "there is no fact {0}; there are {words}, and any other with one value that the rule's own \
         selectors ask for",
        words = facts::words()
    )]
    UnknownFact(Placeholder),
    /// A process has several values of the fact.
    #[error(
        "a process can have several values of {0}; ask for one of them among the rule's selectors, or \
         name another fact"
    )]
    SeveralValues(Placeholder),
    /// The rule's own selectors ask for several values of the fact.
    #[error("the rule, or its class, asks for several values of {0}; ask for one")]
    SeveralAsked(Placeholder),
    /// An entry has a name that would come out.
    #[error(
        "{name} could come out, which entry {entry} gives to others than the rule would; choose \
         another path, or delete the entry"
    )]
    NameOfEntry {
        /// The name.
        name: SpiffeId,
        /// The entry.
        entry: EntryId,
    },
    /// Another rule could give the same name to another process.
    #[error(
        "rule {rule} ({template}) could give the same name to another process; choose another path"
    )]
    NameOfRule {
        /// The other rule.
        rule: RuleName,
        /// Its template.
        template: String,
    },
}

impl RuleError {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Template { why, .. } => why.reason(),
            Self::AsEntry(EntryError::NoBundle { .. }) => "BUNDLE_NOT_FOUND",
            Self::Parent(_) | Self::AsEntry(_) => "INVALID_FIELD",
            Self::NoClass(_) => "CLASS_NOT_FOUND",
            Self::Unbounded { .. } | Self::BoundsCross { .. } => "UNBOUNDED",
            Self::TooMany { .. } => "TOO_MANY_RULES",
            Self::Exists(_) => "RULE_EXISTS",
            Self::NotFound(_) => "RULE_NOT_FOUND",
            Self::VersionMismatch { .. } => "VERSION_MISMATCH",
        }
    }

    /// Where in the template the fault begins, if it is one of the template.
    pub const fn at(&self) -> Option<usize> {
        match self {
            Self::Template { at, .. } => Some(*at),
            Self::Parent(_)
            | Self::NoClass(_)
            | Self::AsEntry(_)
            | Self::Unbounded { .. }
            | Self::BoundsCross { .. }
            | Self::TooMany { .. }
            | Self::Exists(_)
            | Self::NotFound(_)
            | Self::VersionMismatch { .. } => None,
        }
    }
}

impl TemplateWrong {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "FOREIGN_TRUST_DOMAIN",
            Self::Reserved => "RESERVED_PATH",
            Self::OpenBeginning | Self::OpenClass => "OPEN_PATH",
            Self::NoClass => "CLASS_MISSING",
            Self::TaskName => "TASK_PATH",
            Self::UnknownFact(_) => "UNKNOWN_FACT",
            Self::SeveralValues(_) | Self::SeveralAsked(_) => "FACT_AMBIGUOUS",
            Self::NameOfEntry { .. } => "NAME_OF_ENTRY",
            Self::NameOfRule { .. } => "NAME_OF_RULE",
        }
    }
}
