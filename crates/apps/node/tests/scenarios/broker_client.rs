//! A broker of our own: mutual TLS over either socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, SpiffeId, TrustDomain};
use muster_proto::spiffe::broker::api_client::ApiClient;
use muster_rt::{Clock, SystemClock};
use muster_svid::x509::X509Svid;
use muster_tls::{Connector, Identity, Peer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower::service_fn;

use crate::authority::Ca;
use crate::double::{Double, id, trust_domain};
use crate::rig::{Header, Rig, within};

/// Where to connect.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Unix,
    Tcp,
}

/// Whom the broker takes the server for.
#[derive(Clone, Copy)]
pub(crate) enum ServerId {
    TheNode,
    Other,
}

/// A broker that is connected.
pub(crate) struct Broker {
    pub(crate) channel: Channel,
    pub(crate) api: ApiClient<InterceptedService<Channel, Header>>,
}

#[expect(clippy::unnecessary_wraps, reason = "an interceptor may refuse")]
fn header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request
        .metadata_mut()
        .insert("broker.spiffe.io", MetadataValue::from_static("true"));
    Ok(request)
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A broker that can connect.
pub(crate) struct Unconnected {
    svid: Option<X509Svid>,
    socket: PathBuf,
    address: SocketAddr,
    admin: PathBuf,
    bundle: Arc<Bundle>,
}

impl Ca {
    /// An SVID of the double's trust domain.
    pub(crate) fn svid(&self, path: &str, ttl: Duration) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let now = SystemClock::new().now().wall;
        let leaf = self.sign(&id(path), key.public_key(), ttl, now);
        X509Svid::new(vec![leaf], &key).unwrap()
    }
}

impl Broker {
    /// With an SVID of the node's own trust domain.
    pub(crate) fn of(rig: &Rig, double: &Double, path: &str) -> Unconnected {
        let svid = double.shared.mind().cas[0].svid(path, Duration::from_hours(1));
        Self::with(rig, Some(svid))
    }

    /// With a given SVID, or none.
    pub(crate) fn with(rig: &Rig, svid: Option<X509Svid>) -> Unconnected {
        let pem = std::fs::read_to_string(rig.path("bundle.pem")).unwrap();
        let base64: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64);
        Unconnected {
            svid,
            socket: rig.path("broker/b.sock"),
            address: rig.tcp.unwrap(),
            admin: rig.path("private/a.sock"),
            bundle: Arc::new(crate::x509::bundle_of(trust_domain(), &der.unwrap())),
        }
    }

    /// An SVID `/proxy` of any authority.
    pub(crate) fn svid_of(ca: &Ca, domain: &TrustDomain, ttl: Duration) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let now = SystemClock::new().now().wall;
        let id = domain.with_path("/proxy").unwrap();
        let leaf = ca.sign(&id, key.public_key(), ttl, now);
        X509Svid::new(vec![leaf], &key).unwrap()
    }

    /// The same without the header.
    pub(crate) fn without_header(&self) -> ApiClient<Channel> {
        ApiClient::new(self.channel.clone())
    }
}

impl Unconnected {
    async fn connector(&self, server: ServerId) -> Connector {
        let server = match server {
            ServerId::TheNode => self.node_id().await,
            ServerId::Other => id("/spire/agent/join_token/another"),
        };
        let identity = match &self.svid {
            Some(svid) => Identity::new(svid).unwrap(),
            None => Identity::none(),
        };
        let bundle = self.bundle.clone();
        let clock = SystemClock::new();
        Connector::new(
            server,
            identity,
            Arc::new(move |_: &TrustDomain| Some(bundle.clone())),
            Arc::new(move || clock.now().wall),
        )
        .unwrap()
    }

