//! Sets of policies as they are kept: each that was put in force, by its number.

use std::fmt;
use std::sync::Arc;

use crate::{Note, Revision, Sha256, Timestamp};

/// The text of a set of policies, in Cedar. `Debug` tells its length only: it may have megabytes.
#[derive(Clone, PartialEq, Eq)]
pub struct PolicyText(Arc<str>);

impl PolicyText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for PolicyText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for PolicyText {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for PolicyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A set of policies that was put in force once; its text is beside it in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVersion {
    /// Its number: 1 for the first, without gaps. The greatest is the one that operators want.
    pub number: u64,
    /// What the set says, whatever its layout: see `muster_cedar::SetDigest`.
    pub digest: Sha256,
    /// How many policies it has, the guards of the house not counted.
    pub policies: u64,
    /// How many bytes the text has.
    pub bytes: u64,
    /// The version whose text it has again, where it came by a rollback.
    pub again: Option<u64>,
    /// When it was put in force.
    pub at: Timestamp,
    /// Who did that: a SPIFFE ID, or a local user.
    pub by: String,
    /// Why, as the operator put it.
    pub note: Note,
    /// The transaction that wrote it.
    pub changed_at: Revision,
}
