//! `muster.node.v1.DerivedSvid`: signing what nodes derived by rule.

use std::sync::Arc;

use muster_audit::SvidKind;
use muster_policy as policy;
use muster_proto::muster::node::v1::{
    BatchNewWitDerivedRequest, BatchNewX509DerivedRequest, Derived, NewJwtDerivedRequest,
    derived_svid_server,
};
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidResponse, BatchNewX509svidResponse, NewJwtsvidResponse,
};
use tonic::{Request, Response, Status};

use super::svid::{self, Wanted};
use super::wit;
use crate::admission::Asking;
use crate::agents::{self, Source};
use crate::api::not_served;
use crate::derived::derive;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// The service.
pub(crate) struct DerivedSvidService(pub Arc<Server>);

#[tonic::async_trait]
impl derived_svid_server::DerivedSvid for DerivedSvidService {
    /// # Path
    ///
    /// `core/policy` (nodes may), `apps/server/derived.rs`, `core/roll/naming` (what the name is),
    /// `apps/server/signer.rs`, `core/svid/x509`.
    async fn batch_new_x509_svid(
        &self,
        request: Request<BatchNewX509DerivedRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let server = &self.0;
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::BatchNewX509Derived>,
                   message: BatchNewX509DerivedRequest| {
                svid::check_count(message.params.len())?;
                let node = op.caller_id()?;
                let wanted = message.params.iter().map(|params| Wanted {
                    entry: derive(&op.roll, node, params.derived.as_ref(), op.now).map(Arc::new),
                    source: source(params.derived.as_ref()),
                    csr: &params.csr,
                });
                svid::sign_batch(server, &op, &asking, wanted.collect()).await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `apps/server/derived.rs`, `core/roll/naming`,
    /// `apps/server/signer.rs`, `core/svid/jwt`.
    async fn new_jwt_svid(
        &self,
        request: Request<NewJwtDerivedRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        let server = &self.0;
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::NewJwtDerived>, message: NewJwtDerivedRequest| {
                let node = op.caller_id()?;
                let derived = message.derived.as_ref();
                let entry = derive(&op.roll, node, derived, op.now).inspect_err(|why| {
                    agents::note_unsigned(server, &op, SvidKind::Jwt, &source(derived), why);
                })?;
                svid::sign_jwt_for(server, &op, &asking, &entry, &message.audience).await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `apps/server/derived.rs`, `core/roll/naming`, `api/wit.rs`,
    /// `apps/server/signer.rs`, `core/svid/wit`.
    async fn batch_new_wit_svid(
        &self,
        request: Request<BatchNewWitDerivedRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        let server = &self.0;
        if !server.wit {
            return not_served::<policy::BatchNewWitDerived, _, _>(server, request, wit::PROFILE)
                .await;
        }
        let asking = Asking::of(&request);
        operate(
            server,
            request,
            async |op: Operation<policy::BatchNewWitDerived>,
                   message: BatchNewWitDerivedRequest| {
                wit::check_count(message.params.len())?;
                let node = op.caller_id()?;
                let wanted = message.params.iter().map(|params| wit::Wanted {
                    entry: derive(&op.roll, node, params.derived.as_ref(), op.now).map(Arc::new),
                    source: source(params.derived.as_ref()),
                    public_key: &params.public_key,
                    algorithm: &params.signing_algorithm,
                });
                wit::sign_batch(server, &op, &asking, wanted.collect()).await
            },
        )
        .await
    }
}

/// What a node asked for, for the record of a refusal.
fn source(derived: Option<&Derived>) -> Source {
    let cut = |text: &str| text.chars().take(2048).collect();
    derived.map_or_else(
        || Source::Entry(String::new()),
        |derived| Source::Rule {
            rule: cut(&derived.rule),
            name: cut(&derived.spiffe_id),
        },
    )
}
