//! Start-up: the server, a token, the node, in this order, each when the one before serves.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_model::{SpiffeId, TrustDomain};
use muster_proto::muster::node::admin::v1::GetInfoRequest;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use muster_proto::spire::api::types::{Entry, Selector};
use muster_rt::endpoint::Endpoint;
use muster_rt::files;
use muster_wire::id;
use tokio::process::ChildStdout;
use tonic::transport::Channel;

use super::Dev;
use super::child::Child;
use super::children::Children;
use super::place::Place;
use crate::daemon::{self, NodeSettings, ServerSettings};
use crate::failure::{Exit, Failure};
use crate::server_api::ServerArgs;
use crate::time::Ttl;
use crate::{bundle, entry, token};

/// How long the server and the node may each take to serve.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often we look whether they do.
const LOOK: Duration = Duration::from_millis(20);
/// How long the node may take to use its token.
const TOKEN_TTL: Ttl = Ttl(600);

/// A trust domain that serves.
pub(super) struct Running {
    pub(super) trust_domain: TrustDomain,
    pub(super) server_address: String,
    pub(super) server_admin_socket: PathBuf,
    pub(super) workload_socket: PathBuf,
    pub(super) node_admin_socket: PathBuf,
    pub(super) broker_socket: Option<PathBuf>,
    pub(super) node_id: String,
    pub(super) server_pid: Option<u32>,
    pub(super) node_pid: Option<u32>,
}

impl Running {
    pub(super) fn new(
        dev: &Dev,
        place: &Place,
        server_address: String,
        node_id: String,
        children: &Children,
    ) -> Self {
        Self {
            trust_domain: dev.trust_domain.clone(),
            server_address,
            server_admin_socket: place.server_socket(),
            workload_socket: place.workload_socket(),
            node_admin_socket: place.node_socket(),
            broker_socket: (!dev.broker.is_empty()).then(|| place.broker_socket()),
            node_id,
            server_pid: children.server.as_ref().map(Child::pid),
            node_pid: children.node.as_ref().map(Child::pid),
        }
    }

    /// The Workload API's address as clients take it.
    pub(super) fn workload_address(&self) -> String {
        Endpoint::Unix(self.workload_socket.clone()).to_string()
    }

    /// The demonstration workload's identity.
    pub(super) fn demo_id(&self) -> Result<SpiffeId, Failure> {
        self.trust_domain
            .with_path("/demo")
            .map_err(|error| Failure::failed(format!("the demonstration's SPIFFE ID: {error}")))
    }

    pub(super) fn server_args(&self) -> ServerArgs {
        ServerArgs::at(self.server_admin_socket.clone())
    }
}

/// Starts the server and waits until it serves; gives the address that nodes reach it at.
pub(super) async fn start_server(
    dev: &Dev,
    place: &Place,
    children: &mut Children,
) -> Result<String, Failure> {
    let file = place.server_dir().join("server.toml");
    let settings = ServerSettings {
        trust_domain: &dev.trust_domain,
        data_dir: &place.server_dir().join("data"),
        listen: dev.listen,
        admin_socket: &place.server_socket(),
        ca_ttl: dev.ca_ttl,
        x509_ttl: dev.x509_ttl(),
        jwt_ttl: dev.jwt_ttl,
        wit: dev.wit,
    };
    files::write_atomic(&file, settings.to_toml().as_bytes(), files::PRIVATE)?;
    daemon::check_server(&file).map_err(|faults| Failure::failed(faults.to_string()))?;
    let arguments = [
        "server".as_ref(),
        "run".as_ref(),
        "--config".as_ref(),
        file.as_os_str(),
    ];
    let log = place.server_dir().join("log");
    let (server, _) = Child::start("server", &arguments, &[], log)?;
    in_time("server", children.server.insert(server).address()).await
}

