//! `spire.api.server.localauthority.v1.LocalAuthority`: the authorities in an operator's hand.
//!
//! The rules are in `authority/orders.rs`; here are only the three kinds of it. What is about an
//! upstream authority is refused: this server's CAs are its own.

use std::sync::Arc;

use muster_model::Timestamp;
use muster_policy::{self as policy, Action, Bundles, Journals, Writes};
use muster_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateJwtAuthorityResponse, ActivateWitAuthorityRequest,
    ActivateWitAuthorityResponse, ActivateX509AuthorityRequest, ActivateX509AuthorityResponse,
    AuthorityState, GetJwtAuthorityStateRequest, GetJwtAuthorityStateResponse,
    GetWitAuthorityStateRequest, GetWitAuthorityStateResponse, GetX509AuthorityStateRequest,
    GetX509AuthorityStateResponse, PrepareJwtAuthorityRequest, PrepareJwtAuthorityResponse,
    PrepareWitAuthorityRequest, PrepareWitAuthorityResponse, PrepareX509AuthorityRequest,
    PrepareX509AuthorityResponse, RevokeJwtAuthorityRequest, RevokeJwtAuthorityResponse,
    RevokeWitAuthorityRequest, RevokeWitAuthorityResponse, RevokeX509AuthorityRequest,
    RevokeX509AuthorityResponse, RevokeX509UpstreamAuthorityRequest,
    RevokeX509UpstreamAuthorityResponse, TaintJwtAuthorityRequest, TaintJwtAuthorityResponse,
    TaintWitAuthorityRequest, TaintWitAuthorityResponse, TaintX509AuthorityRequest,
    TaintX509AuthorityResponse, TaintX509UpstreamAuthorityRequest,
    TaintX509UpstreamAuthorityResponse, local_authority_server,
};
use tonic::{Request, Response, Status};

use crate::api::{not_served, wit};
use crate::authority::{Kind, Shown};
use crate::operation::{Operation, operate};
use crate::server::Server;

/// The service.
pub(crate) struct LocalAuthorityService(pub Arc<Server>);

