//! A record in the words of the Open Cybersecurity Schema Framework, version 1.3, for the
//! collectors of others.
//!
//! Which class an event has is agent-identity 4.8's table. What OCSF 1.3 has no place for (the
//! agent, the task, the details) stands under `unmapped`, as a validator of that version wants it,
//! with the names that OCSF 1.9 gives them: `ai_agent.uid` is the class, `ai_agent.instance_uid`
//! the task.

use serde_json::{Map, Value, json};

use crate::{Decision, Record, identity};

/// The version of OCSF that is written.
const VERSION: &str = "1.3.0";

/// A class of OCSF, and what was done within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// `class_uid`.
    pub uid: u32,
    /// `class_name`.
    pub name: &'static str,
    /// `activity_id`.
    pub activity: u32,
    /// `activity_name`.
    pub activity_name: &'static str,
}

const ENTITY: (u32, &str) = (3004, "Entity Management");
const AUTHENTICATION: (u32, &str) = (3002, "Authentication");
const SESSION: (u32, &str) = (3003, "Authorize Session");
const API: (u32, &str) = (6003, "API Activity");
const FINDING: (u32, &str) = (2004, "Detection Finding");

/// By the longest beginning of an event's name: its class, its activity, and that one's name.
const TABLE: &[(&str, (u32, &str), u32, &str)] = &[
    ("access", API, 99, "Other"),
    ("agent", ENTITY, 3, "Update"),
    ("agent.class.approved", ENTITY, 8, "Enable"),
    ("agent.class.proposed", ENTITY, 1, "Create"),
    ("agent.class.quarantined", ENTITY, 12, "Suspend"),
    ("agent.class.reinstated", ENTITY, 13, "Resume"),
    ("agent.class.retired", ENTITY, 9, "Disable"),
    ("agent.class.suspended", ENTITY, 12, "Suspend"),
    ("agent.forgotten", ENTITY, 4, "Delete"),
    ("agent.quarantined", ENTITY, 12, "Suspend"),
    ("agent.registered", ENTITY, 1, "Create"),
    ("agent.released", ENTITY, 13, "Resume"),
    ("agent.retired", ENTITY, 9, "Disable"),
    ("agent.seen_first", ENTITY, 10, "Activate"),
    ("agent.sighted", FINDING, 1, "Create"),
    ("agent.unregistered_found", FINDING, 1, "Create"),
    ("authority", ENTITY, 3, "Update"),
    ("authority.prepared", ENTITY, 1, "Create"),
    ("authority.revoked", ENTITY, 4, "Delete"),
    ("bundle", ENTITY, 3, "Update"),
    ("bundle.deleted", ENTITY, 4, "Delete"),
    ("bundle.pruned", ENTITY, 4, "Delete"),
    ("ca.issued", AUTHENTICATION, 4, "Service Ticket Request"),
    ("credential", FINDING, 1, "Create"),
    ("entry", ENTITY, 3, "Update"),
    ("entry.created", ENTITY, 1, "Create"),
    ("entry.deleted", ENTITY, 4, "Delete"),
    ("join_token", ENTITY, 1, "Create"),
    ("join_token.pruned", ENTITY, 4, "Delete"),
    ("node", ENTITY, 3, "Update"),
    ("node.attested", AUTHENTICATION, 1, "Logon"),
    ("node.banned", ENTITY, 12, "Suspend"),
    ("node.evicted", ENTITY, 4, "Delete"),
    ("node.renewed", AUTHENTICATION, 5, "Service Ticket Renew"),
    ("person", ENTITY, 3, "Update"),
    ("policy", ENTITY, 3, "Update"),
    ("rule", ENTITY, 3, "Update"),
    ("rule.created", ENTITY, 1, "Create"),
    ("rule.deleted", ENTITY, 4, "Delete"),
    ("secret", FINDING, 1, "Create"),
    ("sighting", FINDING, 1, "Create"),
    ("svid", AUTHENTICATION, 4, "Service Ticket Request"),
    ("svid.renewed", AUTHENTICATION, 5, "Service Ticket Renew"),
    ("task", SESSION, 99, "Other"),
    ("task.opened", SESSION, 1, "Assign Privileges"),
    ("task.spawned", SESSION, 1, "Assign Privileges"),
    ("workload", AUTHENTICATION, 1, "Logon"),
];

