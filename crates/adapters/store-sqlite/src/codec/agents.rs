//! Rows about agents as JSON documents (since schema version 4; the rule of a task since 5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{
    AgentClass, AgentInstance, BindingKind, BootId, BoundTo, Cause, ClassName, ClassSpec,
    ClassStanding, Consent, DataClass, Delegation, Departure, InstanceState, Lifecycle, Line,
    MayActFor, Note, Permissions, PersonId, PolicyVersion, Prose, Purpose, Resource, Reviewed,
    RiskTier, RuleName, Scope, Sha256, SpiffeId, Task, TaskDefaults, TaskId, TaskState, TextFault,
    Timestamp, Word,
};
use serde::{Deserialize, Serialize};

use super::{Fail, Row, Text, fault, parse, read_selectors, told, write, write_selectors};
use crate::error::Fault;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassDoc<'a> {
    display_name: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    description: String,
    purposes: Vec<String>,
    owner: String,
    sponsor: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    team: Option<String>,
    risk_tier: u8,
    data_ceiling: u8,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    models: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    providers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    scopes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    resources: Vec<String>,
    may_act_for: String,
    max_depth: u8,
    consent: String,
    ttl_s: u64,
    max_ttl_s: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    budget: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty", default)]
    attestation: Vec<Text<'a>>,
    valid_until_ms: i64,
    review_by_ms: i64,
    lifecycle: String,
    since_ms: i64,
    cause: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    note: String,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reviewed: Option<ReviewedDoc>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    review_warned_ms: Option<i64>,
    created_by: String,
    created_at_ms: i64,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReviewedDoc {
    by: String,
    at_ms: i64,
}

fn texts<T: ToString>(values: &BTreeSet<T>) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn one<T>(what: &str, text: &str, read: impl Fn(&str) -> Result<T, TextFault>) -> Result<T, Fail> {
    read(text).map_err(|why| told(what, text, &why))
}

