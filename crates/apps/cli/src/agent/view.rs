//! Agents for people.

use muster_model::Timestamp;
use muster_proto::muster::agent::v1;
use muster_rt::duration::Shown;
use muster_rt::{Clock, SystemClock};

use crate::output::Output;
use crate::server_api::selector_texts;
use crate::time::{distance, rfc3339, with_distance};

/// The time at which a command looks.
pub(super) fn now() -> Timestamp {
    SystemClock::new().now().wall
}

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

/// Many classes, a line each.
pub(super) fn classes(classes: &[v1::AgentClass], output: Output, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = classes
        .iter()
        .map(|class| {
            let spec = class.spec.clone().unwrap_or_default();
            vec![
                class.name.clone(),
                class.lifecycle.clone(),
                spec.risk_tier.to_string(),
                spec.owner,
                spec.sponsor,
                distance(seconds(spec.review_by), now),
                class.version.to_string(),
            ]
        })
        .collect();
    output.table(
        &[
            "CLASS",
            "LIFECYCLE",
            "RISK",
            "OWNER",
            "SPONSOR",
            "REVIEW",
            "VERSION",
        ],
        &rows,
        "No agent class. Propose one with `muster agent class create`.",
    )
}

/// One class with all that is set.
pub(super) fn class(class: &v1::AgentClass, output: Output, now: Timestamp) -> String {
    let spec = class.spec.clone().unwrap_or_default();
    let permissions = spec.permissions.unwrap_or_default();
    let delegation = spec.delegation.unwrap_or_default();
    let tasks = spec.task_defaults.unwrap_or_default();
    let lifetime = |ttl: Option<prost_types::Duration>| {
        let seconds = ttl.and_then(|ttl| u64::try_from(ttl.seconds).ok());
        let seconds = seconds.unwrap_or_default();
        Shown(std::time::Duration::from_secs(seconds)).to_string()
    };
    let mut fields = vec![
        ("Class", class.name.clone()),
        ("Name", spec.display_name),
        ("Description", spec.description),
        ("Purposes", spec.purposes.join(", ")),
        ("Lifecycle", class.lifecycle.clone()),
        ("Since", with_distance(seconds(class.since), now)),
        ("Cause", class.cause.clone()),
        ("Reason", class.reason.clone()),
        ("By", class.by.clone()),
        ("Owner", spec.owner),
        ("Sponsor", spec.sponsor),
        ("Team", spec.team),
        ("Risk tier", spec.risk_tier.to_string()),
        ("Data ceiling", spec.data_ceiling.to_string()),
        ("Models", spec.allowed_models.join(", ")),
        ("Providers", spec.allowed_providers.join(", ")),
        ("Scopes", permissions.scopes.join(" ")),
        ("Resources", permissions.resources.join(" ")),
        ("May act for", delegation.may_act_for),
        ("Depth of tasks", delegation.max_depth.to_string()),
        ("Consent", delegation.consent),
        ("Task TTL", lifetime(tasks.ttl)),
        ("Longest task", lifetime(tasks.max_ttl)),
        (
            "Task budget",
            tasks
                .budget
                .map(|units| units.to_string())
                .unwrap_or_default(),
        ),
    ];
    for selector in selector_texts(&spec.attestation) {
        fields.push(("Attested as", selector));
    }
    fields.extend([
        ("Valid until", with_distance(seconds(spec.valid_until), now)),
        ("Review by", with_distance(seconds(spec.review_by), now)),
        ("Reviewed by", class.last_reviewed_by.clone()),
        ("Reviewed at", rfc3339(seconds(class.last_reviewed_at))),
        ("Created by", class.created_by.clone()),
        ("Created", rfc3339(seconds(class.created_at))),
        ("Version", class.version.to_string()),
        ("Agents", class.instances.to_string()),
    ]);
    output.fields(&fields)
}

/// Many agents, a line each.
pub(super) fn agents(agents: &[v1::AgentInstance], output: Output, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|agent| {
            vec![
                agent.spiffe_id.clone(),
                agent.class.clone(),
                agent.state.clone(),
                agent.node_id.clone(),
                distance(seconds(agent.last_seen), now),
            ]
        })
        .collect();
    output.table(
        &["AGENT", "CLASS", "STATE", "NODE", "SEEN"],
        &rows,
        "No agent was seen yet.",
    )
}

