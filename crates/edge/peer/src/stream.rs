//! A connection whose every byte is known by its sender.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use muster_rt::sparing::Sparing;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, sendmsg, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::allowance::Neighbour;
use crate::caller::{Connector, PeerInfo, Refusal};
use crate::gate::Place;
use crate::refused::RefusedPeer;
use crate::sys::{self, PassPidfd};

/// A connection counts as half-open until it has sent as much as an HTTP/2 preface has, in bytes.
const PREFACE: usize = 24;

/// Whoever is refused can be refused again at once: the lines are counted, not all written. Each is
/// about a process that used another's connection, so it takes a storm of them to lose one.
static REFUSED: Sparing = Sparing::new(1_000, Duration::from_secs(1));

/// One accepted Unix connection.
///
/// Every read is a `recvmsg` with the kernel's word on the sender. The kernel does not put bytes
/// of different senders into one read (`unix_skb_scm_eq` in `net/unix/af_unix.c`), so each read
/// has one sender, and bytes of a process other than the one that connected are never handed
/// out: the first such read ends the connection in both directions.
pub struct PeerStream {
    io: AsyncFd<OwnedFd>,
    info: PeerInfo,
    place: Place,
    half_open: Option<HalfOpen>,
    /// When the other end must have made room, while its socket is full.
    unread: Option<Pin<Box<Sleep>>>,
}

/// What is left to wait for before the connection counts.
struct HalfOpen {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl PeerStream {
    /// Takes a connected, non-blocking socket. `Connector` is who connected it.
    pub(crate) fn new(
        socket: OwnedFd,
        connector: Connector,
        neighbour: Neighbour,
        place: Place,
        first_bytes: Duration,
    ) -> io::Result<Self> {
        // Inherited from the listening socket; said again for kernels that do not pass it on.
        sys::pass_credentials(socket.as_fd())?;
        if let Err(error) = sys::pass_pidfd(socket.as_fd(), PassPidfd::Yes)
            && error.raw_os_error() != Some(libc::ENOPROTOOPT)
        {
            return Err(error);
        }
        Ok(Self {
            io: sys::watch(socket)?,
            info: PeerInfo::new(connector, neighbour),
            place,
            half_open: Some(HalfOpen {
                missing: PREFACE,
                deadline: Box::pin(sleep(first_bytes)),
            }),
            unread: None,
        })
    }

    /// What is known about the other end.
    pub fn peer(&self) -> &PeerInfo {
        &self.info
    }

    /// Ends the connection in both directions, for good.
    fn refuse(&self, refusal: Refusal) -> io::Error {
        let first = self.info.refused().is_none();
        let verdict = self.info.refuse(refusal);
        if first {
            let connector = self.info.connector();
            let peer = RefusedPeer {
                pid: verdict.offender().unwrap_or(connector.pid()),
                uid: connector.uid(),
                refusal: verdict,
            };
            match verdict {
                Refusal::Gone { .. }
                | Refusal::TooSlow { .. }
                | Refusal::Displaced { .. }
                | Refusal::Silent => {
                    tracing::debug!(pid = peer.pid, uid = peer.uid, reason = %verdict, "connection refused");
                }
                Refusal::NotVisible
                | Refusal::OtherSender { .. }
                | Refusal::OtherUser { .. }
                | Refusal::OtherProgram { .. }
                | Refusal::NotBound { .. }
                | Refusal::NoCredentials { .. }
                | Refusal::ControlTruncated { .. }
                | Refusal::Exhausted { .. }
                | Refusal::Unread { .. }
                | Refusal::Unidentified { .. }
                | Refusal::Full { .. }
                | Refusal::HoldsTooMany { .. }
                | Refusal::ConnectsTooOften { .. } => {
                    if let Some(held_back) = REFUSED.pass(verdict.word()) {
                        tracing::warn!(
                            pid = peer.pid,
                            uid = peer.uid,
                            reason = %verdict,
                            held_back,
                            "connection refused"
                        );
                    }
                }
            }
            self.place.gate().refused(peer);
            connector.tell_owner(peer);
            // The other end may be gone already; then there is nothing to shut.
            shutdown_quietly(&self.io, Shutdown::Both);
        }
        verdict.into()
    }

    fn check_refused(&self) -> io::Result<()> {
        self.info
            .refused()
            .map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.half_open.is_some() && self.place.displaced(cx) {
            let pid = self.info.connector().pid();
            return Err(self.refuse(Refusal::Displaced { pid }));
        }
        if let Some(half_open) = &mut self.half_open
            && half_open.deadline.as_mut().poll(cx).is_ready()
        {
            let pid = self.info.connector().pid();
            return Err(self.refuse(Refusal::TooSlow { pid }));
        }
        Ok(())
    }

    fn count(&mut self, len: usize) {
        if let Some(half_open) = &mut self.half_open {
            half_open.missing = half_open.missing.saturating_sub(len);
            if half_open.missing == 0 {
                self.half_open = None;
                self.place.settle();
            }
        }
    }

    fn read_once(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.io.poll_read_ready(cx))?;
            let received = match sys::receive(guard.get_inner().as_fd(), buf) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if received.len == 0 {
                return Poll::Ready(Ok(0));
            }
            if received.descriptors > 0 {
                self.place.gate().count_descriptors(received.descriptors);
            }
            let first = !self.info.is_bound();
            if let Err(refusal) = self.info.judge(&received) {
                // What another sender wrote must not be found in the buffer either.
                buf.fill(0);
                return Poll::Ready(Err(self.refuse(refusal)));
            }
            if first {
                // The pidfd has proven what it can, and from now on the number suffices: see
                // `PeerInfo::judge`. Asking on would cost a descriptor for every read, and would
                // break every connection at once when descriptors run out.
                drop(sys::pass_pidfd(self.io.as_fd(), PassPidfd::No));
            }
            self.count(received.len);
            return Poll::Ready(Ok(received.len));
        }
    }

    /// Writes, and gives up on an end that does not read for too long.
    fn write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = self.write_once(cx, bufs);
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        let limit = self.place.gate().limits().unread;
        let patience = self.unread.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(patience.as_mut().poll(cx));
        let pid = self.info.connector().pid();
        Poll::Ready(Err(self.refuse(Refusal::Unread { pid })))
    }

    fn write_once(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check_refused()?;
        loop {
            let mut guard = ready!(self.io.poll_write_ready(cx))?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(guard.get_inner());
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match sendmsg::<()>(fd, bufs, &[], flags, None) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }
}

fn shutdown_quietly(io: &AsyncFd<OwnedFd>, how: Shutdown) {
    if let Err(errno) = shutdown(std::os::fd::AsRawFd::as_raw_fd(io), how) {
        tracing::trace!(%errno, "shutdown");
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_refused()?;
        this.check_deadline(cx)?;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(this.read_once(cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The kernel takes at most UIO_MAXIOV slices in one call.
        let most = bufs.len().min(1024);
        self.get_mut().write(cx, bufs.get(..most).unwrap_or(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        shutdown_quietly(&self.io, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerStream").field(&self.info).finish()
    }
}
