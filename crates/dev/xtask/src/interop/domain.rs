//! A whole trust domain in processes of its own, by `muster dev`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::getuid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::shell::{Failure, Talker, quietly};

/// The trust domain of every run.
pub(super) const TRUST_DOMAIN: &str = "example.org";

const READY_WITHIN: Duration = Duration::from_mins(1);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// How long what is issued lives, as `muster dev` takes it.
pub(super) struct Lifetimes {
    x509: &'static str,
    jwt: &'static str,
    authority: &'static str,
}

impl Lifetimes {
    /// Two rotations within half a minute.
    pub(super) const CHECKS: Self = Self {
        x509: "8s",
        jwt: "60s",
        authority: "60s",
    };
    /// Long enough for SPIRE's agent, which looks every five seconds whether its own SVID is past half
    /// its life; authorities change by command only.
    pub(super) const SPIRE: Self = Self {
        x509: "24s",
        jwt: "60s",
        authority: "1h",
    };
    /// The same, but authorities change within two minutes, and SPIRE's agent keeps its own SVID for
    /// as short as its workloads theirs.
    pub(super) const SPIRE_BY_TIME: Self = Self {
        x509: "24s",
        jwt: "60s",
        authority: "144s",
    };
    /// SVIDs and the authority itself change within half a minute.
    pub(super) const ROTATION: Self = Self {
        x509: "6s",
        jwt: "60s",
        authority: "24s",
    };
    /// The same, with time for a program to reload between two changes.
    pub(super) const FILES: Self = Self {
        x509: "8s",
        jwt: "60s",
        authority: "32s",
    };
    /// Three SVIDs within half a minute, and some seconds left of each when the next is there: what
    /// ends then does not end by itself.
    pub(super) const TASKS: Self = Self {
        x509: "20s",
        jwt: "60s",
        authority: "10m",
    };
}

/// Who a program is: the name that it gets, and what sets it apart from the others.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) spiffe_id: String,
    /// The group that only this program runs with. Without root it cannot have one, so then all
    /// programs share one uid, and with it one identity.
    gid: Option<u32>,
}

impl Identity {
    /// The identity of the program with this name and number.
    pub(super) fn new(name: &str, number: u32) -> Self {
        if getuid().is_root() {
            Self {
                spiffe_id: format!("spiffe://{TRUST_DOMAIN}/interop/{name}"),
                gid: Some(42_000 + number),
            }
        } else {
            Self {
                spiffe_id: format!("spiffe://{TRUST_DOMAIN}/interop"),
                gid: None,
            }
        }
    }

    /// What its processes are attested as, and those of no other identity.
    pub(super) fn selectors(&self) -> Vec<String> {
        let gid = self.gid.map(|gid| format!("unix:gid:{gid}"));
        let uid = format!("unix:uid:{}", getuid());
        [uid].into_iter().chain(gid).collect()
    }

    /// Runs the command as this identity.
    pub(super) fn assume(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        if let Some(gid) = self.gid {
            command.gid(gid);
        }
    }
}

/// The first line of `muster dev --json`.
#[derive(Deserialize)]
struct Ready {
    event: String,
    server_admin_socket: PathBuf,
    server_address: String,
    workload_socket: PathBuf,
    node_admin_socket: PathBuf,
    broker_socket: Option<PathBuf>,
    node_id: String,
}

/// A running trust domain. It ends with this value.
pub(super) struct Domain {
    muster: PathBuf,
    process: Option<Talker>,
    ready: Ready,
    // Removed last.
    folder: TempDir,
}

impl Domain {
    /// Starts `muster dev` and waits until it is ready.
    pub(super) fn start(muster: &Path, lifetimes: &Lifetimes) -> Result<Self, Failure> {
        Self::start_with(muster, lifetimes, &[])
    }

