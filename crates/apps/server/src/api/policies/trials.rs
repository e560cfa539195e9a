//! Sets tried on requests: what they decide, and what they would have decided otherwise.

use std::sync::Arc;

use muster_cedar::{
    Comparison, Outcome, PolicySet, Recorded, RecordedRequest, Verdict, simulate as made_again,
};
use muster_model::Timestamp;
use muster_policy::{ComparePolicies, ReadPolicyRecord, SimulatePolicies};
use muster_proto::muster::agent::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Part, count, gather, loaded, stored};
use crate::operation::{Operation, operate};
use crate::policies::{principal_id, resource_id};
use crate::server::Server;

/// How many changes of a kind an answer names; it counts them all.
const SHOWN: usize = 1000;
/// Answers that wait to be taken.
const WAITING: usize = 64;

impl Part for v1::SimulatePoliciesRequest {
    fn take(&mut self) -> (String, Vec<String>) {
        (
            std::mem::take(&mut self.text),
            std::mem::take(&mut self.lines),
        )
    }
}

impl Part for v1::ComparePoliciesRequest {
    fn take(&mut self) -> (String, Vec<String>) {
        (
            std::mem::take(&mut self.text),
            std::mem::take(&mut self.lines),
        )
    }
}

/// Has a set decide requests.
pub(super) async fn simulate(
    server: &Arc<Server>,
    request: Request<Streaming<v1::SimulatePoliciesRequest>>,
) -> Result<Response<ReceiverStream<Result<v1::SimulatedDecision, Status>>>, Status> {
    operate(
        server,
        request,
        async |_: Operation<SimulatePolicies>, mut parts: Streaming<_>| {
            let asked = gather::<v1::SimulatePoliciesRequest>(&mut parts).await?;
            let set = candidate(server, asked.text, asked.first.version).await?;
            let lines = lines(server, asked.lines, asked.first.last);
            let (answers, receiver) = mpsc::channel(WAITING);
            let place = server.policies.place().await?;
            tokio::task::spawn_blocking(move || {
                for (at, line) in lines.iter().enumerate() {
                    let decided = decide_line(&set, at, line);
                    if answers.blocking_send(Ok(decided)).is_err() {
                        break;
                    }
                }
                drop(place);
            });
            Ok(ReceiverStream::new(receiver))
        },
    )
    .await
}

/// Finds the decisions that a set would have made otherwise.
pub(super) async fn compare(
    server: &Arc<Server>,
    request: Request<Streaming<v1::ComparePoliciesRequest>>,
) -> Result<Response<v1::ComparePoliciesResponse>, Status> {
    operate(
        server,
        request,
        async |_: Operation<ComparePolicies>, mut parts: Streaming<_>| {
            let asked = gather::<v1::ComparePoliciesRequest>(&mut parts).await?;
            let set = candidate(server, asked.text, asked.first.version).await?;
            let lines = lines(server, asked.lines, asked.first.last);
            let place = server.policies.place().await?;
            let comparing = tokio::task::spawn_blocking(move || {
                let found = compare_lines(&set, &lines);
                drop(place);
                found
            });
            comparing
                .await
                .map_err(|error| Status::internal(format!("the comparison failed: {error}")))
        },
    )
    .await
}

/// The decisions on record.
pub(super) async fn read_record(
    server: &Arc<Server>,
    request: Request<v1::ReadPolicyRecordRequest>,
) -> Result<Response<ReceiverStream<Result<v1::RecordedDecision, Status>>>, Status> {
    operate(
        server,
        request,
        async |_: Operation<ReadPolicyRecord>, message: v1::ReadPolicyRecordRequest| {
            let lines = lines(server, Vec::new(), message.last);
            let (answers, receiver) = mpsc::channel(WAITING);
            tokio::spawn(async move {
                for line in lines {
                    let line = line.to_string();
                    let sent = answers.send(Ok(v1::RecordedDecision { line })).await;
                    if sent.is_err() {
                        break;
                    }
                }
            });
            Ok(ReceiverStream::new(receiver))
        },
    )
    .await
}

/// The set that decides: a text, a stored version, or what is in force.
async fn candidate(server: &Server, text: String, version: u64) -> Result<Arc<PolicySet>, Status> {
    if !text.is_empty() {
        return loaded(server, text, "trial").await;
    }
    if version == 0 {
        return Ok(server.policies.current());
    }
    let text = stored(server, version).await?;
    loaded(server, text, "trial").await
}

