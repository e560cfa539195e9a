//! What a decision is made on, as plain values: each is something that the server knows or verified,
//! but for [`Requested`], which is what was asked.
//!
//! These types are also the form in which requests are recorded (serde, unknown fields refused), so a
//! change of them is a change of a format: see [`crate::RecordedRequest`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// An instant in milliseconds since the Unix epoch, as `muster_model::Timestamp` counts.
pub type Millis = i64;

/// Words that stand for themselves: scopes, purposes, selectors.
pub type Words = BTreeSet<String>;

/// A team, with every team above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TeamFacts {
    /// Its name.
    pub id: String,
    /// The team that it is part of, then the team that that one is part of, to the top.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<String>,
}

/// A person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserFacts {
    /// Issuer and subject in the form that the house writes them; never a SPIFFE ID.
    pub id: String,
    /// The team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamFacts>,
    /// The most secret data that the person may see, 0 to 4.
    pub clearance: u8,
    /// Whether the account is suspended, or gone.
    pub suspended: bool,
}

/// An attested machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFacts {
    /// Its SPIFFE ID.
    pub id: String,
    /// The team whose machine it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamFacts>,
    /// The selectors that its attestation gave, `type:value`.
    pub attested: Words,
    /// How strong that attestation is, 0 to 4.
    pub level: u8,
    /// Whether it is banned.
    pub banned: bool,
}

/// Where a class is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// Written down, not yet approved.
    #[default]
    Proposed,
    /// In use.
    Active,
    /// Stopped for a while.
    Suspended,
    /// Stopped on suspicion.
    Quarantined,
    /// Over.
    Retired,
}

impl Lifecycle {
    /// The word that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Retired => "retired",
        }
    }
}

/// For whom the agents of a class may act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActsFor {
    /// For nobody but themselves.
    #[default]
    Nobody,
    /// For people.
    Users,
    /// For other agents only.
    Agents,
}

impl ActsFor {
    /// The word that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Users => "users",
            Self::Agents => "agents",
        }
    }
}

/// How delegation was, or has to be, agreed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// It was not.
    #[default]
    Absent,
    /// Once and for all.
    Standing,
    /// By the person at a screen, for this.
    Interactive,
    /// By the person on another device, for this.
    Ciba,
}

impl Consent {
    /// The word that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Standing => "standing",
            Self::Interactive => "interactive",
            Self::Ciba => "ciba",
        }
    }
}

/// A class of agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassFacts {
    /// Its name.
    pub id: String,
    /// The team that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamFacts>,
    /// Who runs it.
    pub owner: UserFacts,
    /// Who answers for it.
    pub sponsor: UserFacts,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// 0 to 4.
    pub risk_tier: u8,
    /// What it is for.
    pub purposes: Words,
    /// The models that it may use.
    pub models: Words,
    /// The providers of models that it may use.
    pub providers: Words,
    /// The most that any of its agents may be allowed.
    pub scopes: Words,
    /// The most secret data that its agents may see, 0 to 4.
    pub data_ceiling: u8,
    /// How deep its tasks and its delegations may nest.
    pub max_depth: u32,
    /// The longest that a task may last, in seconds.
    pub max_seconds: u64,
    /// The largest budget of a task.
    pub max_budget: u64,
    /// For whom its agents may act.
    pub acts_for: ActsFor,
    /// What delegation to them takes.
    pub consent: Consent,
    /// When the class ends.
    pub valid_until: Millis,
    /// When it has to be reviewed.
    pub review_by: Millis,
    /// Its version.
    pub version: u64,
}

/// The state of a running agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// At work.
    #[default]
    Active,
    /// Not heard of for too long.
    Lost,
    /// Stopped on suspicion.
    Quarantined,
    /// Over.
    Retired,
}

impl AgentState {
    /// The word that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Lost => "lost",
            Self::Quarantined => "quarantined",
            Self::Retired => "retired",
        }
    }
}

