//! A server of Muster and as many nodes as are wanted, with nobody over them: `muster dev` has one
//! node, and watches it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_model::SpiffeId;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use muster_proto::muster::node::admin::v1::{GetInfoRequest, GetInfoResponse};
use muster_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{PATIENCE, Server, TRUST_DOMAIN, folder, folder_below, free_port, pid, serving, spawn};
use crate::Failure;
use crate::process::Pid;

/// A file system in memory, as `/run` is where nodes have their sockets. A task's socket costs a
/// directory and a file, which take several times as long on a disk.
const MEMORY: &str = "/dev/shm";
/// So many lines are told of the log of a daemon that fails.
const LAST_LINES: usize = 20;
/// How often a node is asked how it stands.
const LOOK: Duration = Duration::from_millis(5);

/// A server, and nodes. They end with this value.
pub(crate) struct Own {
    pub(crate) server: Server,
    /// The daemon's program.
    node: PathBuf,
    // Killed when dropped.
    processes: Vec<Child>,
    // Removed last.
    folder: TempDir,
    /// The nodes' sockets.
    run: TempDir,
}

/// One of the nodes.
pub(crate) struct Node {
    pub(crate) pid: Pid,
    pub(crate) workload_socket: PathBuf,
    admin_socket: PathBuf,
    log: PathBuf,
}

impl Own {
    /// Starts a server; `muster-server` and `muster-node` stand beside `muster`.
    pub(crate) async fn start(muster: &Path) -> Result<Self, Failure> {
        let (folder, run) = (folder()?, in_memory()?);
        let at = |name: &str| folder.path().join(name);
        let address = format!("127.0.0.1:{}", free_port()?);
        let (config, admin_socket) = (at("server.toml"), at("api.sock"));
        let text = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\nlisten = \"{address}\"\ndata_dir = \"{}\"\nadmin_socket = \"{}\"\n",
            at("data").display(),
            admin_socket.display(),
        );
        fs::write(&config, text)?;
        let log = at("log");
        let child = start(&muster.with_file_name("muster-server"), &config, &log)?;
        let pid = pid(&child)?;
        if timeout(PATIENCE, serving(&admin_socket)).await.is_err() {
            return Err(said("the server does not serve", &log));
        }
        Ok(Self {
            server: Server {
                pid,
                admin_socket,
                address,
            },
            node: muster.with_file_name("muster-node"),
            processes: vec![child],
            folder,
            run,
        })
    }

    /// A connection to the operator's socket of the server.
    pub(crate) async fn admin(&self) -> Result<Channel, Failure> {
        Ok(muster_peer::connect(&self.server.admin_socket).await?)
    }

    /// Starts a node; it joins by itself, and [`Node::ready`] waits for that.
    pub(crate) async fn node(&mut self, name: &str) -> Result<Node, Failure> {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..CreateJoinTokenRequest::default()
        };
        let token = AgentClient::new(self.admin().await?)
            .create_join_token(request)
            .await?
            .into_inner()
            .value;
        let (place, run) = (self.folder.path().join(name), self.run.path().join(name));
        for directory in [&place, &run] {
            fs::create_dir(directory)?;
        }
        let at = |name: &str| place.join(name);
        let (workload_socket, admin_socket) = (run.join("w.sock"), run.join("private/a.sock"));
        // One user stands for all of a node's here, and many nodes for as many machines.
        let text = format!(
            r#"trust_domain = "{TRUST_DOMAIN}"
server = "{server}"
data_dir = "{data}"
workload_socket = "{workload}"
admin_socket = "{admin}"

[join]
token = "{token}"
insecure_bootstrap = true

[limits]
calls_per_second = 1_000_000
calls_burst = 1_000_000

[sightings]
interval = "0s"
"#,
            server = self.server.address,
            data = at("data").display(),
            workload = workload_socket.display(),
            admin = admin_socket.display(),
        );
        let config = at("node.toml");
        fs::write(&config, text)?;
        let log = at("log");
        let child = start(&self.node, &config, &log)?;
        let pid = pid(&child)?;
        self.processes.push(child);
        Ok(Node {
            pid,
            workload_socket,
            admin_socket,
            log,
        })
    }
}

impl Node {
    /// Waits until the node has its view; who it is.
    pub(crate) async fn ready(&self) -> Result<SpiffeId, Failure> {
        let info = self
            .stands(|info| info.connected && !info.node_id.is_empty())
            .await?;
        Ok(SpiffeId::parse(&info.node_id)?)
    }

    /// Waits until the node stands as is wanted, by its own word.
    pub(crate) async fn stands(
        &self,
        wanted: impl Fn(&GetInfoResponse) -> bool,
    ) -> Result<GetInfoResponse, Failure> {
        let asking = async {
            loop {
                if let Ok(channel) = muster_peer::connect(&self.admin_socket).await {
                    let mut client = NodeAdminClient::new(channel);
                    while let Ok(info) = client.get_info(GetInfoRequest {}).await {
                        let info = info.into_inner();
                        if wanted(&info) {
                            return info;
                        }
                        sleep(LOOK).await;
                    }
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, asking)
            .await
            .map_err(|_| said("a node does not come to stand as it should", &self.log))
    }
}

/// A folder for sockets; on a machine without such a file system, one like all others.
fn in_memory() -> Result<TempDir, Failure> {
    folder_below(Path::new(MEMORY)).or_else(|_elsewhere| folder())
}

fn start(daemon: &Path, config: &Path, log: &Path) -> Result<Child, Failure> {
    let mut command = Command::new(daemon);
    command.args(["run", "--config"]).arg(config);
    spawn(&mut command, log)
}

fn said(what: &str, log: &Path) -> Failure {
    let said = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LAST_LINES)..);
    format!("{what}:\n{}", last.unwrap_or_default().join("\n")).into()
}
