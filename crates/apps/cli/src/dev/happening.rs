//! What happens in the trust domain, from where it can be seen.

use muster_proto::muster::node::admin::v1::event::What;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use muster_proto::muster::node::admin::v1::{Attested, Event, Issued, Refused, WatchEventsRequest};
use muster_proto::muster::server::admin::v1::NumberedRecord;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;

use super::agent::Step;
use super::demo::Report;
use super::setup::Running;
use crate::audit;

/// One thing to tell.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// A caller was attested.
    Attested { at_ms: i64, what: Attested },
    /// An SVID was signed: the first of its entry, or one that follows another.
    Issued { at_ms: i64, what: Issued },
    /// A caller was refused.
    Refused { at_ms: i64, what: Refused },
    /// The node told more than we could read.
    Missed { events: u64 },
    /// The demonstration workload reports.
    Demo(Report),
    /// The demonstration agent reports.
    Agent(Step),
    /// An agent that is not ours wrote a line.
    AgentSaid(String),
    /// The agent closed its standard output.
    AgentSilent,
    /// The server recorded something of the agent's class.
    Recorded(Box<NumberedRecord>),
}

impl Happening {
    /// The line of `muster dev --json`.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Attested { at_ms, what } => json!({
                "event": "attested",
                "at_ms": at_ms,
                "pid": what.pid,
                "uid": what.uid,
                "gid": what.gid,
                "executable": what.executable,
                "level": what.level,
                "selectors": what.facts.iter().map(|fact| json!({
                    "selector": selector(fact.selector.as_ref()),
                    "how": fact.how,
                })).collect::<Value>(),
            }),
            Self::Issued { at_ms, what } => json!({
                "event": if what.previous_serial_number.is_empty() { "issued" } else { "rotated" },
                "at_ms": at_ms,
                "entry_id": what.entry_id,
                "spiffe_id": what.spiffe_id,
                "serial_number": what.serial_number,
                "previous_serial_number": what.previous_serial_number,
                "not_before": seconds(what.not_before.as_ref()),
                "not_after": seconds(what.not_after.as_ref()),
                "authority_id": what.authority_id,
                "renew_at_ms": millis(what.renew_at.as_ref()),
            }),
            Self::Refused { at_ms, what } => json!({
                "event": "refused",
                "at_ms": at_ms,
                "pid": what.pid,
                "uid": what.uid,
                "reason": what.reason,
            }),
            Self::Missed { events } => json!({ "event": "missed", "events": events }),
            Self::Demo(Report::Received {
                spiffe_id,
                serial_number,
                not_before,
                not_after,
                verified,
                at_ms,
            }) => json!({
                "event": "received",
                "at_ms": at_ms,
                "spiffe_id": spiffe_id,
                "serial_number": serial_number,
                "not_before": not_before,
                "not_after": not_after,
                "verified": verified.is_ok(),
                "fault": verified.as_ref().err(),
            }),
            Self::Demo(Report::Waiting { reason }) => {
                json!({ "event": "waiting", "reason": reason })
            }
            Self::Agent(step) => {
                let mut line = Map::from_iter([("event".to_owned(), json!("agent"))]);
                if let Ok(Value::Object(step)) = serde_json::to_value(step) {
                    line.extend(step);
                }
                Value::Object(line)
            }
            Self::AgentSaid(line) => json!({ "event": "agent_said", "line": line }),
            Self::AgentSilent => json!({ "event": "agent_silent" }),
            Self::Recorded(record) => {
                json!({ "event": "recorded", "record": audit::shape(record) })
            }
        }
    }
}

/// The first line of `muster dev --json`.
pub(super) fn ready(running: &Running) -> Value {
    json!({
        "event": "ready",
        "trust_domain": running.trust_domain.as_str(),
        "server_address": running.server_address,
        "server_admin_socket": running.server_admin_socket,
        "workload_socket": running.workload_socket,
        "node_admin_socket": running.node_admin_socket,
        "broker_socket": running.broker_socket,
        "node_id": running.node_id,
        "server_pid": running.server_pid,
        "node_pid": running.node_pid,
    })
}

/// Opens the node's stream of events. What happens after this returned is not missed.
pub(super) async fn watch_node(
    mut client: NodeAdminClient<Channel>,
) -> Result<Streaming<Event>, tonic::Status> {
    Ok(client
        .watch_events(WatchEventsRequest {})
        .await?
        .into_inner())
}

/// Passes the node's events on until the stream ends.
pub(super) async fn forward_node(mut events: Streaming<Event>, to: mpsc::Sender<Happening>) {
    while let Ok(Some(event)) = events.message().await {
        let at_ms = millis(event.at.as_ref()).unwrap_or_default();
        let happening = match event.what {
            Some(What::Attested(what)) => Happening::Attested { at_ms, what },
            Some(What::Issued(what)) => Happening::Issued { at_ms, what },
            Some(What::Refused(what)) => Happening::Refused { at_ms, what },
            Some(What::Missed(missed)) => Happening::Missed {
                events: missed.events,
            },
            // A newer node has more to say than we can tell.
            None => continue,
        };
        if to.send(happening).await.is_err() {
            return;
        }
    }
}

/// Passes the demonstration workload's reports on until it ends.
pub(super) async fn forward_demo(stdout: ChildStdout, to: mpsc::Sender<Happening>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(report) = serde_json::from_str(&line)
            && to.send(Happening::Demo(report)).await.is_err()
        {
            return;
        }
    }
}

/// Passes on what the agent reports until it closes its standard output.
pub(super) async fn forward_agent(stdout: ChildStdout, to: mpsc::Sender<Happening>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let said = match serde_json::from_str(&line) {
            Ok(step) => Happening::Agent(step),
            Err(_) => Happening::AgentSaid(line),
        };
        if to.send(said).await.is_err() {
            return;
        }
    }
    // Whoever would hear it may be gone.
    let _gone = to.send(Happening::AgentSilent).await.is_err();
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: Option<&Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds)
}

/// Milliseconds since 1970.
pub(super) fn millis(time: Option<&Timestamp>) -> Option<i64> {
    time.map(|time| {
        time.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(time.nanos / 1_000_000))
    })
}

/// A selector as people write it.
pub(super) fn selector(selector: Option<&muster_proto::spire::api::types::Selector>) -> String {
    selector
        .map(|selector| format!("{}:{}", selector.r#type, selector.value))
        .unwrap_or_default()
}
