//! One record of the audit log.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::former::{self, UnknownEvent};

/// What happened; the names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A node proved itself, or tried to.
    #[serde(rename = "node.attested")]
    NodeAttested,
    /// A node renewed its SVID.
    #[serde(rename = "node.renewed")]
    NodeRenewed,
    /// An operator banned a node.
    #[serde(rename = "node.banned")]
    NodeBanned,
    /// An operator or the pruner removed a node.
    #[serde(rename = "node.evicted")]
    NodeEvicted,
    /// A node reported its version.
    #[serde(rename = "node.reported")]
    NodeReported,
    /// A join token was created.
    #[serde(rename = "join_token.created")]
    JoinTokenCreated,
    /// A join token ran out unused.
    #[serde(rename = "join_token.pruned")]
    JoinTokenPruned,
    /// An entry was created.
    #[serde(rename = "entry.created")]
    EntryCreated,
    /// An entry was changed.
    #[serde(rename = "entry.updated")]
    EntryUpdated,
    /// An entry was deleted.
    #[serde(rename = "entry.deleted")]
    EntryDeleted,
    /// An SVID was signed; of which kind, the detail `svid` says.
    #[serde(rename = "svid.issued")]
    SvidIssued,
    /// The same, in place of one that the node says it holds.
    #[serde(rename = "svid.renewed")]
    SvidRenewed,
    /// A signing authority was prepared; its root or key is in the bundle from here on.
    #[serde(rename = "authority.prepared")]
    AuthorityPrepared,
    /// A signing authority began to sign.
    #[serde(rename = "authority.activated")]
    AuthorityActivated,
    /// An operator declared an authority compromised.
    #[serde(rename = "authority.tainted")]
    AuthorityTainted,
    /// An operator removed a tainted authority from the bundle.
    #[serde(rename = "authority.revoked")]
    AuthorityRevoked,
    /// A downstream server published a key of its own in the bundle.
    #[serde(rename = "authority.published")]
    AuthorityPublished,
    /// A CA certificate was signed for a downstream server.
    #[serde(rename = "ca.issued")]
    CaIssued,
    /// The authorities of a kind left the bundle because an operator switched the kind off.
    #[serde(rename = "authority.withdrawn")]
    AuthorityWithdrawn,
    /// An operator added authorities to the own bundle.
    #[serde(rename = "bundle.appended")]
    BundleAppended,
    /// Authorities that expired left the bundle.
    #[serde(rename = "bundle.pruned")]
    BundlePruned,
    /// An operator wrote the bundle of a foreign trust domain.
    #[serde(rename = "bundle.set")]
    BundleSet,
    /// An operator removed the bundle of a foreign trust domain.
    #[serde(rename = "bundle.deleted")]
    BundleDeleted,
    /// An agent class was proposed.
    #[serde(rename = "agent.class.proposed")]
    ClassProposed,
    /// An agent class may have identities from here on.
    #[serde(rename = "agent.class.approved")]
    ClassApproved,
    /// What is written about an agent class was changed.
    #[serde(rename = "agent.class.changed")]
    ClassChanged,
    /// An agent class was paused; its identities are withdrawn.
    #[serde(rename = "agent.class.suspended")]
    ClassSuspended,
    /// An agent class may have identities again.
    #[serde(rename = "agent.class.reinstated")]
    ClassReinstated,
    /// An agent class is suspected, or nobody answers for it; its identities are withdrawn.
    #[serde(rename = "agent.class.quarantined")]
    ClassQuarantined,
    /// An agent class was ended for good.
    #[serde(rename = "agent.class.retired")]
    ClassRetired,
    /// An agent was written down.
    #[serde(rename = "agent.registered")]
    AgentRegistered,
    /// An agent received an identity for the first time.
    #[serde(rename = "agent.seen_first")]
    AgentSeenFirst,
    /// An agent that was lost received an identity again.
    #[serde(rename = "agent.found")]
    AgentFound,
    /// An agent was not seen for long, or its node is gone.
    #[serde(rename = "agent.lost")]
    AgentLost,
    /// An agent that was lost long ago was forgotten.
    #[serde(rename = "agent.forgotten")]
    AgentForgotten,
    /// One agent is suspected; its identity is withdrawn.
    #[serde(rename = "agent.quarantined")]
    AgentQuarantined,
    /// An agent may have its identity again.
    #[serde(rename = "agent.released")]
    AgentReleased,
    /// One agent was ended for good.
    #[serde(rename = "agent.retired")]
    AgentRetired,
    /// Someone looked at an agent class, and vouches for it.
    #[serde(rename = "agent.reviewed")]
    AgentReviewed,
    /// The review of an agent class is due soon, or overdue.
    #[serde(rename = "agent.review_overdue")]
    AgentReviewOverdue,
    /// Nobody answers for an agent class any longer.
    #[serde(rename = "agent.orphaned")]
    AgentOrphaned,
    /// An identity rule was written.
    #[serde(rename = "rule.created")]
    RuleCreated,
    /// An identity rule was changed.
    #[serde(rename = "rule.updated")]
    RuleUpdated,
    /// An identity rule was deleted.
    #[serde(rename = "rule.deleted")]
    RuleDeleted,
    /// A node found what looks like an agent, or how it stands to the roll has changed.
    #[serde(rename = "agent.sighted")]
    AgentSighted,
    /// An operator knows of a sighting, and leaves it as it is.
    #[serde(rename = "agent.sighting_acknowledged")]
    AgentSightingAcknowledged,
    /// What looked like an agent runs no longer.
    #[serde(rename = "agent.sighting_gone")]
    AgentSightingGone,
    /// What looks like an agent hands a secret down to what it starts.
    #[serde(rename = "secret.inherited")]
    SecretInherited,
    /// A node attested processes of a user as the same, and served them.
    #[serde(rename = "workload.attested")]
    WorkloadAttested,
    /// A node refused a process.
    #[serde(rename = "workload.denied")]
    WorkloadDenied,
    /// A process spoke where only another one may, and its node refused it.
    #[serde(rename = "workload.impersonation_attempt")]
    WorkloadImpersonationAttempt,
    /// Another program ran in a process than the one that its node had attested.
    #[serde(rename = "workload.exe_changed")]
    WorkloadExeChanged,
    /// A person is known to be gone.
    #[serde(rename = "person.gone")]
    PersonGone,
    /// A person is back.
    #[serde(rename = "person.returned")]
    PersonReturned,
    /// A task was opened.
    #[serde(rename = "task.opened")]
    TaskOpened,
    /// A task was opened as part of another.
    #[serde(rename = "task.spawned")]
    TaskSpawned,
    /// The deadline of a task was moved.
    #[serde(rename = "task.extended")]
    TaskExtended,
    /// A task spent some of its budget.
    #[serde(rename = "task.spent")]
    TaskSpent,
    /// A task is paused, and has no identity meanwhile.
    #[serde(rename = "task.suspended")]
    TaskSuspended,
    /// A task that was paused goes on.
    #[serde(rename = "task.resumed")]
    TaskResumed,
    /// A task did what it was for; its identity is gone.
    #[serde(rename = "task.completed")]
    TaskCompleted,
    /// A task did not do what it was for; its identity is gone.
    #[serde(rename = "task.failed")]
    TaskFailed,
    /// The deadline of a task passed, or its budget is spent; its identity is gone.
    #[serde(rename = "task.expired")]
    TaskExpired,
    /// A task was ended by others than itself; its identity is gone.
    #[serde(rename = "task.revoked")]
    TaskRevoked,
    /// What a task was bound to runs no longer; its identity is gone.
    #[serde(rename = "task.process_exited")]
    TaskProcessExited,
    /// A task was not opened, or not changed as a node asked.
    #[serde(rename = "task.refused")]
    TaskRefused,
    /// A set of policies on agents was put in force.
    #[serde(rename = "policy.changed")]
    PolicyChanged,
    /// A caller was refused.
    #[serde(rename = "access.refused")]
    AccessRefused,
}

