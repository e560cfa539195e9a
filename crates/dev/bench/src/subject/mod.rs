//! What is measured: the processes of Muster, or of SPIRE, on sockets in a folder of their own.

mod muster;
mod own;
mod spire;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use muster_model::SpiffeId;
use muster_proto::spire::api::server::entry::v1::CountEntriesRequest;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::clock::Stopwatch;
use crate::process::Pid;

pub(crate) use own::{Node, Own};

/// The trust domain of every run.
pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// How long a process may take to serve, or to end.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often a server that starts is asked whether it serves.
const POLL: Duration = Duration::from_millis(2);

/// Whose processes.
pub(crate) enum Kind {
    /// Muster; the path of `muster`.
    Muster(PathBuf),
    /// SPIRE; the folder of its binaries.
    Spire(PathBuf),
}

impl Kind {
    /// For headings.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Muster(_) => "Muster",
            Self::Spire(_) => "SPIRE",
        }
    }

    /// Whether this is the program whose bars count.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Muster(_))
    }

    /// Starts a server and a node.
    pub(crate) async fn start(&self) -> Result<Domain, Failure> {
        match self {
            Self::Muster(binary) => muster::start(binary).await,
            Self::Spire(folder) => spire::start(folder).await,
        }
    }

    /// Prepares a server without a node, in a folder that keeps its state.
    pub(crate) fn prepare_server(&self) -> Result<Prepared, Failure> {
        match self {
            Self::Muster(binary) => muster::prepare_server(binary),
            Self::Spire(folder) => spire::prepare_server(folder),
        }
    }
}

/// A server.
pub(crate) struct Server {
    pub(crate) pid: Pid,
    pub(crate) admin_socket: PathBuf,
    /// Host and port of the API.
    pub(crate) address: String,
}

/// A server and a node. They end with this value.
pub(crate) struct Domain {
    pub(crate) server: Server,
    pub(crate) node: Pid,
    pub(crate) node_id: SpiffeId,
    pub(crate) workload_socket: PathBuf,
    /// The node's operator's socket, where it is ours.
    pub(crate) admin_socket: Option<PathBuf>,
    // Killed when dropped.
    _processes: Vec<Child>,
    // Removed last.
    _folder: TempDir,
}

impl Domain {
    /// Kills the server, as an outage does.
    pub(crate) fn kill_server(&self) -> Result<(), Failure> {
        Ok(kill(
            nix::unistd::Pid::from_raw(self.server.pid.0),
            Signal::SIGKILL,
        )?)
    }
}

/// A server that can be started again and again on the same state.
pub(crate) struct Prepared {
    program: PathBuf,
    arguments: Vec<PathBuf>,
    admin_socket: PathBuf,
    folder: TempDir,
}

/// A running server, without a node.
pub(crate) struct Running {
    child: Child,
    pub(crate) server: Server,
}

impl Prepared {
    /// Starts the server; tells how long it took until an operator got a first answer.
    pub(crate) async fn start(&self) -> Result<(Running, Duration), Failure> {
        let watch = Stopwatch::start();
        let child = spawn(
            Command::new(&self.program).args(&self.arguments),
            &self.folder.path().join("log"),
        )?;
        let pid = pid(&child)?;
        timeout(PATIENCE, serving(&self.admin_socket))
            .await
            .map_err(|_| "the server does not serve")?;
        let server = Server {
            pid,
            admin_socket: self.admin_socket.clone(),
            address: String::new(),
        };
        Ok((Running { child, server }, watch.elapsed()))
    }
}

impl Running {
    /// Ends the server as an operator does.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let pid = nix::unistd::Pid::from_raw(self.server.pid.0);
        kill(pid, Signal::SIGTERM)?;
        timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| "the server does not end on SIGTERM")??;
        Ok(())
    }
}

/// Waits until the server counts its entries.
async fn serving(socket: &Path) {
    loop {
        if let Ok(channel) = muster_peer::connect(socket).await {
            let count = EntryClient::new(channel)
                .count_entries(CountEntriesRequest::default())
                .await;
            if count.is_ok() {
                return;
            }
        }
        sleep(POLL).await;
    }
}

/// Starts a process that is killed when dropped. What it says goes to a file: a pipe that nobody
/// reads would fill, and stop it.
fn spawn(command: &mut Command, log: &Path) -> Result<Child, Failure> {
    let log = append(log)?;
    let output = log.try_clone()?;
    spawn_with(command, output.into(), log.into())
}

/// The same, with its output going elsewhere.
fn spawn_with(command: &mut Command, output: Stdio, errors: Stdio) -> Result<Child, Failure> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}").into())
}

fn append(log: &Path) -> Result<std::fs::File, Failure> {
    let mut options = std::fs::OpenOptions::new();
    Ok(options.create(true).append(true).open(log)?)
}

fn pid(child: &Child) -> Result<Pid, Failure> {
    let id = child.id().ok_or("a process has ended already")?;
    Ok(Pid(i32::try_from(id)?))
}

/// A short folder, for the path of a socket may have 107 bytes, that other users may go through.
fn folder() -> Result<TempDir, Failure> {
    folder_below(&std::env::temp_dir())
}

fn folder_below(root: &Path) -> Result<TempDir, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::Builder::new()
        .prefix("muster-bench-")
        .tempdir_in(root)?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