/// Starts the node with a token of the server, and waits until it serves; gives its SPIFFE ID.
pub(super) async fn start_node(
    dev: &Dev,
    place: &Place,
    server_address: &str,
    children: &mut Children,
) -> Result<(NodeAdminClient<Channel>, String), Failure> {
    let server = ServerArgs::at(place.server_socket());
    let roots = bundle::roots(&bundle::fetch(&server).await?);
    let bundle_file = place.node_dir().join("bundle.pem");
    files::write_atomic(&bundle_file, roots.as_bytes(), files::PUBLIC)?;
    // A node that still has its own identity does not use the token, which then expires.
    let token = token::mint(&server, TOKEN_TTL, None).await?;
    let file = place.node_dir().join("node.toml");
    let settings = NodeSettings {
        trust_domain: &dev.trust_domain,
        data_dir: &place.node_dir().join("data"),
        server_address,
        bundle_file: &bundle_file,
        join_token: &token.value,
        workload_socket: &place.workload_socket(),
        admin_socket: &place.node_socket(),
        wit: dev.wit,
        broker_socket: &place.broker_socket(),
        brokers: &dev.broker,
        delegates: &dev.delegate,
    };
    files::write_atomic(&file, settings.to_toml().as_bytes(), files::PRIVATE)?;
    daemon::check_node(&file).map_err(|faults| Failure::failed(faults.to_string()))?;
    let arguments = [
        "node".as_ref(),
        "run".as_ref(),
        "--config".as_ref(),
        file.as_os_str(),
    ];
    let log = place.node_dir().join("log");
    let (node, _) = Child::start("node", &arguments, &[], log)?;
    let node = children.node.insert(node);
    let socket = place.node_socket();
    let ready = async {
        tokio::select! {
            ready = node_ready(&socket) => Ok(ready),
            failure = node.died() => Err(failure),
        }
    };
    in_time("node", ready).await
}

/// Starts the demonstration workload; gives what it reports.
pub(super) fn start_demo(
    place: &Place,
    workload_address: &str,
    children: &mut Children,
) -> Result<ChildStdout, Failure> {
    let arguments = ["demo-workload", "--socket", workload_address].map(OsStr::new);
    let log = place.node_dir().join("demo.log");
    let (demo, reports) = Child::start("demonstration workload", &arguments, &[], log)?;
    children.demo = Some(demo);
    reports.ok_or_else(|| Failure::failed("the demonstration workload has no standard output"))
}

/// Starts the agent, which is the command `words`; gives what it reports.
pub(super) fn start_agent(
    place: &Place,
    workload_address: &str,
    words: &[OsString],
    children: &mut Children,
) -> Result<ChildStdout, Failure> {
    let arguments = ["demo-exec", "--socket", workload_address].map(OsStr::new);
    let log = place.node_dir().join("agent.log");
    let (agent, reports) = Child::start("agent", &arguments, words, log)?;
    children.agent = Some(agent);
    reports.ok_or_else(|| Failure::failed("the agent has no standard output"))
}

/// Registers the identity of the demonstration: any process of this user, so that a client started
/// in another shell receives it too.
pub(super) async fn register_demo(running: &Running) -> Result<Entry, Failure> {
    let spiffe_id = running.demo_id()?;
    let parent = SpiffeId::parse(&running.node_id).map_err(|error| {
        Failure::failed(format!("the node's ID {:?}: {error}", running.node_id))
    })?;
    let entry = Entry {
        spiffe_id: Some(id::write(&spiffe_id)),
        parent_id: Some(id::write(&parent)),
        selectors: vec![Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{}", nix::unistd::getuid()),
        }],
        hint: "demo".to_owned(),
        ..Entry::default()
    };
    entry::ensure(&running.server_args(), entry).await
}

/// Waits until the node knows who it is and has its view from the server.
async fn node_ready(socket: &Path) -> (NodeAdminClient<Channel>, String) {
    loop {
        if let Ok(channel) = muster_peer::connect(socket).await {
            let mut client = NodeAdminClient::new(channel);
            while let Ok(info) = client.get_info(GetInfoRequest {}).await {
                let info = info.into_inner();
                if info.connected && !info.node_id.is_empty() {
                    return (client, info.node_id);
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn in_time<T>(
    name: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                Exit::Unavailable,
                format!(
                    "the {name} did not serve within {} s; look at its log with --dir DIR and \
                     MUSTER_LOG=debug",
                    PATIENCE.as_secs()
                ),
            ))
        })
}
