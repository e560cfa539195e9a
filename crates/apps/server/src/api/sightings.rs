//! `muster.agent.v1.Sightings` for operators, and `muster.node.v1.NodeSightings` for nodes: what looks
//! like agents on nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_audit::Event;
use muster_model::{
    FieldError, Note, Sighted, Sighting, SightingId, SightingKey, SightingKind, SightingState,
    SpiffeId, TextFault,
};
use muster_policy::{AcknowledgeSighting, GetSighting, ListSightings, ReportSightings};
use muster_proto::muster::agent::v1::{self, sightings_server};
use muster_proto::muster::node::v1 as node_v1;
use muster_proto::muster::node::v1::node_sightings_server;
use muster_roll::Roll;
use muster_roll::agents::sightings::{self, SightingFilter};
use muster_wire::agent::{instant, one, set};
use muster_wire::{selector, sighting};
use tonic::{Code, Request, Response, Status};

use crate::agents::refusal;
use crate::api::entry_list::page_limit;
use crate::api::registry::by;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// The most that a node may tell at once.
const MOST: usize = 1000;

/// The service for operators.
pub(crate) struct SightingsService(pub Arc<Server>);

/// The service for nodes.
pub(crate) struct NodeSightingsService(pub Arc<Server>);

#[tonic::async_trait]
impl sightings_server::Sightings for SightingsService {
    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/sightings.rs`, `edge/wire/sighting.rs`.
    async fn list_sightings(
        &self,
        request: Request<v1::ListSightingsRequest>,
    ) -> Result<Response<v1::ListSightingsResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<ListSightings>, message: v1::ListSightingsRequest| {
                let filter = read_filter(&message).map_err(|error| field(&error))?;
                let after = match message.page_token.split_once(' ') {
                    None if message.page_token.is_empty() => None,
                    None => return Err(not_found(&message.page_token, "")),
                    Some((node, key)) => Some(id(node, key)?),
                };
                let limit = page_limit(message.page_size)?;
                let sightings = op.roll.agents().sightings();
                let page = sightings.list(&filter, after.as_ref(), limit);
                Ok(v1::ListSightingsResponse {
                    sightings: page.rows.iter().map(|row| write(&op.roll, row)).collect(),
                    next_page_token: page.next.map_or_else(String::new, |id| id.to_string()),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/sightings.rs`, `edge/wire/sighting.rs`.
    async fn get_sighting(
        &self,
        request: Request<v1::GetSightingRequest>,
    ) -> Result<Response<v1::Sighting>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<GetSighting>, message: v1::GetSightingRequest| {
                let row = existing(&op.roll, &message.node_id, &message.key)?;
                Ok(write(&op.roll, row))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/sightings.rs`, `apps/server/writer.rs`.
    async fn acknowledge_sighting(
        &self,
        request: Request<v1::AcknowledgeSightingRequest>,
    ) -> Result<Response<v1::Sighting>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<AcknowledgeSighting>, message: v1::AcknowledgeSightingRequest| {
                let why = one("reason", &message.reason, Note::parse).map_err(|e| field(&e))?;
                if why.as_str().is_empty() {
                    return Err(refusal(
                        Code::InvalidArgument,
                        "say why it is left as it is: a reason for the record is missing",
                        "REASON_MISSING",
                    ));
                }
                let written = self.0.roll.write(move |roll, transaction| {
                    let row = existing(roll, &message.node_id, &message.key)?;
                    if row.gone_at.is_some() {
                        return Err(refusal(
                            Code::FailedPrecondition,
                            "no such process runs any longer: there is nothing to acknowledge",
                            "SIGHTING_GONE",
                        ));
                    }
                    let principal = op.permit.principal();
                    let row = sightings::acknowledged(row, by(principal), why, op.now);
                    let event = Event::AgentSightingAcknowledged;
                    let said = crate::sightings::of(principal, &row, event, op.now);
                    transaction.audit(said.with("reason", message.reason));
                    let answer = write(roll, &row);
                    transaction.put_sighting(&op.permit, row);
                    Ok(answer)
                });
                written.await.map_err(|error| errors::write(&error))?
            },
        )
        .await
    }
}

#[tonic::async_trait]
impl node_sightings_server::NodeSightings for NodeSightingsService {
    /// # Path
    ///
    /// `core/policy` (nodes may), `edge/wire/sighting.rs`, `core/roll/agents/sightings.rs` (what is
    /// new), `apps/server/sightings.rs`.
    async fn report_sightings(
        &self,
        request: Request<node_v1::ReportSightingsRequest>,
    ) -> Result<Response<node_v1::ReportSightingsResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<ReportSightings>, message: node_v1::ReportSightingsRequest| {
                let node = op.caller_id()?.clone();
                let told = read_report(&message)?;
                let most = self.0.sightings.per_node;
                // Most of what is told is known: that is seen without the writer.
                let settled = sightings::settle(&op.roll, &node, told.clone(), most, op.now);
                if settled.changed.is_empty() && settled.forgotten.is_empty() {
                    let rows = op.roll.agents().sightings().of(&node);
                    return Ok(answer(
                        rows.map(AsRef::as_ref),
                        settled.kept,
                        settled.dropped,
                    ));
                }
                let written = self.0.roll.write(move |roll, transaction| {
                    let settled = sightings::settle(roll, &node, told, most, op.now);
                    crate::sightings::put(roll, transaction, &op.permit, &node, &settled, op.now);
                    // Those that change as they will be, then those that do not.
                    let changed: BTreeSet<&SightingKey> = settled
                        .changed
                        .iter()
                        .map(|changed| &changed.row.seen.key)
                        .collect();
                    let others = roll.agents().sightings().of(&node);
                    let others = others.filter(|row| !changed.contains(&row.seen.key));
                    let rows = settled.changed.iter().map(|changed| &changed.row);
                    answer(
                        rows.chain(others.map(AsRef::as_ref)),
                        settled.kept,
                        settled.dropped,
                    )
                });
                written.await.map_err(|error| errors::write(&error))
            },
        )
        .await
    }
}

fn answer<'a>(
    rows: impl Iterator<Item = &'a Sighting>,
    kept: usize,
    dropped: usize,
) -> node_v1::ReportSightingsResponse {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    node_v1::ReportSightingsResponse {
        kept: count(kept),
        dropped: count(dropped),
        standings: rows
            .filter(|row| row.gone_at.is_none())
            .map(|row| (row.seen.key.to_string(), row.standing.to_string()))
            .collect(),
    }
}

/// Everything is read before anything is written.
fn read_report(message: &node_v1::ReportSightingsRequest) -> Result<Vec<Sighted>, Status> {
    let count = message.sightings.len();
    if count > MOST {
        return Err(refusal(
            Code::InvalidArgument,
            format!("{count} sightings at once; tell at most {MOST}"),
            "TOO_MANY_SIGHTINGS",
        ));
    }
    let mut keys = BTreeSet::new();
    let mut told = Vec::with_capacity(count);
    for one in &message.sightings {
        let seen = sighting::read_sighted(one).map_err(|error| field(&error))?;
        if !keys.insert(seen.key.clone()) {
            return Err(refusal(
                Code::InvalidArgument,
                format!("the key {} is there twice", seen.key),
                "INVALID_FIELD",
            ));
        }
        told.push(seen);
    }
    Ok(told)
}

fn field(error: &FieldError) -> Status {
    refusal(Code::InvalidArgument, error.to_string(), "INVALID_FIELD")
}

fn read_filter(message: &v1::ListSightingsRequest) -> Result<SightingFilter, FieldError> {
    let words = |words| TextFault::Choice { words };
    let node = |text: &str| SpiffeId::parse(text).map_err(|_| TextFault::Prose { most: 2048 });
    let kind = |word: &str| SightingKind::from_word(word).ok_or_else(|| words(SightingKind::WORDS));
    let state =
        |word: &str| SightingState::from_word(word).ok_or_else(|| words(SightingState::WORDS));
    Ok(SightingFilter {
        unregistered: message.unregistered,
        node: match message.node_id.as_str() {
            "" => None,
            text => Some(one("node_id", text, node)?),
        },
        kinds: set("kinds", &message.kinds, kind)?,
        states: set("states", &message.states, state)?,
        since: message
            .since
            .map(|at| instant("since", Some(at)))
            .transpose()?,
    })
}

fn write(roll: &Roll, row: &Sighting) -> v1::Sighting {
    let register = sightings::proposal(roll, row).map(|proposal| v1::Registration {
        parent_id: row.node.to_string(),
        spiffe_id: proposal.id.to_string(),
        selectors: proposal.selectors.iter().map(selector::write).collect(),
        class: proposal
            .class
            .map(|class| class.to_string())
            .unwrap_or_default(),
        caution: proposal.caution.to_owned(),
    });
    v1::Sighting {
        register,
        providers_not_allowed: sightings::not_allowed(roll, row)
            .iter()
            .map(ToString::to_string)
            .collect(),
        ..sighting::write_sighting(row)
    }
}

fn id(node: &str, key: &str) -> Result<SightingId, Status> {
    let node_id = SpiffeId::parse(node).map_err(|_| not_found(node, key))?;
    let parsed = SightingKey::parse(key).map_err(|_| not_found(node, key))?;
    Ok(SightingId {
        node: node_id,
        key: parsed,
    })
}

fn existing<'r>(roll: &'r Roll, node: &str, key: &str) -> Result<&'r Arc<Sighting>, Status> {
    let found = roll.agents().sightings().sighting(&id(node, key)?);
    found.ok_or_else(|| not_found(node, key))
}

fn not_found(node: &str, key: &str) -> Status {
    let shown = |text: &str| text.chars().take(128).collect::<String>();
    refusal(
        Code::NotFound,
        format!(
            "node {:?} has no sighting {:?}; `muster agent sightings` lists them",
            shown(node),
            shown(key)
        ),
        "SIGHTING_NOT_FOUND",
    )
}
