//! What tests about agents write.

use std::time::Duration;

use muster_model::{
    AgentClass, AgentInstance, BindingKind, BoundTo, Cause, ClassName, ClassSpec, Consent,
    DataClass, Delegation, InstanceState, Lifecycle, Line, MayActFor, Note, Permissions, PersonId,
    Prose, Purpose, Revision, RiskTier, SelectorSet, SpiffeId, Task, TaskDefaults, TaskId,
    TaskState, Timestamp, Word,
};

use super::Agents;
use super::rules::{self, Deed};
pub(crate) use crate::world::id;

/// When classes of the world were proposed.
pub(crate) const BEGIN: Timestamp = Timestamp::from_unix_seconds(900_000);
pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) fn person(name: &str) -> PersonId {
    PersonId::parse(&format!("mailto:{name}@example.org")).unwrap()
}

pub(crate) fn name(text: &str) -> ClassName {
    ClassName::parse(text).unwrap()
}

pub(crate) fn deed(why: &str, now: Timestamp) -> Deed<'static> {
    Deed {
        by: "uid 0",
        note: Note::parse(why).unwrap(),
        now,
    }
}

pub(crate) fn spec() -> ClassSpec {
    ClassSpec {
        display_name: Line::parse("A reader").unwrap(),
        description: Prose::parse("Reads.").unwrap(),
        purposes: [Purpose::Research].into(),
        owner: person("olga"),
        sponsor: person("sam"),
        team: None,
        risk_tier: RiskTier::new(1_u8).unwrap(),
        data_ceiling: DataClass::new(2_u8).unwrap(),
        allowed_models: [].into(),
        allowed_providers: [].into(),
        permissions: Permissions::default(),
        delegation: Delegation {
            may_act_for: MayActFor::None,
            max_depth: 1,
            consent: Consent::Interactive,
        },
        task_defaults: TaskDefaults {
            ttl: Duration::from_mins(10),
            max_ttl: Duration::from_hours(1),
            budget: None,
        },
        attestation: SelectorSet::new(),
        valid_until: BEGIN.plus(DAY * 365),
        review_by: BEGIN.plus(DAY * 180),
    }
}

/// A class that was proposed.
pub(crate) fn class(text: &str) -> AgentClass {
    rules::propose(&Agents::default(), name(text), spec(), deed("new", BEGIN)).unwrap()
}

/// The same, active.
pub(crate) fn active(mut class: AgentClass) -> AgentClass {
    class.standing.lifecycle = Lifecycle::Active;
    class
}

pub(crate) fn instance(id: &SpiffeId, state: InstanceState) -> AgentInstance {
    AgentInstance {
        id: id.clone(),
        class: name(ClassName::in_path(id).unwrap_or("reader")),
        node: None,
        parent: None,
        executable: None,
        first_seen: BEGIN,
        last_seen: BEGIN,
        state,
        cause: Cause::Seen,
        changed_at: Revision::default(),
    }
}

pub(crate) fn bound_to() -> BoundTo {
    BoundTo {
        kind: BindingKind::Process,
        pid: 7,
        start_time: 1,
        boot: None,
        cgroup: 0,
    }
}

/// A task of an agent on a node, whatever its class says.
pub(crate) fn task(n: u8, agent: &SpiffeId, node: &SpiffeId, state: TaskState) -> Task {
    let id = TaskId::new(BEGIN, [n; 10]);
    let is_live = matches!(state, TaskState::Open | TaskState::Suspended);
    Task {
        id,
        instance: agent.clone(),
        class: name(ClassName::in_path(agent).unwrap_or("reader")),
        node: node.clone(),
        rule: None,
        bound_to: bound_to(),
        level: 1,
        parent: None,
        root: id,
        kind: Word::parse("read").unwrap(),
        purpose: None,
        permissions: Permissions::default(),
        data_class: DataClass::default(),
        budget: None,
        spent: 0,
        depth: 0,
        opened_at: BEGIN,
        deadline: BEGIN.plus(DAY),
        state,
        cause: None,
        ended_at: (!is_live).then_some(BEGIN),
        exit_status: None,
        edition: 0,
        changed_at: Revision::default(),
    }
}
