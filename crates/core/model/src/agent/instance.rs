//! Instances: agents that run, or ran.

use std::fmt;

use super::class::words;
use super::{Cause, ClassName, Sha256};
use crate::{Revision, SpiffeId, Timestamp};

words! {
    /// Where an instance stands.
    InstanceState {
        /// Written down, and not seen yet.
        Registered = "registered",
        /// Seen of late.
        Active = "active",
        /// Not seen for long, or its node is gone.
        Lost = "lost",
        /// Suspected: no identity until an operator lifts it.
        Quarantined = "quarantined",
        /// Over for good.
        Retired = "retired",
    }
}

/// One agent that runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInstance {
    /// Its identity, which is its name: `spiffe://TD/agent/CLASS/INSTANCE` unless an entry gives
    /// another.
    pub id: SpiffeId,
    /// The class that it is of.
    pub class: ClassName,
    /// The node on which it was last seen.
    pub node: Option<SpiffeId>,
    /// The agent that started it.
    pub parent: Option<SpiffeId>,
    /// SHA-256 of its executable, where a node told.
    pub executable: Option<Sha256>,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen; not written more often than needed.
    pub last_seen: Timestamp,
    /// Where it stands.
    pub state: InstanceState,
    /// Why.
    pub cause: Cause,
    /// The transaction that last wrote it.
    pub changed_at: Revision,
}

impl AgentInstance {
    /// Whether it may not have an identity, whatever its class may.
    pub fn is_barred(&self) -> bool {
        matches!(
            self.state,
            InstanceState::Quarantined | InstanceState::Retired
        )
    }
}
