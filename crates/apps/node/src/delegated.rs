//! The Delegated Identity API on the operator's socket, wire-identical to SPIRE's: a local program
//! that the configuration names gets the identities of workloads that it describes by selectors,
//! which are believed, or names by pid.
//!
//! The program is attested like any caller, and must match an entry whose SPIFFE ID is in
//! `[delegated] authorized`. Entries of admins and of downstream authorities are never delegated.
//! Statuses and texts are SPIRE's, in its order.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use http::Extensions;
use muster_crypto::Purpose;
use muster_model::{Bundle, SpiffeId};
use muster_peer::HeldProcess;
use muster_proto::spire::api::agent::delegatedidentity::v1 as api;
use muster_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_server::{
    DelegatedIdentity, DelegatedIdentityServer,
};
use muster_proto::spire::api::types;
use muster_roster::{JwtIdentity, JwtMaterial, OnMiss, Want, Who, X509Material, X509Update};
use muster_rt::lifecycle::Shutdown;
use muster_svid::bundle::encode_jwks;
use muster_wire::{id, selector};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::broker::Surroundings;
use crate::driver::{Driver, KnownBundles, Stopped, Subscription};
use crate::events::map_key;
use crate::material::{HeldJwt, HeldX509};
use crate::target::{TargetRefusal, Targets};
use crate::workload_api::answers::jwt_bundle;
use crate::workload_api::caller::{Attested, CallerAttestor, Place, status_of};
use crate::workload_api::jwt::check_audience;

/// The service's name on the wire.
pub(crate) const NAME: &str = "spire.api.agent.delegatedidentity.v1.DelegatedIdentity";

/// The service for `authorized` delegates.
pub(crate) fn service(
    around: &Surroundings,
    callers: CallerAttestor,
    authorized: BTreeSet<SpiffeId>,
) -> DelegatedIdentityServer<DelegatedIdentityApi> {
    DelegatedIdentityServer::new(DelegatedIdentityApi(Arc::new(Parts {
        driver: around.driver.clone(),
        callers,
        targets: around.targets.clone(),
        authorized,
        bundles: around.bundles.clone(),
        shutdown: around.shutdown.clone(),
    })))
}

/// The service. Clones share everything.
#[derive(Clone)]
pub(crate) struct DelegatedIdentityApi(Arc<Parts>);

struct Parts {
    driver: Driver,
    callers: CallerAttestor,
    targets: Targets,
    authorized: BTreeSet<SpiffeId>,
    bundles: watch::Receiver<KnownBundles>,
    shutdown: Shutdown,
}

/// A caller that is a delegate.
struct Delegate {
    attested: Attested,
    _place: Place,
}

/// A workload that a delegate asks about.
struct Workload {
    who: Who,
    /// The process, if it was named by pid.
    process: Option<HeldProcess>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Parts {
    async fn delegate(&self, extensions: &Extensions) -> Result<Delegate, Status> {
        let place = self.callers.place(extensions)?;
        let attested = self.callers.attest(extensions, &place).await?;
        let delegate = Delegate {
            attested,
            _place: place,
        };
        self.check(&delegate).await?;
        Ok(delegate)
    }

    /// Whether the caller is a delegate now. Asked again before each message of a stream, as SPIRE
    /// does: an entry that is gone ends what it allowed.
    async fn check(&self, delegate: &Delegate) -> Result<(), Status> {
        let who = delegate.attested.who();
        let matched = self.driver.identities(who).await.map_err(stopped)?;
        if matched
            .identities
            .iter()
            .any(|id| self.authorized.contains(id))
        {
            return self.callers.still_the_same(&delegate.attested);
        }
        let (reason, status) = if !matched.in_step {
            // What is not in the view may be on the server.
            (
                "out_of_step_with_server",
                status_of(muster_roster::Refusal::OutOfStep),
            )
        } else if matched.identities.is_empty() {
            ("no_identity", no_identity())
        } else {
            let text = "caller not configured as an authorized delegate";
            ("not_a_delegate", Status::permission_denied(text))
        };
        metrics::counter!("muster_node_delegated_refused_total", "reason" => reason).increment(1);
        tracing::warn!(
            pid = delegate.attested.caller.pid(),
            uid = delegate.attested.caller.uid(),
            reason,
            "a caller may not use the Delegated Identity API"
        );
        Err(status)
    }

    /// The workload of a request: exactly one of selectors and pid.
    async fn workload(&self, selectors: &[types::Selector], pid: i32) -> Result<Workload, Status> {
        match (selectors, pid) {
            ([], 0) | ([_, ..], 1.. | ..0) => Err(Status::invalid_argument(
                "must provide either selectors or non-zero PID, but not both",
            )),
            ([], pid) => {
                let attested = match u32::try_from(pid) {
                    Ok(pid) => self.targets.attest(pid).await,
                    Err(_negative) => Err(TargetRefusal::NotRunning { pid: 0 }),
                };
                let attested = attested.map_err(|refusal| {
                    tracing::warn!(pid, reason = %refusal, "a delegate's workload was not attested");
                    Status::unavailable("workload attestation failed")
                })?;
                Ok(Workload {
                    who: attested.who,
                    process: Some(attested.process),
                })
            }
            (selectors, 0) => {
                let selectors = selector::read_set(selectors).map_err(|error| {
                    tracing::warn!(%error, "a delegate's selectors are not understood");
                    Status::invalid_argument("could not parse provided selectors")
                })?;
                Ok(Workload {
                    who: Arc::new(selectors).into(),
                    process: None,
                })
            }
        }
    }
}

fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

fn stopped(_stopped: Stopped) -> Status {
    Status::unavailable("the node is shutting down; connect again")
}

#[tonic::async_trait]
impl DelegatedIdentity for DelegatedIdentityApi {
    type SubscribeToX509SVIDsStream = Answers<api::SubscribeToX509sviDsResponse>;

