//! Envoy's Secret Discovery Service (SDS v3), on the socket of the Workload API.
//!
//! `names` says what a name stands for, `sotw` and `delta` are the two stream protocols without
//! I/O, `secrets` writes Envoy's messages, `withdrawn` has what is left to a proxy whose identity
//! is gone. No security header is asked for, because Envoy sends
//! none; callers are attested as those of the Workload API are, and get the same identities.

mod delta;
mod machine;
mod names;
mod secrets;
mod sotw;
mod withdrawn;

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream;
use muster_model::{SpiffeId, TrustDomain};
use muster_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use muster_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use muster_roster::X509Update;
use muster_rt::lifecycle::{Reason, Shutdown};
use prost_types::Any;
use tonic::{Request, Response, Status, Streaming};

use self::delta::Delta;
use self::machine::{Answer, Fault, Note, TYPE_URL};
use self::names::{Item, Offer, Rules, Validator, What};
use self::sotw::Sotw;
use self::withdrawn::Nobody;
use crate::attestations::Given;
use crate::config::SdsConfig;
use crate::driver::{Driver, Subscription};
use crate::material::HeldX509;
use crate::workload_api::caller::{Attested, CallerAttestor, Place};
use crate::workload_api::grpc::ANSWER_MAX;
use crate::workload_api::shutting_down;

/// The service's name on the wire.
pub(crate) const NAME: &str = "envoy.service.secret.v3.SecretDiscoveryService";
/// The largest request, in bytes.
const REQUEST_MAX: usize = 256 * 1024;

type Update = X509Update<HeldX509>;

/// The service. Clones share everything.
#[derive(Clone)]
pub(crate) struct Sds(Arc<Inner>);

struct Inner {
    trust_domain: TrustDomain,
    rules: Arc<Rules>,
    driver: Driver,
    callers: CallerAttestor,
    shutdown: Shutdown,
}

impl Sds {
    pub(crate) fn new(
        config: &SdsConfig,
        trust_domain: TrustDomain,
        driver: Driver,
        callers: CallerAttestor,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Inner {
            trust_domain,
            rules: Arc::new(Rules {
                svid: config.default_svid_name.clone(),
                bundle: config.default_bundle_name.clone(),
                all_bundles: config.default_all_bundles_name.clone(),
                default_validator: if config.disable_spiffe_cert_validation {
                    Validator::Plain
                } else {
                    Validator::Spiffe
                },
            }),
            driver,
            callers,
            shutdown,
        }))
    }

    /// The service as the router takes it.
    pub(crate) fn into_server(self) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(self)
            .max_decoding_message_size(REQUEST_MAX)
            .max_encoding_message_size(ANSWER_MAX)
    }

    /// Attests the caller and follows what it may see.
    async fn feed<T>(&self, request: &Request<T>, rpc: &'static str) -> Result<Feed, Status> {
        let api = self.0.clone();
        let place = api.callers.place(request.extensions())?;
        let attested = api.callers.attest(request.extensions(), &place).await?;
        let subscription = api
            .driver
            .x509_svids(attested.who())
            .map_err(|_stopped| shutting_down())?;
        let (process, shutdown) = (attested.caller.clone(), api.shutdown.clone());
        metrics::counter!("muster_node_sds_calls_total", "rpc" => rpc).increment(1);
        Ok(Feed {
            api,
            attested,
            gave: BTreeSet::new(),
            given: Given::default(),
            subscription,
            exited: Box::pin(async move { process.exited().await }),
            ended: Box::pin(async move { shutdown.begun().await }),
            _place: place,
            rpc,
        })
    }
}

type Answers<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    /// # Path
    ///
    /// `adapters/attest` (who the caller is), `core/roster` (what it gets and when), `sds/sotw.rs`.
    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let feed = self.feed(&request, "StreamSecrets").await?;
        let machine = Sotw::new(self.0.rules.clone());
        Ok(answers(feed, request.into_inner(), machine))
    }

    /// # Path
    ///
    /// `adapters/attest`, `core/roster`, `sds/delta.rs`.
    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let feed = self.feed(&request, "DeltaSecrets").await?;
        let machine = Delta::new(self.0.rules.clone());
        Ok(answers(feed, request.into_inner(), machine))
    }

    /// # Path
    ///
    /// `adapters/attest`, `core/roster`, `sds/sotw.rs`.
    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let mut feed = self.feed(&request, "FetchSecrets").await?;
        let update = feed.next().await.map_err(Status::from)?;
        let offer = secrets::offer(&update, &self.0.trust_domain);
        let (answer, note) = sotw::once(&self.0.rules, request.into_inner(), &offer)
            .map_err(|fault| ended_by(&fault))?;
        feed.note(note);
        feed.give(&answer.items, &update)?;
        let write =
            |name: &str, item: &Item| secrets::write(name, item, &update, &self.0.trust_domain);
        Ok(Response::new(Sotw::write(answer, &write)))
    }
}