/// The class of an event, by its name; what no row of the table fits is an activity of the API.
pub fn class(event: &str) -> Class {
    let fits = |begin: &str| {
        event
            .strip_prefix(begin)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let row = TABLE
        .iter()
        .filter(|(begin, ..)| fits(begin))
        .max_by_key(|(begin, ..)| begin.len());
    let ((uid, name), activity, activity_name) = row
        .map_or((API, 99, "Other"), |(_, class, activity, said)| {
            (*class, *activity, *said)
        });
    Class {
        uid,
        name,
        activity,
        activity_name,
    }
}

/// A record as an OCSF event; `sequence` is its number in the log, `version` that of the program.
pub fn event(sequence: u64, record: &Record, version: &str) -> Value {
    let name = record.event.to_string();
    let class = class(&name);
    let category = class.uid / 1000;
    let category_name = match category {
        2 => "Findings",
        3 => "Identity & Access Management",
        _ => "Application Activity",
    };
    let (status_id, status, severity_id, severity) = match record.decision {
        Decision::Allowed => (1, "Success", 1, "Informational"),
        Decision::Refused => (2, "Failure", 3, "Medium"),
    };
    let mut out = json!({
        "activity_id": class.activity,
        "activity_name": class.activity_name,
        "actor": actor(record),
        "category_name": category_name,
        "category_uid": category,
        "class_name": class.name,
        "class_uid": class.uid,
        "message": format!("{name} {}", record.subject),
        "metadata": {
            "event_code": name,
            "log_name": "audit",
            "product": { "name": "Muster", "vendor_name": "Muster", "version": version },
            "sequence": sequence,
            "uid": sequence.to_string(),
            "version": VERSION,
        },
        "severity": severity,
        "severity_id": severity_id,
        "status": status,
        "status_id": status_id,
        "time": record.at_ms,
        "type_name": format!("{}: {}", class.name, class.activity_name),
        "type_uid": u64::from(class.uid) * 100 + u64::from(class.activity),
        "unmapped": unmapped(record),
    });
    let Some(object) = out.as_object_mut() else {
        return out;
    };
    let trace = record.said("trace_id");
    if !trace.is_empty()
        && let Some(Value::Object(metadata)) = object.get_mut("metadata")
    {
        metadata.insert("correlation_uid".into(), json!(trace));
    }
    if !record.said("reason").is_empty() {
        object.insert("status_detail".into(), json!(record.said("reason")));
    }
    let subject = json!({ "name": record.subject, "uid": record.subject });
    match class.uid {
        3002 => {
            object.insert(
                "user".into(),
                json!({ "uid": record.subject, "type": "Service" }),
            );
            object.insert("service".into(), json!({ "name": "muster" }));
        }
        3003 => {
            object.insert(
                "user".into(),
                json!({ "uid": record.subject, "type": "Service" }),
            );
            let scopes = record.said("scopes").split_whitespace();
            object.insert("privileges".into(), scopes.collect());
        }
        3004 => {
            let kind = name.split('.').next().unwrap_or_default();
            object.insert(
                "entity".into(),
                json!({ "name": record.subject, "type": kind, "uid": record.subject }),
            );
        }
        2004 => {
            object.insert(
                "finding_info".into(),
                json!({ "title": name, "uid": sequence.to_string() }),
            );
            object.insert("resources".into(), json!([subject]));
        }
        _ => {
            object.insert("api".into(), json!({ "operation": record.subject }));
            object.insert("src_endpoint".into(), json!({ "name": who(record) }));
        }
    }
    out
}

fn who(record: &Record) -> &str {
    record
        .actor
        .spiffe_id
        .as_deref()
        .unwrap_or(&record.actor.class)
}

fn actor(record: &Record) -> Value {
    let mut actor = Map::new();
    let uid = record.actor.spiffe_id.clone();
    let uid = uid.or_else(|| record.actor.uid.map(|uid| uid.to_string()));
    let mut user = Map::new();
    user.insert("name".into(), json!(who(record)));
    user.insert("type".into(), json!(record.actor.class));
    if let Some(uid) = uid {
        user.insert("uid".into(), json!(uid));
    }
    actor.insert("user".into(), Value::Object(user));
    if let Some(pid) = record.actor.pid {
        actor.insert("process".into(), json!({ "pid": pid }));
    }
    Value::Object(actor)
}

fn unmapped(record: &Record) -> Value {
    let mut out = Map::new();
    let mut agent = Map::new();
    let named = [
        ("uid", identity::class(record)),
        ("instance_uid", identity::task(record)),
        ("name", identity::agent(record)),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            agent.insert(name.into(), json!(value));
        }
    }
    if !agent.is_empty() {
        out.insert("ai_agent".into(), Value::Object(agent));
    }
    if !record.detail.is_empty() {
        out.insert("detail".into(), json!(record.detail));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;

    use super::*;
    use crate::{Actor, Event, names};

    fn record(event: Event, subject: &str) -> Record {
        Record {
            at_ms: 1_767_225_600_123,
            event,
            actor: Actor {
                class: "node".into(),
                spiffe_id: Some("spiffe://td/spire/agent/join_token/n".into()),
                ..Actor::default()
            },
            decision: Decision::Allowed,
            subject: subject.into(),
            detail: BTreeMap::new(),
        }
    }

    /// The golden file: one line for each event, then four records in full.
    #[test]
    fn golden() {
        let mut text = String::new();
        for name in names::all() {
            let class = class(name);
            writeln!(
                text,
                "{name:<26} {} {} {} {}",
                class.uid, class.name, class.activity, class.activity_name
            )
            .unwrap();
        }
        let task = "spiffe://td/agent/reader/1/t/01JDQ8Z0000000000000000000";
        let local = Actor {
            class: "local".into(),
            spiffe_id: None,
            pid: Some(7),
            uid: Some(0),
        };
        let mut suspended = record(Event::ClassSuspended, "reader").with("reason", "it wrote");
        suspended.actor = local;
        let records = [
            record(Event::SvidIssued, task)
                .with("svid", "x509")
                .with("serial_number", "17")
                .with("expires_at", "1767225900")
                .with("trace_id", "0af7651916cd43dd8448eb211c80319c"),
            suspended,
            record(Event::NodeAttested, "spiffe://td/spire/agent/join_token/n")
                .refused("join token does not exist or has already been used"),
            record(
                Event::AccessRefused,
                "/muster.agent.v1.Registry/CreateClass",
            )
            .refused("no"),
        ];
        for (sequence, record) in (41..).zip(&records) {
            let shown = event(sequence, record, "1.2.3");
            text.push_str(&serde_json::to_string_pretty(&shown).unwrap());
            text.push('\n');
        }
        insta::assert_snapshot!(text);
    }

    /// OCSF: `type_uid` is the class and the activity, and what a class requires is there.
    #[test]
    fn every_event_has_what_its_class_requires() {
        for name in names::all() {
            let event: Event = serde_json::from_value(json!(name)).unwrap();
            let shown = super::event(1, &record(event, "spiffe://td/x"), "0");
            let uid = shown["class_uid"].as_u64().unwrap();
            let activity = shown["activity_id"].as_u64().unwrap();
            assert_eq!(shown["type_uid"], uid * 100 + activity);
            assert_eq!(shown["category_uid"], uid / 1000);
            let required: &[&str] = match uid {
                3002 => &["user", "service"],
                3003 => &["user", "privileges"],
                3004 => &["entity"],
                6003 => &["actor", "api", "src_endpoint"],
                2004 => &["finding_info"],
                other => panic!("{name} has the class {other}"),
            };
            for field in required.iter().chain(&["metadata", "severity_id", "time"]) {
                assert!(!shown[*field].is_null(), "{name} lacks {field}");
            }
        }
    }
}
