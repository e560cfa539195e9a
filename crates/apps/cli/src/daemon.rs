//! The daemons inside this binary: how `muster dev` runs them, as processes of their own.
//!
//! Everything that this command needs of the two programs stands here; their own binaries are
//! `muster-server` and `muster-node`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use muster_model::{SpiffeId, TrustDomain};
use muster_rt::config::Faults;
use muster_rt::duration::Shown;

#[derive(Subcommand, Debug)]
pub(crate) enum Server {
    /// Run the server until a signal
    Run(Run),
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when this process, which must be our parent, ends
    #[arg(long, value_name = "PID")]
    die_with: Option<i32>,
}

impl Run {
    pub(crate) fn server(&self) -> ExitCode {
        match self.bind_to_parent() {
            Ok(()) => muster_server::run(&self.config),
            Err(code) => code,
        }
    }

    pub(crate) fn node(&self) -> ExitCode {
        match self.bind_to_parent() {
            Ok(()) => muster_node::run(&self.config),
            Err(code) => code,
        }
    }

    fn bind_to_parent(&self) -> Result<(), ExitCode> {
        match self.die_with {
            Some(parent) if !die_with(parent) => Err(ExitCode::FAILURE),
            _ => Ok(()),
        }
    }
}

/// Asks the kernel to kill this process when its parent dies, however that dies. False if the
/// parent is already gone.
pub(crate) fn die_with(parent: i32) -> bool {
    use nix::sys::{prctl, signal::Signal};
    prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && nix::unistd::getppid().as_raw() == parent
}

/// Checks a server's configuration: the warnings, if it is valid.
pub(crate) fn check_server(file: &Path) -> Result<Vec<String>, Faults> {
    muster_server::config::Config::read(file).map(|config| config.warnings())
}

/// Checks a node's configuration: the warnings, if it is valid.
pub(crate) fn check_node(file: &Path) -> Result<Vec<String>, Faults> {
    muster_node::config::Config::read(file).map(|_| Vec::new())
}

/// What `muster dev` wants of its server.
pub(crate) struct ServerSettings<'s> {
    pub(crate) trust_domain: &'s TrustDomain,
    pub(crate) data_dir: &'s Path,
    pub(crate) listen: SocketAddr,
    pub(crate) admin_socket: &'s Path,
    pub(crate) ca_ttl: Duration,
    pub(crate) x509_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    pub(crate) wit: bool,
}

impl ServerSettings<'_> {
    pub(crate) fn to_toml(&self) -> String {
        // A node keeps its SVID for longer than the workloads of a demonstration keep theirs.
        let node_ttl = self
            .x509_ttl
            .max((self.ca_ttl / 6).min(Duration::from_hours(1)));
        let node_ttl = Duration::from_secs(node_ttl.as_secs());
        format!(
            "# Written anew by each `muster dev`.\n\
             trust_domain = {}\ndata_dir = {}\nlisten = {}\nadmin_socket = {}\n\n\
             [authority]\nttl = {}\n\n\
             [svid]\nx509_ttl = {}\njwt_ttl = {}\nwit_ttl = {}\nnode_ttl = {}\n\n\
             [wit]\nenabled = {}\n\n\
             [log]\nformat = \"json\"\n",
            quoted(self.trust_domain),
            quoted(self.data_dir.display()),
            quoted(self.listen),
            quoted(self.admin_socket.display()),
            quoted(Shown(self.ca_ttl)),
            quoted(Shown(self.x509_ttl)),
            quoted(Shown(self.jwt_ttl)),
            quoted(Shown(self.x509_ttl)),
            quoted(Shown(node_ttl)),
            self.wit,
        )
    }
}

/// What `muster dev` wants of its node.
pub(crate) struct NodeSettings<'s> {
    pub(crate) trust_domain: &'s TrustDomain,
    pub(crate) data_dir: &'s Path,
    pub(crate) server_address: &'s str,
    pub(crate) bundle_file: &'s Path,
    pub(crate) join_token: &'s str,
    pub(crate) workload_socket: &'s Path,
    pub(crate) admin_socket: &'s Path,
    pub(crate) wit: bool,
    pub(crate) broker_socket: &'s Path,
    pub(crate) brokers: &'s [SpiffeId],
    pub(crate) delegates: &'s [SpiffeId],
}

impl NodeSettings<'_> {
    pub(crate) fn to_toml(&self) -> String {
        let mut text = self.node();
        if !self.delegates.is_empty() {
            let all: toml_edit::Array = self.delegates.iter().map(SpiffeId::as_str).collect();
            let all = all.to_string();
            text.extend(["\n[delegated]\nauthorized = ", &all, "\n"]);
        }
        if !self.brokers.is_empty() {
            let socket = quoted(self.broker_socket.display()).to_string();
            text.extend(["\n[broker]\nsocket = ", &socket, "\n"]);
        }
        for id in self.brokers {
            let id = quoted(id).to_string();
            text.extend(["\n[[broker.allowed]]\nid = ", &id, "\n"]);
        }
        text
    }

    fn node(&self) -> String {
        format!(
            "# Written anew by each `muster dev`.\n\
             trust_domain = {}\ndata_dir = {}\nserver = {}\nworkload_socket = {}\n\
             admin_socket = {}\n\n\
             [join]\ntoken = {}\nbundle = {}\n\n\
             [attest.unix]\ndiscover_path = true\n\n\
             [wit]\nenabled = {}\n\n\
             [log]\nformat = \"json\"\n",
            quoted(self.trust_domain),
            quoted(self.data_dir.display()),
            quoted(self.server_address),
            quoted(self.workload_socket.display()),
            quoted(self.admin_socket.display()),
            quoted(self.join_token),
            quoted(self.bundle_file.display()),
            self.wit,
        )
    }
}

/// A TOML string.
fn quoted(value: impl std::fmt::Display) -> toml_edit::Value {
    toml_edit::Value::from(value.to_string())
}