/// What a caller may see, followed until something ends it.
struct Feed {
    api: Arc<Inner>,
    attested: Attested,
    /// The identities that the proxy was given.
    gave: BTreeSet<SpiffeId>,
    given: Given,
    subscription: Subscription<Update>,
    exited: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    ended: Pin<Box<dyn Future<Output = Reason> + Send>>,
    _place: Place,
    rpc: &'static str,
}

/// Why there is no further update.
enum End {
    /// The caller has no identity any more.
    Withdrawn(Status),
    /// Anything that says nothing of the caller's identity.
    Other(Status),
}

impl From<End> for Status {
    fn from(end: End) -> Self {
        match end {
            End::Withdrawn(status) | End::Other(status) => status,
        }
    }
}

impl Feed {
    /// The next update, or why there is none. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Result<Arc<Update>, End> {
        loop {
            let told = tokio::select! {
                biased;
                _reason = &mut self.ended => return Err(End::Other(shutting_down())),
                exited = &mut self.exited => {
                    if let Err(error) = exited {
                        tracing::error!(pid = self.attested.caller.pid(), %error, "a process cannot be watched");
                    }
                    let status = Status::unavailable("the process that opened the stream has ended");
                    return Err(End::Other(status));
                }
                // The roster is gone only when the node is.
                told = self.subscription.answers.told() => {
                    told.map_err(|_closed| End::Other(shutting_down()))?
                }
            };
            if let Some(refusal) = told.end {
                let status = self.api.callers.refuse(&self.attested, refusal, self.rpc);
                return Err(if refusal.is_denial() {
                    End::Withdrawn(status)
                } else {
                    End::Other(status)
                });
            }
            if let Some(latest) = told.latest {
                return Ok(latest);
            }
        }
    }

    /// The proxy gets these items of the update, unless it is not what it was.
    fn give(&mut self, items: &[(String, Item)], update: &Update) -> Result<(), Status> {
        let callers = &self.api.callers;
        callers.still_the_same(&self.attested)?;
        let identities = items.iter().filter_map(|(_, item)| match &item.what {
            What::Identity(n) => update.identities.get(*n),
            What::Bundle(_) | What::AllBundles => None,
        });
        self.gave
            .extend(identities.map(|identity| identity.spiffe_id.clone()));
        callers.served(&mut self.attested, self.gave.iter(), &mut self.given);
        Ok(())
    }

    fn note(&self, note: Option<Note>) {
        let (pid, rpc) = (self.attested.caller.pid(), self.rpc);
        match note {
            Some(Note::Rejected(reason)) => {
                metrics::counter!("muster_node_sds_rejected_total", "rpc" => rpc).increment(1);
                tracing::warn!(pid, rpc, ?reason, "the proxy rejected its secrets");
            }
            Some(Note::Stale) => tracing::debug!(pid, rpc, "stale nonce; request passed over"),
            Some(Note::Unknown(names)) => {
                let count = u64::try_from(names.len()).unwrap_or(u64::MAX);
                metrics::counter!("muster_node_sds_unknown_names_total", "rpc" => rpc)
                    .increment(count);
                // One line, however many names a caller makes up.
                let first = names.first();
                tracing::info!(
                    pid,
                    rpc,
                    count,
                    ?first,
                    "the caller has nothing by these names"
                );
            }
            None => {}
        }
    }
}

fn ended_by(fault: &Fault) -> Status {
    Status::invalid_argument(fault.to_string())
}

/// A stream protocol.
trait Machine: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn hear(&mut self, request: Self::Request) -> Result<Option<Note>, Fault>;
    fn answer(&mut self, offer: &Offer) -> (Option<Answer>, Option<Note>);
    fn withdraw(&mut self, offer: &Offer) -> Option<Answer>;
    fn write(answer: Answer, write: &dyn Fn(&str, &Item) -> Option<Any>) -> Self::Response;
}

impl Machine for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn hear(&mut self, request: DiscoveryRequest) -> Result<Option<Note>, Fault> {
        Self::hear(self, request)
    }

    fn answer(&mut self, offer: &Offer) -> (Option<Answer>, Option<Note>) {
        Self::answer(self, offer)
    }

    fn withdraw(&mut self, offer: &Offer) -> Option<Answer> {
        Self::withdraw(self, offer)
    }

    fn write(answer: Answer, write: &dyn Fn(&str, &Item) -> Option<Any>) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: answer.version,
            resources: answer
                .items
                .iter()
                .filter_map(|(name, item)| write(name, item))
                .collect(),
            type_url: TYPE_URL.to_owned(),
            nonce: answer.nonce,
        }
    }
}