/// What was given, or what the server recorded.
fn lines(server: &Server, given: Vec<String>, last: u64) -> Vec<Arc<str>> {
    if given.is_empty() {
        return server
            .policies
            .recorded(usize::try_from(last).unwrap_or(usize::MAX));
    }
    given.into_iter().map(Arc::from).collect()
}

/// A line of a record, or a request alone.
fn read_request(line: &str) -> Result<RecordedRequest, String> {
    match serde_json::from_str::<Recorded>(line) {
        Ok(recorded) => Ok(recorded.request),
        Err(not_recorded) => serde_json::from_str::<RecordedRequest>(line).map_err(|error| {
            // A recorded decision is known by its outcome; the error is that of the form it has.
            if line.contains("\"outcome\"") {
                not_recorded.to_string()
            } else {
                error.to_string()
            }
        }),
    }
}

fn name_of_line(at: usize) -> String {
    format!("line {}", at.saturating_add(1))
}

fn decide_line(set: &PolicySet, at: usize, line: &str) -> v1::SimulatedDecision {
    let request = match read_request(line) {
        Ok(request) => request,
        Err(why) => {
            return v1::SimulatedDecision {
                id: name_of_line(at),
                undecidable: why,
                ..v1::SimulatedDecision::default()
            };
        }
    };
    let decided = request.decide(set);
    let (outcome, undecidable) = match decided {
        Ok(decision) => (Some(write_outcome(&decision.into())), String::new()),
        Err(error) => (None, error.to_string()),
    };
    v1::SimulatedDecision {
        outcome,
        undecidable,
        at: Some(time(&request)),
        action: request.action.as_str().to_owned(),
        principal: principal_id(&request.principal).to_owned(),
        resource: resource_id(&request.resource).to_owned(),
        id: request.id,
    }
}

fn compare_lines(set: &PolicySet, lines: &[Arc<str>]) -> v1::ComparePoliciesResponse {
    let mut found = v1::ComparePoliciesResponse::default();
    for (at, line) in lines.iter().enumerate() {
        let recorded: Recorded = match serde_json::from_str(line) {
            Ok(recorded) => recorded,
            Err(error) => {
                undecidable(&mut found, name_of_line(at), error.to_string());
                continue;
            }
        };
        let pair = (recorded.request, recorded.outcome);
        let one = made_again(set, std::iter::once(&pair));
        add(&mut found, one, &pair.0);
    }
    found
}

fn undecidable(found: &mut v1::ComparePoliciesResponse, id: String, why: String) {
    found.undecidable_count = found.undecidable_count.saturating_add(1);
    if found.undecidable.len() < SHOWN {
        found.undecidable.push(v1::UndecidableRequest { id, why });
    }
}

/// Adds what became of one request.
fn add(found: &mut v1::ComparePoliciesResponse, one: Comparison, request: &RecordedRequest) {
    found.decided = found.decided.saturating_add(count(one.decided));
    for (id, why) in one.undecidable {
        undecidable(found, id, why);
    }
    let kinds = [
        (
            one.newly_allowed,
            &mut found.newly_allowed_count,
            &mut found.newly_allowed,
        ),
        (
            one.newly_refused,
            &mut found.newly_refused_count,
            &mut found.newly_refused,
        ),
        (
            one.otherwise,
            &mut found.otherwise_count,
            &mut found.otherwise,
        ),
    ];
    for (changes, number, list) in kinds {
        for change in changes {
            *number = number.saturating_add(1);
            if list.len() < SHOWN {
                list.push(v1::PolicyChange {
                    id: change.id,
                    at: Some(time(request)),
                    action: change.action.as_str().to_owned(),
                    principal: principal_id(&request.principal).to_owned(),
                    resource: resource_id(&request.resource).to_owned(),
                    from: Some(write_outcome(&change.from)),
                    to: Some(write_outcome(&change.to)),
                });
            }
        }
    }
}

fn time(request: &RecordedRequest) -> prost_types::Timestamp {
    muster_wire::agent::write_time(Timestamp::from_unix_millis(request.at))
}

fn write_outcome(outcome: &Outcome) -> v1::PolicyOutcome {
    v1::PolicyOutcome {
        verdict: match outcome.verdict {
            Verdict::Allow => "allow",
            Verdict::Refuse => "refuse",
        }
        .to_owned(),
        reason: outcome.reason.as_str().to_owned(),
        policies: outcome.policies.clone(),
        failures: outcome
            .failures
            .iter()
            .map(|failure| match &failure.policy {
                Some(policy) => format!("{policy}: {}", failure.message),
                None => failure.message.clone(),
            })
            .collect(),
    }
}
