//! `muster node debug`: how the node on this host stands, and what it holds.

use clap::Args;
use muster_model::Timestamp;
use muster_proto::muster::node::admin::v1 as admin;
use muster_rt::{Clock, SystemClock};
use serde_json::{Value, json};

use super::explain::word;
use super::local::NodeArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::server_api::selector_texts;
use crate::time::{distance, with_distance};

/// The columns of [`row`].
pub(super) const HEADING: &[&str] = &["ENTRY", "IDENTITY", "SVID", "EXPIRES", "RENEWS"];

#[derive(Args, Debug)]
pub(crate) struct Debug {
    /// List at most so many entries
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    local: NodeArgs,
}

pub(crate) async fn run(debug: &Debug, output: Output) -> Result<(), Failure> {
    let mut client = debug.local.client().await?;
    let info = client
        .get_info(debug.local.request(admin::GetInfoRequest {}))
        .await
        .map_err(|status| Failure::of_call("ask the node how it stands", &status))?
        .into_inner();
    let request = admin::InspectRequest { limit: debug.limit };
    let held = client
        .inspect(debug.local.request(request))
        .await
        .map_err(|status| Failure::of_call("ask the node what it holds", &status))?
        .into_inner();
    output.answer(|| to_json(&info, &held), || text(&info, &held, output))
}

fn text(info: &admin::GetInfoResponse, held: &admin::InspectResponse, output: Output) -> String {
    let now = SystemClock::new().now().wall;
    let cache = |cache: Option<&admin::Cache>| {
        cache
            .map(|c| format!("{} of {}, {} of them streamed", c.held, c.cap, c.subscribed))
            .unwrap_or_default()
    };
    let expiry = |at: Option<prost_types::Timestamp>| {
        at.map(|at| with_distance(at.seconds, now))
            .unwrap_or_default()
    };
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut text = output.fields(&[
        ("Node", info.node_id.clone()),
        ("Version", info.version.clone()),
        ("Started", expiry(info.started_at)),
        ("SVID serial", info.serial_number.clone()),
        ("SVID expires", expiry(info.expires_at)),
        ("First expiry of all", expiry(held.first_expiry)),
        ("Connected", yes(info.connected)),
        ("Revision", info.revision.to_string()),
        ("Entries", info.entries.to_string()),
        ("X509-SVIDs", cache(held.x509.as_ref())),
        (
            "JWT-SVIDs",
            held.jwt
                .map(|c| format!("{} of {}", c.held, c.cap))
                .unwrap_or_default(),
        ),
        ("WIT-SVIDs", cache(held.wit.as_ref())),
        (
            "Rules",
            format!("{}, {} names given", held.rules, held.names),
        ),
        ("Streams", info.streams.to_string()),
        ("Held calls", info.held_calls.to_string()),
        (
            "Bundles for strangers",
            yes(held.allow_unauthenticated_verifiers),
        ),
        (
            "Availability target",
            match held.availability_target_seconds {
                0 => String::new(),
                seconds => format!("{seconds} s"),
            },
        ),
    ]);
    let short = info.hardening.iter().filter(|measure| !measure.in_force);
    let short: Vec<_> = short
        .map(|measure| vec![measure.measure.clone(), measure.outcome.clone()])
        .collect();
    if !short.is_empty() {
        text.push('\n');
        text.push_str(&output.table(&["MEASURE NOT IN FORCE", "WHY"], &short, ""));
    }
    let bundles: Vec<_> = held
        .bundles
        .iter()
        .map(|b| {
            vec![
                b.trust_domain.clone(),
                b.sequence_number.to_string(),
                b.x509_authorities.to_string(),
                b.jwt_authorities.to_string(),
                b.tainted_authorities.to_string(),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&output.table(
        &["BUNDLE", "SEQUENCE", "X.509", "JWT", "TAINTED"],
        &bundles,
        "The node has no bundle yet.",
    ));
    let rows: Vec<_> = held.identities.iter().map(|i| row(i, now)).collect();
    text.push('\n');
    text.push_str(&output.table(HEADING, &rows, "The node has no entry."));
    let listed = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    if listed < held.entries {
        let all = held.entries;
        text.push_str(
            &[
                &listed.to_string(),
                " of ",
                &all.to_string(),
                " entries; --limit lists more
",
            ]
            .concat(),
        );
    }
    text
}

/// An identity as a line of a table.
pub(super) fn row(identity: &admin::Identity, now: Timestamp) -> Vec<String> {
    let state = word(identity.state().as_str_name()).replace('_', " ");
    let state = match identity.failures {
        0 => state,
        n => format!("{state} ({n})"),
    };
    let at = |at: Option<prost_types::Timestamp>| {
        at.map_or_else(|| "-".to_owned(), |at| distance(at.seconds, now))
    };
    vec![
        identity.entry_id.clone(),
        identity.spiffe_id.clone(),
        state,
        at(identity.expires_at),
        at(identity.renew_at),
    ]
}

/// An identity as JSON.
pub(super) fn identity(identity: &admin::Identity) -> Value {
    json!({
        "entry_id": identity.entry_id,
        "spiffe_id": identity.spiffe_id,
        "hint": identity.hint,
        "selectors": selector_texts(&identity.selectors),
        "state": word(identity.state().as_str_name()),
        "failures": identity.failures,
        "serial_number": identity.serial_number,
        "expires_at": identity.expires_at.map(|at| at.seconds),
        "renew_at": identity.renew_at.map(|at| at.seconds),
        "subscribers": identity.subscribers,
    })
}

fn to_json(info: &admin::GetInfoResponse, held: &admin::InspectResponse) -> Value {
    let cache = |cache: Option<&admin::Cache>| {
        cache.map(|c| json!({ "held": c.held, "cap": c.cap, "subscribed": c.subscribed }))
    };
    json!({
        "node_id": info.node_id,
        "version": info.version,
        "trust_domain": info.trust_domain,
        "serial_number": info.serial_number,
        "expires_at": info.expires_at.map(|at| at.seconds),
        "started_at": info.started_at.map(|at| at.seconds),
        "first_expiry": held.first_expiry.map(|at| at.seconds),
        "connected": info.connected,
        "revision": info.revision,
        "entries": info.entries,
        "streams": info.streams,
        "held_calls": info.held_calls,
        "x509": cache(held.x509.as_ref()),
        "jwt": cache(held.jwt.as_ref()),
        "wit": cache(held.wit.as_ref()),
        "rules": held.rules,
        "rule_names": held.names,
        "hardening": info.hardening.iter().map(|measure| json!({
            "measure": measure.measure,
            "in_force": measure.in_force,
            "outcome": measure.outcome,
        })).collect::<Value>(),
        "allow_unauthenticated_verifiers": held.allow_unauthenticated_verifiers,
        "availability_target_seconds": held.availability_target_seconds,
        "bundles": held.bundles.iter().map(|b| json!({
            "trust_domain": b.trust_domain,
            "sequence_number": b.sequence_number,
            "x509_authorities": b.x509_authorities,
            "jwt_authorities": b.jwt_authorities,
            "tainted_authorities": b.tainted_authorities,
        })).collect::<Value>(),
        "identities": held.identities.iter().map(identity).collect::<Value>(),
    })
}
