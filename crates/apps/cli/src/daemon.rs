//! The daemons inside this binary: how `muster dev` runs them, as processes of their own.
//!
//! Everything that this command needs of the two programs stands here; their own binaries are
//! `muster-server` and `muster-node`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use muster_rt::config::Faults;

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
            Ok(()) => server(&self.config),
            Err(code) => code,
        }
    }

    pub(crate) fn node(&self) -> ExitCode {
        match self.bind_to_parent() {
            Ok(()) => node(&self.config),
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

fn server(_config: &Path) -> ExitCode {
    ExitCode::FAILURE
}

fn node(_config: &Path) -> ExitCode {
    ExitCode::FAILURE
}

/// Checks a server's configuration: the warnings, if it is valid.
pub(crate) fn check_server(_file: &Path) -> Result<Vec<String>, Faults> {
    Ok(Vec::new())
}

/// Checks a node's configuration: the warnings, if it is valid.
pub(crate) fn check_node(_file: &Path) -> Result<Vec<String>, Faults> {
    Ok(Vec::new())
}
