//! `spire.api.server.bundle.v1.Bundle`: the own bundle. Federation is not served yet.

use std::sync::Arc;

use muster_model::TrustDomain;
use muster_policy as policy;
use muster_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse,
    BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse,
    BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse, CountBundlesRequest,
    CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    ListFederatedBundlesResponse, PublishJwtAuthorityRequest, PublishJwtAuthorityResponse,
    PublishWitAuthorityRequest, PublishWitAuthorityResponse, bundle_server,
};
use muster_proto::spire::api::types;
use tonic::{Request, Response, Status};

use crate::api::not_served;
use crate::operation::{Operation, operate};
use crate::server::Server;

const FEDERATION: &str = "federation";
const DOWNSTREAM: &str = "signing for downstream servers";

/// The service.
pub(crate) struct BundleService(pub Arc<Server>);

#[tonic::async_trait]
impl bundle_server::Bundle for BundleService {
    /// # Path
    ///
    /// `core/policy` (anyone may), `core/roll` (the own bundle), `edge/wire/bundle.rs`.
    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::GetBundle>, message| {
                let bundle = op
                    .roll
                    .own_bundle()
                    .ok_or_else(|| Status::unavailable("the bundle is not made yet"))?;
                Ok(muster_wire::bundle::write(
                    bundle,
                    message.output_mask.as_ref(),
                ))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll`.
    async fn count_bundles(
        &self,
        request: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::CountBundles>, _| {
                Ok(CountBundlesResponse {
                    count: super::count(op.roll.bundles().count()),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy`, `core/roll`, `edge/wire/bundle.rs`.
    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        operate(&self.0, request, async |op: Operation<policy::GetFederatedBundle>, message| {
            let name = TrustDomain::from_name_or_id(&message.trust_domain).map_err(|why| {
                Status::invalid_argument(format!("trust domain \"{}\" is not valid: {why}", message.trust_domain))
            })?;
            if name == *op.roll.trust_domain() {
                return Err(Status::invalid_argument(
                    "getting a federated bundle for the server's own trust domain is not allowed",
                ));
            }
            let bundle = op.roll.bundle(&name).ok_or_else(|| Status::not_found("bundle not found"))?;
            Ok(muster_wire::bundle::write(bundle, message.output_mask.as_ref()))
        })
        .await
    }

    async fn append_bundle(
        &self,
        request: Request<AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        not_served::<policy::AppendBundle, _, _>(&self.0, request, "appending to the bundle").await
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        not_served::<policy::PublishJwtAuthority, _, _>(&self.0, request, DOWNSTREAM).await
    }

    async fn publish_wit_authority(
        &self,
        request: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        not_served::<policy::PublishWitAuthority, _, _>(&self.0, request, DOWNSTREAM).await
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        not_served::<policy::ListFederatedBundles, _, _>(&self.0, request, FEDERATION).await
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        not_served::<policy::BatchCreateFederatedBundle, _, _>(&self.0, request, FEDERATION).await
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        not_served::<policy::BatchUpdateFederatedBundle, _, _>(&self.0, request, FEDERATION).await
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        not_served::<policy::BatchSetFederatedBundle, _, _>(&self.0, request, FEDERATION).await
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        not_served::<policy::BatchDeleteFederatedBundle, _, _>(&self.0, request, FEDERATION).await
    }
}
