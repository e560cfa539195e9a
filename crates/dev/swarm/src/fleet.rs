//! Many nodes.

use std::sync::Arc;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, TrustDomain};
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request,
    attest_agent_response,
};
use muster_proto::spire::api::server::bundle::v1::GetBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::types::AttestationData;
use muster_svid::x509::{Certificate, X509Svid, build_csr};
use muster_tls::{Connector, Identity, Urgency};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::clock::wall;
use crate::node::channel;
use crate::{Failure, Node, Running, TRUST_DOMAIN, Traffic};

/// How many nodes attest at a time: what is created together is committed together.
const AT_ONCE: usize = 64;
/// Connections over which nodes attest. A node that has no SVID yet shows none, so that they may
/// share one.
const DOORS: usize = 4;

/// Attested nodes.
pub struct Fleet {
    /// The nodes.
    pub nodes: Vec<Arc<Node>>,
}

/// What all nodes share.
struct Common {
    bundle: Arc<Bundle>,
    key: PrivateKey,
    csr: Arc<[u8]>,
}

impl Fleet {
    /// Lets `count` nodes attest, each with a join token of its own.
    pub async fn attest(server: &Running, count: usize) -> Result<Self, Failure> {
        let admin = muster_peer::connect(&server.admin_socket).await?;
        let message = BundleClient::new(admin.clone())
            .get_bundle(GetBundleRequest::default())
            .await?
            .into_inner();
        let expiry = |der: &[u8]| Certificate::parse(der).ok().map(|found| found.not_after);
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let common = Arc::new(Common {
            bundle: Arc::new(muster_wire::bundle::read(&message, expiry)?),
            csr: build_csr(&key, None)?.into(),
            key,
        });
        let nobody = common.connector(&Identity::none())?;
        let unheeded = Arc::new(Traffic::default());
        let mut doors = Vec::new();
        for _ in 0..DOORS {
            let door = channel(&server.address, &nobody, &unheeded, Urgency::Now);
            doors.push(door.await?);
        }
        let mut nodes = Vec::with_capacity(count);
        let mut attesting = JoinSet::new();
        for (number, door) in (0..count).zip(doors.iter().cycle()) {
            if attesting.len() >= AT_ONCE
                && let Some(node) = attesting.join_next().await
            {
                nodes.push(Arc::new(node??));
            }
            let (admin, door, common) = (admin.clone(), door.clone(), Arc::clone(&common));
            attesting.spawn(async move {
                common
                    .attest(admin, door)
                    .await
                    .map_err(|error| format!("node {number}: {error}").into())
            });
        }
        while let Some(node) = attesting.join_next().await {
            let node: Result<Node, Failure> = node?;
            nodes.push(Arc::new(node?));
        }
        Ok(Self { nodes })
    }
}

impl Common {
    fn connector(&self, identity: &Identity) -> Result<Connector, Failure> {
        let bundle = Arc::clone(&self.bundle);
        let bundles = move |asked: &TrustDomain| -> Option<Arc<Bundle>> {
            (*asked == bundle.trust_domain).then(|| Arc::clone(&bundle))
        };
        let server_id = TrustDomain::parse(TRUST_DOMAIN)?.server_id();
        Ok(Connector::new(
            server_id,
            identity.clone(),
            Arc::new(bundles),
            Arc::new(wall),
        )?)
    }

    async fn attest(&self, admin: Channel, door: Channel) -> Result<Node, Failure> {
        let token = AgentClient::new(admin)
            .create_join_token(CreateJoinTokenRequest {
                ttl: 3600,
                ..CreateJoinTokenRequest::default()
            })
            .await?
            .into_inner()
            .value;
        let csr = self.csr.to_vec().into();
        let params = attest_agent_request::Params {
            data: Some(AttestationData {
                r#type: "join_token".into(),
                payload: token.into_bytes().into(),
            }),
            params: Some(AgentX509svidParams { csr }),
        };
        let first = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(params)),
        };
        let mut answers = AgentClient::new(door)
            .attest_agent(tokio_stream::once(first))
            .await?
            .into_inner();
        let step = answers.message().await?.and_then(|answer| answer.step);
        let Some(attest_agent_response::Step::Result(result)) = step else {
            return Err("AttestAgent did not end with a result".into());
        };
        let svid = result.svid.ok_or("AttestAgent gave no SVID")?;
        let chain = svid.cert_chain.iter().map(|der| der.to_vec()).collect();
        let svid = X509Svid::new(chain, &self.key)?;
        Ok(Node {
            connector: self.connector(&Identity::new(&svid)?)?,
            id: svid.spiffe_id,
            traffic: Arc::new(Traffic::default()),
            entries: Vec::new(),
            csr: Arc::clone(&self.csr),
        })
    }
}
