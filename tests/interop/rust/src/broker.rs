//! rust-spiffe's broker client: mutual TLS over the Unix socket, about one workload.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message as _;
use serde_json::json;
use spiffe::broker_api::SecurityHeader;
use spiffe::broker_api::pb::spiffe::broker::api_client::ApiClient;
use spiffe::broker_api::pb::spiffe::broker::{
    FetchJwtsvidRequest, SubscribeToJwtBundlesRequest, SubscribeToX509BundlesRequest,
    SubscribeToX509svidRequest, WorkloadPidReference, WorkloadReference,
};
use spiffe::{SpiffeId, X509Source, X509Svid};
use spiffe_rustls::{authorizer, mtls_client};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use crate::Outcome;

type Failure = Box<dyn Error + Send + Sync>;
type Client = ApiClient<InterceptedService<Channel, SecurityHeader>>;

const WITHIN: Duration = Duration::from_secs(60);

/// Asks about the process `pid`, whose identity is `workload`, at the node with the ID `node`; says
/// when it follows it, and sees it end.
pub(crate) async fn run(
    endpoint: &str,
    node: &SpiffeId,
    socket: &str,
    pid: &str,
    workload: &str,
) -> Outcome {
    timeout(WITHIN, ask(endpoint, node, socket, pid.parse()?, workload)).await?
}

async fn ask(endpoint: &str, node: &SpiffeId, socket: &str, pid: i32, workload: &str) -> Outcome {
    let mut client = connect(endpoint, node, socket).await?;
    let reference = || Some(WorkloadReference::from(WorkloadPidReference { pid }));
    let domain = format!("spiffe://{}", node.trust_domain());

    let request = SubscribeToX509BundlesRequest {
        reference: reference(),
    };
    let mut bundles = client
        .subscribe_to_x509_bundles(request)
        .await?
        .into_inner();
    let bundles = bundles.message().await?.ok_or("no bundles")?.bundles;
    if bundles.get(&domain).is_none_or(|der| der.is_empty()) {
        return Err(format!("no bundle of {domain}").into());
    }
    let request = SubscribeToJwtBundlesRequest {
        reference: reference(),
    };
    let mut keys = client.subscribe_to_jwt_bundles(request).await?.into_inner();
    let keys = keys.message().await?.ok_or("no key sets")?.bundles;
    let set = keys.get(&domain).ok_or("no key set of the trust domain")?;
    serde_json::from_slice::<serde_json::Value>(set)?;

    let request = FetchJwtsvidRequest {
        reference: reference(),
        audience: vec!["interop".into()],
        spiffe_id: workload.into(),
    };
    let tokens = client.fetch_jwtsvid(request).await?.into_inner().svids;
    if tokens.len() != 1 || tokens[0].spiffe_id != workload {
        return Err(format!("{} tokens, and not one of {workload}", tokens.len()).into());
    }

    // Process numbers end at 4194304 on Linux.
    let nobody = WorkloadPidReference { pid: i32::MAX };
    let request = SubscribeToX509svidRequest {
        reference: Some(nobody.into()),
    };
    let refused = client.subscribe_to_x509svid(request).await.err();
    expect_not_found(&refused.ok_or("a pid of no process has SVIDs")?)?;

    let request = SubscribeToX509svidRequest {
        reference: reference(),
    };
    let mut stream = client.subscribe_to_x509svid(request).await?.into_inner();
    let first = stream.message().await?.ok_or("no SVIDs")?;
    let [svid] = first.svids.as_slice() else {
        return Err(format!("{} SVIDs", first.svids.len()).into());
    };
    let parsed = X509Svid::parse_from_der(&svid.x509_svid, &svid.x509_svid_key)?;
    if parsed.spiffe_id().to_string() != workload || svid.spiffe_id != workload {
        return Err(format!("the SVID is of {}", parsed.spiffe_id()).into());
    }
    println!("{}", json!({"following": true}));
    let mut updates = 1;
    loop {
        match stream.message().await {
            Ok(Some(_)) => updates += 1,
            Ok(None) => return Err("the stream ended with OK".into()),
            Err(status) => {
                expect_not_found(&status)?;
                return Ok(format!(
                    "{workload} by pid, {updates} update(s), then WORKLOAD_NOT_FOUND as the process ended"
                ));
            }
        }
    }
}

/// A channel whose server is known by its exact SPIFFE ID.
async fn connect(endpoint: &str, node: &SpiffeId, socket: &str) -> Result<Client, Failure> {
    let source = X509Source::builder().endpoint(endpoint).build().await?;
    let mut config = mtls_client(source)
        .authorize(authorizer::exact([node.to_string()])?)
        .build()?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let socket = socket.to_owned();
    let connect = service_fn(move |_| {
        let (connector, socket) = (connector.clone(), socket.clone());
        async move {
            let stream = UnixStream::connect(socket).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await?;
    Ok(ApiClient::with_interceptor(channel, SecurityHeader::new()))
}

/// `google.rpc.Status`, as far as it matters.
#[derive(Clone, PartialEq, prost::Message)]
struct RichStatus {
    #[prost(bytes = "vec", repeated, tag = "3")]
    details: Vec<Vec<u8>>,
}

/// NOT_FOUND, with the standard's reason in its details.
fn expect_not_found(status: &Status) -> Result<(), Failure> {
    let details = RichStatus::decode(status.details())?.details.concat();
    let reason = b"WORKLOAD_NOT_FOUND";
    let told = details.windows(reason.len()).any(|window| window == reason);
    if status.code() == Code::NotFound && told {
        return Ok(());
    }
    Err(format!("{:?}: {}", status.code(), status.message()).into())
}