    async fn node_id(&self) -> SpiffeId {
        use muster_proto::muster::node::admin::v1 as admin;
        let channel = muster_peer::connect(&self.admin).await.unwrap();
        let mut client = admin::node_admin_client::NodeAdminClient::new(channel);
        let info = client.get_info(admin::GetInfoRequest {}).await.unwrap();
        SpiffeId::parse(&info.into_inner().node_id).unwrap()
    }

    async fn socket(&self, place: Place) -> std::io::Result<Box<dyn Socket>> {
        Ok(match place {
            Place::Unix => Box::new(UnixStream::connect(&self.socket).await?),
            Place::Tcp => Box::new(TcpStream::connect(self.address).await?),
        })
    }

    async fn shake(
        &self,
        server: ServerId,
        place: Place,
    ) -> std::io::Result<muster_tls::ClientStream<Box<dyn Socket>>> {
        let connector = self.connector(server).await;
        let socket = self.socket(place).await?;
        connector.connect("localhost", socket).await
    }

    pub(crate) async fn connect(&self, place: Place) -> Broker {
        let stream = self.shake(ServerId::TheNode, place).await.unwrap();
        let mut stream = Some(TokioIo::new(stream));
        let connector = service_fn(move |_| {
            let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { Ok::<_, std::io::Error>(stream?) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap();
        Broker {
            channel: channel.clone(),
            api: ApiClient::with_interceptor(channel, header as Header),
        }
    }

    /// Whether the handshake succeeds; in TLS 1.3 the server's verdict comes after the client's.
    pub(crate) async fn is_let_in(&self, place: Place) -> bool {
        within("a verdict", async {
            match self.shake(ServerId::TheNode, place).await {
                // The server's SETTINGS, or its alert.
                Ok(mut stream) => stream.read_u8().await.is_ok(),
                Err(_refused) => false,
            }
        })
        .await
    }

    pub(crate) async fn knows_as(&self, server: ServerId, place: Place) -> bool {
        self.shake(server, place).await.is_ok()
    }

    /// The serial of the certificate that the server shows now.
    pub(crate) async fn server_serial(&self, place: Place) -> String {
        let stream = self.shake(ServerId::TheNode, place).await.unwrap();
        let peer = Peer::of_server(&stream).unwrap().unwrap();
        peer.serial.as_str().to_owned()
    }

    /// Whether a request with this `:authority` gets a response instead of a reset.
    pub(crate) async fn is_answered(&self, authority: &str) -> bool {
        const HEADERS: u8 = 1;
        let mut stream = self.shake(ServerId::TheNode, Place::Unix).await.unwrap();
        // :method POST, :scheme http, :path, :authority; then te and content-type.
        let mut block = b"\x83\x86\x04\x16/spiffe.broker.API/Nop".to_vec();
        block.push(0x01);
        block.push(u8::try_from(authority.len()).unwrap());
        block.extend(authority.as_bytes());
        block.extend(b"\x00\x02te\x08trailers\x0f\x10\x10application/grpc");
        let mut bytes =
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
        bytes.extend([
            0,
            0,
            u8::try_from(block.len()).unwrap(),
            HEADERS,
            0x05,
            0,
            0,
            0,
            1,
        ]);
        bytes.extend(block);
        stream.write_all(&bytes).await.unwrap();
        within("a frame of the stream", async {
            loop {
                let mut head = [0_u8; 9];
                if stream.read_exact(&mut head).await.is_err() {
                    return false;
                }
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                if head[8] == 1 {
                    return head[3] == HEADERS;
                }
            }
        })
        .await
    }
}

/// The services that reflection lists.
pub(crate) async fn reflected(channel: Channel, with_header: bool) -> Result<Vec<String>, Status> {
    let mut client = ServerReflectionClient::new(channel);
    let message = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(tokio_stream::once(message));
    if with_header {
        request
            .metadata_mut()
            .insert("broker.spiffe.io", MetadataValue::from_static("true"));
    }
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    let answer = answers.message().await?.and_then(|a| a.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("a list");
    };
    Ok(list.service.into_iter().map(|s| s.name).collect())
}
