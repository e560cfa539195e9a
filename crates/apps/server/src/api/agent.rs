//! `spire.api.server.agent.v1.Agent`: nodes, which SPIRE calls agents.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::Event;
use muster_crypto::{digest, random};
use muster_model::{EntryId, JoinToken, Node, SpiffeId};
use muster_policy as policy;
use muster_proto::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, BanAgentRequest, CountAgentsRequest,
    CountAgentsResponse, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest,
    ListAgentsRequest, ListAgentsResponse, PostStatusRequest, PostStatusResponse,
    RenewAgentRequest, RenewAgentResponse, agent_server,
};
use muster_proto::spire::api::types;
use muster_roll::rules::{self, EntryDraft, RawId};
use muster_roll::{Roll, node as lifecycle};
use muster_wire::trace::TraceId;
use muster_wire::{id, node as wire_node, status};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::attest;
use crate::api::entry_list::{count_node_filter, node_filter, page_limit};
use crate::api::node_svid::{self, Signed};
use crate::api::svid::parse_csr;
use crate::errors;
use crate::operation::{Operation, begin, operate};
use crate::server::Server;

/// The longest version that a node may report, in characters.
const MAX_VERSION: usize = 255;
/// The longest join token that an operator may choose, in bytes.
const MAX_TOKEN: usize = 255;

/// The service.
pub(crate) struct AgentService(pub Arc<Server>);

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    /// # Path
    ///
    /// `core/policy`, `core/roll` (filter and count).
    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::CountAgents>, message: CountAgentsRequest| {
                let filter = node_filter(count_node_filter(message.filter))?;
                Ok(CountAgentsResponse {
                    count: super::count(op.roll.list_nodes(&filter, None, 0).rows.len()),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll` (filter and page), `edge/wire/node.rs`.
    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::ListAgents>, message: ListAgentsRequest| {
                let filter = node_filter(message.filter)?;
                let after = match message.page_token.as_str() {
                    "" => None,
                    token => Some(SpiffeId::parse(token).map_err(|_| {
                        Status::invalid_argument(format!(
                            "page token \"{token}\" is not one of this server"
                        ))
                    })?),
                };
                let page =
                    op.roll
                        .list_nodes(&filter, after.as_ref(), page_limit(message.page_size)?);
                Ok(ListAgentsResponse {
                    agents: page
                        .rows
                        .iter()
                        .map(|node| wire_node::write(node, message.output_mask.as_ref()))
                        .collect(),
                    next_page_token: page.next.map_or_else(String::new, |id| id.to_string()),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll`, `edge/wire/node.rs`.
    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::GetAgent>, message: GetAgentRequest| {
                let id = node_id(server, message.id.as_ref())?;
                let node = op.roll.node(&id).ok_or_else(agent_not_found)?;
                Ok(wire_node::write(node, message.output_mask.as_ref()))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll/node.rs`, `apps/server/writer.rs`.
    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::DeleteAgent>, message: DeleteAgentRequest| {
                let id = node_id(server, message.id.as_ref())?;
                let written = server.roll.write(move |roll, transaction| {
                    roll.node(&id).ok_or_else(agent_not_found)?;
                    transaction.audit(op.record(Event::NodeEvicted, id.as_str()));
                    transaction.delete_node(&op.permit, id);
                    Ok(())
                });
                written.await.map_err(|error| errors::write(&error))?
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll/node.rs`, `apps/server/writer.rs`.
    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BanAgent>, message: BanAgentRequest| {
                let id = node_id(server, message.id.as_ref())?;
                let written = server.roll.write(move |roll, transaction| {
                    let node = roll.node(&id).ok_or_else(agent_not_found)?;
                    transaction.audit(op.record(Event::NodeBanned, id.as_str()));
                    transaction.put_node(&op.permit, lifecycle::banned(node));
                    Ok(())
                });
                written.await.map_err(|error| errors::write(&error))?
            },
        )
        .await
    }

    type AttestAgentStream = ReceiverStream<Result<AttestAgentResponse, Status>>;

    /// # Path
    ///
    /// `apps/server/api/attest.rs`, then the attestor; `core/roll/node.rs`.
    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let op = begin::<policy::AttestAgent>(
            &self.0,
            request.extensions(),
            TraceId::of(request.metadata()),
        )
        .await?;
        Ok(Response::new(attest::start(
            Arc::clone(&self.0),
            op,
            request.into_inner(),
        )))
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/node.rs`, `apps/server/signer.rs`.
    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::RenewAgent>, message: RenewAgentRequest| {
                let id = op.caller_id()?.clone();
                let params = message
                    .params
                    .ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
                let csr = parse_csr(&params.csr)?;
                let not_a_node = || Status::permission_denied("agent is not attested");
                let row = op.roll.node(&id).ok_or_else(not_a_node)?;
                lifecycle::may_renew(row).map_err(|refusal| {
                    refused("agent must reattest instead of renewing", refusal)
                })?;
                let Signed {
                    svid,
                    issued,
                    record,
                } = node_svid::sign(server, &op, &id, &csr.public_key, Event::NodeRenewed).await?;
                let written = server.roll.write(move |roll, transaction| {
                    let node = roll.node(&id).ok_or_else(not_a_node)?;
                    let node = lifecycle::after_renew(node, issued)
                        .map_err(|refusal| refused("the node can no longer renew", refusal))?;
                    transaction.audit(record);
                    transaction.put_node(&op.permit, node);
                    Ok::<_, Status>(())
                });
                written.await.map_err(|error| errors::write(&error))??;
                Ok(RenewAgentResponse { svid: Some(svid) })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll/rules.rs` (the alias entry), `apps/server/writer.rs`.
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::CreateJoinToken>, message: CreateJoinTokenRequest| {
                let ttl = u64::try_from(message.ttl)
                    .ok()
                    .filter(|ttl| *ttl > 0)
                    .ok_or_else(|| {
                        Status::invalid_argument(format!(
                            "ttl is {}; it must be at least 1 second",
                            message.ttl
                        ))
                    })?;
                let value = match message.token {
                    empty if empty.is_empty() => random::uuid(),
                    chosen => chosen,
                };
                // The token is a segment of the node's ID, so that is what it must be able to be.
                let node = server
                    .trust_domain
                    .with_path(&format!("/spire/agent/join_token/{value}"))
                    .ok()
                    .filter(|_| value.len() <= MAX_TOKEN && !value.contains('/'))
                    .ok_or_else(|| {
                        Status::invalid_argument(
                            "the join token must be 1 to 255 letters, digits, '.', '_' or '-'",
                        )
                    })?;
                let alias = message.agent_id.as_ref().map(|m| alias_draft(&node, m));
                let token = JoinToken {
                    value,
                    expires_at: op.now.plus(Duration::from_secs(ttl)).floor_to_second(),
                };
                let answer = types::JoinToken {
                    value: token.value.clone(),
                    expires_at: token.expires_at.unix_seconds(),
                };
                let written = server.roll.write(move |roll, transaction| {
                    if roll.join_token(&token.value).is_some() || roll.node(&node).is_some() {
                        return Err(Status::already_exists(
                            "the join token already exists or has been used; choose another",
                        ));
                    }
                    if let Some(alias) = alias {
                        let entry = alias_entry(roll, &op, &alias)?;
                        transaction.audit(
                            op.record(Event::EntryCreated, entry.id.as_str())
                                .with("spiffe_id", entry.spiffe_id.as_str())
                                .with("parent_id", "join token"),
                        );
                        transaction.put_entry(&op.permit, entry);
                    }
                    let digest = digest::hex(&digest::sha256(token.value.as_bytes()));
                    transaction.audit(
                        op.record(Event::JoinTokenCreated, digest)
                            .with("expires_at", token.expires_at.unix_seconds().to_string()),
                    );
                    transaction.put_join_token(&op.permit, token);
                    Ok(())
                });
                written.await.map_err(|error| errors::write(&error))??;
                Ok(answer)
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `apps/server/writer.rs`.
    async fn post_status(
        &self,
        request: Request<PostStatusRequest>,
    ) -> Result<Response<PostStatusResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::PostStatus>, message: PostStatusRequest| {
                let version = message.agent_version;
                if version.chars().count() > MAX_VERSION {
                    return Err(Status::invalid_argument(format!(
                        "agent_version has more than {MAX_VERSION} characters"
                    )));
                }
                let id = op.caller_id()?.clone();
                note_version(server, op, id, version).await?;
                Ok(PostStatusResponse {})
            },
        )
        .await
    }
}