/// The name, as records have it.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Whether it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Allowed and done.
    Allowed,
    /// Refused, by policy or by evidence.
    Refused,
}

/// The word, as records have it.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Actor {
    /// The class by which the caller was permitted: `local`, `admin`, `node`, `system`, ...
    pub class: String,
    /// Verified SPIFFE ID of a remote caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spiffe_id: Option<String>,
    /// Process ID of a local caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// User ID of a local caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Record {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What.
    pub event: Event,
    /// Who.
    pub actor: Actor,
    /// Whether it was done.
    pub decision: Decision,
    /// What it was done to: a SPIFFE ID, an entry ID, an authority ID.
    pub subject: String,
    /// More, by name; values are text so that a record reads the same for ever.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub detail: BTreeMap<String, String>,
}

/// A record as it was written, perhaps when events had other names.
#[derive(Deserialize)]
struct Written {
    at_ms: i64,
    event: String,
    actor: Actor,
    decision: Decision,
    subject: String,
    #[serde(default)]
    detail: BTreeMap<String, String>,
}

impl TryFrom<Written> for Record {
    type Error = UnknownEvent;

    fn try_from(mut written: Written) -> Result<Self, Self::Error> {
        Ok(Self {
            at_ms: written.at_ms,
            event: former::read(&written.event, &mut written.detail)?,
            actor: written.actor,
            decision: written.decision,
            subject: written.subject,
            detail: written.detail,
        })
    }
}

impl Record {
    /// The same record with one more detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    /// The same record of something that was not done.
    #[must_use]
    pub fn refused(mut self, reason: impl Into<String>) -> Self {
        self.decision = Decision::Refused;
        self.with("reason", reason)
    }

    /// A detail; the empty text where there is none of this name.
    pub(crate) fn said(&self, name: &str) -> &str {
        self.detail.get(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_form_is_stable() {
        let record = Record {
            at_ms: 1_700_000_000_123,
            event: Event::SvidIssued,
            actor: Actor {
                class: "node".into(),
                spiffe_id: Some("spiffe://td/spire/agent/x".into()),
                ..Actor::default()
            },
            decision: Decision::Allowed,
            subject: "spiffe://td/w".into(),
            detail: BTreeMap::new(),
        }
        .with("serial_number", "17");
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"at_ms":1700000000123,"event":"svid.issued","actor":{"class":"node","spiffe_id":"spiffe://td/spire/agent/x"},"decision":"allowed","subject":"spiffe://td/w","detail":{"serial_number":"17"}}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
