//! `muster.server.admin.v1.ServerAdmin`: what operators ask beyond SPIRE's interfaces.

use std::sync::Arc;

use muster_model::{NodeStanding, Timestamp};
use muster_policy as policy;
use muster_proto::muster::server::admin::v1::explain_node_response::Standing;
use muster_proto::muster::server::admin::v1::{
    ExplainNodeRequest, ExplainNodeResponse, Nearest, Withheld, server_admin_server,
};
use muster_roll::explain::explain;
use muster_wire::{entry, id, selector};
use tonic::{Request, Response, Status};

use crate::operation::{Operation, operate};
use crate::server::Server;

/// How many entries of each kind are listed by default, and at most.
const LISTED: (usize, usize) = (10, 500);

/// The service.
pub(crate) struct ServerAdminService(pub Arc<Server>);

#[tonic::async_trait]
impl server_admin_server::ServerAdmin for ServerAdminService {
    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/explain.rs`.
    async fn explain_node(
        &self,
        request: Request<ExplainNodeRequest>,
    ) -> Result<Response<ExplainNodeResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::ExplainNode>, message: ExplainNodeRequest| {
                let bad = |what: &str, why: &dyn std::fmt::Display| {
                    Status::invalid_argument(format!("malformed {what}: {why}"))
                };
                let node = id::any(message.node_id.as_ref()).map_err(|e| bad("node ID", &e))?;
                let selectors =
                    selector::read_set(&message.selectors).map_err(|e| bad("selectors", &e))?;
                let limit = match usize::try_from(message.limit) {
                    Ok(0) => LISTED.0,
                    Ok(limit) => limit.min(LISTED.1),
                    Err(_) => LISTED.1,
                };
                let answer = explain(&op.roll, &node, &selectors, limit);
                let known = op.roll.node(&node);
                let (standing, expires_at) = known.map_or((Standing::Unknown, None), |node| {
                    stand(&node.standing, op.now)
                });
                Ok(ExplainNodeResponse {
                    standing: standing.into(),
                    expires_at,
                    revision: op.roll.head().0,
                    node_selectors: known
                        .map(|n| n.selectors.iter().map(selector::write).collect())
                        .unwrap_or_default(),
                    authorized_entries: u64::try_from(answer.authorized).unwrap_or(u64::MAX),
                    matching: answer
                        .matching
                        .iter()
                        .map(|e| entry::write(e, None))
                        .collect(),
                    not_authorized: answer
                        .not_authorized
                        .iter()
                        .map(|e| entry::write(e, None))
                        .collect(),
                    withheld: answer
                        .withheld
                        .iter()
                        .map(|(withheld, why)| Withheld {
                            entry: Some(entry::write(withheld, None)),
                            why: why.clone(),
                        })
                        .collect(),
                    nearest: answer
                        .nearest
                        .iter()
                        .map(|(near, missing)| Nearest {
                            entry: Some(entry::write(near, None)),
                            missing: missing.iter().map(selector::write).collect(),
                        })
                        .collect(),
                })
            },
        )
        .await
    }
}

fn stand(standing: &NodeStanding, now: Timestamp) -> (Standing, Option<prost_types::Timestamp>) {
    match standing {
        NodeStanding::Banned => (Standing::Banned, None),
        NodeStanding::Active { expires_at, .. } => {
            let word = if *expires_at <= now {
                Standing::Expired
            } else {
                Standing::Active
            };
            let at = prost_types::Timestamp {
                seconds: expires_at.unix_seconds(),
                nanos: 0,
            };
            (word, Some(at))
        }
    }
}