/// Writes the version that a node's daemon reports, if it is not the one that is known.
pub(super) async fn note_version<A>(
    server: &Server,
    op: Operation<A>,
    id: SpiffeId,
    version: String,
) -> Result<(), Status>
where
    A: policy::Writes<policy::Nodes> + 'static,
{
    if op
        .roll
        .node(&id)
        .is_none_or(|node| node.agent_version == version)
    {
        return Ok(());
    }
    let written = server.roll.write(move |roll, transaction| {
        if let Some(node) = roll.node(&id) {
            transaction.audit(
                op.record(Event::NodeReported, id.as_str())
                    .with("agent_version", version.as_str()),
            );
            transaction.put_node(
                &op.permit,
                Node {
                    agent_version: version,
                    ..Node::clone(node)
                },
            );
        }
    });
    written.await.map_err(|error| errors::write(&error))
}

fn node_id(server: &Server, message: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
    id::member(message, &server.trust_domain)
        .map_err(|why| Status::invalid_argument(format!("invalid agent ID: {why}")))
}

fn agent_not_found() -> Status {
    Status::not_found("agent not found")
}

fn refused(message: &str, refusal: policy::NodeRefusal) -> Status {
    status::node_refused(message.to_owned(), refusal)
}

/// The entry that gives a node of a join token a second name: under the node, for the node itself.
fn alias_draft(node: &SpiffeId, alias: &types::Spiffeid) -> EntryDraft {
    EntryDraft {
        spiffe_id: Some(RawId {
            trust_domain: alias.trust_domain.clone(),
            path: alias.path.clone(),
        }),
        parent_id: Some(RawId {
            trust_domain: node.trust_domain().to_string(),
            path: node.path().to_owned(),
        }),
        selectors: vec![("spiffe_id".to_owned(), node.to_string())],
        ..EntryDraft::default()
    }
}

fn alias_entry(
    roll: &Roll,
    op: &Operation<policy::CreateJoinToken>,
    draft: &EntryDraft,
) -> Result<muster_model::Entry, Status> {
    let generated =
        EntryId::parse(&random::uuid()).map_err(|why| Status::internal(why.to_string()))?;
    rules::create(roll, draft, generated, roll.next_ordinal(), op.now)
        .map_err(|why| Status::invalid_argument(format!("invalid agent ID: {why}")))
}