/// One agent with all that is known.
pub(super) fn agent(agent: &v1::AgentInstance, output: Output, now: Timestamp) -> String {
    output.fields(&[
        ("Agent", agent.spiffe_id.clone()),
        ("Class", agent.class.clone()),
        ("State", agent.state.clone()),
        ("Cause", agent.cause.clone()),
        ("Node", agent.node_id.clone()),
        ("Started by", agent.parent_id.clone()),
        ("Executable", agent.executable_sha256.clone()),
        ("First seen", with_distance(seconds(agent.first_seen), now)),
        ("Last seen", with_distance(seconds(agent.last_seen), now)),
    ])
}

/// Persons who are gone, a line each.
pub(super) fn persons(persons: &[v1::PersonGone], output: Output) -> String {
    let rows: Vec<Vec<String>> = persons
        .iter()
        .map(|person| {
            vec![
                person.person.clone(),
                rfc3339(seconds(person.since)),
                person.by.clone(),
                person.reason.clone(),
            ]
        })
        .collect();
    output.table(
        &["PERSON", "SINCE", "BY", "REASON"],
        &rows,
        "Nobody is known to be gone.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_767_225_000);

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    fn sample() -> v1::AgentClass {
        v1::AgentClass {
            name: "invoice-reader".into(),
            spec: Some(v1::ClassSpec {
                display_name: "Invoice reader".into(),
                purposes: vec!["finance".into()],
                owner: "mailto:olga@example.org".into(),
                sponsor: "mailto:sam@example.org".into(),
                risk_tier: 2,
                data_ceiling: 3,
                permissions: Some(v1::Permissions {
                    scopes: vec!["invoices.read".into()],
                    resources: Vec::new(),
                }),
                delegation: Some(v1::Delegation {
                    may_act_for: "none".into(),
                    max_depth: 1,
                    consent: "interactive".into(),
                }),
                task_defaults: Some(v1::TaskDefaults {
                    ttl: Some(prost_types::Duration {
                        seconds: 600,
                        nanos: 0,
                    }),
                    max_ttl: Some(prost_types::Duration {
                        seconds: 3600,
                        nanos: 0,
                    }),
                    budget: None,
                }),
                valid_until: Some(at(1_800_000_000)),
                review_by: Some(at(1_780_000_000)),
                ..v1::ClassSpec::default()
            }),
            lifecycle: "suspended".into(),
            since: Some(at(1_767_224_990)),
            cause: "operator".into(),
            reason: "it wrote to strangers".into(),
            by: "uid 0".into(),
            created_by: "uid 0".into(),
            created_at: Some(at(1_767_000_000)),
            version: 3,
            instances: 2,
            ..v1::AgentClass::default()
        }
    }

    fn an_agent() -> v1::AgentInstance {
        v1::AgentInstance {
            spiffe_id: "spiffe://example.org/agent/invoice-reader/1".into(),
            class: "invoice-reader".into(),
            node_id: "spiffe://example.org/spire/agent/x/1".into(),
            first_seen: Some(at(1_767_000_000)),
            last_seen: Some(at(1_767_224_940)),
            state: "active".into(),
            cause: "seen".into(),
            ..v1::AgentInstance::default()
        }
    }

    #[test]
    fn agents_for_people() {
        let output = Output::new(false);
        insta::assert_snapshot!("class_table", classes(&[sample()], output, NOW));
        insta::assert_snapshot!("class_full", class(&sample(), output, NOW));
        insta::assert_snapshot!("agent_table", agents(&[an_agent()], output, NOW));
        insta::assert_snapshot!("agent_full", agent(&an_agent(), output, NOW));
    }

    #[test]
    fn agents_for_programs() {
        let both = serde_json::json!([
            super::super::shape::class(&sample()),
            super::super::shape::agent(&an_agent())
        ]);
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&both).unwrap());
    }
}