impl Machine for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<Note>, Fault> {
        Self::hear(self, request)
    }

    fn answer(&mut self, offer: &Offer) -> (Option<Answer>, Option<Note>) {
        Self::answer(self, offer)
    }

    fn withdraw(&mut self, offer: &Offer) -> Option<Answer> {
        Self::withdraw(self, offer)
    }

    fn write(answer: Answer, write: &dyn Fn(&str, &Item) -> Option<Any>) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: answer.version,
            resources: answer
                .items
                .into_iter()
                .map(|(name, item)| Resource {
                    resource: write(&name, &item),
                    version: item.version,
                    name,
                })
                .collect(),
            type_url: TYPE_URL.to_owned(),
            nonce: answer.nonce,
            removed_resources: answer.removed,
        }
    }
}

/// A stream under way.
struct Conversation<M: Machine> {
    feed: Feed,
    requests: Streaming<M::Request>,
    /// Whether the proxy may still say something; who says no more may still listen.
    is_talking: bool,
    machine: M,
    latest: Option<(Arc<Update>, Offer)>,
    /// The caller has lost its identity and the proxy is being told: nothing comes after.
    end: Option<Status>,
}

fn answers<M: Machine>(
    feed: Feed,
    requests: Streaming<M::Request>,
    machine: M,
) -> Response<Answers<M::Response>> {
    let conversation = Conversation {
        feed,
        requests,
        is_talking: true,
        machine,
        latest: None,
        end: None,
    };
    // Asked for an answer only when the last is on its way: a slow reader gets the newest.
    let answers = stream::unfold(Some(conversation), |conversation| async move {
        let mut conversation = conversation?;
        match conversation.next().await {
            Ok(answer) => Some((Ok(answer), Some(conversation))),
            // Whatever the stream held is let go before its end is on the wire.
            Err(status) => Some((Err(status), None)),
        }
    });
    Response::new(Box::pin(answers))
}

impl<M: Machine> Conversation<M> {
    async fn next(&mut self) -> Result<M::Response, Status> {
        if let Some(end) = self.end.take() {
            return Err(end);
        }
        loop {
            tokio::select! {
                biased;
                update = self.feed.next() => {
                    let update = match update {
                        Ok(update) => update,
                        Err(End::Withdrawn(status)) => return self.withdraw(status),
                        Err(End::Other(status)) => return Err(status),
                    };
                    let offer = secrets::offer(&update, &self.feed.api.trust_domain);
                    self.latest = Some((update, offer));
                }
                request = self.requests.message(), if self.is_talking => match request? {
                    Some(request) => {
                        let note = self.machine.hear(request).map_err(|fault| ended_by(&fault))?;
                        self.feed.note(note);
                    }
                    None => self.is_talking = false,
                }
            }
            let Some((update, offer)) = &self.latest else {
                continue;
            };
            let (answer, note) = self.machine.answer(offer);
            self.feed.note(note);
            if let Some(answer) = answer {
                self.feed.give(&answer.items, update)?;
                let own = &self.feed.api.trust_domain;
                let write = |name: &str, item: &Item| secrets::write(name, item, update, own);
                return Ok(M::write(answer, &write));
            }
        }
    }

    /// Replaces what the proxy was given; the stream ends after that, or at once if that was
    /// nothing.
    fn withdraw(&mut self, status: Status) -> Result<M::Response, Status> {
        let Some((update, offer)) = self.latest.take() else {
            return Err(status);
        };
        let Some(answer) = self.machine.withdraw(&offer) else {
            return Err(status);
        };
        let own = &self.feed.api.trust_domain;
        let nobody = match Nobody::of(own) {
            Ok(nobody) => nobody,
            Err(error) => {
                tracing::error!(pid = self.feed.attested.caller.pid(), %error, "a proxy keeps secrets that were withdrawn");
                return Err(status);
            }
        };
        tracing::info!(
            pid = self.feed.attested.caller.pid(),
            rpc = self.feed.rpc,
            count = answer.items.len(),
            "the proxy's secrets are withdrawn"
        );
        self.end = Some(status);
        let write =
            |name: &str, item: &Item| secrets::write_withdrawn(name, item, &update, own, &nobody);
        Ok(M::write(answer, &write))
    }
}
