//! What is wrong with a policy text, where, and what to do about it.

use std::fmt;

/// A place in a text; both count from 1, and a column is a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The text is not Cedar.
    Syntax,
    /// A policy has no `@id`.
    NoId,
    /// An `@id` is not 1 to 128 letters, digits, `.`, `-`, `_`, `/` or `:`.
    BadId,
    /// Two policies have the same `@id`.
    SameId,
    /// An `@id` begins with `guard.`, which the built-in policies keep for themselves.
    ReservedId,
    /// A policy with slots (`?principal`): templates are not taken.
    Template,
    /// The policy does not fit the schema.
    Type,
    /// A text in it contains characters that change the direction of writing, so that it reads otherwise
    /// than it shows.
    Deceptive,
    /// The text or a policy is too long.
    TooLong,
    /// There are too many policies.
    TooMany,
    /// A policy is nested too deeply, or has too many operators.
    TooDeep,
    /// Too many policies have the same scope.
    Crowded,
}

impl FaultKind {
    /// The stable name, for records and for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::NoId => "no_id",
            Self::BadId => "bad_id",
            Self::SameId => "same_id",
            Self::ReservedId => "reserved_id",
            Self::Template => "template",
            Self::Type => "type",
            Self::Deceptive => "deceptive",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
            Self::TooDeep => "too_deep",
            Self::Crowded => "crowded",
        }
    }
}

/// One fault of a policy text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// The `@id` of the policy, where it has one.
    pub policy: Option<String>,
    /// What kind.
    pub kind: FaultKind,
    /// What is wrong.
    pub message: String,
    /// What to do; empty where the message says it all.
    pub remedy: String,
}

impl Fault {
    pub(crate) fn new(place: Place, kind: FaultKind, message: String) -> Self {
        Self {
            place,
            policy: None,
            kind,
            message,
            remedy: String::new(),
        }
    }

    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    pub(crate) fn of(mut self, policy: &str) -> Self {
        self.policy = Some(policy.to_owned());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: ",
            self.place.line, self.place.column
        )?;
        if let Some(policy) = &self.policy {
            write!(f, "policy {policy:?}: ")?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Why a policy text did not become a set: every fault that was found, in order of place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct LoadError {
    /// The faults; at least one.
    pub faults: Vec<Fault>,
}

impl LoadError {
    pub(crate) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.place);
        Self { faults }
    }

    fn lines(&self) -> String {
        let lines: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

impl From<Fault> for LoadError {
    fn from(fault: Fault) -> Self {
        Self::new(vec![fault])
    }
}
