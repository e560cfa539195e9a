//! The node is replaced by its successor while it serves: SIGUSR2 starts the program anew from
//! where it was started, and the listening sockets, the memory and the data directory go over.
//!
//! The two talk over a socket pair that is the successor's standard input:
//!
//! 1. old: the listening sockets, with one byte for each that says which it is: `W` and `A` for the
//!    workloads' and the operator's, `U` and `T` for the brokers' Unix and TCP sockets, if any.
//! 2. new, once its configuration is good: `T`.
//! 3. old, once it writes nothing any more and has let go of the data directory: the length of its
//!    memory (8 bytes, big-endian) and the memory.
//! 4. new, once it answers: `R`.
//! 5. old: accepts nothing more, answers what it has accepted, ends its streams with UNAVAILABLE.
//!
//! At no time does nobody accept, so no client is refused; a stream ends only when another can be
//! opened at once. If anything fails before step 4, the successor is ended and the old one goes on
//! as if nothing had been asked.

mod predecessor;
mod successor;

use std::fmt;
use std::io;
use std::time::Duration;

pub(crate) use predecessor::{Door, Pause, Predecessor, Upgrade};
pub(crate) use successor::{Inherited, InheritedSockets};

/// Set for a successor; its value says which sockets are a service manager's.
const ENVIRONMENT_VARIABLE: &str = "MUSTER_NODE_SUCCEEDS";
const TAKE: u8 = b'T';
const READY: u8 = b'R';
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest memory that is taken over, in bytes.
const LARGEST: u64 = 512 << 20;

/// What a listening socket is for. Each is handed on at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The Workload API.
    Workload,
    /// The operator's.
    Admin,
    /// The Broker API, for this machine.
    BrokerUnix,
    /// The Broker API over TCP.
    BrokerTcp,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Workload,
        Self::Admin,
        Self::BrokerUnix,
        Self::BrokerTcp,
    ];

    fn byte(self) -> u8 {
        match self {
            Self::Workload => b'W',
            Self::Admin => b'A',
            Self::BrokerUnix => b'U',
            Self::BrokerTcp => b'T',
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Which of the node's sockets a service manager listens on for it. Their files stay when the node
/// ends, and so does the queue of who wants to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Managed {
    pub(crate) workload: bool,
    pub(crate) admin: bool,
}

impl Managed {
    fn as_str(self) -> &'static str {
        match (self.workload, self.admin) {
            (false, false) => "none",
            (true, false) => "workload",
            (false, true) => "admin",
            (true, true) => "both",
        }
    }

    fn parse(text: &str) -> Self {
        Self {
            workload: matches!(text, "workload" | "both"),
            admin: matches!(text, "admin" | "both"),
        }
    }
}

/// Why a handover failed.
#[derive(Debug)]
pub(crate) struct HandoverError {
    step: &'static str,
    cause: io::Error,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, self.cause)
    }
}

impl std::error::Error for HandoverError {}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> HandoverError {
    move |cause| HandoverError { step, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_told_whose_the_sockets_are() {
        for workload in [false, true] {
            for admin in [false, true] {
                let managed = Managed { workload, admin };
                assert_eq!(Managed::parse(managed.as_str()), managed);
            }
        }
    }
}
