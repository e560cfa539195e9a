//! From rows of the roll to the facts that policies see: one builder for everything that asks.
//!
//! A fact is what the server knows, never what a caller says of itself; the one exception is what is
//! asked for. Where the server does not know something yet, the fact is the one that allows the
//! least: nobody has a clearance, no model is known. `docs/policy.md` lists them.

use std::time::Duration;

use muster_cedar::facts::{
    ActsFor, AgentFacts, AgentState, Binding, ClassFacts, Consent, DelegationFacts, KeyCustody,
    Lifecycle, NodeFacts, ParentFacts, ProofFacts, Requested, Situation, TaskFacts, TeamFacts,
    UserFacts, Words,
};
use muster_model::{
    self as model, AgentClass, AgentInstance, InstanceState, MayActFor, Node, PersonId, Scope,
    SelectorSet, SpiffeId, Task, Timestamp, Word,
};
use muster_roll::Roll;

/// The deepest line of agents that started each other of which policies are told.
const LINEAGE: usize = 16;
/// A budget without a bound; policies see the largest number that there is.
const BOUNDLESS: u64 = u64::MAX;
/// The highest risk of a task.
const RISKIEST: u8 = 10;

/// How surely a node is what it says: a token that somebody carried there, or evidence that a
/// plugin looked at (of a machine, a cloud, a TPM).
pub(crate) fn strength(attestation_type: &str) -> u8 {
    match attestation_type {
        "" => 0,
        "join_token" => 1,
        _ => 2,
    }
}

/// A person: gone, or not. Of people the roll knows no more.
pub(crate) fn person(roll: &Roll, id: &PersonId) -> UserFacts {
    UserFacts {
        id: id.as_str().to_owned(),
        team: None,
        clearance: 0,
        suspended: roll.agents().departure(id).is_some(),
    }
}

/// A team: a dot makes one part of another, as with kinds of tasks.
fn team(name: &Word) -> TeamFacts {
    let id = name.as_str();
    let mut above = Vec::new();
    let mut rest = id;
    while let Some((part, _)) = rest.rsplit_once('.') {
        if !part.is_empty() {
            above.push(part.to_owned());
        }
        rest = part;
    }
    TeamFacts {
        id: id.to_owned(),
        above,
    }
}

/// An attested node.
pub(crate) fn node(row: &Node) -> NodeFacts {
    NodeFacts {
        id: row.id.as_str().to_owned(),
        team: None,
        attested: selectors(&row.selectors),
        level: strength(&row.attestation_type),
        banned: row.is_banned(),
    }
}

/// A node by its name. One that the roll does not have, such as the server itself where an operator
/// asks, was attested as nothing.
pub(crate) fn node_named(roll: &Roll, id: &SpiffeId) -> NodeFacts {
    roll.node(id).map_or_else(
        || NodeFacts {
            id: id.as_str().to_owned(),
            ..NodeFacts::default()
        },
        |row| node(row),
    )
}

/// A class of agents.
pub(crate) fn class(roll: &Roll, row: &AgentClass) -> ClassFacts {
    let spec = &row.spec;
    ClassFacts {
        id: row.name.as_str().to_owned(),
        team: spec.team.as_ref().map(team),
        owner: person(roll, &spec.owner),
        sponsor: person(roll, &spec.sponsor),
        lifecycle: match row.standing.lifecycle {
            model::Lifecycle::Proposed => Lifecycle::Proposed,
            model::Lifecycle::Active => Lifecycle::Active,
            model::Lifecycle::Suspended => Lifecycle::Suspended,
            model::Lifecycle::Quarantined => Lifecycle::Quarantined,
            model::Lifecycle::Retired => Lifecycle::Retired,
        },
        risk_tier: spec.risk_tier.number(),
        purposes: words(spec.purposes.iter().map(|purpose| purpose.as_str())),
        models: words(spec.allowed_models.iter().map(Word::as_str)),
        providers: words(spec.allowed_providers.iter().map(Word::as_str)),
        scopes: words(spec.permissions.scopes.iter().map(Scope::as_str)),
        data_ceiling: spec.data_ceiling.number(),
        max_depth: u32::from(spec.delegation.max_depth),
        max_seconds: spec.task_defaults.max_ttl.as_secs(),
        max_budget: spec.task_defaults.budget.unwrap_or(BOUNDLESS),
        acts_for: match spec.delegation.may_act_for {
            MayActFor::None => ActsFor::Nobody,
            MayActFor::Users => ActsFor::Users,
            MayActFor::Agents => ActsFor::Agents,
        },
        consent: match spec.delegation.consent {
            model::Consent::Standing => Consent::Standing,
            model::Consent::Interactive => Consent::Interactive,
            model::Consent::Ciba => Consent::Ciba,
        },
        valid_until: spec.valid_until.unix_millis(),
        review_by: spec.review_by.unix_millis(),
        version: row.version,
    }
}

