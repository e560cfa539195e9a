//! A node as far as the server can tell: attests by join token, calls over mutual TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, SpiffeId, Timestamp, TrustDomain};
use muster_proto::muster::node::v1::node_view_client::NodeViewClient;
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, RenewAgentRequest, attest_agent_request,
    attest_agent_response,
};
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use muster_proto::spire::api::types;
use muster_svid::x509::{Certificate, X509Svid, build_csr};
use muster_tls::{Connector, Identity};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// An attested node.
#[derive(Clone)]
pub struct TestNode {
    /// The node's SVID.
    pub svid: X509Svid,
    address: SocketAddr,
    bundle: types::Bundle,
}

impl TestNode {
    /// Attests with a join token.
    pub async fn attest(
        address: SocketAddr,
        bundle: &types::Bundle,
        token: &str,
    ) -> Result<Self, Status> {
        let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
        Self::attest_with(address, bundle, token, &key).await
    }

    /// Attests with a join token and a key that was made before.
    pub async fn attest_with(
        address: SocketAddr,
        bundle: &types::Bundle,
        token: &str,
        key: &PrivateKey,
    ) -> Result<Self, Status> {
        let csr = build_csr(key, None).expect("a signing request");
        let request = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(
                attest_agent_request::Params {
                    data: Some(types::AttestationData {
                        r#type: "join_token".into(),
                        payload: token.as_bytes().to_vec().into(),
                    }),
                    params: Some(AgentX509svidParams { csr: csr.into() }),
                },
            )),
        };
        let mut client = AgentClient::new(connect(address, bundle, &Identity::none()).await);
        let mut answers = client
            .attest_agent(futures::stream::iter([request]))
            .await?
            .into_inner();
        let answer = answers.message().await?.expect("an answer").step;
        let Some(attest_agent_response::Step::Result(result)) = answer else {
            panic!("a challenge to a join token")
        };
        let chain = result
            .svid
            .expect("an SVID")
            .cert_chain
            .iter()
            .map(|der| der.to_vec())
            .collect();
        let svid = X509Svid::new(chain, key).expect("an SVID for our key");
        Ok(Self {
            svid,
            address,
            bundle: bundle.clone(),
        })
    }

    /// The node's ID.
    pub fn id(&self) -> &SpiffeId {
        &self.svid.spiffe_id
    }

    /// The same node, whose server is now at `address`.
    #[must_use]
    pub fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// A new connection with the node's SVID.
    pub async fn channel(&self) -> Channel {
        let identity = Identity::new(&self.svid).expect("an identity");
        connect(self.address, &self.bundle, &identity).await
    }

    /// The node service over a new connection.
    pub async fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel().await)
    }

    /// The entry service over a new connection.
    pub async fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel().await)
    }

    /// The signing service over a new connection.
    pub async fn svids(&self) -> SvidClient<Channel> {
        SvidClient::new(self.channel().await)
    }

    /// The view stream's service over a new connection.
    pub async fn views(&self) -> NodeViewClient<Channel> {
        NodeViewClient::new(self.channel().await)
    }

    /// The same node with a renewed SVID; the old value keeps the old one.
    pub async fn renew(&self) -> Result<Self, Status> {
        let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
        let csr = build_csr(&key, None).expect("a signing request");
        let request = RenewAgentRequest {
            params: Some(AgentX509svidParams { csr: csr.into() }),
        };
        let answer = self.agents().await.renew_agent(request).await?.into_inner();
        let chain = answer
            .svid
            .expect("an SVID")
            .cert_chain
            .iter()
            .map(|der| der.to_vec())
            .collect();
        Ok(Self {
            svid: X509Svid::new(chain, &key).expect("an SVID for our key"),
            ..self.clone()
        })
    }
}

/// Connects; the handshake happens at the first call.
async fn connect(address: SocketAddr, bundle: &types::Bundle, identity: &Identity) -> Channel {
    let bundle = read_bundle(bundle);
    let trust_domain = bundle.trust_domain.clone();
    let bundle = Arc::new(bundle);
    let bundles = move |td: &TrustDomain| (*td == bundle.trust_domain).then(|| Arc::clone(&bundle));
    let connector = Connector::new(
        trust_domain.server_id(),
        identity.clone(),
        Arc::new(bundles),
        Arc::new(wall_clock),
    )
    .expect("a TLS configuration");
    Endpoint::from_static("http://server")
        .connect_with_connector(service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                connector.connect("server", stream).await.map(TokioIo::new)
            }
        }))
        .await
        .expect("a connection to the server")
}

fn read_bundle(message: &types::Bundle) -> Bundle {
    muster_wire::bundle::read(message, |der| {
        Certificate::parse(der).ok().map(|c| c.not_after)
    })
    .expect("a bundle")
}

#[expect(clippy::disallowed_methods, reason = "a scenario runs on real time")]
fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time after 1970");
    Timestamp::EPOCH.plus(since)
}
