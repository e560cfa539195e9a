//! One call of a broker: its shape, its policy, its workload, its answer (BEP-13).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use muster_model::SpiffeId;
use muster_proto::spiffe::broker::{
    FetchJwtsvidRequest, SubscribeToJwtBundlesRequest, SubscribeToX509BundlesRequest,
    SubscribeToX509svidRequest, WorkloadReference,
};
use muster_roster::Want;
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::listen::Transport;
use super::reference::{Reference, ReferenceFault};
use super::refusal::{self, Forbidden};
use super::streams::Follow;
use super::{Asking, NAME, answers};
use crate::config::{PidReach, Profile, ReferenceType};
use crate::driver::Driver;
use crate::target::{AttestedTarget, Targets};
use crate::workload_api::grpc;
use crate::workload_api::jwt::check_audience;

/// What the service is made of.
pub(super) struct Parts {
    pub(super) driver: Driver,
    pub(super) targets: Targets,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) shutdown: Shutdown,
    pub(super) x509: Profile,
    pub(super) jwt: Profile,
    pub(super) calls: Arc<Semaphore>,
}

/// The service. Clones share everything.
#[derive(Clone)]
pub(super) struct BrokerApi(Arc<Parts>);

impl BrokerApi {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl NamedService for BrokerApi {
    const NAME: &'static str = NAME;
}

impl Service<Request<Body>> for BrokerApi {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { Ok(api.answer(request).await.unwrap_or_else(Status::into_http)) })
    }
}

/// A call whose workload was found and attested.
pub(super) struct Attested {
    pub(super) asking: Asking,
    pub(super) workload: AttestedTarget,
    /// Among the calls that are open at the same time; kept for as long as this one is.
    _place: OwnedSemaphorePermit,
}

impl Parts {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Status> {
        // The gate in front of every service put it there.
        let asking = request.extensions().get::<Asking>().cloned();
        let asking = asking.ok_or_else(|| refusal::unauthenticated("the broker is not known"))?;
        let place = self.clone().enter()?;
        let path = request.uri().path().to_owned();
        let method = path.rsplit('/').next().unwrap_or_default();
        let profile = match method {
            "SubscribeToX509SVID" | "SubscribeToX509Bundles" => self.x509,
            "FetchJWTSVID" | "SubscribeToJWTBundles" => self.jwt,
            _ => {
                let text = format!("{NAME} has no method {method:?}");
                return Err(Status::unimplemented(text));
            }
        };
        // BRK-02.
        if profile == Profile::Off {
            let text = format!("{method} is switched off on this node");
            return Err(Status::unimplemented(text));
        }
        match method {
            "SubscribeToX509SVID" => {
                let message = grpc::read::<SubscribeToX509svidRequest>(request).await?;
                let call = self.attest(asking, message.reference, place).await?;
                let who = call.workload.who.clone();
                let subscription = self.driver.x509_svids(who).map_err(stopped)?;
                let follow = Follow::new(&self, call, subscription, "SubscribeToX509SVID");
                follow.answer(answers::x509_svids).await
            }
            "SubscribeToX509Bundles" => {
                let message = grpc::read::<SubscribeToX509BundlesRequest>(request).await?;
                let call = self.attest(asking, message.reference, place).await?;
                let who = call.workload.who.clone();
                let subscription = self.driver.x509_bundles(who).map_err(stopped)?;
                let follow = Follow::new(&self, call, subscription, "SubscribeToX509Bundles");
                follow.answer(answers::x509_bundles).await
            }
            "SubscribeToJWTBundles" => {
                let message = grpc::read::<SubscribeToJwtBundlesRequest>(request).await?;
                let call = self.attest(asking, message.reference, place).await?;
                let who = call.workload.who.clone();
                let subscription = self.driver.jwt_bundles(who).map_err(stopped)?;
                let follow = Follow::new(&self, call, subscription, "SubscribeToJWTBundles");
                follow.answer(answers::jwt_bundles).await
            }
            _ => {
                let message = grpc::read::<FetchJwtsvidRequest>(request).await?;
                self.fetch_jwt_svid(asking, message, place).await
            }
        }
    }

