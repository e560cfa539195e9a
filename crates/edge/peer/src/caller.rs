//! Who is at the other end: the process that sends, proven by the kernel.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::allowance::{CallPlace, Neighbour, OverLimit};
use crate::held::{HeldProcess, Named, unidentified};
use crate::only::Only;
use crate::pidfd;
use crate::processes::Processes;
use crate::procfs::{ExecutableId, ProcDir, ProcError};
use crate::refused::RefusedPeer;
use crate::sys::{self, Credentials, Received, SenderPidfd};

/// How firmly a caller's process is known: what this kernel could do, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assurance {
    /// Linux before 6.5: the pidfd was opened by number after the connection was accepted. A
    /// process that died before that, and whose number was given away at once, is not told apart.
    OpenedPidfd,
    /// The kernel gave the pidfd of the process that connected, and every byte carries the
    /// number of its sender.
    ConnectorPidfd,
    /// Moreover the first bytes carried their sender's own pidfd, and it is the same process.
    SenderPidfd,
}

/// Why a connection is not, or no longer, served. Once given, the verdict stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing has been sent yet, so there is no caller.
    #[error("nothing has been received on this connection, so its caller is not known")]
    Silent,
    /// The process has no number in our pid namespace.
    #[error(
        "the calling process is not visible in the node's pid namespace; run the node in the host's (hostPID)"
    )]
    NotVisible,
    /// Bytes came from another process than the one that connected, such as a child that
    /// inherited the socket or a process that was handed it.
    #[error(
        "process {sent} sent on a connection that process {connected} opened; each process must connect itself"
    )]
    OtherSender {
        /// The process that connected.
        connected: u32,
        /// The process that sent.
        sent: u32,
    },
    /// The sender's user or group changed during the connection.
    #[error("process {pid} changed its user or group during the connection; it must connect anew")]
    OtherUser {
        /// The process.
        pid: u32,
    },
    /// Another program runs in the process than when it connected.
    #[error("process {pid} executed another program after it connected; it must connect anew")]
    OtherProgram {
        /// The process.
        pid: u32,
    },
    /// The process ended.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The kernel did not say who sent the bytes.
    #[error("the kernel attached no credentials to what process {pid} sent")]
    NoCredentials {
        /// The process that connected.
        pid: u32,
    },
    /// What the kernel said about the sender did not arrive whole, which also happens when the
    /// descriptor limit is reached.
    #[error(
        "the control data of what process {pid} sent was cut short; raise the descriptor limit (LimitNOFILE) if this is frequent"
    )]
    ControlTruncated {
        /// The process that connected.
        pid: u32,
    },
    /// The process's directory in /proc does not give what identifies it.
    #[error(
        "/proc does not identify process {pid} ({kind}); mount /proc for the node's own pid namespace"
    )]
    Unidentified {
        /// The process.
        pid: u32,
        /// The cause.
        kind: io::ErrorKind,
    },
    /// No descriptor or memory is left to identify the process with.
    #[error(
        "descriptors or memory ran out while process {pid} was identified; raise the descriptor limit (LimitNOFILE)"
    )]
    Exhausted {
        /// The process.
        pid: u32,
    },
    /// The first bytes did not arrive in time.
    #[error("process {pid} connected and did not send a whole HTTP/2 preface in time")]
    TooSlow {
        /// The process that connected.
        pid: u32,
    },
    /// It did not read what it was sent, until its socket had been full for too long.
    #[error("process {pid} does not read what it asked for")]
    Unread {
        /// The process that connected.
        pid: u32,
    },
    /// It was silent for longest when too many connections were.
    #[error("process {pid} connected and sent nothing, and its place went to a newer connection")]
    Displaced {
        /// The process that connected.
        pid: u32,
    },
    /// No further connection fits.
    #[error("process {pid} connected when as many connections were open as may be")]
    Full {
        /// The process that connected.
        pid: u32,
    },
    /// Its user holds as many connections as one user may.
    #[error("process {pid} connected when its user held as many connections as one user may")]
    HoldsTooMany {
        /// The process that connected.
        pid: u32,
    },
    /// The socket is for other processes: see [`Only`](crate::Only).
    #[error("process {pid} used a socket that is for another process")]
    NotBound {
        /// The process.
        pid: u32,
    },
    /// Its user, or its user in its control group, has used up its allowance of new connections.
    #[error("the user of process {pid} connects more often than its allowance")]
    ConnectsTooOften {
        /// The process that connected.
        pid: u32,
    },
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::TooSlow { .. } | Refusal::Displaced { .. } | Refusal::Unread { .. } => {
                io::ErrorKind::TimedOut
            }
            Refusal::Full { .. }
            | Refusal::HoldsTooMany { .. }
            | Refusal::ConnectsTooOften { .. } => io::ErrorKind::ConnectionRefused,
            Refusal::Exhausted { .. } => io::ErrorKind::OutOfMemory,
            Refusal::Gone { .. } => io::ErrorKind::ConnectionReset,
            Refusal::Silent => io::ErrorKind::NotConnected,
            Refusal::NotVisible
            | Refusal::OtherSender { .. }
            | Refusal::OtherUser { .. }
            | Refusal::OtherProgram { .. }
            | Refusal::NotBound { .. }
            | Refusal::NoCredentials { .. }
            | Refusal::ControlTruncated { .. }
            | Refusal::Unidentified { .. } => io::ErrorKind::PermissionDenied,
        };
        io::Error::new(kind, refusal)
    }
}

