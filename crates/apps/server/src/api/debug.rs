//! `spire.api.server.debug.v1.Debug`: how the server stands.

use std::sync::Arc;

use muster_model::Timestamp;
use muster_policy as policy;
use muster_proto::spire::api::server::debug::v1::get_info_response::Cert;
use muster_proto::spire::api::server::debug::v1::{GetInfoRequest, GetInfoResponse, debug_server};
use muster_roll::Roll;
use muster_svid::x509::Certificate;
use muster_wire::id;
use tonic::{Request, Response, Status};

use crate::authority::has_id;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// The service.
pub(crate) struct DebugService {
    /// The server.
    pub server: Arc<Server>,
    /// When it started.
    pub started_at: Timestamp,
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/server_svid.rs`, `core/roll`.
    async fn get_info(
        &self,
        request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        operate(
            &self.server,
            request,
            async |op: Operation<policy::GetServerInfo>, _| {
                let age = op.now.since(self.started_at).as_secs();
                Ok(GetInfoResponse {
                    svid_chain: chain(&self.server, &op.roll),
                    uptime: i32::try_from(age).unwrap_or(i32::MAX),
                    agents_count: super::count(op.roll.node_count()),
                    federated_bundles_count: super::count(op.roll.bundles().count()),
                    entries_count: super::count(op.roll.entry_count()),
                })
            },
        )
        .await
    }
}

/// The server's own chain, the authority that verifies it at its end.
fn chain(server: &Server, roll: &Roll) -> Vec<Cert> {
    let Some(own) = server.own_svid.load_full() else {
        return Vec::new();
    };
    let root = roll.own_bundle().and_then(|bundle| {
        let mut roots = bundle.x509_authorities.iter();
        let root = roots.find(|root| has_id(root, &own.authority_id))?;
        Some(Arc::clone(&root.der))
    });
    let ders = own.chain.iter().map(|der| &der[..]);
    ders.chain(root.as_deref())
        .filter_map(|der| Certificate::parse(der).ok())
        .map(|certificate| Cert {
            id: certificate.spiffe_id().ok().map(|id| id::write(&id)),
            expires_at: certificate.not_after.unix_seconds(),
            subject: certificate.subject_text(),
        })
        .collect()
}
