//! `muster-server` as a child process.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use muster_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::bundle::v1::GetBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use muster_proto::spire::api::types;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::Channel;

/// How long a server may take to serve or to end before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// The configuration of a test's server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Everything that the server writes lies here.
    pub dir: PathBuf,
    /// More TOML, after the keys that the harness sets.
    pub more: String,
}

impl ServerConfig {
    /// A server in `dir`, for `example.org`, on a free loopback port.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            more: String::new(),
        }
    }

    /// Where the roll is kept.
    pub fn roll(&self) -> PathBuf {
        self.dir.join("server/roll.sqlite")
    }

    /// The same with more TOML.
    #[must_use]
    pub fn with(mut self, toml: &str) -> Self {
        writeln!(self.more, "{toml}").unwrap();
        self
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// Writes the file and returns its path.
    pub fn write(&self) -> PathBuf {
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{dir}/server\"\nlisten = \"127.0.0.1:0\"\n\
             admin_socket = \"{socket}\"\n{more}\n[log]\nformat = \"json\"\n",
            dir = self.dir.display(),
            socket = self.admin_socket().display(),
            more = self.more,
        );
        let path = self.dir.join("server.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A running server; killed when it goes out of scope.
pub struct ServerProcess {
    child: Child,
    config: ServerConfig,
    address: SocketAddr,
    channel: Channel,
}

impl ServerProcess {
    /// Starts `binary` and waits until it says that it serves.
    pub async fn start(binary: &str, config: ServerConfig) -> Self {
        match Self::try_start(binary, config).await {
            Ok(server) => server,
            Err((status, log)) => {
                panic!("the server ended with {status} instead of serving:\n{log}")
            }
        }
    }

    /// Starts `binary`; when it ends instead of serving, its exit status and its log.
    pub async fn try_start(
        binary: &str,
        config: ServerConfig,
    ) -> Result<Self, (ExitStatus, String)> {
        let file = config.write();
        let mut child = Command::new(binary)
            .args(["run", "--config"])
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {binary}: {error}"));
        let stderr = child.stderr.take().unwrap();
        let (serving, address) = mpsc::channel();
        // Reads to the end, so that the server never blocks on its log.
        let reader = std::thread::spawn(move || {
            let mut log = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "serving" {
                    let address = event["address"]
                        .as_str()
                        .and_then(|a| a.parse::<SocketAddr>().ok());
                    // The test may have given up.
                    serving.send(address).unwrap_or_default();
                }
                writeln!(log, "{line}").unwrap();
            }
            log
        });
        let waited = tokio::task::spawn_blocking(move || address.recv_timeout(PATIENCE))
            .await
            .unwrap();
        let Ok(Some(address)) = waited else {
            drop(child.kill());
            let status = child.wait().unwrap();
            return Err((status, reader.join().unwrap()));
        };
        let channel = muster_peer::connect(config.admin_socket())
            .await
            .expect("the admin socket of a serving server");
        Ok(Self {
            child,
            config,
            address,
            channel,
        })
    }

    /// The TCP address of the API.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration, to start again with.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// A channel to the admin socket.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The node service on the admin socket.
    pub fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel())
    }

    /// The entry service on the admin socket.
    pub fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel())
    }

    /// The signing service on the admin socket.
    pub fn svids(&self) -> SvidClient<Channel> {
        SvidClient::new(self.channel())
    }

    /// The server's own bundle.
    pub async fn bundle(&self) -> types::Bundle {
        let mut client = BundleClient::new(self.channel());
        client
            .get_bundle(GetBundleRequest::default())
            .await
            .expect("the bundle")
            .into_inner()
    }

    /// A join token that is good for ten minutes.
    pub async fn join_token(&self) -> String {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        self.agents()
            .create_join_token(request)
            .await
            .expect("a join token")
            .into_inner()
            .value
    }

    /// Kills the server without a word and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the server to end, and returns how it did.
    pub async fn stop(mut self) -> ExitStatus {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        tokio::task::spawn_blocking(move || self.child.wait().unwrap())
            .await
            .unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
