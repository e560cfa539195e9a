//! Whom a socket refused, for whoever counts and reports.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};

use crate::caller::Refusal;

/// A connection that was refused because of who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedPeer {
    /// The process that did what is refused, in our pid namespace; 0 when it has no number there.
    pub pid: u32,
    /// The effective user of the process that connected.
    pub uid: u32,
    /// Why.
    pub refusal: Refusal,
}

impl RefusedPeer {
    /// Of a connection whose process could not be identified: what the socket still says.
    pub(crate) fn unknown(socket: BorrowedFd<'_>, refusal: Refusal) -> Self {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials).ok();
        let pid = credentials.and_then(|found| u32::try_from(found.pid()).ok());
        Self {
            pid: refusal.offender().or(pid).unwrap_or(0),
            // The kernel's word for a user that nobody is, where it says nothing.
            uid: credentials.map_or(u32::MAX, |found| found.uid()),
            refusal,
        }
    }
}

/// Is told of each refusal, at once and on the thread that refuses: it must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(RefusedPeer) + Send + Sync>);

impl Observer {
    /// One that calls `act`.
    pub fn new(act: impl Fn(RefusedPeer) + Send + Sync + 'static) -> Self {
        Self(Arc::new(act))
    }

    pub(crate) fn tell(&self, peer: RefusedPeer) {
        (self.0)(peer);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Refusal {
    /// The reason in one word, for metrics and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::NotVisible => "not_visible",
            Self::OtherSender { .. } => "other_sender",
            Self::OtherUser { .. } => "other_user",
            Self::OtherProgram { .. } => "other_program",
            Self::Gone { .. } => "gone",
            Self::NoCredentials { .. } => "no_credentials",
            Self::ControlTruncated { .. } => "control_truncated",
            Self::Unidentified { .. } => "unidentified",
            Self::Exhausted { .. } => "exhausted",
            Self::TooSlow { .. } => "too_slow",
            Self::Unread { .. } => "unread",
            Self::Displaced { .. } => "displaced",
            Self::Full { .. } => "max_connections",
            Self::HoldsTooMany { .. } => "connections_per_user",
            Self::ConnectsTooOften { .. } => "connect_rate",
            Self::NotBound { .. } => "not_bound",
        }
    }

    /// Whether a bound on how much may be asked for is the reason, and not what the other end is
    /// or does.
    pub fn is_limit(self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::HoldsTooMany { .. } | Self::ConnectsTooOften { .. }
        )
    }

    /// The process whose doing is refused, where it is known.
    pub fn offender(self) -> Option<u32> {
        match self {
            Self::Silent | Self::NotVisible => None,
            Self::OtherSender { sent, .. } => Some(sent),
            Self::OtherUser { pid }
            | Self::OtherProgram { pid }
            | Self::Gone { pid }
            | Self::NoCredentials { pid }
            | Self::ControlTruncated { pid }
            | Self::Unidentified { pid, .. }
            | Self::Exhausted { pid }
            | Self::TooSlow { pid }
            | Self::Unread { pid }
            | Self::Displaced { pid }
            | Self::Full { pid }
            | Self::NotBound { pid }
            | Self::HoldsTooMany { pid }
            | Self::ConnectsTooOften { pid } => Some(pid).filter(|pid| *pid != 0),
        }
    }
}