/// The process at the other end of a connection. Cheap to clone; keeps a pidfd open.
///
/// What is checked where:
///
/// - *Another process sends* (inherited socket, passed descriptor): on every read, before its
///   bytes are seen ([`Refusal::OtherSender`]).
/// - *A setuid program or a dropped privilege after connecting*: [`uid`](Self::uid) and
///   [`gid`](Self::gid) are the effective ones at `connect(2)`; attestors compare them with
///   `/proc/PID/status`.
/// - *Another program after connecting* (`execve` keeps pid and start time): the executable seen at
///   `accept(2)` is compared when the first bytes arrive, and by [`verify`](Self::verify). A
///   process that connects, sends and executes before we accept is not noticed.
/// - *Pid reuse*: the pidfd is of the process, not of the number.
#[derive(Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    /// What the sender's bytes carry; the real ids, unless it names its effective or saved ones.
    sender: Credentials,
    assurance: Assurance,
}

/// The process that connected, as seen at `accept`.
#[derive(Clone)]
pub(crate) struct Connector {
    process: HeldProcess,
    uid: u32,
    gid: u32,
    assurance: Assurance,
    /// For whom the socket is, if not for everyone.
    only: Option<Arc<dyn Only>>,
}

impl Connector {
    /// Takes hold of who was seen: one of `processes`, and of those that the socket is for.
    pub(crate) fn of(
        seen: Seen,
        processes: &Processes,
        only: Option<&Arc<dyn Only>>,
    ) -> Result<Self, Refusal> {
        let named = match seen.assurance {
            Assurance::OpenedPidfd => Named::ByNumber,
            Assurance::ConnectorPidfd | Assurance::SenderPidfd => Named::ByKernel,
        };
        let connector = Self {
            process: processes.hold(seen.pid, seen.pidfd, named)?,
            uid: seen.uid,
            gid: seen.gid,
            assurance: seen.assurance,
            only: only.cloned(),
        };
        connector.check_bound()?;
        Ok(connector)
    }

    /// Whether the socket is for the process, still.
    fn check_bound(&self) -> Result<(), Refusal> {
        match &self.only {
            Some(only) if !only.admits(&self.process) => Err(Refusal::NotBound { pid: self.pid() }),
            _ => Ok(()),
        }
    }

    /// Whether what the process sends is read, still.
    fn check_heard(&self) -> Result<(), Refusal> {
        match &self.only {
            Some(only) if !only.hears(&self.process) => Err(Refusal::NotBound { pid: self.pid() }),
            _ => Ok(()),
        }
    }