/// An agent of a class on a node, whether or not it was ever seen.
pub(crate) fn agent(roll: &Roll, id: &SpiffeId, of: &AgentClass, on: NodeFacts) -> AgentFacts {
    let row = roll.agents().instance(id);
    AgentFacts {
        id: id.as_str().to_owned(),
        class: class(roll, of),
        node: on,
        lineage: row.map(|row| lineage(roll, row)).unwrap_or_default(),
        model: String::new(),
        provider: String::new(),
        executable: row
            .and_then(|row| row.executable.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        state: match row.map(|row| row.state) {
            // Who asks is heard of, and no longer lost.
            None
            | Some(InstanceState::Registered | InstanceState::Active | InstanceState::Lost) => {
                AgentState::Active
            }
            Some(InstanceState::Quarantined) => AgentState::Quarantined,
            Some(InstanceState::Retired) => AgentState::Retired,
        },
    }
}

/// The classes of the agents that started an agent, directly or not.
fn lineage(roll: &Roll, row: &AgentInstance) -> Words {
    let mut classes = Words::new();
    let mut above = row.parent.as_ref();
    for _ in 0..LINEAGE {
        let Some(parent) = above.and_then(|id| roll.agents().instance(id)) else {
            break;
        };
        classes.insert(parent.class.as_str().to_owned());
        above = parent.parent.as_ref();
    }
    classes
}

/// How much harm a task can do, 0 to 10: the class's tier and the sensitivity of its data, one more
/// where nothing bounds what it spends, and one more where its agents may act for others.
pub(crate) fn risk(of: &AgentClass, task: &Task) -> u8 {
    let spec = &of.spec;
    let sum = spec
        .risk_tier
        .number()
        .saturating_add(task.data_class.number())
        .saturating_add(u8::from(task.budget.is_none()))
        .saturating_add(u8::from(spec.delegation.may_act_for != MayActFor::None));
    sum.min(RISKIEST)
}

/// A task, open or about to be.
pub(crate) fn task(of: &AgentClass, row: &Task, now: Timestamp) -> TaskFacts {
    TaskFacts {
        id: row.id.to_string(),
        kind: row.kind.as_str().to_owned(),
        risk: risk(of, row),
        data_class: row.data_class.number(),
        seconds_left: row.deadline.since(now).as_secs(),
        budget: row.budget.unwrap_or(BOUNDLESS),
        spent: row.spent,
        depth: u32::from(row.depth),
    }
}

/// The task above.
pub(crate) fn parent(row: &Task, now: Timestamp) -> ParentFacts {
    ParentFacts {
        id: row.id.to_string(),
        kind: row.kind.as_str().to_owned(),
        scopes: words(row.permissions.scopes.iter().map(Scope::as_str)),
        data_class: row.data_class.number(),
        seconds_left: row.deadline.since(now).as_secs(),
        budget_left: row
            .budget
            .map_or(BOUNDLESS, |most| most.saturating_sub(row.spent)),
    }
}

/// How a caller was attested, as its node says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attested<'a> {
    /// What it was attested as.
    pub(crate) selectors: &'a SelectorSet,
    /// How surely, 0 to 4.
    pub(crate) level: u8,
    /// How long ago.
    pub(crate) age: Duration,
    /// What its task is, or would be, bound to.
    pub(crate) binding: Binding,
}

impl Attested<'_> {
    /// The same as policies see it. The process has its key itself, so far.
    pub(crate) fn facts(&self) -> ProofFacts {
        ProofFacts {
            binding: self.binding,
            key_custody: KeyCustody::Process,
            attested: selectors(self.selectors),
            level: self.level,
            age_seconds: self.age.as_secs(),
        }
    }
}

/// All that a task has, asked for until an instant: what who opens it wants, and who extends it.
pub(crate) fn wants(row: &Task, until: Timestamp, now: Timestamp) -> Requested {
    Requested {
        scopes: words(row.permissions.scopes.iter().map(Scope::as_str)),
        data_class: row.data_class.number(),
        seconds: until.since(now).as_secs(),
        budget: row.budget.unwrap_or(BOUNDLESS),
    }
}

/// An identity for so long: for a task, everything that the task may have comes with it.
pub(crate) fn identity(row: Option<&Task>, lifetime: Duration) -> Requested {
    Requested {
        scopes: row
            .map(|row| words(row.permissions.scopes.iter().map(Scope::as_str)))
            .unwrap_or_default(),
        data_class: row.map(|row| row.data_class.number()).unwrap_or_default(),
        seconds: lifetime.as_secs(),
        budget: 0,
    }
}

/// The situation of a request about a task of a class: the one to be opened, or the one that the
/// caller is in. The task above, where there is one, is a row of the roll.
pub(crate) fn in_task(
    roll: &Roll,
    (of, row): (&AgentClass, &Task),
    asked: Requested,
    proof: ProofFacts,
    now: Timestamp,
) -> Situation {
    let above = row.parent.and_then(|id| roll.agents().task(id));
    // A task that is to be opened may ask for what is above it; one that is open, for its own.
    let opened = roll.agents().task(row.id).is_some();
    let most = match (above, opened) {
        (_, true) => &row.permissions,
        (Some(above), false) => &above.permissions,
        (None, false) => &of.spec.permissions,
    };
    Situation {
        task: Some(task(of, row, now)),
        parent: above.map(|above| parent(above, now)),
        delegation: DelegationFacts::default(),
        proof,
        scopes: words(most.scopes.iter().map(Scope::as_str)),
        requested: asked,
        approvals: Words::new(),
    }
}

/// The situation of a request outside of any task.
pub(crate) fn outside(of: &AgentClass, asked: Requested, proof: ProofFacts) -> Situation {
    Situation {
        task: None,
        parent: None,
        delegation: DelegationFacts::default(),
        proof,
        scopes: words(of.spec.permissions.scopes.iter().map(Scope::as_str)),
        requested: asked,
        approvals: Words::new(),
    }
}

fn words<'a>(all: impl Iterator<Item = &'a str>) -> Words {
    all.map(str::to_owned).collect()
}

fn selectors(all: &SelectorSet) -> Words {
    all.iter().map(ToString::to_string).collect()
}