    /// # Path
    ///
    /// `adapters/attest` (who the caller is), `core/roster` (what the workload gets).
    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<api::SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let parts = self.0.clone();
        let delegate = parts.delegate(request.extensions()).await?;
        let message = request.into_inner();
        let workload = parts.workload(&message.selectors, message.pid).await?;
        let driver = parts.driver.on_behalf(OnMiss::TellEmpty);
        let subscription = driver.x509_svids(workload.who).map_err(stopped)?;
        let follow = Follow {
            parts,
            delegate,
            process: workload.process,
            subscription,
        };
        Ok(answers(follow, |update| x509_svids(&update)))
    }

    type SubscribeToX509BundlesStream = Answers<api::SubscribeToX509BundlesResponse>;

    /// # Path
    ///
    /// `core/roster` (the bundles of the view).
    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<api::SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let watch = BundleWatch::open(self.0.clone(), request.extensions()).await?;
        Ok(answers(watch, |bundles| {
            api::SubscribeToX509BundlesResponse {
                ca_certificates: by_domain(&bundles, Bundle::x509_concatenated),
            }
        }))
    }

    /// # Path
    ///
    /// `core/roster/jwt.rs` (what is kept and when it is renewed).
    async fn fetch_jwtsvi_ds(
        &self,
        request: Request<api::FetchJwtsviDsRequest>,
    ) -> Result<Response<api::FetchJwtsviDsResponse>, Status> {
        let parts = &self.0;
        // As in SPIRE this comes before the caller is looked at.
        check_audience(&request.get_ref().audience)?;
        let delegate = parts.delegate(request.extensions()).await?;
        let message = request.into_inner();
        let workload = parts.workload(&message.selectors, message.pid).await?;
        let want = Want::JwtSvids {
            audience: message.audience,
            spiffe_id: None,
        };
        let driver = parts.driver.on_behalf(OnMiss::Refuse);
        let tokens = tokio::select! {
            _reason = parts.shutdown.begun() => return Err(stopped(Stopped)),
            tokens = driver.jwt_svids(workload.who, want) => tokens.map_err(stopped)?,
        };
        let tokens = tokens.map_err(status_of)?;
        self.0.callers.still_the_same(&delegate.attested)?;
        still_runs(workload.process.as_ref())?;
        Ok(Response::new(api::FetchJwtsviDsResponse {
            svids: tokens.iter().map(token).collect(),
        }))
    }

    type SubscribeToJWTBundlesStream = Answers<api::SubscribeToJwtBundlesResponse>;

    /// # Path
    ///
    /// `core/roster` (the bundles of the view), `core/svid/bundle.rs` (what a key set is).
    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<api::SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        let watch = BundleWatch::open(self.0.clone(), request.extensions()).await?;
        Ok(answers(watch, |bundles| {
            api::SubscribeToJwtBundlesResponse {
                bundles: by_domain(&bundles, |bundle| {
                    encode_jwks(&jwt_bundle(&bundle.trust_domain, &bundle.jwt_authorities))
                }),
            }
        }))
    }
}

/// Something that has one message after another, until it fails.
trait Source: Send + 'static {
    type Message: Send + 'static;

    fn next(&mut self) -> impl Future<Output = Result<Self::Message, Status>> + Send;
}

