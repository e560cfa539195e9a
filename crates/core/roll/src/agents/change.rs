//! What is written about agents, and what a store hands over at start.

use std::sync::Arc;

use muster_model::{
    AgentClass, AgentInstance, Departure, PersonId, PolicyText, PolicyVersion, Revision, Sighting,
    SightingId, SpiffeId, Task, TaskId,
};

use super::Agents;

/// One write about agents: a row as it is from now on, or a row that is gone. A class is never
/// gone: when it ends it is retired, and keeps its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentChange {
    /// A class is new, or replaces the one of the same name.
    PutClass(Arc<AgentClass>),
    /// An instance is new, or replaces the one of the same identity.
    PutInstance(Arc<AgentInstance>),
    /// An instance is forgotten.
    DeleteInstance(SpiffeId),
    /// A task is new, or replaces the one of the same name.
    PutTask(Arc<Task>),
    /// A task is forgotten.
    DeleteTask(TaskId),
    /// A person is known to be gone.
    PutDeparture(Arc<Departure>),
    /// A person is back.
    DeleteDeparture(PersonId),
    /// A set of policies is new. The roll keeps what is known of it, the store its text as well.
    PutPolicies {
        /// What is known of it.
        version: Arc<PolicyVersion>,
        /// What it says.
        text: PolicyText,
    },
    /// A set of policies is no longer kept.
    DeletePolicies(u64),
    /// A sighting is new, or replaces the one of the same node and key.
    PutSighting(Arc<Sighting>),
    /// A sighting is forgotten.
    DeleteSighting(SightingId),
}

impl AgentChange {
    /// Whether what nodes see may depend on the change, which is made to `before`. That an agent was
    /// seen again is written all the time, and is nothing to them; nor is what a
    /// task has spent.
    pub fn is_seen_by_views(&self, before: &Agents) -> bool {
        match self {
            Self::PutClass(_) | Self::DeleteInstance(_) => true,
            Self::PutInstance(new) => before
                .instance(&new.id)
                .is_none_or(|old| old.is_barred() != new.is_barred()),
            Self::PutTask(new) => match before.task(new.id) {
                None => new.is_open(),
                Some(old) => (old.is_open(), old.edition) != (new.is_open(), new.edition),
            },
            Self::DeleteTask(id) => before.task(*id).is_some_and(|old| old.is_open()),
            Self::PutDeparture(_)
            | Self::DeleteDeparture(_)
            | Self::PutPolicies { .. }
            | Self::DeletePolicies(_)
            | Self::PutSighting(_)
            | Self::DeleteSighting(_) => false,
        }
    }

    /// Gives the row the revision that it is committed as, where nobody else holds it yet.
    pub fn stamp(&mut self, revision: Revision) {
        match self {
            Self::PutClass(row) => {
                if let Some(row) = Arc::get_mut(row) {
                    row.changed_at = revision;
                }
            }
            Self::PutInstance(row) => {
                if let Some(row) = Arc::get_mut(row) {
                    row.changed_at = revision;
                }
            }
            Self::PutTask(row) => {
                if let Some(row) = Arc::get_mut(row) {
                    row.changed_at = revision;
                }
            }
            Self::PutPolicies { version, .. } => {
                if let Some(row) = Arc::get_mut(version) {
                    row.changed_at = revision;
                }
            }
            Self::PutSighting(row) => {
                if let Some(row) = Arc::get_mut(row) {
                    row.changed_at = revision;
                }
            }
            Self::DeleteInstance(_)
            | Self::DeleteTask(_)
            | Self::PutDeparture(_)
            | Self::DeleteDeparture(_)
            | Self::DeletePolicies(_)
            | Self::DeleteSighting(_) => {}
        }
    }
}

/// All that a store holds about agents, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedAgents {
    /// The classes.
    pub classes: Vec<Arc<AgentClass>>,
    /// The instances.
    pub instances: Vec<Arc<AgentInstance>>,
    /// The tasks.
    pub tasks: Vec<Arc<Task>>,
    /// Who is known to be gone.
    pub departures: Vec<Arc<Departure>>,
    /// The sets of policies, without their texts.
    pub policies: Vec<Arc<PolicyVersion>>,
    /// What nodes found.
    pub sightings: Vec<Arc<Sighting>>,
}
