//! The bench as a caller: of the Workload API, of the admin socket, and as a node of its own.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, SpiffeId, TrustDomain};
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request,
    attest_agent_response,
};
use muster_proto::spire::api::server::bundle::v1::GetBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::types::{self, AttestationData, Entry, Selector};
use muster_svid::x509::{Certificate, X509Svid, build_csr};
use muster_tls::{Connector, Identity};
use tokio::net::TcpStream;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::Failure;
use crate::clock::wall;
use crate::subject::{Server, TRUST_DOMAIN};

/// A Workload API request with its security header.
pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// A registration entry by selectors of the `unix` attestor.
pub(crate) fn entry(parent: &SpiffeId, path: &str, selectors: &[(&str, String)]) -> Entry {
    Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: path.into(),
        }),
        parent_id: Some(muster_wire::id::write(parent)),
        selectors: selectors
            .iter()
            .map(|(kind, value)| Selector {
                r#type: (*kind).into(),
                value: value.clone(),
            })
            .collect(),
        ..Entry::default()
    }
}

/// Creates entries in one call, all of which must be accepted; tells their IDs.
pub(crate) async fn create(
    api: &mut EntryClient<Channel>,
    entries: Vec<Entry>,
) -> Result<Vec<String>, Failure> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: Some(types::EntryMask::default()),
    };
    let results = api.batch_create_entry(request).await?.into_inner().results;
    let mut ids = Vec::new();
    for result in results {
        let status = result.status.unwrap_or_default();
        if status.code != 0 {
            return Err(format!("an entry is refused: {}", status.message).into());
        }
        ids.push(result.entry.unwrap_or_default().id);
    }
    Ok(ids)
}

/// The bench as an attested node.
pub(crate) struct Node {
    pub(crate) id: SpiffeId,
    /// A signing request for whatever the node asks to have signed.
    pub(crate) csr: Vec<u8>,
    connector: Connector,
    address: String,
}

impl Node {
    /// Attests with a join token, as a node does.
    pub(crate) async fn attest(server: &Server) -> Result<Self, Failure> {
        let admin = muster_peer::connect(&server.admin_socket).await?;
        let token = AgentClient::new(admin.clone())
            .create_join_token(CreateJoinTokenRequest {
                ttl: 600,
                ..CreateJoinTokenRequest::default()
            })
            .await?
            .into_inner();
        let message = BundleClient::new(admin)
            .get_bundle(GetBundleRequest::default())
            .await?
            .into_inner();
        let expiry = |der: &[u8]| Certificate::parse(der).ok().map(|found| found.not_after);
        let bundle = Arc::new(muster_wire::bundle::read(&message, expiry)?);
        let bundles = move |asked: &TrustDomain| -> Option<Arc<Bundle>> {
            (*asked == bundle.trust_domain).then(|| bundle.clone())
        };
        let identity = Identity::none();
        let server_id = TrustDomain::parse(TRUST_DOMAIN)?.server_id();
        let connector = Connector::new(
            server_id,
            identity.clone(),
            Arc::new(bundles),
            Arc::new(wall),
        )?;

        let key = PrivateKey::generate(KeyType::EcP256)?;
        let csr = build_csr(&key, None)?;
        let chain = attest(
            channel(&server.address, &connector)?,
            token.value,
            csr.clone(),
        )
        .await?;
        let svid = X509Svid::new(chain, &key)?;
        identity.set(&svid)?;
        Ok(Self {
            id: svid.spiffe_id,
            csr,
            connector,
            address: server.address.clone(),
        })
    }

    /// A connection of its own to the server, over mutual TLS.
    pub(crate) fn channel(&self) -> Result<Channel, Failure> {
        channel(&self.address, &self.connector)
    }
}

async fn attest(channel: Channel, token: String, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, Failure> {
    let params = attest_agent_request::Params {
        data: Some(AttestationData {
            r#type: "join_token".into(),
            payload: token.into_bytes().into(),
        }),
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    let first = AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    };
    let mut answers = AgentClient::new(channel)
        .attest_agent(tokio_stream::once(first))
        .await?
        .into_inner();
    let step = answers.message().await?.and_then(|answer| answer.step);
    let Some(attest_agent_response::Step::Result(result)) = step else {
        return Err("AttestAgent did not end with a result".into());
    };
    let svid = result.svid.ok_or("AttestAgent gave no SVID")?;
    Ok(svid.cert_chain.iter().map(|der| der.to_vec()).collect())
}

fn channel(address: &str, connector: &Connector) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let (address, connector) = (address.to_owned(), connector.clone());
    Ok(endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let (address, connector) = (address.clone(), connector.clone());
        async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(&address, tcp).await?))
        }
    })))
}
