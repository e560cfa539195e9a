//! SPIRE's debug API: the node's own certificates, its age, and how much it holds.

use std::sync::Arc;

use muster_model::Timestamp;
use muster_proto::spire::agent::debug::v1::get_info_response::Cert;
use muster_proto::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse, debug_server};
use muster_rt::Clock;
use muster_svid::x509::{Certificate, X509Svid};
use muster_wire::id;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::driver::Driver;
use crate::material::verifying;
use crate::upstream::Trust;

/// The service; the mode of the socket's file is the authorization.
pub(crate) struct DebugService {
    pub(crate) started_at: Timestamp,
    pub(crate) node: watch::Receiver<Option<X509Svid>>,
    pub(crate) trust: Trust,
    pub(crate) driver: Driver,
    pub(crate) clock: Arc<dyn Clock>,
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    /// # Path
    ///
    /// `core/roster` (the figures).
    async fn get_info(
        &self,
        _request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let stopped = |e: crate::driver::Stopped| Status::unavailable(e.to_string());
        let stats = self.driver.stats().await.map_err(stopped)?;
        let last = self.driver.last_in_step().await.map_err(stopped)?;
        let svid = self.node.borrow().clone();
        let chain = svid.map(|svid| self.chain(&svid)).unwrap_or_default();
        let age = self.clock.now().wall.since(self.started_at).as_secs();
        let x509 = count(stats.x509_svids);
        #[expect(
            deprecated,
            reason = "SPIRE still fills it in, and its clients may read it"
        )]
        Ok(Response::new(GetInfoResponse {
            svid_chain: chain,
            uptime: i32::try_from(age).unwrap_or(i32::MAX),
            svids_count: x509,
            last_sync_success: last.map_or(0, Timestamp::unix_seconds),
            cached_x509_svids_count: x509,
            cached_jwt_svids_count: count(stats.jwt_svids),
            cached_svidstore_x509_svids_count: 0,
        }))
    }
}

impl DebugService {
    /// The chain, the authority that verifies it at its end.
    fn chain(&self, svid: &X509Svid) -> Vec<Cert> {
        let bundle = self.trust.bundle();
        let root = bundle
            .as_ref()
            .and_then(|bundle| verifying(svid, &bundle.x509_authorities));
        let ders = svid.chain.iter().map(|der| &der[..]);
        ders.chain(root.map(|root| &root.der[..]))
            .filter_map(|der| Certificate::parse(der).ok())
            .map(|certificate| Cert {
                id: certificate.spiffe_id().ok().map(|id| id::write(&id)),
                expires_at: certificate.not_after.unix_seconds(),
                subject: certificate.subject_text(),
            })
            .collect()
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