    /// BRK-25, BRK-28.
    async fn fetch_jwt_svid(
        &self,
        asking: Asking,
        request: FetchJwtsvidRequest,
        place: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Status> {
        check_audience(&request.audience)?;
        let spiffe_id = match request.spiffe_id.as_str() {
            "" => None,
            text => Some(SpiffeId::parse(text).map_err(|e| {
                Status::invalid_argument(format!("invalid requested SPIFFE ID: {e}"))
            })?),
        };
        let reference = parse(request.reference)?;
        if let Some(allowed) = &asking.may.audiences
            && !request.audience.iter().all(|a| allowed.contains(a))
        {
            return Err(refusal::forbidden(&asking, Forbidden::Audience));
        }
        if spiffe_id.as_ref().is_some_and(|id| !asking.may_have(id)) {
            return Err(refusal::forbidden(&asking, Forbidden::Identity));
        }
        let call = self.resolve(asking, reference, place).await?;
        let want = Want::JwtSvids {
            audience: request.audience,
            spiffe_id,
        };
        let who = call.workload.who.clone();
        let tokens = tokio::select! {
            biased;
            _reason = self.shutdown.begun() => return Err(shutting_down()),
            exited = call.workload.process.exited() => return Err(ended(exited)),
            tokens = self.driver.jwt_svids(who, want) => tokens.map_err(stopped)?,
        };
        let tokens = tokens.map_err(|refusal| refuse(&call, refusal, "FetchJWTSVID"))?;
        still_the_same(&call)?;
        grpc::unary(&answers::jwt_svids(&call.asking, &tokens)?)
    }

    async fn attest(
        &self,
        asking: Asking,
        reference: Option<WorkloadReference>,
        place: OwnedSemaphorePermit,
    ) -> Result<Attested, Status> {
        let reference = parse(reference)?;
        self.resolve(asking, reference, place).await
    }

    /// Policy first, then the kernel's word on the workload (BRK-07, BRK-21).
    async fn resolve(
        &self,
        asking: Asking,
        reference: Reference,
        place: OwnedSemaphorePermit,
    ) -> Result<Attested, Status> {
        let kind = match reference {
            Reference::Pid(_) => ReferenceType::Pid,
            Reference::Kubernetes => ReferenceType::Kubernetes,
        };
        if !asking.may.references.contains(&kind) {
            return Err(refusal::forbidden(&asking, Forbidden::ReferenceType));
        }
        let pid = match reference {
            Reference::Pid(pid) => pid,
            Reference::Kubernetes => return Err(refusal::reference(&ReferenceFault::NoKubernetes)),
        };
        // BRK-19.
        if asking.transport == Transport::Tcp && asking.may.pid == PidReach::UnixOnly {
            return Err(refusal::forbidden(&asking, Forbidden::PidOverTcp));
        }
        let workload = tokio::select! {
            _reason = self.shutdown.begun() => return Err(shutting_down()),
            attested = self.targets.attest(pid) => {
                attested.map_err(|refused| refusal::target(&asking, &refused))?
            }
        };
        tracing::debug!(broker = %asking.id, pid, facts = workload.facts.len(), "a broker's workload is attested");
        Ok(Attested {
            asking,
            workload,
            _place: place,
        })
    }

    /// A place among the calls that are open at the same time (BEP-06).
    fn enter(self: Arc<Self>) -> Result<OwnedSemaphorePermit, Status> {
        self.calls
            .clone()
            .try_acquire_owned()
            .map_err(|_full| Status::unavailable("too many calls are open; try again later"))
    }
}

fn parse(reference: Option<WorkloadReference>) -> Result<Reference, Status> {
    Reference::parse(reference).map_err(|fault| refusal::reference(&fault))
}

/// Whether the workload is still the process and the program that was attested (BRK-29).
pub(super) fn still_the_same(call: &Attested) -> Result<(), Status> {
    use muster_peer::Refusal;
    call.workload
        .process
        .verify()
        .map_err(|refused| match refused {
            Refusal::OtherProgram { .. } => refusal::changed(),
            Refusal::Gone { .. } => refusal::gone(),
            Refusal::Silent
            | Refusal::NotVisible
            | Refusal::OtherSender { .. }
            | Refusal::OtherUser { .. }
            | Refusal::NoCredentials { .. }
            | Refusal::ControlTruncated { .. }
            | Refusal::Unidentified { .. }
            | Refusal::Exhausted { .. }
            | Refusal::TooSlow { .. }
            | Refusal::Unread { .. }
            | Refusal::Displaced { .. }
            | Refusal::Full { .. }
            | Refusal::NotBound { .. }
            | Refusal::HoldsTooMany { .. }
            | Refusal::ConnectsTooOften { .. } => {
                tracing::warn!(reason = %refused, "a broker's workload cannot be looked at");
                Status::unavailable("workload attestation failed")
            }
        })
}

/// What a call is told whose process has ended, or cannot be watched.
pub(super) fn ended(exited: std::io::Result<()>) -> Status {
    match exited {
        Ok(()) => refusal::gone(),
        Err(error) => {
            tracing::error!(%error, "a process cannot be watched");
            Status::unavailable("workload attestation failed")
        }
    }
}

pub(super) fn refuse(call: &Attested, refused: muster_roster::Refusal, rpc: &str) -> Status {
    tracing::info!(
        broker = %call.asking.id,
        pid = call.workload.process.pid(),
        reason = refused.word(),
        rpc,
        "a broker was refused"
    );
    refusal::roster(refused)
}

pub(super) fn stopped(_stopped: crate::driver::Stopped) -> Status {
    shutting_down()
}

pub(super) fn shutting_down() -> Status {
    Status::unavailable("the node is shutting down; connect again")
}