fn word<T>(what: &str, text: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Fail> {
    read(text).ok_or_else(|| format!("{what} {text:?}: not a word that this version knows"))
}

fn set<T: Ord>(
    what: &str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, TextFault> + Copy,
) -> Result<BTreeSet<T>, Fail> {
    texts.iter().map(|text| one(what, text, read)).collect()
}

fn level<T>(what: &str, level: u8, read: impl Fn(u8) -> Result<T, TextFault>) -> Result<T, Fail> {
    read(level).map_err(|why| told(what, &level.to_string(), &why))
}

fn id(text: &str) -> Result<SpiffeId, Fail> {
    SpiffeId::parse(text).map_err(|why| told("SPIFFE ID", text, &why))
}

fn ids(text: Option<&String>) -> Result<Option<SpiffeId>, Fail> {
    text.map(|text| id(text)).transpose()
}

pub(crate) fn write_class(class: &AgentClass) -> Result<String, Fault> {
    let spec = &class.spec;
    write(&ClassDoc {
        display_name: spec.display_name.to_string(),
        description: spec.description.to_string(),
        purposes: texts(&spec.purposes),
        owner: spec.owner.to_string(),
        sponsor: spec.sponsor.to_string(),
        team: spec.team.as_ref().map(ToString::to_string),
        risk_tier: spec.risk_tier.number(),
        data_ceiling: spec.data_ceiling.number(),
        models: texts(&spec.allowed_models),
        providers: texts(&spec.allowed_providers),
        scopes: texts(&spec.permissions.scopes),
        resources: texts(&spec.permissions.resources),
        may_act_for: spec.delegation.may_act_for.to_string(),
        max_depth: spec.delegation.max_depth,
        consent: spec.delegation.consent.to_string(),
        ttl_s: spec.task_defaults.ttl.as_secs(),
        max_ttl_s: spec.task_defaults.max_ttl.as_secs(),
        budget: spec.task_defaults.budget,
        attestation: write_selectors(&spec.attestation),
        valid_until_ms: spec.valid_until.unix_millis(),
        review_by_ms: spec.review_by.unix_millis(),
        lifecycle: class.standing.lifecycle.to_string(),
        since_ms: class.standing.since.unix_millis(),
        cause: class.standing.cause.to_string(),
        note: class.standing.note.to_string(),
        by: class.standing.by.clone(),
        reviewed: class.last_reviewed.as_ref().map(|reviewed| ReviewedDoc {
            by: reviewed.by.to_string(),
            at_ms: reviewed.at.unix_millis(),
        }),
        review_warned_ms: class.review_warned.map(Timestamp::unix_millis),
        created_by: class.created_by.clone(),
        created_at_ms: class.created_at.unix_millis(),
        version: class.version,
    })
}

pub(crate) fn read_class(row: Row<'_>) -> Result<Arc<AgentClass>, Fault> {
    let read = || -> Result<Arc<AgentClass>, Fail> {
        let doc: ClassDoc<'_> = parse(row.doc)?;
        let team = doc.team.as_deref();
        Ok(Arc::new(AgentClass {
            name: one("class", row.key, ClassName::parse)?,
            spec: ClassSpec {
                display_name: one("display name", &doc.display_name, Line::parse)?,
                description: one("description", &doc.description, Prose::parse)?,
                purposes: set("purpose", &doc.purposes, Purpose::parse)?,
                owner: one("owner", &doc.owner, PersonId::parse)?,
                sponsor: one("sponsor", &doc.sponsor, PersonId::parse)?,
                team: team
                    .map(|team| one("team", team, Word::parse))
                    .transpose()?,
                risk_tier: level("risk tier", doc.risk_tier, RiskTier::new)?,
                data_ceiling: level("data ceiling", doc.data_ceiling, DataClass::new)?,
                allowed_models: set("model", &doc.models, Word::parse)?,
                allowed_providers: set("provider", &doc.providers, Word::parse)?,
                permissions: Permissions {
                    scopes: set("scope", &doc.scopes, Scope::parse)?,
                    resources: set("resource", &doc.resources, Resource::parse)?,
                },
                delegation: Delegation {
                    may_act_for: word("may_act_for", &doc.may_act_for, MayActFor::from_word)?,
                    max_depth: doc.max_depth,
                    consent: word("consent", &doc.consent, Consent::from_word)?,
                },
                task_defaults: TaskDefaults {
                    ttl: Duration::from_secs(doc.ttl_s),
                    max_ttl: Duration::from_secs(doc.max_ttl_s),
                    budget: doc.budget,
                },
                attestation: read_selectors(&doc.attestation)?,
                valid_until: Timestamp::from_unix_millis(doc.valid_until_ms),
                review_by: Timestamp::from_unix_millis(doc.review_by_ms),
            },
            standing: ClassStanding {
                lifecycle: word("lifecycle", &doc.lifecycle, Lifecycle::from_word)?,
                since: Timestamp::from_unix_millis(doc.since_ms),
                cause: word("cause", &doc.cause, Cause::from_word)?,
                note: one("note", &doc.note, Note::parse)?,
                by: doc.by,
            },
            last_reviewed: doc
                .reviewed
                .map(|reviewed| -> Result<_, Fail> {
                    Ok(Reviewed {
                        by: one("reviewer", &reviewed.by, PersonId::parse)?,
                        at: Timestamp::from_unix_millis(reviewed.at_ms),
                    })
                })
                .transpose()?,
            review_warned: doc.review_warned_ms.map(Timestamp::from_unix_millis),
            created_by: doc.created_by,
            created_at: Timestamp::from_unix_millis(doc.created_at_ms),
            version: doc.version,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("agent_classes", row.key, cause))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceDoc {
    class: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    executable: Option<String>,
    first_seen_ms: i64,
    last_seen_ms: i64,
    state: String,
    cause: String,
}

pub(crate) fn write_instance(instance: &AgentInstance) -> Result<String, Fault> {
    write(&InstanceDoc {
        class: instance.class.to_string(),
        node: instance.node.as_ref().map(ToString::to_string),
        parent: instance.parent.as_ref().map(ToString::to_string),
        executable: instance.executable.as_ref().map(ToString::to_string),
        first_seen_ms: instance.first_seen.unix_millis(),
        last_seen_ms: instance.last_seen.unix_millis(),
        state: instance.state.to_string(),
        cause: instance.cause.to_string(),
    })
}

pub(crate) fn read_instance(row: Row<'_>) -> Result<Arc<AgentInstance>, Fault> {
    let read = || -> Result<Arc<AgentInstance>, Fail> {
        let doc: InstanceDoc = parse(row.doc)?;
        let executable = doc.executable.as_deref();
        Ok(Arc::new(AgentInstance {
            id: id(row.key)?,
            class: one("class", &doc.class, ClassName::parse)?,
            node: ids(doc.node.as_ref())?,
            parent: ids(doc.parent.as_ref())?,
            executable: executable
                .map(|text| one("executable", text, Sha256::parse))
                .transpose()?,
            first_seen: Timestamp::from_unix_millis(doc.first_seen_ms),
            last_seen: Timestamp::from_unix_millis(doc.last_seen_ms),
            state: word("state", &doc.state, InstanceState::from_word)?,
            cause: word("cause", &doc.cause, Cause::from_word)?,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("agents", row.key, cause))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskDoc {
    instance: String,
    class: String,
    node: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rule: Option<String>,
    binding: String,
    pid: u32,
    start_time: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    boot: Option<String>,
    cgroup: u64,
    level: u8,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    parent: Option<String>,
    root: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    scopes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    resources: Vec<String>,
    data_class: u8,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    budget: Option<u64>,
    spent: u64,
    depth: u8,
    opened_at_ms: i64,
    deadline_ms: i64,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    ended_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    exit_status: Option<i32>,
    edition: u32,
}

pub(crate) fn write_task(task: &Task) -> Result<String, Fault> {
    write(&TaskDoc {
        instance: task.instance.to_string(),
        class: task.class.to_string(),
        node: task.node.to_string(),
        rule: task.rule.as_ref().map(ToString::to_string),
        binding: task.bound_to.kind.to_string(),
        pid: task.bound_to.pid,
        start_time: task.bound_to.start_time,
        boot: task.bound_to.boot.map(|boot| boot.to_string()),
        cgroup: task.bound_to.cgroup,
        level: task.level,
        parent: task.parent.map(|id| id.to_string()),
        root: task.root.to_string(),
        kind: task.kind.to_string(),
        purpose: task.purpose.as_ref().map(ToString::to_string),
        scopes: texts(&task.permissions.scopes),
        resources: texts(&task.permissions.resources),
        data_class: task.data_class.number(),
        budget: task.budget,
        spent: task.spent,
        depth: task.depth,
        opened_at_ms: task.opened_at.unix_millis(),
        deadline_ms: task.deadline.unix_millis(),
        state: task.state.to_string(),
        cause: task.cause.as_ref().map(ToString::to_string),
        ended_at_ms: task.ended_at.map(Timestamp::unix_millis),
        exit_status: task.exit_status,
        edition: task.edition,
    })
}

pub(crate) fn read_task(row: Row<'_>) -> Result<Arc<Task>, Fault> {
    let read = || -> Result<Arc<Task>, Fail> {
        let doc: TaskDoc = parse(row.doc)?;
        let task_id = |text: &str| one("task", text, TaskId::parse);
        let (purpose, cause) = (doc.purpose.as_deref(), doc.cause.as_deref());
        Ok(Arc::new(Task {
            id: task_id(row.key)?,
            instance: id(&doc.instance)?,
            class: one("class", &doc.class, ClassName::parse)?,
            node: id(&doc.node)?,
            rule: doc
                .rule
                .as_deref()
                .map(|text| one("rule", text, RuleName::parse))
                .transpose()?,
            bound_to: BoundTo {
                kind: word("binding", &doc.binding, BindingKind::from_word)?,
                pid: doc.pid,
                start_time: doc.start_time,
                boot: doc
                    .boot
                    .as_deref()
                    .map(|text| one("boot", text, BootId::parse))
                    .transpose()?,
                cgroup: doc.cgroup,
            },
            level: doc.level,
            parent: doc.parent.as_deref().map(task_id).transpose()?,
            root: task_id(&doc.root)?,
            kind: one("kind", &doc.kind, Word::parse)?,
            purpose: purpose
                .map(|text| one("purpose", text, Sha256::parse))
                .transpose()?,
            permissions: Permissions {
                scopes: set("scope", &doc.scopes, Scope::parse)?,
                resources: set("resource", &doc.resources, Resource::parse)?,
            },
            data_class: level("data class", doc.data_class, DataClass::new)?,
            budget: doc.budget,
            spent: doc.spent,
            depth: doc.depth,
            opened_at: Timestamp::from_unix_millis(doc.opened_at_ms),
            deadline: Timestamp::from_unix_millis(doc.deadline_ms),
            state: word("state", &doc.state, TaskState::from_word)?,
            cause: cause
                .map(|text| one("cause", text, Word::parse))
                .transpose()?,
            ended_at: doc.ended_at_ms.map(Timestamp::from_unix_millis),
            exit_status: doc.exit_status,
            edition: doc.edition,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("tasks", row.key, cause))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DepartureDoc {
    at_ms: i64,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    note: String,
    by: String,
}

pub(crate) fn write_departure(departure: &Departure) -> Result<String, Fault> {
    write(&DepartureDoc {
        at_ms: departure.at.unix_millis(),
        note: departure.note.to_string(),
        by: departure.by.clone(),
    })
}

pub(crate) fn read_departure(row: Row<'_>) -> Result<Arc<Departure>, Fault> {
    let read = || -> Result<Arc<Departure>, Fail> {
        let doc: DepartureDoc = parse(row.doc)?;
        Ok(Arc::new(Departure {
            person: one("person", row.key, PersonId::parse)?,
            at: Timestamp::from_unix_millis(doc.at_ms),
            note: one("note", &doc.note, Note::parse)?,
            by: doc.by,
        }))
    };
    read().map_err(|cause| fault("persons_gone", row.key, cause))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoliciesDoc {
    digest: String,
    policies: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    again: Option<u64>,
    at_ms: i64,
    by: String,
    note: String,
}

pub(crate) fn write_policies(version: &PolicyVersion) -> Result<String, Fault> {
    write(&PoliciesDoc {
        digest: version.digest.to_string(),
        policies: version.policies,
        bytes: version.bytes,
        again: version.again,
        at_ms: version.at.unix_millis(),
        by: version.by.clone(),
        note: version.note.to_string(),
    })
}

pub(crate) fn read_policies(row: Row<'_>) -> Result<Arc<PolicyVersion>, Fault> {
    let read = || -> Result<Arc<PolicyVersion>, Fail> {
        let doc: PoliciesDoc = parse(row.doc)?;
        Ok(Arc::new(PolicyVersion {
            number: number(row.key)?,
            digest: one("digest", &doc.digest, Sha256::parse)?,
            policies: doc.policies,
            bytes: doc.bytes,
            again: doc.again,
            at: Timestamp::from_unix_millis(doc.at_ms),
            by: doc.by,
            note: one("note", &doc.note, Note::parse)?,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("policies", row.key, cause))
}

/// The number of a set of policies.
pub(crate) fn number(text: &str) -> Result<u64, Fail> {
    text.parse().map_err(|why| told("number", text, &why))
}
