//! The SPIFFE Broker API (incubating, off by default): a trusted program asks on behalf of
//! workloads that it names.
//!
//! Start at [`Broker::serve`]. What a call passes, in this order (BEP-13): the TLS handshake with
//! an X509-SVID (`listen`), the header and the allow list (`gate`), the shape of the reference
//! (`reference`), what this broker may (`call`), the kernel's word on the process
//! ([`Targets`]), and at last the roster, which knows what the
//! workload is entitled to. `refusal` has every status that a broker can get.
//!
//! Deliberately not here: resolving Kubernetes objects, for there is no attestor for them yet.

mod answers;
mod call;
mod gate;
mod listen;
mod reference;
mod refusal;
mod sockets;
mod streams;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use http::Request;
use muster_http2::{Connection, RequestBody, Settings, for_each};
use muster_model::{SpiffeId, Timestamp, TrustDomain};
use muster_peer::BindError;
use muster_roster::OnMiss;
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use muster_svid::x509::X509Svid;
use muster_tls::{Acceptor, ConfigError, Identity};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use self::call::BrokerApi;
use self::gate::Gate;
use self::listen::{BrokerConnection, Transport, accept};
pub(crate) use self::sockets::Sockets;
use crate::config;
use crate::connections::ask;
use crate::driver::{Driver, KnownBundles};
use crate::target::Targets;
use crate::upstream::Trust;

/// The service's name on the wire.
pub(crate) const NAME: &str = "spiffe.broker.API";
/// A broker that answers no ping for so long is gone; idle streams are never ended.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// How long connections may stay open once the shutdown has begun.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the sockets wait for an SVID that they can show.
const FIRST_SVID: Duration = Duration::from_secs(2);

/// What the Broker API needs of the rest of the node.
pub(crate) struct Surroundings {
    pub(crate) driver: Driver,
    pub(crate) targets: Targets,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) trust_domain: TrustDomain,
    /// The own bundle, as an earlier run left it or the server gave it.
    pub(crate) trust: Trust,
    /// The bundles of the view, for brokers of foreign trust domains.
    pub(crate) bundles: watch::Receiver<KnownBundles>,
    /// The node's own SVID, which the server shows.
    pub(crate) node: watch::Receiver<Option<X509Svid>>,
    /// Connections, calls and calls on one connection at the same time.
    pub(crate) most: Most,
}

/// The bounds of the Workload API, which hold here by themselves.
#[derive(Clone, Copy)]
pub(crate) struct Most {
    pub(crate) connections: usize,
    pub(crate) calls: usize,
    pub(crate) calls_per_connection: u32,
}

/// Why the Broker API could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// The Unix socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The TCP port.
    #[error("cannot listen on {address}: {source}; choose another address for broker.listen")]
    Listen {
        address: std::net::SocketAddr,
        source: io::Error,
    },
    /// A socket that was bound cannot be used.
    #[error("the broker's socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] ConfigError),
    /// Reflection.
    #[error("{0}")]
    Reflection(String),
}

/// The Broker API, ready to serve.
pub(crate) struct Broker {
    sockets: Sockets,
    acceptor: Acceptor,
    identity: Identity,
    node: watch::Receiver<Option<X509Svid>>,
    gate: Gate,
    routes: Routes,
    most: Most,
    shutdown: Shutdown,
}

impl Broker {
    /// Puts the service together; `with_reflection` adds what generic tools ask for (BEP-11).
    pub(crate) fn new<E>(
        config: &config::BrokerConfig,
        sockets: Sockets,
        around: Surroundings,
        with_reflection: impl FnOnce(Routes) -> Result<Routes, E>,
    ) -> Result<Self, BrokerError>
    where
        E: std::fmt::Display,
    {
        let gate = Gate::new(config, &around);
        let identity = Identity::none();
        let clock = around.clock.clone();
        let acceptor = Acceptor::mutual(
            identity.clone(),
            gate.bundles(),
            Arc::new(move || clock.now().wall),
        )?;
        let api = BrokerApi::new(call::Parts {
            driver: around.driver.on_behalf(OnMiss::Refuse),
            targets: around.targets,
            clock: around.clock,
            shutdown: around.shutdown.clone(),
            x509: config.x509,
            jwt: config.jwt,
            calls: Arc::new(Semaphore::new(
                around.most.calls.min(Semaphore::MAX_PERMITS),
            )),
        });
        let routes = with_reflection(Routes::new(api))
            .map_err(|error| BrokerError::Reflection(error.to_string()))?;
        Ok(Self {
            sockets,
            acceptor,
            identity,
            node: around.node,
            gate,
            routes,
            most: around.most,
            shutdown: around.shutdown,
        })
    }

