//! `muster node explain` and `muster node debug`: from what the roster says to what people read.

use std::time::Duration;

use muster_attest::workload::LeftOut;
use muster_model::Timestamp;
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::explain_response::Verdict;
use muster_proto::muster::node::admin::v1::identity::State;
use muster_roster::{Explanation, Identity, Inventory, Lack, RuleMiss, SignFault, Standing};
use muster_wire::selector;

use crate::events::{PastRefusal, timestamp};
use crate::target::TargetRefusal;
use crate::workload_api::TOO_MANY_CALLS;

/// Refusals that come from a bound on how much may be asked of the node, not from what the caller
/// is, and what sets the bound.
const LIMITS: [(&str, &str); 7] = [
    (
        "overloaded",
        "max_calls and max_connections in [workload_api]",
    ),
    (TOO_MANY_CALLS, "max_calls in [workload_api]"),
    ("max_connections", "max_connections in [workload_api]"),
    (
        "connect_rate",
        "connects_per_second and connects_burst in [limits]",
    ),
    ("connections_per_user", "connections_per_user in [limits]"),
    ("call_rate", "calls_per_second and calls_burst in [limits]"),
    ("calls_per_user", "calls_per_user in [limits]"),
];
/// How long ago a limit may have refused a call and still be the answer.
const LIMITED_LATELY: Duration = Duration::from_mins(1);

/// The answer about a process that could not be attested.
pub(crate) fn unattested(pid: i32, refusal: &TargetRefusal) -> admin::ExplainResponse {
    let (verdict, summary) = match refusal {
        TargetRefusal::NotRunning { .. } => (
            Verdict::NotRunning,
            format!(
                "no process has the pid {pid} in the node's pid namespace; it has ended, or the pid is that of another namespace"
            ),
        ),
        TargetRefusal::NotVisible { .. } | TargetRefusal::Failed(_) => (
            Verdict::NotAttested,
            format!("process {pid} could not be attested: {refusal}"),
        ),
    };
    admin::ExplainResponse {
        verdict: verdict.into(),
        summary,
        attestation_error: refusal.to_string(),
        ..admin::ExplainResponse::default()
    }
}

/// The answer about a process whose facts are known.
pub(crate) fn attested(
    process: admin::Attested,
    left_out: &[LeftOut],
    explanation: &Explanation,
    refusals: Vec<PastRefusal>,
    last_in_step: Option<Timestamp>,
    now: Timestamp,
) -> admin::ExplainResponse {
    let limited = refusals
        .first()
        .filter(|refusal| now.since(refusal.at) <= LIMITED_LATELY)
        .and_then(|refusal| LIMITS.iter().find(|(reason, _)| *reason == refusal.reason));
    let (verdict, summary) = match limited {
        Some((reason, setting)) => (
            Verdict::Limited,
            format!(
                "the node refused its last call because too much was asked of it at once ({reason}); the bound is set by {setting} of the node's configuration"
            ),
        ),
        None => without(left_out, explanation, judge(process.pid, explanation)),
    };
    admin::ExplainResponse {
        verdict: verdict.into(),
        summary,
        process: Some(process),
        attestation_error: String::new(),
        identities: explanation
            .matching
            .iter()
            .map(|i| write(i, explanation.hint_taken.contains(&i.entry)))
            .collect(),
        nearest: explanation.nearest.iter().map(nearest).collect(),
        nearest_rules: explanation.nearest_rules.iter().map(nearest_rule).collect(),
        held_calls: count(explanation.waiting),
        refusals: refusals
            .into_iter()
            .map(|refusal| admin::PastRefusal {
                at: Some(timestamp(refusal.at)),
                reason: refusal.reason,
            })
            .collect(),
        connected: explanation.connected,
        in_step: explanation.in_step,
        revision: explanation.revision.0,
        last_in_step: last_in_step.map(timestamp),
        left_out: left_out.iter().map(failed).collect(),
    }
}

fn failed(left_out: &LeftOut) -> admin::LeftOut {
    admin::LeftOut {
        attestor: left_out.kind.to_owned(),
        why: left_out.why.clone(),
    }
}

