//! A node in a temporary directory, and a workload: this process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use muster_model::{Now, Timestamp};
use muster_node::config::Config;
use muster_node::{StartError, serve};
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_proto::workload::{X509svidRequest, X509svidResponse};
use muster_rt::lifecycle::{Reason, Shutdown};
use muster_rt::telemetry::LevelControl;
use muster_rt::{Clock, SystemClock};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::double::{Double, TOKEN};

/// The longest that anything here should take; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A clock that can be set.
pub(crate) struct SteppedClock {
    real: SystemClock,
    by_millis: AtomicI64,
}

impl SteppedClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            real: SystemClock::new(),
            by_millis: AtomicI64::new(0),
        })
    }

    pub(crate) fn step(&self, by: i64) {
        self.by_millis.fetch_add(by * 1000, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Now {
        let now = self.real.now();
        Now {
            wall: Timestamp::from_unix_millis(
                now.wall.unix_millis() + self.by_millis.load(Ordering::SeqCst),
            ),
            mono: now.mono,
        }
    }
}

/// A node's directory and configuration.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    server: String,
    /// Further lines of the `[join]` table.
    pub(crate) join: String,
    /// Further tables.
    pub(crate) more: String,
    /// Where the Broker API is on TCP.
    pub(crate) tcp: Option<std::net::SocketAddr>,
}

/// A node that runs.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    task: JoinHandle<Result<ExitCode, StartError>>,
}

impl Running {
    /// Stops the node as a signal would and tells whether it ended well.
    pub(crate) async fn stop(self) -> bool {
        self.shutdown.begin(Reason::Terminate);
        self.ended().await
    }

    /// Waits for the end and tells whether it was a good one.
    pub(crate) async fn ended(self) -> bool {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        let code = ended
            .expect("the node ends")
            .expect("the node does not panic");
        code.is_ok_and(|code| format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS))
    }
}

pub(crate) type Client = SpiffeWorkloadApiClient<InterceptedService<Channel, Header>>;
pub(crate) type Header = fn(Request<()>) -> Result<Request<()>, Status>;

#[expect(clippy::unnecessary_wraps, reason = "an interceptor may refuse")]
pub(crate) fn header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(request)
}

impl Rig {
    pub(crate) fn new(double: &Double) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("bundle.pem"), double.bundle_pem()).unwrap();
        let bundle = dir.path().join("bundle.pem");
        Self {
            server: double.address.to_string(),
            join: format!("token = \"{TOKEN}\"\nbundle = \"{}\"", bundle.display()),
            more: String::new(),
            tcp: None,
            dir,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn workload_socket(&self) -> PathBuf {
        self.path("w.sock")
    }

    pub(crate) fn config(&self) -> String {
        let at = |name: &str| self.path(name).display().to_string();
        format!(
            "trust_domain = \"example.org\"\nserver = \"{}\"\ndata_dir = \"{}\"\n\
             workload_socket = \"{}\"\nadmin_socket = \"{}\"\n[join]\n{}\n{}\n",
            self.server,
            at("data"),
            at("w.sock"),
            at("private/a.sock"),
            self.join,
            self.more
        )
    }

    pub(crate) fn run(&self) -> Running {
        self.run_by(SystemClock::shared())
    }

    pub(crate) fn run_by(&self, clock: Arc<dyn Clock>) -> Running {
        let config = Config::parse("node.toml", &self.config()).expect("a good configuration");
        let level = LevelControl::detached(config.log.level);
        let shutdown = Shutdown::new();
        let task = tokio::spawn(serve(config, level, clock, shutdown.clone()));
        Running { shutdown, task }
    }

    /// A channel to the Workload API, as soon as its socket is there.
    pub(crate) async fn channel(&self) -> Channel {
        channel(&self.workload_socket()).await
    }

    pub(crate) async fn client(&self) -> Client {
        SpiffeWorkloadApiClient::with_interceptor(self.channel().await, header as Header)
    }

    pub(crate) async fn admin(&self) -> NodeAdminClient<Channel> {
        NodeAdminClient::new(self.admin_channel().await)
    }

    /// A channel to the operator's socket, as soon as it is there.
    pub(crate) async fn admin_channel(&self) -> Channel {
        channel(&self.path("private/a.sock")).await
    }

    /// Waits until the node says of itself what is wanted.
    pub(crate) async fn info(
        &self,
        wanted: impl Fn(&admin::GetInfoResponse) -> bool,
    ) -> admin::GetInfoResponse {
        let mut admin = self.admin().await;
        within("the node stands as wanted", async {
            loop {
                let info = admin
                    .get_info(admin::GetInfoRequest {})
                    .await
                    .unwrap()
                    .into_inner();
                if wanted(&info) {
                    return info;
                }
                // The node has no event for this: looking again is all there is, and the call
                // itself takes its time.
            }
        })
        .await
    }

    /// Waits until the node is in step with revision `at_least`.
    pub(crate) async fn in_step(&self, double: &Double) -> admin::GetInfoResponse {
        let revision = double.shared.mind().revision;
        self.info(|info| info.connected && info.revision >= revision)
            .await
    }
}

/// A client at once, or not at all.
pub(crate) async fn client_of(path: &Path) -> Result<Client, muster_peer::ConnectError> {
    let channel = muster_peer::connect(path).await?;
    Ok(SpiffeWorkloadApiClient::with_interceptor(
        channel,
        header as Header,
    ))
}

pub(crate) async fn channel(path: &Path) -> Channel {
    within("the socket is there", async {
        loop {
            match muster_peer::connect(path).await {
                Ok(channel) => return channel,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// The selector of this process's user.
pub(crate) fn uid() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

/// Opens a stream of X509-SVIDs and reads its first message.
pub(crate) async fn fetch_x509(
    client: &mut Client,
) -> Result<(X509svidResponse, Streaming<X509svidResponse>), Status> {
    within("a first answer", async {
        let mut stream = client
            .fetch_x509svid(X509svidRequest {})
            .await?
            .into_inner();
        let first = stream
            .message()
            .await?
            .expect("a stream does not end with OK (WAPI-14)");
        Ok((first, stream))
    })
    .await
}

pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    within("a next message", async {
        let message = stream.message().await?;
        Ok(message.expect("a stream does not end with OK (WAPI-14)"))
    })
    .await
}