#[tonic::async_trait]
impl local_authority_server::LocalAuthority for LocalAuthorityService {
    /// # Path
    ///
    /// `core/policy` (operators may), `core/svid/ladder`.
    async fn get_x509_authority_state(
        &self,
        request: Request<GetX509AuthorityStateRequest>,
    ) -> Result<Response<GetX509AuthorityStateResponse>, Status> {
        let state = state::<policy::GetX509AuthorityState, _>(&self.0, Kind::X509, request).await?;
        Ok(state.map(|state| GetX509AuthorityStateResponse {
            active: Some(state.active),
            prepared: state.prepared,
            old: state.old,
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/svid/x509/draft.rs`.
    async fn prepare_x509_authority(
        &self,
        request: Request<PrepareX509AuthorityRequest>,
    ) -> Result<Response<PrepareX509AuthorityResponse>, Status> {
        let shown =
            prepare::<policy::PrepareX509Authority, _>(&self.0, Kind::X509, request).await?;
        Ok(shown.map(|shown| PrepareX509AuthorityResponse {
            prepared_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/svid/ladder`.
    async fn activate_x509_authority(
        &self,
        request: Request<ActivateX509AuthorityRequest>,
    ) -> Result<Response<ActivateX509AuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            activate::<policy::ActivateX509Authority, _>(&self.0, Kind::X509, id, request).await?;
        Ok(shown.map(|shown| ActivateX509AuthorityResponse {
            activated_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/roll/bundle`.
    async fn taint_x509_authority(
        &self,
        request: Request<TaintX509AuthorityRequest>,
    ) -> Result<Response<TaintX509AuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            taint::<policy::TaintX509Authority, _>(&self.0, Kind::X509, id, request).await?;
        Ok(shown.map(|shown| TaintX509AuthorityResponse {
            tainted_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/roll/bundle`.
    async fn revoke_x509_authority(
        &self,
        request: Request<RevokeX509AuthorityRequest>,
    ) -> Result<Response<RevokeX509AuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            revoke::<policy::RevokeX509Authority, _>(&self.0, Kind::X509, id, request).await?;
        Ok(shown.map(|shown| RevokeX509AuthorityResponse {
            revoked_authority: Some(shown),
        }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<TaintX509UpstreamAuthorityResponse>, Status> {
        operate(
            &self.0,
            request,
            async |_: Operation<policy::TaintX509UpstreamAuthority>, _| Err(no_upstream()),
        )
        .await
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<RevokeX509UpstreamAuthorityResponse>, Status> {
        operate(
            &self.0,
            request,
            async |_: Operation<policy::RevokeX509UpstreamAuthority>, _| Err(no_upstream()),
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/svid/ladder`.
    async fn get_jwt_authority_state(
        &self,
        request: Request<GetJwtAuthorityStateRequest>,
    ) -> Result<Response<GetJwtAuthorityStateResponse>, Status> {
        let state = state::<policy::GetJwtAuthorityState, _>(&self.0, Kind::Jwt, request).await?;
        Ok(state.map(|state| GetJwtAuthorityStateResponse {
            active: Some(state.active),
            prepared: state.prepared,
            old: state.old,
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/svid/x509/draft.rs`.
    async fn prepare_jwt_authority(
        &self,
        request: Request<PrepareJwtAuthorityRequest>,
    ) -> Result<Response<PrepareJwtAuthorityResponse>, Status> {
        let shown = prepare::<policy::PrepareJwtAuthority, _>(&self.0, Kind::Jwt, request).await?;
        Ok(shown.map(|shown| PrepareJwtAuthorityResponse {
            prepared_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/svid/ladder`.
    async fn activate_jwt_authority(
        &self,
        request: Request<ActivateJwtAuthorityRequest>,
    ) -> Result<Response<ActivateJwtAuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            activate::<policy::ActivateJwtAuthority, _>(&self.0, Kind::Jwt, id, request).await?;
        Ok(shown.map(|shown| ActivateJwtAuthorityResponse {
            activated_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/roll/bundle`.
    async fn taint_jwt_authority(
        &self,
        request: Request<TaintJwtAuthorityRequest>,
    ) -> Result<Response<TaintJwtAuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown = taint::<policy::TaintJwtAuthority, _>(&self.0, Kind::Jwt, id, request).await?;
        Ok(shown.map(|shown| TaintJwtAuthorityResponse {
            tainted_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/roll/bundle`.
    async fn revoke_jwt_authority(
        &self,
        request: Request<RevokeJwtAuthorityRequest>,
    ) -> Result<Response<RevokeJwtAuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            revoke::<policy::RevokeJwtAuthority, _>(&self.0, Kind::Jwt, id, request).await?;
        Ok(shown.map(|shown| RevokeJwtAuthorityResponse {
            revoked_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/svid/ladder`.
    async fn get_wit_authority_state(
        &self,
        request: Request<GetWitAuthorityStateRequest>,
    ) -> Result<Response<GetWitAuthorityStateResponse>, Status> {
        let state = state::<policy::GetWitAuthorityState, _>(&self.0, Kind::Wit, request).await?;
        Ok(state.map(|state| GetWitAuthorityStateResponse {
            active: Some(state.active),
            prepared: state.prepared,
            old: state.old,
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/svid/x509/draft.rs`.
    async fn prepare_wit_authority(
        &self,
        request: Request<PrepareWitAuthorityRequest>,
    ) -> Result<Response<PrepareWitAuthorityResponse>, Status> {
        let shown = prepare::<policy::PrepareWitAuthority, _>(&self.0, Kind::Wit, request).await?;
        Ok(shown.map(|shown| PrepareWitAuthorityResponse {
            prepared_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/svid/ladder`.
    async fn activate_wit_authority(
        &self,
        request: Request<ActivateWitAuthorityRequest>,
    ) -> Result<Response<ActivateWitAuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            activate::<policy::ActivateWitAuthority, _>(&self.0, Kind::Wit, id, request).await?;
        Ok(shown.map(|shown| ActivateWitAuthorityResponse {
            activated_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/roll/bundle`.
    async fn taint_wit_authority(
        &self,
        request: Request<TaintWitAuthorityRequest>,
    ) -> Result<Response<TaintWitAuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown = taint::<policy::TaintWitAuthority, _>(&self.0, Kind::Wit, id, request).await?;
        Ok(shown.map(|shown| TaintWitAuthorityResponse {
            tainted_authority: Some(shown),
        }))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/authority/orders.rs`, `core/roll/bundle`.
    async fn revoke_wit_authority(
        &self,
        request: Request<RevokeWitAuthorityRequest>,
    ) -> Result<Response<RevokeWitAuthorityResponse>, Status> {
        let id = request.get_ref().authority_id.clone();
        let shown =
            revoke::<policy::RevokeWitAuthority, _>(&self.0, Kind::Wit, id, request).await?;
        Ok(shown.map(|shown| RevokeWitAuthorityResponse {
            revoked_authority: Some(shown),
        }))
    }
}

/// The authorities of a kind, on the wire.
struct States {
    active: AuthorityState,
    prepared: Option<AuthorityState>,
    old: Option<AuthorityState>,
}

async fn state<A, Message>(
    server: &Arc<Server>,
    kind: Kind,
    request: Request<Message>,
) -> Result<Response<States>, Status>
where
    A: Action + 'static,
{
    if !has(server, kind) {
        return not_served::<A, _, _>(server, request, wit::PROFILE).await;
    }
    operate(server, request, async |_: Operation<A>, _| {
        let asked = server
            .authorities
            .ask(move |authorities| Box::pin(async move { authorities.state(kind) }));
        let state = asked.await??;
        Ok(States {
            active: write(state.active),
            prepared: state.prepared.map(write),
            old: state.old.map(write),
        })
    })
    .await
}

async fn prepare<A, Message>(
    server: &Arc<Server>,
    kind: Kind,
    request: Request<Message>,
) -> Result<Response<AuthorityState>, Status>
where
    A: Action + Writes<Bundles> + Writes<Journals> + 'static,
{
    if !has(server, kind) {
        return not_served::<A, _, _>(server, request, wit::PROFILE).await;
    }
    operate(server, request, async |op: Operation<A>, _| {
        let asked = server.authorities.ask(move |authorities| {
            Box::pin(async move { authorities.order_prepare(kind, op.permit).await })
        });
        asked.await?.map(write)
    })
    .await
}

async fn activate<A, Message>(
    server: &Arc<Server>,
    kind: Kind,
    id: String,
    request: Request<Message>,
) -> Result<Response<AuthorityState>, Status>
where
    A: Action + Writes<Journals> + 'static,
{
    if !has(server, kind) {
        return not_served::<A, _, _>(server, request, wit::PROFILE).await;
    }
    operate(server, request, async |op: Operation<A>, _| {
        let asked = server.authorities.ask(move |authorities| {
            Box::pin(async move { authorities.order_activate(kind, &id, op.permit).await })
        });
        asked.await?.map(write)
    })
    .await
}

async fn taint<A, Message>(
    server: &Arc<Server>,
    kind: Kind,
    id: String,
    request: Request<Message>,
) -> Result<Response<AuthorityState>, Status>
where
    A: Action + Writes<Bundles> + 'static,
{
    if !has(server, kind) {
        return not_served::<A, _, _>(server, request, wit::PROFILE).await;
    }
    operate(server, request, async |op: Operation<A>, _| {
        let asked = server.authorities.ask(move |authorities| {
            Box::pin(async move { authorities.order_taint(kind, &id, op.permit).await })
        });
        asked.await?.map(write)
    })
    .await
}

async fn revoke<A, Message>(
    server: &Arc<Server>,
    kind: Kind,
    id: String,
    request: Request<Message>,
) -> Result<Response<AuthorityState>, Status>
where
    A: Action + Writes<Bundles> + Writes<Journals> + 'static,
{
    if !has(server, kind) {
        return not_served::<A, _, _>(server, request, wit::PROFILE).await;
    }
    operate(server, request, async |op: Operation<A>, _| {
        let asked = server.authorities.ask(move |authorities| {
            Box::pin(async move { authorities.order_revoke(kind, &id, op.permit).await })
        });
        asked.await?.map(write)
    })
    .await
}

/// Whether the server has authorities of a kind.
fn has(server: &Server, kind: Kind) -> bool {
    match kind {
        Kind::X509 | Kind::Jwt => true,
        Kind::Wit => server.wit,
    }
}

fn no_upstream() -> Status {
    Status::failed_precondition("upstream authority is not configured")
}

fn write(shown: Shown) -> AuthorityState {
    AuthorityState {
        authority_id: shown.authority_id,
        expires_at: shown.expires_at.map_or(0, Timestamp::unix_seconds),
        upstream_authority_subject_key_id: String::new(),
    }
}