/// What is judged when attestors failed: their silence is the cause, if what is nearest lacks a
/// selector of theirs, and may be if nothing is near.
fn without(
    left_out: &[LeftOut],
    explanation: &Explanation,
    (verdict, summary): (Verdict, String),
) -> (Verdict, String) {
    let lacks = |failed: &&LeftOut| {
        let entries = explanation.nearest.iter().map(|miss| &miss.lacks);
        let rules = explanation.nearest_rules.iter().map(|miss| &miss.lacks);
        entries
            .chain(rules)
            .flatten()
            .any(|lack| lack.wanted.kind() == failed.kind)
    };
    match (verdict, left_out.iter().find(lacks), left_out.first()) {
        (Verdict::NoEntry | Verdict::NodeBehind, Some(failed), _) => (
            Verdict::NotAttested,
            format!(
                "the process lacks the selectors of type {}, whose attestor failed: {} Apart from that: {summary}",
                failed.kind,
                sentence(&failed.why)
            ),
        ),
        (_, _, Some(failed)) => (
            verdict,
            format!("{summary}. An attestor failed: {}", sentence(&failed.why)),
        ),
        (_, _, None) => (verdict, summary),
    }
}

fn judge(pid: i32, explanation: &Explanation) -> (Verdict, String) {
    let served = |identity: &&Identity| {
        identity.standing != Standing::StoredOutside
            && !explanation.hint_taken.contains(&identity.entry)
    };
    let identities: Vec<&Identity> = explanation.matching.iter().filter(served).collect();
    let held = explanation.waiting;
    let held = match held {
        0 => String::new(),
        n => format!(" ({n} of its calls are held meanwhile)"),
    };
    if identities.is_empty() {
        let outside = !explanation.matching.is_empty();
        let nearest = explanation.nearest.first().map_or_else(
            || "the node has no entry at all".to_owned(),
            |miss| {
                let lacks: Vec<String> = miss.lacks.iter().map(|l| l.wanted.to_string()).collect();
                format!(
                    "the nearest entry is {}, for {}, and wants {}",
                    miss.entry.as_str(),
                    miss.spiffe_id,
                    lacks.join(" and ")
                )
            },
        );
        let nearest = explanation
            .nearest_rules
            .first()
            .map_or(nearest.clone(), |miss| {
                format!("{nearest}; the nearest rule is {}: {}", miss.rule, miss.why)
            });
        return match (explanation.in_step, outside) {
            (_, true) => (
                Verdict::NoEntry,
                format!(
                    "the entries that match process {pid} are for an external store (store_svid), not for the Workload API"
                ),
            ),
            (true, false) => (
                Verdict::NoEntry,
                format!(
                    "no entry of this node matches process {pid}{held}; {nearest}. An entry that does match may have another parent: ask the server with `muster node explain --node ID --selector ...`"
                ),
            ),
            (false, false) => (
                Verdict::NodeBehind,
                format!(
                    "no entry that this node knows matches process {pid}{held}, and the node is not in step with its server: an entry may exist; {nearest}"
                ),
            ),
        };
    }
    let failed = identities.iter().find_map(|i| match i.standing {
        Standing::Failed { failures, fault } => Some((i, failures, fault)),
        Standing::Held | Standing::BeingSigned | Standing::NotWanted | Standing::StoredOutside => {
            None
        }
    });
    if let Some((identity, failures, fault)) = failed {
        return (
            Verdict::NotSigned,
            format!(
                "entry {} matches process {pid}{held}, and its SVID could not be signed, {failures} times in a row: {}",
                identity.entry.as_str(),
                fault.map_or("the node's log says why", cause)
            ),
        );
    }
    let waiting = |i: &&&Identity| i.standing == Standing::BeingSigned;
    if let Some(identity) = identities.iter().find(waiting) {
        return (
            Verdict::NotSigned,
            format!(
                "entry {} matches process {pid}{held}, {}",
                identity.entry.as_str(),
                if explanation.connected {
                    "and its SVID is being signed"
                } else {
                    "and no SVID that has not expired is held for it; the server, which would sign one, is not reached"
                }
            ),
        );
    }
    let names: Vec<&str> = identities.iter().map(|i| i.spiffe_id.as_str()).collect();
    let stale = if explanation.in_step {
        ""
    } else {
        "; the node is not in step with its server and goes by what it knew last"
    };
    (
        Verdict::Served,
        format!(
            "process {pid} is entitled to {}{stale}",
            names.join(" and ")
        ),
    )
}

/// With its end.
fn sentence(text: &str) -> String {
    let end = if text.ends_with(['.', '?', '!']) {
        ""
    } else {
        "."
    };
    format!("{text}{end}")
}

