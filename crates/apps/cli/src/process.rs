//! What `muster run` and `muster workload run` have in common: how a command's end becomes ours, and
//! which signals go to it.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// The exit code that a shell would give: the child's own, or 128 and the signal that killed it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The signals that others send to us, as they come.
pub(crate) fn signals() -> Result<mpsc::Receiver<Signal>, Failure> {
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
pub(crate) fn sent_by_terminal(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && std::io::stdin().is_terminal()
}
