//! `spire.api.server.bundle.v1.Bundle`: the own bundle, and those of foreign trust domains.

use std::sync::Arc;

use muster_model::TrustDomain;
use muster_policy as policy;
use muster_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use muster_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse,
    BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse,
    BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse, CountBundlesRequest,
    CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    ListFederatedBundlesResponse, PublishJwtAuthorityRequest, PublishJwtAuthorityResponse,
    PublishWitAuthorityRequest, PublishWitAuthorityResponse,
    batch_create_federated_bundle_response, batch_delete_federated_bundle_response,
    batch_set_federated_bundle_response, batch_update_federated_bundle_response, bundle_server,
};
use muster_proto::spire::api::types;
use muster_wire::bundle as wire_bundle;
use tonic::{Request, Response, Status};

use crate::api::downstream;
use crate::api::entry_list::page_limit;
use crate::api::federated::{self, Way};
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

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

    /// # Path
    ///
    /// `core/policy` (operators may), `api/downstream.rs`, `core/roll/bundle`.
    async fn append_bundle(
        &self,
        request: Request<AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        downstream::append_bundle(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (downstream servers may), `api/downstream.rs`, `core/roll/bundle`.
    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        downstream::publish_jwt(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (downstream servers may), `api/downstream.rs`, `core/roll/bundle`.
    async fn publish_wit_authority(
        &self,
        request: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        downstream::publish_wit(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll`, `edge/wire/bundle.rs`.
    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<policy::ListFederatedBundles>,
                   message: ListFederatedBundlesRequest| {
                let limit = page_limit(message.page_size)?;
                let (rows, next_page_token) = federated::page(&op.roll, &message.page_token, limit);
                let mask = message.output_mask.as_ref();
                Ok(ListFederatedBundlesResponse {
                    bundles: rows.iter().map(|b| wire_bundle::write(b, mask)).collect(),
                    next_page_token,
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `api/federated.rs`, `apps/server/writer.rs`.
    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchCreateFederatedBundle>,
                   message: BatchCreateFederatedBundleRequest| {
                federated::check_batch(message.bundle.len())?;
                let (mask, bundles) = (message.output_mask, message.bundle);
                let written = server.roll.write(move |roll, transaction| {
                    federated::put_all(roll, transaction, &op, Way::Create, &bundles)
                });
                let outcomes = written.await.map_err(|error| errors::write(&error))?;
                let results = outcomes
                    .into_iter()
                    .map(|outcome| batch_create_federated_bundle_response::Result {
                        status: Some(outcome.status),
                        bundle: outcome
                            .bundle
                            .map(|b| wire_bundle::write(&b, mask.as_ref())),
                    })
                    .collect();
                Ok(BatchCreateFederatedBundleResponse { results })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `api/federated.rs`, `apps/server/writer.rs`.
    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchUpdateFederatedBundle>,
                   message: BatchUpdateFederatedBundleRequest| {
                federated::check_batch(message.bundle.len())?;
                let (mask, bundles) = (message.output_mask, message.bundle);
                let way = Way::Update(message.input_mask);
                let written = server.roll.write(move |roll, transaction| {
                    federated::put_all(roll, transaction, &op, way, &bundles)
                });
                let outcomes = written.await.map_err(|error| errors::write(&error))?;
                let results = outcomes
                    .into_iter()
                    .map(|outcome| batch_update_federated_bundle_response::Result {
                        status: Some(outcome.status),
                        bundle: outcome
                            .bundle
                            .map(|b| wire_bundle::write(&b, mask.as_ref())),
                    })
                    .collect();
                Ok(BatchUpdateFederatedBundleResponse { results })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `api/federated.rs`, `apps/server/writer.rs`.
    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchSetFederatedBundle>,
                   message: BatchSetFederatedBundleRequest| {
                federated::check_batch(message.bundle.len())?;
                let (mask, bundles) = (message.output_mask, message.bundle);
                let written = server.roll.write(move |roll, transaction| {
                    federated::put_all(roll, transaction, &op, Way::Set, &bundles)
                });
                let outcomes = written.await.map_err(|error| errors::write(&error))?;
                let results = outcomes
                    .into_iter()
                    .map(|outcome| batch_set_federated_bundle_response::Result {
                        status: Some(outcome.status),
                        bundle: outcome
                            .bundle
                            .map(|b| wire_bundle::write(&b, mask.as_ref())),
                    })
                    .collect();
                Ok(BatchSetFederatedBundleResponse { results })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `api/federated.rs`, `apps/server/writer.rs`.
    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::BatchDeleteFederatedBundle>,
                   message: BatchDeleteFederatedBundleRequest| {
                federated::check_batch(message.trust_domains.len())?;
                let mode = Mode::try_from(message.mode).map_err(|_| {
                    Status::invalid_argument(format!(
                        "failed to parse deletion mode: unhandled delete mode \"{}\"",
                        message.mode
                    ))
                })?;
                let names = message.trust_domains.clone();
                let written = server.roll.write(move |roll, transaction| {
                    federated::delete_all(roll, transaction, &op, mode, &names)
                });
                let statuses = written.await.map_err(|error| errors::write(&error))?;
                let results = statuses
                    .into_iter()
                    .zip(message.trust_domains)
                    .map(
                        |(status, trust_domain)| batch_delete_federated_bundle_response::Result {
                            status: Some(status),
                            trust_domain,
                        },
                    )
                    .collect();
                Ok(BatchDeleteFederatedBundleResponse { results })
            },
        )
        .await
    }
}
