//! Agents that run, or ran.

use std::sync::Arc;

use muster_audit::Event;
use muster_model::{ClassName, FieldError, InstanceState, SpiffeId, TextFault};
use muster_policy::{Action, GetInstance, Instances, ListInstances, Writes};
use muster_proto::muster::agent::v1;
use muster_roll::agents::instance::{self, InstanceError};
use muster_roll::agents::lifecycle::InstanceStep;
use muster_roll::agents::{Agents, InstanceFilter};
use muster_wire::agent;
use tonic::{Code, Request, Response, Status};

use super::{field, instance_refusal, note, shown};
use crate::agents::refusal;
use crate::api::entry_list::page_limit;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// Lists agents.
pub(super) async fn list(
    server: &Arc<Server>,
    request: Request<v1::ListInstancesRequest>,
) -> Result<Response<v1::ListInstancesResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ListInstances>, message: v1::ListInstancesRequest| {
            let filter = read_filter(&message).map_err(|error| field(&error))?;
            let node = id("node_id", &message.node_id)?;
            let filter = InstanceFilter { node, ..filter };
            let after = id("page_token", &message.page_token)?;
            let limit = page_limit(message.page_size)?;
            let page = op
                .roll
                .agents()
                .list_instances(&filter, after.as_ref(), limit);
            Ok(v1::ListInstancesResponse {
                instances: page
                    .rows
                    .iter()
                    .map(|row| agent::write_instance(row))
                    .collect(),
                next_page_token: page.next.map_or_else(String::new, |id| id.to_string()),
            })
        },
    )
    .await
}

fn read_filter(message: &v1::ListInstancesRequest) -> Result<InstanceFilter, FieldError> {
    let state = |word: &str| {
        InstanceState::from_word(word).ok_or(TextFault::Choice {
            words: InstanceState::WORDS,
        })
    };
    Ok(InstanceFilter {
        class: agent::optional("class", &message.class, ClassName::parse)?,
        node: None,
        states: agent::set("states", &message.states, state)?,
    })
}

/// Reads an agent.
pub(super) async fn show(
    server: &Arc<Server>,
    request: Request<v1::GetInstanceRequest>,
) -> Result<Response<v1::AgentInstance>, Status> {
    operate(
        server,
        request,
        async |op: Operation<GetInstance>, message: v1::GetInstanceRequest| {
            existing(op.roll.agents(), &message.spiffe_id)
                .map(agent::write_instance)
                .map_err(|error| instance_refusal(&error))
        },
    )
    .await
}

/// Takes a step in the life of an agent.
pub(super) async fn step<A: Action + Writes<Instances> + Send + 'static>(
    server: &Arc<Server>,
    request: Request<v1::InstanceStepRequest>,
    step: InstanceStep,
) -> Result<Response<v1::AgentInstance>, Status> {
    operate(
        server,
        request,
        async |op: Operation<A>, message: v1::InstanceStepRequest| {
            let why = note(&message.reason)?;
            let event = match step {
                InstanceStep::Quarantine => Event::AgentQuarantined,
                InstanceStep::Retire => Event::AgentRetired,
                InstanceStep::Release | InstanceStep::Seen => Event::AgentReleased,
                InstanceStep::NotSeen | InstanceStep::LoseNode => Event::AgentLost,
            };
            if why.as_str().is_empty() && step != InstanceStep::Release {
                return Err(refusal(
                    Code::InvalidArgument,
                    "say why: a reason for the record is missing",
                    "REASON_MISSING",
                ));
            }
            let written = server.roll.write(move |roll, transaction| {
                let done = existing(roll.agents(), &message.spiffe_id)
                    .and_then(|known| instance::step(known, step));
                let row = done.map_err(|error| instance_refusal(&error))?;
                transaction.audit(
                    op.record(event, row.id.as_str())
                        .with("class", row.class.as_str())
                        .with("state", row.state.as_str())
                        .with("reason", why.as_str()),
                );
                let answer = agent::write_instance(&row);
                transaction.put_instance(&op.permit, row);
                Ok(answer)
            });
            written.await.map_err(|error| errors::write(&error))?
        },
    )
    .await
}

fn existing<'a>(
    agents: &'a Agents,
    id: &str,
) -> Result<&'a muster_model::AgentInstance, InstanceError> {
    SpiffeId::parse(id)
        .ok()
        .and_then(|id| agents.instance(&id))
        .map(AsRef::as_ref)
        .ok_or_else(|| InstanceError::NotFound(shown(id)))
}

fn id(field: &str, text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    SpiffeId::parse(text).map(Some).map_err(|why| {
        let text = shown(text);
        let message = format!("invalid {field} {text:?}: a SPIFFE ID {why}");
        refusal(Code::InvalidArgument, message, "INVALID_FIELD")
    })
}
