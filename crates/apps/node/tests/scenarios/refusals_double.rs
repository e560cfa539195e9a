//! The double's ear for those whom the node refused, and those whom it served.

use muster_proto::muster::node::v1::node_attestations_server::NodeAttestations;
use muster_proto::muster::node::v1::node_refusals_server::NodeRefusals;
use muster_proto::muster::node::v1::{
    RefusedProcess, ReportAttestationsRequest, ReportAttestationsResponse, ReportRefusalsRequest,
    ReportRefusalsResponse,
};
use tonic::{Request, Response, Status};

use crate::double::Double;
use crate::rig::within;
use crate::services::Services;

#[tonic::async_trait]
impl NodeRefusals for Services {
    async fn report_refusals(
        &self,
        request: Request<ReportRefusalsRequest>,
    ) -> Result<Response<ReportRefusalsResponse>, Status> {
        self.node(&request)?;
        let mut mind = self.0.mind();
        mind.refused.extend(request.into_inner().refused);
        mind.hear("ReportRefusals");
        Ok(Response::new(ReportRefusalsResponse { unrecorded: 0 }))
    }
}

#[tonic::async_trait]
impl NodeAttestations for Services {
    async fn report_attestations(
        &self,
        request: Request<ReportAttestationsRequest>,
    ) -> Result<Response<ReportAttestationsResponse>, Status> {
        self.node(&request)?;
        let mut mind = self.0.mind();
        mind.attested.extend(request.into_inner().attested);
        mind.hear("ReportAttestations");
        Ok(Response::new(ReportAttestationsResponse { unrecorded: 0 }))
    }
}

impl Double {
    /// Waits until the node has told that it refused process `pid`.
    pub(crate) async fn told_of(&self, pid: u32) -> RefusedProcess {
        let mut heard = self.shared.mind().heard.subscribe();
        within("the server is told of a refusal", async {
            loop {
                if let Some(told) = self.refused(pid) {
                    return told;
                }
                heard.changed().await.unwrap();
            }
        })
        .await
    }

    fn refused(&self, pid: u32) -> Option<RefusedProcess> {
        let mind = self.shared.mind();
        mind.refused.iter().find(|one| one.pid == pid).cloned()
    }
}