/// Why a signature did not come about, and where to look.
fn cause(fault: SignFault) -> &'static str {
    match fault {
        SignFault::Unavailable => "the server has no capacity for it, or is not reached",
        SignFault::Refused => {
            "the server refuses it; ask it with `muster node explain --node ID --selector ...`"
        }
        SignFault::Denied => {
            "a policy of the server refuses it; see `muster audit tail --decision refused`"
        }
        SignFault::BoundReached => "its rule gives as many names as it may",
        SignFault::NameRefused => "the server does not let its rule give that name",
        SignFault::NotWhatWasAsked => {
            "what the server sent is not what was asked for, and is not served"
        }
        SignFault::ExpiredOnArrival => {
            "what the server signed had expired by this node's clock; compare the clocks of both"
        }
        SignFault::TaintedAuthority => {
            "the server signed it with an authority that is declared compromised"
        }
        SignFault::UnknownAuthority => {
            "it is signed by an authority that is not in the node's bundle yet"
        }
        SignFault::Local => "the node could not make its key or the request; its log says why",
    }
}

/// What the node holds, as the API writes it.
pub(crate) fn inventory(
    inventory: &Inventory,
    node_expires_at: Option<Timestamp>,
    settings: Settings,
) -> admin::InspectResponse {
    let cache = |cache: muster_roster::CacheStanding| admin::Cache {
        held: count(cache.held),
        cap: count(cache.cap),
        subscribed: count(cache.subscribed),
    };
    let first = inventory
        .first_expiry
        .into_iter()
        .chain(node_expires_at)
        .min();
    admin::InspectResponse {
        identities: inventory
            .identities
            .iter()
            .map(|i| write(i, false))
            .collect(),
        entries: count(inventory.entries),
        bundles: inventory
            .bundles
            .iter()
            .map(|bundle| admin::BundleState {
                trust_domain: bundle.trust_domain.as_str().to_owned(),
                sequence_number: bundle.sequence_number,
                x509_authorities: count(bundle.x509_authorities),
                jwt_authorities: count(bundle.jwt_authorities),
                tainted_authorities: count(bundle.tainted),
            })
            .collect(),
        x509: Some(cache(inventory.x509)),
        jwt: Some(cache(inventory.jwt)),
        wit: Some(cache(inventory.wit)),
        allow_unauthenticated_verifiers: settings.allow_unauthenticated_verifiers,
        availability_target_seconds: settings.availability_target_seconds,
        first_expiry: first.map(timestamp),
        rules: count(inventory.rules),
        names: count(inventory.names),
    }
}

/// What of the configuration an inspection reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) allow_unauthenticated_verifiers: bool,
    /// 0 is off.
    pub(crate) availability_target_seconds: u64,
}

fn write(identity: &Identity, hint_taken: bool) -> admin::Identity {
    let (state, failures) = match &identity.standing {
        Standing::StoredOutside => (State::StoredOutside, 0),
        _ if hint_taken => (State::HintTaken, 0),
        Standing::Held => (State::Held, 0),
        Standing::BeingSigned => (State::BeingSigned, 0),
        Standing::Failed { failures, .. } => (State::Failed, *failures),
        Standing::NotWanted => (State::NotWanted, 0),
    };
    let held = identity.held.as_ref();
    admin::Identity {
        entry_id: identity.entry.as_str().to_owned(),
        spiffe_id: identity.spiffe_id.as_str().to_owned(),
        hint: identity.hint.clone(),
        selectors: identity.selectors.iter().map(selector::write).collect(),
        state: state.into(),
        failures,
        serial_number: held
            .map(|held| held.serial.as_str().to_owned())
            .unwrap_or_default(),
        expires_at: held.map(|held| timestamp(held.not_after)),
        renew_at: held.map(|held| timestamp(held.renew_at)),
        subscribers: count(identity.subscribers),
    }
}

fn nearest(miss: &muster_roster::Miss) -> admin::Nearest {
    admin::Nearest {
        entry_id: miss.entry.as_str().to_owned(),
        spiffe_id: miss.spiffe_id.as_str().to_owned(),
        missing: differences(&miss.lacks),
    }
}

fn nearest_rule(miss: &RuleMiss) -> admin::NearestRule {
    admin::NearestRule {
        rule: miss.rule.to_string(),
        reason: miss.why.reason().to_owned(),
        why: miss.why.to_string(),
        missing: differences(&miss.lacks),
    }
}

fn differences(lacks: &[Lack]) -> Vec<admin::Difference> {
    let difference = |lack: &Lack| admin::Difference {
        wanted: Some(selector::write(&lack.wanted)),
        has: lack.has.iter().map(selector::write).collect(),
    };
    lacks.iter().map(difference).collect()
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
