//! Names that events had in logs that were written before they got those that stay.
//!
//! A log is never rewritten: what has an old name in it is read as what it is called now. Where one
//! event became several, or several became one, a detail of the record says which.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde::de::value::{Error, StrDeserializer};

use crate::{Event, SvidKind};

/// A record of an event that this program does not know: it is of a later one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown event {0:?}")]
pub struct UnknownEvent(String);

/// The event of that name, now or formerly; what the former name said beside the event becomes a
/// detail.
pub(crate) fn read(
    name: &str,
    detail: &mut BTreeMap<String, String>,
) -> Result<Event, UnknownEvent> {
    if let Some(kind) = name.strip_prefix("svid.issue.").and_then(SvidKind::parse) {
        detail.insert("svid".to_owned(), kind.word().to_owned());
        return Ok(Event::SvidIssued);
    }
    let now = match name {
        "task.ended" => match detail.get("state").map(String::as_str) {
            Some("completed") => "task.completed",
            Some("failed") => "task.failed",
            Some("expired") => "task.expired",
            Some("process_exited") => "task.process_exited",
            // Whatever else became of it, others than itself ended it.
            Some(_) | None => "task.revoked",
        },
        "node.attest" => "node.attested",
        "node.renew" => "node.renewed",
        "node.ban" => "node.banned",
        "node.evict" => "node.evicted",
        "node.status" => "node.reported",
        "join_token.create" => "join_token.created",
        "join_token.prune" => "join_token.pruned",
        "entry.create" => "entry.created",
        "entry.update" => "entry.updated",
        "entry.delete" => "entry.deleted",
        "authority.prepare" => "authority.prepared",
        "authority.activate" => "authority.activated",
        "authority.taint" => "authority.tainted",
        "authority.revoke" => "authority.revoked",
        "authority.publish" => "authority.published",
        "authority.withdraw" => "authority.withdrawn",
        "ca.issue" => "ca.issued",
        "bundle.append" => "bundle.appended",
        "bundle.prune" => "bundle.pruned",
        "bundle.delete" => "bundle.deleted",
        "access.refuse" => "access.refused",
        name => name,
    };
    Event::deserialize(StrDeserializer::<Error>::new(now))
        .map_err(|_unknown| UnknownEvent(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::Record;

    #[track_caller]
    fn check(event: &str, detail: &serde_json::Value, expected: &str, said: Option<(&str, &str)>) {
        let written = json!({
            "at_ms": 1, "event": event, "actor": { "class": "node" }, "decision": "allowed",
            "subject": "spiffe://td/x", "detail": detail,
        });
        let record: Record = serde_json::from_value(written).unwrap();
        assert_eq!(record.event.to_string(), expected, "{event}");
        if let Some((name, value)) = said {
            assert_eq!(record.detail[name], value, "{event}");
        }
    }

    #[test]
    fn a_log_with_former_names_is_read() {
        let none = json!({});
        for (was, is) in [
            ("node.attest", "node.attested"),
            ("node.renew", "node.renewed"),
            ("node.ban", "node.banned"),
            ("node.evict", "node.evicted"),
            ("node.status", "node.reported"),
            ("join_token.create", "join_token.created"),
            ("join_token.prune", "join_token.pruned"),
            ("entry.create", "entry.created"),
            ("entry.update", "entry.updated"),
            ("entry.delete", "entry.deleted"),
            ("authority.prepare", "authority.prepared"),
            ("authority.activate", "authority.activated"),
            ("authority.taint", "authority.tainted"),
            ("authority.revoke", "authority.revoked"),
            ("authority.publish", "authority.published"),
            ("authority.withdraw", "authority.withdrawn"),
            ("ca.issue", "ca.issued"),
            ("bundle.append", "bundle.appended"),
            ("bundle.prune", "bundle.pruned"),
            ("bundle.delete", "bundle.deleted"),
            ("access.refuse", "access.refused"),
        ] {
            check(was, &none, is, None);
            check(is, &none, is, None);
        }
        for kind in ["x509", "jwt", "wit"] {
            let was = format!("svid.issue.{kind}");
            check(&was, &none, "svid.issued", Some(("svid", kind)));
        }
        for state in [
            "completed",
            "failed",
            "expired",
            "revoked",
            "process_exited",
        ] {
            let detail = json!({ "state": state });
            check("task.ended", &detail, &format!("task.{state}"), None);
        }
    }

    #[test]
    fn an_unknown_event_is_named() {
        let written = r#"{"at_ms":1,"event":"svid.issue.pgp","actor":{"class":"node"},"decision":"allowed","subject":"x"}"#;
        let error = serde_json::from_str::<Record>(written).unwrap_err();
        assert!(error.to_string().contains("svid.issue.pgp"), "{error}");
    }
}
