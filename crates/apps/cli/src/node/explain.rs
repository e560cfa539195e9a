//! `muster node explain`: why a process has no identity, asked of its node or of the server.

use clap::{ArgGroup, Args};
use muster_model::{Selector, SpiffeId};
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::explain_response::Verdict;
use muster_proto::muster::server::admin::v1 as server_admin;
use muster_proto::muster::server::admin::v1::explain_node_response::Standing;
use muster_proto::muster::server::admin::v1::server_admin_client::ServerAdminClient;
use muster_rt::{Clock, SystemClock};
use muster_wire::{id, selector};
use serde_json::{Value, json};

use super::local::NodeArgs;
use crate::failure::{Exit, Failure};
use crate::json;
use crate::output::Output;
use crate::server_api::{MAX_MESSAGE, ServerArgs, id_text, selector_texts};
use crate::time::{distance, rfc3339};

/// Why a process has, or has not, an identity: on its node by pid, or from the server by node and
/// selectors.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whom").required(true).args(["pid", "node"]))]
pub(crate) struct Explain {
    /// The process, by its number on this node
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// SPIFFE ID of a node: ask the server
    #[arg(long, value_name = "ID", requires = "selector")]
    node: Option<SpiffeId>,
    /// What the process was attested as on that node, such as unix:uid:1000; repeat for more
    #[arg(long, value_name = "TYPE:VALUE", requires = "node")]
    selector: Vec<Selector>,
    #[command(flatten)]
    local: NodeArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(explain: &Explain, output: Output) -> Result<(), Failure> {
    match (explain.pid, &explain.node) {
        (Some(pid), _) => on_node(pid, &explain.local, output).await,
        (None, Some(node)) => from_server(node, explain, output).await,
        (None, None) => Err(Failure::usage("give a PID, or --node and --selector")),
    }
}

async fn on_node(pid: i32, local: &NodeArgs, output: Output) -> Result<(), Failure> {
    let request = admin::ExplainRequest { pid, nearest: 0 };
    let answer = local
        .client()
        .await?
        .explain(local.request(request))
        .await
        .map_err(|status| Failure::of_call(&format!("explain process {pid}"), &status))?
        .into_inner();
    output.answer(
        || answer_json(pid, &answer),
        || answer_text(&answer, output),
    )?;
    verdict(answer.verdict() == Verdict::Served)
}

/// The exit code says whether the process is served, so that scripts need not read.
fn verdict(served: bool) -> Result<(), Failure> {
    if served {
        Ok(())
    } else {
        Err(Failure::told(Exit::Denied))
    }
}

fn answer_text(answer: &admin::ExplainResponse, output: Output) -> String {
    let now = SystemClock::new().now().wall;
    let mut text = format!("{}\n\n", output.bold(&answer.summary));
    if let Some(process) = &answer.process {
        text.push_str(&output.fields(&[
            ("Process", format!("{} {}", process.pid, process.executable)),
            ("User", format!("{}:{}", process.uid, process.gid)),
            (
                "Node",
                if answer.in_step {
                    format!("in step with its server, revision {}", answer.revision)
                } else {
                    let since = answer.last_in_step.map_or_else(
                        || "never since it started".to_owned(),
                        |at| distance(at.seconds, now),
                    );
                    format!("not in step with its server (last: {since})")
                },
            ),
        ]));
        text.push('\n');
        let facts = process.facts.iter().filter_map(|fact| {
            let selector = fact.selector.as_ref()?;
            Some(vec![selector_text(selector), fact.how.clone()])
        });
        let facts: Vec<_> = facts.collect();
        text.push_str(&output.table(
            &["SELECTOR", "KNOWN FROM"],
            &facts,
            "No attestor knows anything about the process.",
        ));
        text.push('\n');
        let failed: Vec<_> = answer
            .left_out
            .iter()
            .map(|failed| vec![failed.attestor.clone(), failed.why.clone()])
            .collect();
        if !failed.is_empty() {
            text.push_str(&output.table(&["ATTESTOR THAT FAILED", "WHY"], &failed, ""));
            text.push('\n');
        }
    }
    if !answer.identities.is_empty() {
        let rows: Vec<_> = answer
            .identities
            .iter()
            .map(|i| super::debug::row(i, now))
            .collect();
        text.push_str(&output.table(super::debug::HEADING, &rows, ""));
        text.push('\n');
    }
    let misses: Vec<_> = answer
        .nearest
        .iter()
        .map(|near| {
            let missing = near.missing.iter().map(difference);
            vec![
                near.entry_id.clone(),
                near.spiffe_id.clone(),
                missing.collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    if !misses.is_empty() {
        text.push_str(&output.table(
            &["ENTRY THAT DOES NOT MATCH", "IDENTITY", "WANTS"],
            &misses,
            "",
        ));
        text.push('\n');
    }
    let rules: Vec<_> = answer
        .nearest_rules
        .iter()
        .map(|near| vec![near.rule.clone(), near.why.clone()])
        .collect();
    if !rules.is_empty() {
        text.push_str(&output.table(&["RULE THAT GIVES NO NAME", "WHY"], &rules, ""));
    }
    for refusal in answer.refusals.iter().take(5) {
        let at = refusal.at.map(|at| rfc3339(at.seconds)).unwrap_or_default();
        text.push_str(&["refused ", &at, ": ", &refusal.reason, "\n"].concat());
    }
    text
}

fn difference(difference: &admin::Difference) -> String {
    let wanted = difference
        .wanted
        .as_ref()
        .map(selector_text)
        .unwrap_or_default();
    let has: Vec<String> = difference.has.iter().map(selector_text).collect();
    if has.is_empty() {
        wanted
    } else {
        format!("{wanted} (has {})", has.join(", "))
    }
}

fn selector_text(selector: &muster_proto::spire::api::types::Selector) -> String {
    format!("{}:{}", selector.r#type, selector.value)
}

fn answer_json(pid: i32, answer: &admin::ExplainResponse) -> Value {
    let seconds = |at: Option<prost_types::Timestamp>| at.map(|at| at.seconds);
    json!({
        "pid": pid,
        "verdict": word(answer.verdict().as_str_name()),
        "summary": answer.summary,
        "attestation_error": answer.attestation_error,
        "executable": answer.process.as_ref().map(|p| p.executable.clone()),
        "uid": answer.process.as_ref().map(|p| p.uid),
        "gid": answer.process.as_ref().map(|p| p.gid),
        "selectors": answer.process.iter().flat_map(|p| &p.facts)
            .filter_map(|fact| fact.selector.as_ref()).map(selector_text).collect::<Vec<_>>(),
        "left_out": answer.left_out.iter().map(|failed| json!({
            "attestor": failed.attestor, "why": failed.why,
        })).collect::<Value>(),
        "identities": answer.identities.iter().map(super::debug::identity).collect::<Value>(),
        "nearest": answer.nearest.iter().map(|near| json!({
            "entry_id": near.entry_id,
            "spiffe_id": near.spiffe_id,
            "missing": near.missing.iter().map(|d| json!({
                "wanted": d.wanted.as_ref().map(selector_text),
                "has": d.has.iter().map(selector_text).collect::<Vec<_>>(),
            })).collect::<Value>(),
        })).collect::<Value>(),
        "nearest_rules": answer.nearest_rules.iter().map(|near| json!({
            "rule": near.rule, "reason": near.reason, "why": near.why,
        })).collect::<Value>(),
        "held_calls": answer.held_calls,
        "refusals": answer.refusals.iter().map(|r| json!({
            "at": seconds(r.at), "reason": r.reason,
        })).collect::<Value>(),
        "connected": answer.connected,
        "in_step": answer.in_step,
        "revision": answer.revision,
        "last_in_step": seconds(answer.last_in_step),
    })
}

/// A protobuf constant as a word of ours.
pub(super) fn word(name: &str) -> String {
    name.to_ascii_lowercase()
}

async fn from_server(node: &SpiffeId, explain: &Explain, output: Output) -> Result<(), Failure> {
    let request = server_admin::ExplainNodeRequest {
        node_id: Some(id::write(node)),
        selectors: explain.selector.iter().map(selector::write).collect(),
        limit: 0,
    };
    let channel = explain.server.connect().await?;
    let answer = ServerAdminClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .explain_node(explain.server.request(request))
        .await
        .map_err(|status| Failure::of_call(&format!("explain {node}"), &status))?
        .into_inner();
    output.answer(
        || server_json(node, &answer),
        || server_text(node, &answer, output),
    )?;
    verdict(answer.standing() == Standing::Active && !answer.matching.is_empty())
}

fn server_text(
    node: &SpiffeId,
    answer: &server_admin::ExplainNodeResponse,
    output: Output,
) -> String {
    let mut text = format!("{}\n\n", output.bold(&server_summary(node, answer)));
    text.push_str(&output.fields(&[
        (
            "Node",
            format!("{node}: {}", word(answer.standing().as_str_name())),
        ),
        (
            "Node selectors",
            selector_texts(&answer.node_selectors).join(", "),
        ),
        ("Entries it may see", answer.authorized_entries.to_string()),
        ("Revision of the roll", answer.revision.to_string()),
    ]));
    let row = |entry: &muster_proto::spire::api::types::Entry| {
        vec![
            entry.id.clone(),
            id_text(entry.spiffe_id.as_ref()),
            id_text(entry.parent_id.as_ref()),
        ]
    };
    for (heading, entries) in [
        ("ENTRY THAT MATCHES", &answer.matching),
        ("ENTRY OF ANOTHER PARENT", &answer.not_authorized),
    ] {
        if !entries.is_empty() {
            let rows: Vec<_> = entries.iter().map(row).collect();
            text.push('\n');
            text.push_str(&output.table(&[heading, "IDENTITY", "PARENT"], &rows, ""));
        }
    }
    let misses: Vec<_> = answer
        .nearest
        .iter()
        .filter_map(|near| {
            let entry = near.entry.as_ref()?;
            Some(vec![
                entry.id.clone(),
                id_text(entry.spiffe_id.as_ref()),
                selector_texts(&near.missing).join(", "),
            ])
        })
        .collect();
    if !misses.is_empty() {
        text.push('\n');
        text.push_str(&output.table(
            &["ENTRY THAT DOES NOT MATCH", "IDENTITY", "WANTS"],
            &misses,
            "",
        ));
    }
    text
}

fn server_summary(node: &SpiffeId, answer: &server_admin::ExplainNodeResponse) -> String {
    match answer.standing() {
        Standing::Unknown | Standing::Unspecified => {
            format!("{node} is not attested: it may see nothing")
        }
        Standing::Banned => {
            format!("{node} is banned: it may see nothing; `muster node evict` lifts the ban")
        }
        Standing::Expired => format!(
            "the SVID of {node} has expired: the node has not been heard of for a while, and hears of no change"
        ),
        Standing::Active if !answer.matching.is_empty() => {
            let names: Vec<String> = answer
                .matching
                .iter()
                .map(|entry| id_text(entry.spiffe_id.as_ref()))
                .collect();
            format!(
                "such a process is entitled to {} on {node}",
                names.join(" and ")
            )
        }
        Standing::Active if !answer.withheld.is_empty() => {
            let reasons: Vec<String> = answer
                .withheld
                .iter()
                .map(|one| {
                    let id = id_text(one.entry.as_ref().and_then(|e| e.spiffe_id.as_ref()));
                    format!("{id} is withheld: {}", one.why)
                })
                .collect();
            format!("{}; see `muster agent class list`", reasons.join("; "))
        }
        Standing::Active => match answer.not_authorized.first() {
            Some(entry) => format!(
                "entry {} fits and is not for {node}: its parent {} is neither the node nor anything that the node answers to",
                entry.id,
                id_text(entry.parent_id.as_ref())
            ),
            None => format!("no entry fits such a process, on {node} or anywhere else"),
        },
    }
}

fn server_json(node: &SpiffeId, answer: &server_admin::ExplainNodeResponse) -> Value {
    json!({
        "node": node.as_str(),
        "standing": word(answer.standing().as_str_name()),
        "summary": server_summary(node, answer),
        "expires_at": answer.expires_at.map(|at| at.seconds),
        "revision": answer.revision,
        "node_selectors": json::selectors(&answer.node_selectors),
        "authorized_entries": answer.authorized_entries,
        "matching": answer.matching.iter().map(json::entry).collect::<Value>(),
        "not_authorized": answer.not_authorized.iter().map(json::entry).collect::<Value>(),
        "withheld": answer.withheld.iter().map(|one| json!({
            "entry": one.entry.as_ref().map(json::entry),
            "why": one.why,
        })).collect::<Value>(),
        "nearest": answer.nearest.iter().map(|near| json!({
            "entry": near.entry.as_ref().map(json::entry),
            "missing": json::selectors(&near.missing),
        })).collect::<Value>(),
    })
}