/// A running agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentFacts {
    /// Its SPIFFE ID.
    pub id: String,
    /// Its class.
    pub class: ClassFacts,
    /// The machine that it runs on.
    pub node: NodeFacts,
    /// The classes of the agents that started it, directly or not.
    pub lineage: Words,
    /// The model that it said it uses and that its class allows; empty when unknown.
    pub model: String,
    /// The provider of the model; empty when unknown.
    pub provider: String,
    /// The SHA-256 of its executable, in hexadecimal.
    pub executable: String,
    /// Its state.
    pub state: AgentState,
}

/// A service that accepts tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerFacts {
    /// Its resource identifier (RFC 8707).
    pub id: String,
    /// The team whose service it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamFacts>,
    /// The most secret data that it holds, 0 to 4.
    pub data_class: u8,
    /// Whether tokens for it have to be bound to a key.
    pub require_proof: bool,
}

/// A tool of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolFacts {
    /// Its name, unique in the house.
    pub id: String,
    /// The service that offers it.
    pub server: ServerFacts,
    /// The most secret data that it touches, 0 to 4.
    pub data_class: u8,
    /// Whether what it does cannot be undone.
    pub destructive: bool,
    /// What one call takes from the budget.
    pub cost: u64,
    /// The scopes that it needs.
    pub scopes: Words,
}

/// The task that an action is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskFacts {
    /// Its ULID.
    pub id: String,
    /// Its kind; a dot makes one kind part of another.
    pub kind: String,
    /// As the server computed it, 0 to 10.
    pub risk: u8,
    /// The most secret data that it may see, 0 to 4.
    pub data_class: u8,
    /// Until its deadline; for one that is to be opened, as long as it would last.
    pub seconds_left: u64,
    /// What it may spend in all.
    pub budget: u64,
    /// What it has spent.
    pub spent: u64,
    /// How many tasks are above it.
    pub depth: u32,
}

/// The task above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentFacts {
    /// Its ULID.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Its scopes.
    pub scopes: Words,
    /// The most secret data that it may see, 0 to 4.
    pub data_class: u8,
    /// Until its deadline.
    pub seconds_left: u64,
    /// Its budget without what it has spent.
    pub budget_left: u64,
}

/// On whose behalf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DelegationFacts {
    /// How many actors stand between the subject and the caller.
    pub depth: u32,
    /// The SPIFFE IDs of those actors.
    pub actors: Words,
    /// The person, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<UserFacts>,
    /// What that person may do, as far as it was delegated.
    pub subject_scopes: Words,
    /// How it was agreed to.
    pub consent: Consent,
}

/// What binds a task to a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// Nothing does.
    #[default]
    None,
    /// The caller itself.
    Process,
    /// A child of the caller.
    Child,
    /// An open stream of the caller.
    Lease,
    /// A control group.
    Cgroup,
}

impl Binding {
    /// The word that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Child => "child",
            Self::Lease => "lease",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Who holds the key of an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyCustody {
    /// The process has it.
    #[default]
    Process,
    /// The node keeps it and signs.
    Daemon,
    /// The node keeps it and talks in the process's stead.
    Proxy,
}

impl KeyCustody {
    /// The word that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Daemon => "daemon",
            Self::Proxy => "proxy",
        }
    }
}

/// How the caller proved who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProofFacts {
    /// What the task is, or would be, bound to.
    pub binding: Binding,
    /// Who holds the key.
    pub key_custody: KeyCustody,
    /// The selectors of the caller, `type:value`.
    pub attested: Words,
    /// How strong the attestation is, 0 to 4.
    pub level: u8,
    /// How old it is.
    pub age_seconds: u64,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requested {
    /// Scopes.
    pub scopes: Words,
    /// The most secret data, 0 to 4.
    pub data_class: u8,
    /// For how long.
    pub seconds: u64,
    /// At what cost at most.
    pub budget: u64,
}

/// Everything about a request but who, what and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Situation {
    /// The task; may be missing with `agent.spawn` and `svid.issue` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskFacts>,
    /// The task above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentFacts>,
    /// On whose behalf.
    pub delegation: DelegationFacts,
    /// How it was proved.
    pub proof: ProofFacts,
    /// The most that may be asked here: the scopes of the task that the caller is in, or of its class.
    pub scopes: Words,
    /// What is asked.
    pub requested: Requested,
    /// What a human approved: IDs of tasks and digests of actions.
    pub approvals: Words,
}
