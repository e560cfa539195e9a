//! The server that a swarm meets: Muster's or SPIRE's, in a folder that keeps its state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::CountEntriesRequest;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::cage::Group;
use crate::clock::Stopwatch;
use crate::proc::Pid;
use crate::{Cage, Failure, TRUST_DOMAIN};

/// How long a server may take to serve, or to end.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often a server that starts is asked whether it serves.
const POLL: Duration = Duration::from_millis(2);

/// The protocol that simulated nodes speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `muster.node.v1`: one stream on which the server pushes.
    Muster,
    /// SPIRE's: a question every five seconds.
    Spire,
}

/// Whose server.
#[derive(Clone, Debug)]
pub enum Program {
    /// The file of `muster-server`.
    Muster(PathBuf),
    /// The file of `spire-server`.
    Spire(PathBuf),
}

/// A folder with a server's configuration and state.
#[derive(Debug)]
pub struct Place {
    program: Program,
    folder: TempDir,
    port: u16,
}

/// A running server; it is killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// The server itself.
    pub pid: Pid,
    /// Host and port of the API.
    pub address: String,
    /// The operator's socket.
    pub admin_socket: PathBuf,
    // After the child: a group cannot go while a process is in it.
    group: Option<Group>,
}

impl Place {
    /// A new folder with a configuration for `program`.
    pub fn new(program: Program) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("muster-swarm-").tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let place = Self {
            program,
            folder,
            port,
        };
        fs::create_dir_all(place.at("data"))?;
        let text = match place.program {
            Program::Muster(_) => place.muster_config(),
            Program::Spire(_) => place.spire_config(),
        };
        fs::write(place.at("config"), text)?;
        Ok(place)
    }

    /// The SQLite file of Muster's roll.
    pub fn database(&self) -> PathBuf {
        self.at("data").join("roll.sqlite")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn muster_config(&self) -> String {
        format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\nlisten = \"127.0.0.1:{}\"\ndata_dir = \"{}\"\nadmin_socket = \"{}\"\n\n[svid]\nx509_ttl = \"1h\"\n\n[log]\nlevel = \"warn\"\n",
            self.port,
            self.at("data").display(),
            self.at("api.sock").display(),
        )
    }

    fn spire_config(&self) -> String {
        let data = self.at("data");
        format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{}"
  trust_domain = "{TRUST_DOMAIN}"
  data_dir = "{}"
  log_level = "ERROR"
  socket_path = "{}"
  ratelimit {{
    attestation = false
    signing = false
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{}"
    }}
  }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#,
            self.port,
            data.display(),
            self.at("api.sock").display(),
            data.join("datastore.sqlite3").display(),
            data.join("keys.json").display(),
        )
    }

    /// Starts the server inside `cage`; tells how long it took until an operator got a first answer.
    pub async fn start(&self, cage: Cage) -> Result<(Running, Duration), Failure> {
        let (program, option) = match &self.program {
            Program::Muster(file) => (file.as_path(), "--config"),
            Program::Spire(file) => (file.as_path(), "-config"),
        };
        let (mut command, group) = cage.command(program)?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.at("log"))?;
        command
            .arg("run")
            .arg(option)
            .arg(self.at("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let watch = Stopwatch::start();
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let id = child.id().ok_or("the server has ended already")?;
        let running = Running {
            child,
            pid: Pid(i32::try_from(id)?),
            address: format!("127.0.0.1:{}", self.port),
            admin_socket: self.at("api.sock"),
            group,
        };
        timeout(PATIENCE, serving(&running.admin_socket))
            .await
            .map_err(|_| {
                let log = fs::read_to_string(self.at("log")).unwrap_or_default();
                format!("the server does not serve:\n{log}")
            })?;
        Ok((running, watch.elapsed()))
    }
}

impl Running {
    /// Ends the server as an operator does.
    pub async fn stop(mut self) -> Result<(), Failure> {
        kill(nix::unistd::Pid::from_raw(self.pid.0), Signal::SIGTERM)?;
        timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| "the server does not end on SIGTERM")??;
        Ok(())
    }

    /// Kills the server as an outage does, and waits until it is gone.
    pub async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }

    /// Whether the server is still there, and was never killed for its memory.
    pub fn check(&mut self) -> Result<(), Failure> {
        if let Some(status) = self.child.try_wait()? {
            let killed = self.group.as_ref().map_or(0, Group::killed);
            return Err(
                format!("the server ended: {status}; killed for its memory: {killed}").into(),
            );
        }
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