    /// Serves until the shutdown.
    pub(crate) async fn serve(self) -> Result<(), BrokerError> {
        let limits = listen::Limits {
            connections: self.most.connections,
            ..listen::Limits::default()
        };
        await_svid(&self.identity, self.node.clone(), &self.shutdown).await;
        let show = show(self.identity, self.node, self.shutdown.clone());
        let serving = Serving {
            gate: self.gate,
            routes: self.routes,
            calls_per_connection: self.most.calls_per_connection,
            shutdown: self.shutdown,
        };
        let acceptor = self.acceptor.clone();
        let unix = self
            .sockets
            .unix
            .map(|socket| serving.answer(accept(socket, acceptor, Transport::Unix, limits)));
        let tcp = match self.sockets.tcp {
            Some((listener, closed)) => {
                let connections = listen::tcp(listener, closed)?;
                Some(serving.answer(accept(connections, self.acceptor, Transport::Tcp, limits)))
            }
            None => None,
        };
        let (unix, tcp) = (OptionFuture::from(unix), OptionFuture::from(tcp));
        let (unix, tcp, ()) = tokio::join!(unix, tcp, show);
        let (None | Some(()), None | Some(())) = (unix, tcp);
        Ok(())
    }
}

/// What both sockets have in common.
struct Serving {
    gate: Gate,
    routes: Routes,
    calls_per_connection: u32,
    shutdown: Shutdown,
}

impl Serving {
    /// Serves `connections` until the shutdown, and their calls a little longer.
    fn answer<S>(
        &self,
        connections: ReceiverStream<io::Result<BrokerConnection<S>>>,
    ) -> impl Future<Output = ()> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let settings = Settings {
            calls: self.calls_per_connection,
            window: Settings::WINDOW,
            keepalive: KEEPALIVE,
        };
        let service = InterceptedService::new(self.routes.clone(), self.gate.clone());
        let begin = move |connection: BrokerConnection<S>, ended| {
            let origin = connection.origin.clone();
            let service = service.clone();
            let answer = move |mut request: Request<RequestBody>| {
                request.extensions_mut().insert(origin.clone());
                ask(&service, request)
            };
            let mut connection = Connection::new(connection, &[], settings, answer);
            tokio::spawn(async move {
                if let Err(error) = connection.until(ended, None).await {
                    tracing::debug!(%error, "a broker's connection failed");
                }
            });
        };
        let end = self.shutdown.clone();
        let serve = for_each(
            connections,
            async move {
                end.begun().await;
            },
            begin,
        );
        let end = self.shutdown.clone();
        let patience = async move {
            end.begun().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        async move {
            tokio::select! {
                () = serve => {}
                () = patience => {}
            }
        }
    }
}

/// Waits a little until there is an SVID to show. Who connects meanwhile waits in the kernel's
/// queue, where a handshake would fail: above all after the node before, which had one.
async fn await_svid(
    identity: &Identity,
    mut node: watch::Receiver<Option<X509Svid>>,
    shutdown: &Shutdown,
) {
    let shown = async {
        if let Ok(svid) = node.wait_for(Option::is_some).await
            && let Some(svid) = &*svid
            && let Err(error) = identity.set(svid)
        {
            tracing::error!(%error, "brokers cannot be shown the node's SVID");
        }
    };
    tokio::select! {
        () = shown => {}
        () = tokio::time::sleep(FIRST_SVID) => {}
        _reason = shutdown.begun() => {}
    }
}

/// Shows the node's SVID, and the next one after each renewal: brokers authorize the exact ID.
async fn show(identity: Identity, mut node: watch::Receiver<Option<X509Svid>>, shutdown: Shutdown) {
    loop {
        let svid = node.borrow_and_update().clone();
        if let Some(svid) = svid
            && let Err(error) = identity.set(&svid)
        {
            tracing::error!(%error, "brokers are shown the node's previous SVID");
        }
        tokio::select! {
            changed = node.changed() => if changed.is_err() { return },
            _reason = shutdown.begun() => return,
        }
    }
}

/// A broker and what it may: put into each request by the gate.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) id: SpiffeId,
    pub(crate) transport: Transport,
    /// Until when its certificate is good.
    pub(crate) not_after: Timestamp,
    pub(crate) may: Arc<config::Broker>,
}

impl Asking {
    /// Whether the broker may have this identity of a workload (BRK-21).
    fn may_have(&self, id: &SpiffeId) -> bool {
        let limit = self.may.spiffe_ids.as_ref();
        limit.is_none_or(|ids| ids.contains(id))
    }
}
