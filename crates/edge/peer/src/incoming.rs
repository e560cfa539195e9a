//! Connections as they come, within bounds, whatever goes wrong with some.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use muster_rt::Clock;
use muster_rt::sparing::Sparing;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

use crate::caller::{Connector, Refusal, Seen};
use crate::gate::{Gate, Limits, Tally};
use crate::listener::SocketFile;
use crate::only::Only;
use crate::processes::Processes;
use crate::refused::{Observer, RefusedPeer};
use crate::stream::PeerStream;
use crate::sys;

/// The first pause when descriptors or memory run out.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How many connections one poll disposes of before it lets others run.
const BATCH: usize = 64;

/// Whoever is refused can be refused again at once: the lines are counted, not all written.
static REFUSED: Sparing = Sparing::new(20, Duration::from_secs(1));
static OVER_LIMIT: Sparing = Sparing::new(10, Duration::from_secs(10));

/// A connection as a server gets it: callers known.
pub type Connection = PeerStream;

/// The stream of a listener's connections. Ends only when the socket itself fails.
pub struct Incoming {
    io: AsyncFd<OwnedFd>,
    gate: Arc<Gate>,
    processes: Processes,
    only: Option<Arc<dyn Only>>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
    ended: bool,
    /// Last, so that the file goes after the socket was closed.
    file: Option<SocketFile>,
}

/// Reads the counters of a listener; clones see the same.
#[derive(Clone, Debug)]
pub struct TallyReader {
    gate: Arc<Gate>,
}

impl TallyReader {
    /// The counters now.
    pub fn read(&self) -> Tally {
        self.gate.tally()
    }
}

/// What one attempt to accept gave.
enum Accepted {
    /// A connection to serve.
    Served(Box<Connection>),
    /// A connection that was closed, or one that went away.
    Disposed,
    /// None is waiting.
    Nothing,
    /// Descriptors or memory ran out.
    Short(Errno),
}

impl Incoming {
    pub(crate) fn new(
        socket: OwnedFd,
        file: Option<SocketFile>,
        gate: Arc<Gate>,
    ) -> io::Result<Self> {
        Ok(Self {
            io: sys::watch(socket)?,
            gate,
            processes: Processes::default(),
            only: None,
            pause: None,
            next_pause: FIRST_PAUSE,
            ended: false,
            file,
        })
    }

    /// Leaves the socket's file alone when the stream ends: another process listens on the same
    /// socket.
    pub fn leave_file(&mut self) {
        if let Some(file) = self.file.take() {
            file.leave();
        }
    }

    /// A handle on the counters, for metrics.
    pub fn tally(&self) -> TallyReader {
        TallyReader {
            gate: Arc::clone(&self.gate),
        }
    }

    /// Has `observer` told of every connection that is refused, because of who is at the other end
    /// or because of a limit.
    #[must_use]
    pub fn observed_by(self, observer: Observer) -> Self {
        self.gate.observe(observer);
        self
    }