    /// The same with further arguments of `muster dev`.
    pub(super) fn start_with(
        muster: &Path,
        lifetimes: &Lifetimes,
        further: &[&str],
    ) -> Result<Self, Failure> {
        // The path of a socket may have 107 bytes, so the folder is not under target/.
        let folder = tempfile::Builder::new()
            .prefix("muster-interop-")
            .tempdir()?;
        let mut dev = Command::new(muster);
        dev.args(["dev", "--no-demo", "--json", "--wit"])
            .args(["--trust-domain", TRUST_DOMAIN])
            .args(["--x509-ttl", lifetimes.x509, "--jwt-ttl", lifetimes.jwt])
            .args(["--ca-ttl", lifetimes.authority])
            .args(further)
            .arg("--dir")
            .arg(folder.path().join("d"));
        let process = Talker::start(&mut dev)?;
        let Some(first) = process.line_within(READY_WITHIN) else {
            process.signal(Signal::SIGTERM)?;
            let ended = process.finish_within(STOPPED_WITHIN)?;
            return Err(
                format!("muster dev is not ready ({}):\n{}", ended.how, ended.errors).into(),
            );
        };
        let ready: Ready = serde_json::from_str(&first)
            .map_err(|error| format!("the first line of muster dev: {error}: {first}"))?;
        if ready.event != "ready" {
            return Err(format!("the first event of muster dev is not \"ready\": {first}").into());
        }
        Ok(Self {
            muster: muster.to_path_buf(),
            process: Some(process),
            ready,
            folder,
        })
    }

    /// The command under test.
    pub(super) fn command(&self) -> Command {
        Command::new(&self.muster)
    }

    /// Where workloads ask.
    pub(super) fn workload_socket(&self) -> &Path {
        &self.ready.workload_socket
    }

    /// Where operators and delegates ask the node.
    pub(super) fn node_admin_socket(&self) -> &Path {
        &self.ready.node_admin_socket
    }

    /// Where brokers ask, if there are any.
    pub(super) fn broker_socket(&self) -> Option<&Path> {
        self.ready.broker_socket.as_deref()
    }

    /// The node's SPIFFE ID.
    pub(super) fn node_id(&self) -> &str {
        &self.ready.node_id
    }

    /// The binary that all of it is.
    pub(super) fn binary(&self) -> &Path {
        &self.muster
    }

    /// The configuration of the domain's own node.
    pub(super) fn node_config(&self) -> PathBuf {
        self.folder.path().join("d/node/node.toml")
    }

    /// Where operators ask the server.
    pub(super) fn server_admin_socket(&self) -> &Path {
        &self.ready.server_admin_socket
    }

    /// Where nodes reach the server.
    pub(super) fn server_address(&self) -> &str {
        &self.ready.server_address
    }

    /// Runs `muster` against the server; says what it printed.
    pub(super) fn muster(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(&self.muster);
        command
            .args(arguments)
            .args(["--json", "--server-socket"])
            .arg(&self.ready.server_admin_socket);
        quietly(&mut command)
    }

    /// The ID of the entry of an identity.
    pub(super) fn entry_id(&self, identity: &Identity) -> Result<String, Failure> {
        let listed = self.muster(&["entry", "list", "--spiffe-id", &identity.spiffe_id])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let id = listed.pointer("/entries/0/id").and_then(Value::as_str);
        Ok(id
            .ok_or_else(|| format!("{} has no entry in {listed}", identity.spiffe_id))?
            .to_owned())
    }

    /// Creates the entry of an identity; one that is there already is as good.
    pub(super) fn register(&self, identity: &Identity) -> Result<(), Failure> {
        self.create_entry(&identity.spiffe_id, &identity.selectors())
    }

    /// Creates the entry of all processes of this user that run a program.
    pub(super) fn register_program(&self, spiffe_id: &str, program: &Path) -> Result<(), Failure> {
        let path = format!("unix:path:{}", program.display());
        self.create_entry(spiffe_id, &[format!("unix:uid:{}", getuid()), path])
    }

    fn create_entry(&self, spiffe_id: &str, selectors: &[String]) -> Result<(), Failure> {
        let mut create = Command::new(&self.muster);
        create
            .args(["entry", "create", "--json", "--server-socket"])
            .arg(&self.ready.server_admin_socket)
            .args(["--parent-id", &self.ready.node_id])
            .args(["--spiffe-id", spiffe_id]);
        for selector in selectors {
            create.args(["--selector", selector]);
        }
        match quietly(&mut create) {
            Err(error) if error.to_string().contains("exists") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Ends the trust domain as Ctrl-C does; it must end well, and in time.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        process.signal(Signal::SIGINT)?;
        let ended = process.finish_within(STOPPED_WITHIN)?;
        if ended.well {
            return Ok(());
        }
        Err(format!("on SIGINT, {}\n{}", ended.how, ended.errors).into())
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // On the way out of an error; what matters is that nothing is left behind.
            drop(process.signal(Signal::SIGINT));
            drop(process.finish_within(STOPPED_WITHIN));
        }
    }
}