    /// Tells who owns a socket that is not for everyone that somebody was refused there.
    pub(crate) fn tell_owner(&self, peer: RefusedPeer) {
        if let Some(only) = &self.only {
            only.refused(peer);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }
}

/// Whoever connected a socket, before anything is looked up: what a limit may be decided by.
pub(crate) struct Seen {
    pid: u32,
    uid: u32,
    gid: u32,
    pidfd: OwnedFd,
    assurance: Assurance,
}

impl Seen {
    /// Asks the socket.
    pub(crate) fn at(socket: BorrowedFd<'_>) -> Result<Self, Refusal> {
        let cred =
            nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)
                .map_err(|_| Refusal::NoCredentials { pid: 0 })?;
        let pid = visible(cred.pid())?;
        let (pidfd, assurance) = match sys::peer_pidfd(socket) {
            Ok(pidfd) => (pidfd, Assurance::ConnectorPidfd),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => (
                sys::pidfd_open(cred.pid()).map_err(|error| unidentified(pid, &error))?,
                Assurance::OpenedPidfd,
            ),
            // The kernel knows the process and cannot make a pidfd: it has been reaped.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::EINVAL | libc::ENODATA)
                ) =>
            {
                return Err(Refusal::Gone { pid });
            }
            Err(error) => return Err(unidentified(pid, &error)),
        };
        Ok(Self {
            pid,
            uid: cred.uid(),
            gid: cred.gid(),
            pidfd,
            assurance,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// The control group, where the kernel tells it cheaply.
    pub(crate) fn cgroup(&self) -> Option<u64> {
        sys::cgroup(self.pidfd.as_fd())
    }
}

fn visible(pid: i32) -> Result<u32, Refusal> {
    u32::try_from(pid)
        .ok()
        .filter(|pid| *pid != 0)
        .ok_or(Refusal::NotVisible)
}

impl Caller {
    /// The process, in our pid namespace. Never 0.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// The effective user when the process connected.
    pub fn uid(&self) -> u32 {
        self.inner.connector.uid
    }

    /// The effective group when the process connected.
    pub fn gid(&self) -> u32 {
        self.inner.connector.gid
    }

    /// The user that the bytes carry: the real one, unless the process names its effective or
    /// saved one (which only programs that speak `SCM_CREDENTIALS` do).
    pub fn sender_uid(&self) -> u32 {
        self.inner.sender.uid
    }

    /// The group that the bytes carry, likewise.
    pub fn sender_gid(&self) -> u32 {
        self.inner.sender.gid
    }

    /// When the process started, in clock ticks since boot.
    pub fn start_time(&self) -> u64 {
        self.process().start_time()
    }

    /// The file that the process ran when the connection was accepted; `None` when the kernel
    /// does not show it to us.
    pub fn executable_id(&self) -> Option<ExecutableId> {
        self.process().executable_id()
    }

    /// How firmly the process is known.
    pub fn assurance(&self) -> Assurance {
        self.inner.assurance
    }

    /// The process, apart from its connection: to wait for its end, to read about it, to see
    /// whether it is still the one.
    pub fn process(&self) -> &HeldProcess {
        &self.inner.connector.process
    }

    /// The process's pidfd; see [`HeldProcess::pidfd`].
    pub fn pidfd(&self) -> &Arc<OwnedFd> {
        self.process().pidfd()
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        self.process().is_alive()
    }

    /// Whether it is still the process, and the program, that connected, and one that the socket
    /// is for. Ask after collecting facts about it and before believing them.
    pub fn verify(&self) -> Result<(), Refusal> {
        self.process().verify()?;
        self.inner.connector.check_bound()
    }

    /// `/proc/PID`, surely of this process.
    pub fn proc_dir(&self) -> Result<ProcDir, ProcError> {
        self.process().proc_dir()
    }

    /// Resolves when the process has ended; see [`HeldProcess::exited`].
    pub async fn exited(&self) -> io::Result<()> {
        self.process().exited().await
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("pid", &self.pid())
            .field("uid", &self.uid())
            .field("gid", &self.gid())
            .field("start_time", &self.start_time())
            .field("assurance", &self.assurance())
            .finish_non_exhaustive()
    }
}

/// A handle on what is known about a connection's other end; tonic puts one into the extensions of
/// every request (`request.extensions().get::<PeerInfo>()`).
#[derive(Clone)]
pub struct PeerInfo {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    neighbour: Neighbour,
    bound: OnceLock<Caller>,
    refused: OnceLock<Refusal>,
    descriptors: AtomicUsize,
}

impl PeerInfo {
    pub(crate) fn new(connector: Connector, neighbour: Neighbour) -> Self {
        Self {
            shared: Arc::new(Shared {
                connector,
                neighbour,
                bound: OnceLock::new(),
                refused: OnceLock::new(),
                descriptors: AtomicUsize::new(0),
            }),
        }
    }

    /// The caller. Known as soon as the first bytes were read, hence always when a request exists;
    /// taken back when something is wrong with the connection later.
    pub fn caller(&self) -> Result<Caller, Refusal> {
        if let Some(refusal) = self.refused() {
            return Err(refusal);
        }
        self.shared.bound.get().cloned().ok_or(Refusal::Silent)
    }

    /// Takes a call from the allowance of the caller's user. Ask before anything is done for the
    /// call, attestation included.
    pub fn admit_call(&self) -> Result<CallPlace, OverLimit> {
        self.shared.neighbour.admit_call()
    }

    /// Why the connection was refused, if it was.
    pub fn refused(&self) -> Option<Refusal> {
        self.shared.refused.get().copied()
    }

    /// How many descriptors the other end tried to hand over; all were closed at once.
    pub fn descriptors_closed(&self) -> usize {
        self.shared.descriptors.load(Ordering::Relaxed)
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.shared.bound.get().is_some()
    }

    /// Keeps the first verdict and returns it.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Refusal {
        *self.shared.refused.get_or_init(|| refusal)
    }

    /// Judges bytes before anyone sees them.
    pub(crate) fn judge(&self, received: &Received) -> Result<(), Refusal> {
        let shared = &*self.shared;
        let connector = &shared.connector;
        let pid = connector.pid();
        shared
            .descriptors
            .fetch_add(received.descriptors, Ordering::Relaxed);
        if received.truncated {
            return Err(Refusal::ControlTruncated { pid });
        }
        let sender = received.credentials.ok_or(Refusal::NoCredentials { pid })?;
        let sent = visible(sender.pid)?;
        if sent != pid {
            return Err(Refusal::OtherSender {
                connected: pid,
                sent,
            });
        }
        // While the connector runs, its number is nobody else's, and nobody had both the number
        // and this connection before it existed: the sender is the connector.
        if !connector.process.is_alive() {
            return Err(Refusal::Gone { pid });
        }
        connector.check_heard()?;
        if let Some(caller) = shared.bound.get() {
            return if caller.inner.sender == sender {
                Ok(())
            } else {
                Err(Refusal::OtherUser { pid })
            };
        }
        let assurance = match &received.pidfd {
            SenderPidfd::Absent => connector.assurance,
            SenderPidfd::Gone => return Err(Refusal::Gone { pid }),
            SenderPidfd::Here(pidfd) => {
                match pidfd::may_be_same(pidfd, connector.process.pidfd()) {
                    Ok(true) => connector.assurance.max(Assurance::SenderPidfd),
                    Ok(false) => {
                        return Err(Refusal::OtherSender {
                            connected: pid,
                            sent,
                        });
                    }
                    Err(error) => return Err(unidentified(pid, &error)),
                }
            }
        };
        connector.process.verify()?;
        shared.bound.get_or_init(|| Caller {
            inner: Arc::new(Inner {
                connector: connector.clone(),
                sender,
                assurance,
            }),
        });
        Ok(())
    }
}

impl fmt::Debug for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerInfo")
            .field("connected_pid", &self.shared.connector.pid())
            .field("caller", &self.shared.bound.get())
            .field("refused", &self.shared.refused.get())
            .finish_non_exhaustive()
    }
}
