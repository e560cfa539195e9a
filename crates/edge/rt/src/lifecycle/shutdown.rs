//! The word that the program shall end, and the signals that say it.

use std::{fmt, io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Why a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// SIGTERM came.
    Terminate,
    /// SIGINT came: Ctrl-C.
    Interrupt,
    /// An essential task ended by itself.
    TaskEnded,
    /// The process that started this one is gone.
    ParentGone,
    /// Another process has taken over.
    HandedOn,
    /// The program itself, or its caller, wants it.
    Asked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::TaskEnded => "an essential task ended",
            Self::ParentGone => "the parent process is gone",
            Self::HandedOn => "a successor has taken over",
            Self::Asked => "asked to",
        })
    }
}

/// Tells every holder of a clone that the program ends: finish what was begun, begin nothing.
#[derive(Clone, Debug)]
pub struct Shutdown {
    reason: watch::Sender<Option<Reason>>,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::begin`] begins.
    pub fn new() -> Self {
        Self {
            reason: watch::Sender::new(None),
        }
    }

    /// A shutdown that SIGTERM and SIGINT begin. A second signal ends the process at once, with
    /// the exit code 128 plus the signal's number, whatever is still being drained.
    ///
    /// Must be called on a runtime; errors if the kernel refuses the signal handlers.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(obey(shutdown.clone(), terminate, interrupt));
        Ok(shutdown)
    }

    /// Begins the shutdown. Only the first reason counts.
    pub fn begin(&self, reason: Reason) {
        self.reason.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Waits until the shutdown has begun, and tells why. Returns at once when it already has.
    pub async fn begun(&self) -> Reason {
        let mut reason = self.reason.subscribe();
        loop {
            if let Some(reason) = *reason.borrow_and_update() {
                return reason;
            }
            if reason.changed().await.is_err() {
                // `self` holds a sender, so the channel cannot close while we wait.
                return Reason::Asked;
            }
        }
    }

    /// Why the shutdown began, if it has.
    pub fn reason(&self) -> Option<Reason> {
        *self.reason.borrow()
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

async fn obey(shutdown: Shutdown, mut terminate: Signal, mut interrupt: Signal) {
    let mut already = false;
    loop {
        let reason = tokio::select! {
            Some(()) = terminate.recv() => Reason::Terminate,
            Some(()) = interrupt.recv() => Reason::Interrupt,
            else => return,
        };
        if already {
            tracing::warn!(%reason, "second signal: ending at once");
            process::exit(if reason == Reason::Interrupt {
                130
            } else {
                143
            });
        }
        already = true;
        tracing::info!(%reason, "shutting down");
        shutdown.begin(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_counts_and_everyone_hears_it() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        let waiter = tokio::spawn(async move { other.begun().await });
        assert_eq!(shutdown.reason(), None);
        shutdown.begin(Reason::ParentGone);
        shutdown.begin(Reason::Asked);
        assert_eq!(waiter.await.unwrap(), Reason::ParentGone);
        assert_eq!(shutdown.begun().await, Reason::ParentGone);
    }
}
