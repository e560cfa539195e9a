//! The program that `muster workload run` runs: started, signalled, and its end awaited.

use std::ffi::OsString;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::failure::Failure;

/// The running child.
pub(super) struct Child {
    process: tokio::process::Child,
}

impl Child {
    /// Starts the program with our standard streams, in our process group.
    pub(super) fn start(words: &[OsString]) -> Result<Self, Failure> {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| Failure::usage("no command to run: write it after `--`"))?;
        let process = Command::new(program)
            .args(arguments)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::failed(format!("cannot run {}: {error}", program.display()))
            })?;
        Ok(Self { process })
    }

    /// Waits for its end; may be called again when it was not awaited to the end.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus, Failure> {
        self.process
            .wait()
            .await
            .map_err(|error| Failure::failed(format!("cannot wait for the child: {error}")))
    }

    /// Sends a signal. A child that has just ended is no error: its end is on its way to us.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _gone = kill(Pid::from_raw(pid), signal).is_err();
        }
    }
}
