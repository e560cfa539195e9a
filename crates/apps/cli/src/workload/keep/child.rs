//! The program that `muster workload run` runs: started, signalled, and its end passed on.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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

/// The exit code that a shell would give: the child's own, or 128 and the signal that killed it.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The signals that others send to us, as they come.
pub(super) fn signals() -> Result<mpsc::Receiver<Signal>, Failure> {
    let (sender, received) = mpsc::channel(8);
    for wanted in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        let mut stream = signal(SignalKind::from_raw(wanted as i32))
            .map_err(|error| Failure::failed(format!("cannot listen for {wanted}: {error}")))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(wanted).await.is_ok() {}
        });
    }
    Ok(received)
}

/// Whether the child has this signal already: a terminal sends Ctrl-C and Ctrl-\ to the whole
/// foreground group.
pub(super) fn sent_by_terminal(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && std::io::stdin().is_terminal()
}
