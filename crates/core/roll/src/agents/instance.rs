//! How an instance is known: seen when it receives an SVID, lost when it is not seen for long.

use std::time::Duration;

use muster_model::{AgentInstance, Cause, ClassName, InstanceState, Revision, SpiffeId, Timestamp};

use super::lifecycle::{self, InstanceStep};

/// How old what is written about the last sight may be before it is written anew: SVIDs of short
/// lives would otherwise make the roll write about the same agent all the time.
pub const FRESH: Duration = Duration::from_mins(1);

/// An instance that received an SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its identity.
    pub id: SpiffeId,
    /// Its class.
    pub class: ClassName,
    /// The node that asked for it.
    pub node: SpiffeId,
}

/// Why a step of an instance is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// There is none of that identity.
    #[error("there is no agent {0:?}; `muster agent list` shows all")]
    NotFound(String),
    /// The step does not lead anywhere from where it stands.
    #[error("agent {id} is {state}: it cannot {}", step.as_str())]
    NotPossible {
        /// The instance.
        id: SpiffeId,
        /// Where it stands.
        state: InstanceState,
        /// The step.
        step: InstanceStep,
    },
}

impl InstanceError {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "AGENT_NOT_FOUND",
            Self::NotPossible { .. } => "STEP_NOT_POSSIBLE",
        }
    }
}

/// The row of an instance that was just seen, or `None` where the row that is there says as much,
/// or an operator's word stands against it.
pub fn seen(known: Option<&AgentInstance>, sight: &Sight, now: Timestamp) -> Option<AgentInstance> {
    let Some(known) = known else {
        return Some(AgentInstance {
            id: sight.id.clone(),
            class: sight.class.clone(),
            node: Some(sight.node.clone()),
            parent: None,
            executable: None,
            first_seen: now,
            last_seen: now,
            state: InstanceState::Active,
            cause: Cause::Seen,
            changed_at: Revision::default(),
        });
    };
    let state = lifecycle::instance(known.state, InstanceStep::Seen)?;
    let same = state == known.state
        && known.class == sight.class
        && known.node.as_ref() == Some(&sight.node);
    if same && now.since(known.last_seen) < FRESH {
        return None;
    }
    Some(AgentInstance {
        class: sight.class.clone(),
        node: Some(sight.node.clone()),
        last_seen: known.last_seen.max(now),
        state,
        cause: Cause::Seen,
        ..known.clone()
    })
}

/// The instance after a step.
pub fn step(known: &AgentInstance, step: InstanceStep) -> Result<AgentInstance, InstanceError> {
    let state =
        lifecycle::instance(known.state, step).ok_or_else(|| InstanceError::NotPossible {
            id: known.id.clone(),
            state: known.state,
            step,
        })?;
    Ok(AgentInstance {
        state,
        cause: step.cause(),
        ..known.clone()
    })
}
