//! Rules for people, and as JSON.

use muster_proto::muster::agent::v1;
use muster_rt::duration::Shown;
use serde_json::{Value, json};

use crate::json::selectors;
use crate::output::Output;
use crate::server_api::selector_texts;
use crate::time::rfc3339;

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

fn lifetime(duration: Option<prost_types::Duration>) -> i64 {
    duration.map_or(0, |duration| duration.seconds)
}

/// A rule with the field names of the protobuf files; times are seconds, and 0 where there is none.
pub(super) fn to_json(rule: &v1::Rule) -> Value {
    let spec = rule.spec.clone().unwrap_or_default();
    json!({
        "name": rule.name,
        "spec": {
            "parent_id": spec.parent_id,
            "selectors": selectors(&spec.selectors),
            "template": spec.template,
            "class": spec.class,
            "x509_svid_ttl": lifetime(spec.x509_svid_ttl),
            "jwt_svid_ttl": lifetime(spec.jwt_svid_ttl),
            "federates_with": spec.federates_with,
            "hint": spec.hint,
            "dns_names": spec.dns_names,
            "per_node": spec.per_node,
            "in_all": spec.in_all,
        },
        "version": rule.version,
        "created_at": seconds(rule.created_at),
        "created_by": rule.created_by,
        "updated_at": seconds(rule.updated_at),
        "updated_by": rule.updated_by,
        "names": rule.names,
        "nodes": rule.nodes,
        "withheld": rule.withheld,
    })
}

/// Many rules, a line each.
pub(super) fn table(rules: &[v1::Rule], output: Output) -> String {
    let rows: Vec<Vec<String>> = rules
        .iter()
        .map(|rule| {
            let spec = rule.spec.clone().unwrap_or_default();
            vec![
                rule.name.clone(),
                spec.template,
                spec.parent_id,
                selector_texts(&spec.selectors).join(","),
                format!("{} of {}", rule.names, spec.in_all),
                rule.withheld.clone(),
            ]
        })
        .collect();
    output.table(
        &[
            "RULE",
            "TEMPLATE",
            "PARENT",
            "SELECTORS",
            "NAMES",
            "WITHHELD",
        ],
        &rows,
        "No rule. Create one with `muster rule create`.",
    )
}

/// One rule with all that is set.
pub(super) fn full(rule: &v1::Rule, output: Output) -> String {
    let spec = rule.spec.clone().unwrap_or_default();
    let ttl = |time: Option<prost_types::Duration>| match lifetime(time) {
        0 => "the server's default".to_owned(),
        seconds => {
            let time = std::time::Duration::from_secs(seconds.unsigned_abs());
            Shown(time).to_string()
        }
    };
    let mut fields = vec![
        ("Rule", rule.name.clone()),
        ("Template", spec.template),
        ("Parent", spec.parent_id),
    ];
    for selector in selector_texts(&spec.selectors) {
        fields.push(("Selector", selector));
    }
    fields.extend([
        ("Agent class", spec.class),
        ("X509-SVID TTL", ttl(spec.x509_svid_ttl)),
        ("JWT-SVID TTL", ttl(spec.jwt_svid_ttl)),
        ("Federates with", spec.federates_with.join(", ")),
        ("Hint", spec.hint),
        ("DNS names", spec.dns_names.join(", ")),
        ("Most names on a node", spec.per_node.to_string()),
        ("Most names in all", spec.in_all.to_string()),
        ("Names now", super::names(rule.names, rule.nodes)),
        ("Withheld", rule.withheld.clone()),
        ("Version", rule.version.to_string()),
        ("Created", written(rule.created_at, &rule.created_by)),
        ("Changed", written(rule.updated_at, &rule.updated_by)),
    ]);
    output.fields(&fields)
}

fn written(at: Option<prost_types::Timestamp>, by: &str) -> String {
    format!("{} by {by}", rfc3339(seconds(at)))
}