    /// Has allowances be earned by `clock` instead of the machine's.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        self.gate.timed_by(clock);
        self
    }

    /// Has the processes that connect be known in `processes`, where others know them too.
    #[must_use]
    pub fn known_in(mut self, processes: &Processes) -> Self {
        self.processes = processes.clone();
        self
    }

    /// Lets nobody in whom `only` does not admit.
    #[must_use]
    pub fn only_for(mut self, only: Arc<dyn Only>) -> Self {
        self.only = Some(only);
        self
    }

    fn accept(&self) -> io::Result<Accepted> {
        let socket = match sys::accept(self.io.as_fd()) {
            Ok(socket) => socket,
            Err(Errno::EAGAIN) => return Ok(Accepted::Nothing),
            Err(Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO | Errno::EPERM) => {
                return Ok(Accepted::Disposed);
            }
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                return Ok(Accepted::Short(errno));
            }
            Err(errno) => return Err(errno.into()),
        };
        self.gate.count_accepted();
        // What is asked for by more than its share of us is turned away before anything is learnt
        // about it: a flood should cost us little.
        let seen = match Seen::at(socket.as_fd()) {
            Ok(seen) => seen,
            Err(refusal) => return Ok(self.not_identified(&socket, refusal)),
        };
        let admitted = self.gate.admit(seen.pid(), seen.uid(), seen.cgroup());
        let neighbour = match admitted {
            Ok(neighbour) => neighbour,
            Err(refusal) => return Ok(self.over_limit(&seen, refusal)),
        };
        let connector = match Connector::of(seen, &self.processes, self.only.as_ref()) {
            Ok(connector) => connector,
            Err(refusal) => return Ok(self.not_identified(&socket, refusal)),
        };
        let place = self.gate.enter(connector.uid());
        let first_bytes = self.gate.limits().first_bytes;
        Ok(
            match PeerStream::new(socket, connector, neighbour, place, first_bytes) {
                Ok(stream) => Accepted::Served(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(%error, "connection not served");
                    Accepted::Disposed
                }
            },
        )
    }

    fn not_identified(&self, socket: &OwnedFd, refusal: Refusal) -> Accepted {
        if matches!(refusal, Refusal::Exhausted { .. }) {
            return Accepted::Short(Errno::EMFILE);
        }
        let peer = RefusedPeer::unknown(socket.as_fd(), refusal);
        if matches!(refusal, Refusal::Gone { .. }) {
            tracing::debug!(pid = peer.pid, uid = peer.uid, reason = %refusal, "connection refused");
        } else if let Some(held_back) = REFUSED.pass(refusal.word()) {
            tracing::warn!(pid = peer.pid, uid = peer.uid, reason = %refusal, held_back, "connection refused");
        }
        self.gate.refused(peer);
        if let Some(only) = &self.only {
            only.refused(peer);
        }
        Accepted::Disposed
    }

    fn over_limit(&self, seen: &Seen, refusal: Refusal) -> Accepted {
        if let Some(held_back) = OVER_LIMIT.pass(refusal.word()) {
            tracing::warn!(
                pid = seen.pid(),
                uid = seen.uid(),
                reason = %refusal,
                held_back,
                "connection refused"
            );
        }
        self.gate.limited(RefusedPeer {
            pid: seen.pid(),
            uid: seen.uid(),
            refusal,
        });
        Accepted::Disposed
    }

    fn start_pause(&mut self, errno: Errno) {
        self.gate.count_pause();
        if self.next_pause == FIRST_PAUSE {
            tracing::warn!(
                %errno,
                "cannot accept connections, will try again; raise the descriptor limit (LimitNOFILE) if this persists"
            );
        }
        self.pause = Some(Box::pin(sleep(self.next_pause)));
        self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
    }
}

/// Limits and counters that several listeners have in common; clones are the same ones.
#[derive(Clone, Debug)]
pub struct SharedLimits {
    gate: Arc<Gate>,
}

impl SharedLimits {
    /// Limits for all of them together.
    pub fn new(limits: Limits) -> Self {
        Self {
            gate: Gate::new(limits),
        }
    }

    /// Has allowances be earned by `clock` instead of the machine's.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        self.gate.timed_by(clock);
        self
    }

    /// Has `observer` told of every connection that is refused.
    #[must_use]
    pub fn observed_by(self, observer: Observer) -> Self {
        self.gate.observe(observer);
        self
    }

    pub(crate) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        for _ in 0..BATCH {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let accepted = match ready!(this.io.poll_read_ready(cx)) {
                Ok(mut guard) => {
                    let accepted = this.accept();
                    // With the guard from before, so that what came meanwhile is not forgotten.
                    if matches!(accepted, Ok(Accepted::Nothing)) {
                        guard.clear_ready();
                    }
                    accepted
                }
                Err(error) => Err(error),
            };
            match accepted {
                Ok(Accepted::Served(connection)) => {
                    this.next_pause = FIRST_PAUSE;
                    return Poll::Ready(Some(Ok(*connection)));
                }
                Ok(Accepted::Disposed) => this.next_pause = FIRST_PAUSE,
                Ok(Accepted::Nothing) => {}
                Ok(Accepted::Short(errno)) => this.start_pause(errno),
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("file", &self.file)
            .field("tally", &self.gate.tally())
            .finish_non_exhaustive()
    }
}
