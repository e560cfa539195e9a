//! Agents as JSON, with the field names of the protobuf files; times are seconds since 1970, and 0
//! where there is none.

use muster_proto::muster::agent::v1;
use serde_json::{Value, json};

use crate::json::selectors;

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

fn lifetime(duration: Option<prost_types::Duration>) -> i64 {
    duration.map_or(0, |duration| duration.seconds)
}

pub(super) fn class(class: &v1::AgentClass) -> Value {
    let spec = class.spec.clone().unwrap_or_default();
    let permissions = spec.permissions.unwrap_or_default();
    let delegation = spec.delegation.unwrap_or_default();
    let tasks = spec.task_defaults.unwrap_or_default();
    json!({
        "name": class.name,
        "spec": {
            "display_name": spec.display_name,
            "description": spec.description,
            "purposes": spec.purposes,
            "owner": spec.owner,
            "sponsor": spec.sponsor,
            "team": spec.team,
            "risk_tier": spec.risk_tier,
            "data_ceiling": spec.data_ceiling,
            "allowed_models": spec.allowed_models,
            "allowed_providers": spec.allowed_providers,
            "permissions": {
                "scopes": permissions.scopes,
                "resources": permissions.resources,
            },
            "delegation": {
                "may_act_for": delegation.may_act_for,
                "max_depth": delegation.max_depth,
                "consent": delegation.consent,
            },
            "task_defaults": {
                "ttl": lifetime(tasks.ttl),
                "max_ttl": lifetime(tasks.max_ttl),
                "budget": tasks.budget,
            },
            "attestation": selectors(&spec.attestation),
            "valid_until": seconds(spec.valid_until),
            "review_by": seconds(spec.review_by),
        },
        "lifecycle": class.lifecycle,
        "since": seconds(class.since),
        "cause": class.cause,
        "reason": class.reason,
        "by": class.by,
        "last_reviewed_by": class.last_reviewed_by,
        "last_reviewed_at": seconds(class.last_reviewed_at),
        "created_by": class.created_by,
        "created_at": seconds(class.created_at),
        "version": class.version,
        "instances": class.instances,
    })
}

pub(super) fn agent(agent: &v1::AgentInstance) -> Value {
    json!({
        "spiffe_id": agent.spiffe_id,
        "class": agent.class,
        "node_id": agent.node_id,
        "parent_id": agent.parent_id,
        "executable_sha256": agent.executable_sha256,
        "first_seen": seconds(agent.first_seen),
        "last_seen": seconds(agent.last_seen),
        "state": agent.state,
        "cause": agent.cause,
    })
}

pub(super) fn person(person: &v1::PersonGone) -> Value {
    json!({
        "person": person.person,
        "since": seconds(person.since),
        "reason": person.reason,
        "by": person.by,
    })
}