/// A stream of what `source` has, its first failure included.
fn answers<S: Source, T: 'static>(source: S, write: fn(S::Message) -> T) -> Response<Answers<T>> {
    let answers = stream::unfold(Some(source), move |source| async move {
        let mut source = source?;
        match source.next().await {
            Ok(message) => Some((Ok(write(message)), Some(source))),
            Err(status) => Some((Err(status), None)),
        }
    });
    Response::new(Box::pin(answers))
}

/// A stream of X509-SVIDs under way.
struct Follow {
    parts: Arc<Parts>,
    delegate: Delegate,
    process: Option<HeldProcess>,
    subscription: Subscription<X509Update<HeldX509>>,
}

impl Source for Follow {
    type Message = Arc<X509Update<HeldX509>>;

    async fn next(&mut self) -> Result<Self::Message, Status> {
        loop {
            let told = tokio::select! {
                biased;
                _reason = self.parts.shutdown.begun() => return Err(stopped(Stopped)),
                () = gone(self.process.as_ref()) => return Err(process_ended()),
                // The roster is gone only when the node is.
                told = self.subscription.answers.told() => {
                    told.map_err(|_closed| stopped(Stopped))?
                }
            };
            if let Some(refusal) = told.end {
                return Err(status_of(refusal));
            }
            if let Some(latest) = told.latest {
                self.parts.check(&self.delegate).await?;
                still_runs(self.process.as_ref())?;
                return Ok(latest);
            }
        }
    }
}

/// Resolves when the process has ended; never without one.
async fn gone(process: Option<&HeldProcess>) {
    match process {
        // A process that cannot be watched is looked at before each message all the same.
        Some(process) if process.exited().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// SPIRE leaves it to the delegate to see that a pid was given away. The kernel knows better.
fn still_runs(process: Option<&HeldProcess>) -> Result<(), Status> {
    match process {
        Some(process) => process.verify().map_err(|_refusal| process_ended()),
        None => Ok(()),
    }
}

fn process_ended() -> Status {
    Status::unavailable(
        "workload attestation failed: the process has ended or runs another program",
    )
}

fn x509_svids(update: &X509Update<HeldX509>) -> api::SubscribeToX509sviDsResponse {
    api::SubscribeToX509sviDsResponse {
        x509_svids: update
            .identities
            .iter()
            .map(|identity| api::X509svidWithKey {
                x509_svid: Some(types::X509svid {
                    cert_chain: identity
                        .svid
                        .svid
                        .chain
                        .iter()
                        .map(|der| Bytes::copy_from_slice(der))
                        .collect(),
                    id: Some(id::write(&identity.spiffe_id)),
                    expires_at: identity.svid.not_after().unix_seconds(),
                    hint: identity.hint.clone(),
                }),
                x509_svid_key: identity
                    .svid
                    .svid
                    .key
                    .expose(Purpose::OnBehalf)
                    .clone()
                    .into(),
            })
            .collect(),
        federates_with: update.federated.keys().map(map_key).collect(),
    }
}

fn token(identity: &JwtIdentity<HeldJwt>) -> types::Jwtsvid {
    types::Jwtsvid {
        token: identity.token.token.clone(),
        id: Some(id::write(&identity.spiffe_id)),
        expires_at: identity.token.expires_at().unix_seconds(),
        issued_at: identity.token.issued_at().unix_seconds(),
        hint: identity.hint.clone(),
    }
}

fn by_domain<M>(bundles: &KnownBundles, value: impl Fn(&Bundle) -> Vec<u8>) -> M
where
    M: FromIterator<(String, Bytes)>,
{
    bundles
        .iter()
        .map(|(td, bundle)| (map_key(td), value(bundle).into()))
        .collect()
}

/// A stream of bundles under way.
struct BundleWatch {
    parts: Arc<Parts>,
    delegate: Delegate,
    bundles: watch::Receiver<KnownBundles>,
}

impl BundleWatch {
    async fn open(parts: Arc<Parts>, extensions: &Extensions) -> Result<Self, Status> {
        let delegate = parts.delegate(extensions).await?;
        let mut bundles = parts.bundles.clone();
        // What is there now is the first message.
        bundles.mark_changed();
        Ok(Self {
            parts,
            delegate,
            bundles,
        })
    }
}

impl Source for BundleWatch {
    type Message = KnownBundles;

    async fn next(&mut self) -> Result<KnownBundles, Status> {
        loop {
            tokio::select! {
                biased;
                _reason = self.parts.shutdown.begun() => return Err(stopped(Stopped)),
                changed = self.bundles.changed() => changed.map_err(|_closed| stopped(Stopped))?,
            }
            let bundles = self.bundles.borrow_and_update().clone();
            self.parts.check(&self.delegate).await?;
            if !bundles.is_empty() {
                return Ok(bundles);
            }
        }
    }
}
