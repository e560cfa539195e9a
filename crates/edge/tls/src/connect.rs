//! The two ends of a connection.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use muster_model::SpiffeId;
use muster_svid::x509::VerifyError;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::provider::{Clock, VERSIONS, provider};
use crate::urgency::{Urgency, taken};
use crate::verifier::{ClientVerifier, Demand, ServerTrust, ServerVerifier};
use crate::{BundleSource, ConfigError, Identity, Peer, WallClock};

/// A connection that a client opened.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;
/// A connection that we opened.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// The server's end: shows our identity, asks for a certificate, verifies it if there is one.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// A server end that shows `identity` and verifies clients with `bundles` at the time that
    /// `clock` tells.
    pub fn new(
        identity: Identity,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, ConfigError> {
        Self::demanding(Demand::Asked, identity, bundles, clock, Duration::ZERO)
    }

    /// The same, for a server that still hears clients whose certificate has expired no longer ago
    /// than `grace`: the chain must have been good to the end, and the key is proven as ever. What
    /// such a client may do is for the server to decide, by [`Peer::not_after`].
    pub fn with_grace(
        identity: Identity,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn WallClock>,
        grace: Duration,
    ) -> Result<Self, ConfigError> {
        Self::demanding(Demand::Asked, identity, bundles, clock, grace)
    }

    /// The same for a server that serves nobody without a certificate: the handshake fails.
    pub fn mutual(
        identity: Identity,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, ConfigError> {
        Self::demanding(Demand::Required, identity, bundles, clock, Duration::ZERO)
    }

    fn demanding(
        demand: Demand,
        identity: Identity,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn WallClock>,
        grace: Duration,
    ) -> Result<Self, ConfigError> {
        let provider = provider();
        let verifier = ClientVerifier {
            grace,
            bundles,
            provider: provider.clone(),
            demand,
        };
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(Clock(clock)))
            .with_protocol_versions(VERSIONS)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(identity));
        config.alpn_protocols = taken();
        // A resumed session would skip the verifier (X509V-11, BEP-12): no tickets, no session memory.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Does the handshake. It has no time limit of its own: the caller sets one.
    pub async fn accept<S>(&self, stream: S) -> io::Result<ServerStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

/// The client's end: knows its server by exact SPIFFE ID, compares no host name.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl Connector {
    /// A client end that shows `identity` ([`Identity::none`] while it has none) and verifies that
    /// the server is `server_id`, with `bundles` at the time that `clock` tells.
    pub fn new(
        server_id: SpiffeId,
        identity: Identity,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, ConfigError> {
        Self::with_trust(server_id, identity, ServerTrust::Bundles(bundles), clock)
    }

    /// A client end that believes any certificate that names `server_id`, whoever signed it.
    ///
    /// For the first contact of a node that was given no bundle, and only when its operator asked
    /// for it by name: whoever sits on the path can pass for the server and learn the join token.
    pub fn insecure_bootstrap(
        server_id: SpiffeId,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, ConfigError> {
        Self::with_trust(
            server_id,
            Identity::none(),
            ServerTrust::InsecureBootstrap,
            clock,
        )
    }

    fn with_trust(
        server_id: SpiffeId,
        identity: Identity,
        trust: ServerTrust,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, ConfigError> {
        let provider = provider();
        let verifier = ServerVerifier {
            server_id,
            trust,
            provider: provider.clone(),
        };
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(Clock(clock)))
            .with_protocol_versions(VERSIONS)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(identity));
        config.alpn_protocols = Urgency::CanWait.offers();
        config.resumption = Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Does the handshake. `host` is sent as server name where it is a DNS name, for whatever
    /// routes connections by it; nothing is compared with it. There is no time limit here.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<ClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_as(Urgency::CanWait, host, stream).await
    }

    /// The same; a server that is stormed is told whether this client can wait for its handshake.
    pub async fn connect_as<S>(
        &self,
        urgency: Urgency,
        host: &str,
        stream: S,
    ) -> io::Result<ClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // An IP address is never sent, so this one says: no name.
        let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_not_a_name| {
            ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        });
        let connector = self.0.with_alpn(urgency.offers());
        connector.connect(name, stream).await
    }
}

impl Peer {
    /// The client of a connection; `None` if it showed no certificate.
    pub fn of_client<S>(stream: &ServerStream<S>) -> Result<Option<Self>, VerifyError> {
        Self::of(stream.get_ref().1.peer_certificates())
    }

    /// The server of a connection.
    pub fn of_server<S>(stream: &ClientStream<S>) -> Result<Option<Self>, VerifyError> {
        Self::of(stream.get_ref().1.peer_certificates())
    }
}
