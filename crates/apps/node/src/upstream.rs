//! The way to the server: mutual TLS, the server known by its exact ID.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioIo;
use muster_model::{Bundle, TrustDomain};
use muster_rt::Clock;
use muster_svid::x509::X509Svid;
use muster_tls::{ConfigError, Connector, Identity, IdentityError, Rejected};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::config::ServerAddress;
use crate::haste::Haste;
use crate::watched::{Rejection, Watched};

/// How long the name and the TCP connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the TLS handshake may take: a server to which all nodes come back at once lets those
/// wait that can, and whoever gives up loses its place.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an idle connection is asked whether it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message of the server, in bytes: a page of entries with many selectors.
pub(crate) const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// The server, as every task of the node reaches it.
///
/// Clones share the state.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: ServerAddress,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    identity: Identity,
    trust: Trust,
    channel: watch::Sender<Channel>,
    rejection: Rejection,
    haste: Haste,
}

/// The bundle by which the server is known; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Trust(Arc<ArcSwapOption<Bundle>>);

impl Trust {
    /// The bundle, if there is one yet.
    pub(crate) fn bundle(&self) -> Option<Arc<Bundle>> {
        self.0.load_full()
    }

    /// Uses `bundle` from the next handshake on.
    pub(crate) fn set(&self, bundle: Bundle) {
        self.0.store(Some(Arc::new(bundle)));
    }
}

impl Upstream {
    /// A way to the server at `address`, not used yet. It shows no identity and trusts nobody
    /// until it is told.
    pub(crate) fn new(
        address: ServerAddress,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
        trust: Trust,
    ) -> Result<Self, ConfigError> {
        let identity = Identity::none();
        let connector = verifying(&trust_domain, &identity, &trust, &clock)?;
        let rejection = Rejection::default();
        let haste = Haste::new(clock.clone());
        let channel = watch::Sender::new(channel(&address, connector, &rejection, &haste));
        Ok(Self {
            address,
            trust_domain,
            clock,
            identity,
            trust,
            channel,
            rejection,
            haste,
        })
    }

    /// A connection that believes whoever answers, for a first contact without a bundle.
    pub(crate) fn insecure(&self) -> Result<Channel, ConfigError> {
        let clock = self.clock.clone();
        let connector = Connector::insecure_bootstrap(
            self.trust_domain.server_id(),
            Arc::new(move || clock.now().wall),
        )?;
        Ok(channel(
            &self.address,
            connector,
            &self.rejection,
            &self.haste,
        ))
    }

    /// The connection to use now.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.borrow().clone()
    }

    /// Tells when the connection to use is another one.
    pub(crate) fn changes(&self) -> watch::Receiver<Channel> {
        self.channel.subscribe()
    }

    /// Shows `svid` from now on, on a new connection. What is under way ends on the old one.
    pub(crate) fn show(&self, svid: &X509Svid) -> Result<(), UpstreamError> {
        self.identity.set(svid)?;
        let connector = verifying(&self.trust_domain, &self.identity, &self.trust, &self.clock)?;
        self.rejection.clear();
        self.channel.send_replace(channel(
            &self.address,
            connector,
            &self.rejection,
            &self.haste,
        ));
        Ok(())
    }

    /// Shows no certificate from now on, on a new connection.
    pub(crate) fn show_nothing(&self) -> Result<(), UpstreamError> {
        self.identity.clear();
        let connector = verifying(&self.trust_domain, &self.identity, &self.trust, &self.clock)?;
        self.rejection.clear();
        self.channel.send_replace(channel(
            &self.address,
            connector,
            &self.rejection,
            &self.haste,
        ));
        Ok(())
    }

    /// What the server is told before a handshake, by how the node stands.
    pub(crate) fn haste(&self) -> &Haste {
        &self.haste
    }

    /// Why the last connection failed, if an identity was the reason.
    pub(crate) fn rejected(&self) -> Option<Rejected> {
        self.rejection.reason()
    }

    /// The server's address, for messages.
    pub(crate) fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// The node's trust domain.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle by which the server is known.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The time.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// Why a connection cannot be configured; no input from outside causes it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn verifying(
    trust_domain: &TrustDomain,
    identity: &Identity,
    trust: &Trust,
    clock: &Arc<dyn Clock>,
) -> Result<Connector, ConfigError> {
    let (trust, clock, own) = (trust.clone(), clock.clone(), trust_domain.clone());
    Connector::new(
        trust_domain.server_id(),
        identity.clone(),
        Arc::new(move |td: &TrustDomain| trust.bundle().filter(|_| *td == own)),
        Arc::new(move || clock.now().wall),
    )
}

fn channel(
    address: &ServerAddress,
    connector: Connector,
    rejection: &Rejection,
    haste: &Haste,
) -> Channel {
    let (address, rejection, haste) = (address.clone(), rejection.clone(), haste.clone());
    let connect = tower::service_fn(move |_uri: http::Uri| {
        let (address, connector) = (address.clone(), connector.clone());
        let (rejection, urgency) = (rejection.clone(), haste.urgency());
        async move {
            let within = |what: &'static str, limit: Duration| {
                move |_elapsed| {
                    let seconds = limit.as_secs();
                    io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("{what} took more than {seconds} s"),
                    )
                }
            };
            let tcp = TcpStream::connect((address.host.as_str(), address.port));
            let tcp = tokio::time::timeout(CONNECT_TIMEOUT, tcp)
                .await
                .map_err(within("the TCP connection", CONNECT_TIMEOUT))??;
            tcp.set_nodelay(true)?;
            let tls = connector.connect_as(urgency, &address.host, tcp);
            let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls)
                .await
                .map_err(within("the TLS handshake", HANDSHAKE_TIMEOUT))?
                .inspect_err(|error| rejection.note(error))?;
            Ok::<_, io::Error>(TokioIo::new(Watched::new(tls, rejection)))
        }
    });
    // The URI only names the server in headers: the connector knows where to go, and by what to
    // know who answers.
    Endpoint::from_static("http://muster-server")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}
