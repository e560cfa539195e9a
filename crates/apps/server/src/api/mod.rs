//! The services, one file each. A handler holds only the middle of its RPC: see
//! [`crate::operation`].

pub(crate) mod admin;
pub(crate) mod agent;
pub(crate) mod attest;
pub(crate) mod audit;
mod batch;
pub(crate) mod bundle;
pub(crate) mod debug;
pub(crate) mod derived;
mod downstream;
pub(crate) mod entry;
pub(crate) mod entry_list;
pub(crate) mod federated;
pub(crate) mod local_authority;
pub(crate) mod logger;
pub(crate) mod node_attestations;
pub(crate) mod node_refusals;
pub(crate) mod node_reports;
mod node_svid;
pub(crate) mod node_tasks;
pub(crate) mod node_view;
pub(crate) mod policies;
pub(crate) mod registry;
pub(crate) mod rules;
pub(crate) mod sightings;
pub(crate) mod svid;
pub(crate) mod task_ledger;
pub(crate) mod unknown;
pub(crate) mod wit;

use std::sync::Arc;

use muster_policy::Action;
use tonic::{Request, Response, Status};

use crate::operation::operate;
use crate::server::Server;

/// An RPC that this server does not serve. Whoever may not call it learns no more than that.
async fn not_served<A: Action + 'static, Message, Answer>(
    server: &Arc<Server>,
    request: Request<Message>,
    what: &'static str,
) -> Result<Response<Answer>, Status> {
    operate(
        server,
        request,
        async |_: crate::operation::Operation<A>, _| {
            Err(Status::unimplemented(format!(
                "{what} is not served by this version of muster-server"
            )))
        },
    )
    .await
}

/// A count as the API writes it.
fn count(rows: usize) -> i32 {
    i32::try_from(rows).unwrap_or(i32::MAX)
}
