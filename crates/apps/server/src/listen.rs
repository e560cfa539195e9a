//! The TCP port: accepts connections, bounds the handshakes, and hands on what is authenticated.
//!
//! A connection that was accepted waits as a bare socket until it is its source's turn: a handshake
//! costs memory and the time of a core, a socket costs neither. One that is silent gets no turn, and
//! the first message says who cannot wait ([`Urgency`]). When ten thousand nodes come back at once,
//! or one address opens as many, the handshakes under way stay few; and no more come in while there
//! is enough to sign ([`Gate`]), so that signing goes on at its pace from the first second.

mod fair;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use muster_rt::Clock;
use muster_tls::{Acceptor, HELLO_MAX, Peer, ServerStream, Urgency};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::admission::Admission;
use crate::crowd::{self, Crowd, Line};
use crate::listen::fair::{FairQueue, Source};

pub(crate) use fair::Gate;

/// How often it is looked whether connections wait for room.
const CROWDED: Duration = Duration::from_millis(100);
/// How many nodes are asked to leave at a time: as many as can come in until the next look.
const ROOM_AT_ONCE: usize = 64;
/// How soon it is looked again at a first message that came in part, at first; then ever later.
const REST_OF_HELLO: Duration = Duration::from_millis(10);

/// Bounds on connections that have not proved anything yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Handshakes under way at once; further connections wait as sockets, fairly by source.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Connections established at once; further ones wait as sockets, until others have left.
    pub connections: usize,
    /// Sockets open at once; further connections wait in the kernel's queue.
    pub sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Few, so that what comes over a connection that is established is read soon.
            handshakes: 64 * std::thread::available_parallelism().map_or(1, usize::from),
            handshake_timeout: Duration::from_secs(5),
            connections: crowd::connections(),
            sockets: crowd::MOST,
        }
    }
}

/// What is known of the other end of a TLS connection.
#[derive(Clone)]
pub(crate) struct TlsOrigin {
    /// The verified certificate, if the client showed one.
    pub peer: Option<Arc<Peer>>,
    /// The address it came from.
    pub address: SocketAddr,
    /// The connection itself.
    pub line: Arc<Line>,
}

impl fmt::Debug for TlsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOrigin")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// An established connection.
pub(crate) struct TlsConnection {
    stream: ServerStream<TcpStream>,
    origin: TlsOrigin,
    _places: [OwnedSemaphorePermit; 2],
}

impl fmt::Debug for TlsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

/// Accepts connections for ever; the stream yields those whose handshake succeeded.
///
/// A client certificate was verified in the handshake against the bundle of its trust domain.
///
/// When there is no room for another, nodes of `crowd` are asked to leave; `clock` tells for how
/// long they have been there. `admission` knows how much is to be signed already.
pub(crate) fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    limits: Limits,
    crowd: Crowd,
    admission: Admission,
    clock: Arc<dyn Clock>,
) -> ReceiverStream<io::Result<TlsConnection>> {
    let (established, incoming) = mpsc::channel(64);
    let port = Port {
        listener,
        acceptor,
        limits,
        established,
        crowd,
        admission,
        clock,
    };
    tokio::spawn(port.run());
    ReceiverStream::new(incoming)
}

/// A connection that was accepted, and its place among the sockets that are open.
struct Accepted {
    socket: TcpStream,
    address: SocketAddr,
    socket_place: OwnedSemaphorePermit,
}

/// The task that accepts.
struct Port {
    listener: TcpListener,
    acceptor: Acceptor,
    limits: Limits,
    established: mpsc::Sender<io::Result<TlsConnection>>,
    crowd: Crowd,
    admission: Admission,
    clock: Arc<dyn Clock>,
}

impl Port {
    async fn run(self) {
        let sockets = Arc::new(Semaphore::new(self.limits.sockets));
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let mut queue: FairQueue<Accepted> = FairQueue::new(self.limits.handshakes);
        let (done, mut ended) = mpsc::unbounded_channel();
        // No more than there are sockets.
        let (speaks, mut spoken) = mpsc::unbounded_channel();
        let mut look = tokio::time::interval(CROWDED);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Ok(place) = Arc::clone(&places).try_acquire_owned()
                && let Some((source, accepted)) = queue.pop(self.admission.gate())
            {
                if is_gone(&accepted.socket).await {
                    queue.done(source);
                } else {
                    self.begin(source, accepted, place, done.clone());
                }
            }
            let crowded = !queue.is_empty();
            tokio::select! {
                Some(source) = ended.recv() => queue.done(source),
                Some((source, urgency, accepted)) = spoken.recv() => {
                    queue.push(source, urgency, accepted);
                }
                () = self.admission.eased(), if crowded => {}
                Some((source, accepted)) = self.accept(&sockets) => {
                    self.listen_to(source, accepted, speaks.clone());
                }
                _ = look.tick(), if crowded => self.make_room(queue.len(), places.available_permits()),
                () = self.established.closed() => return,
            }
        }
    }

    /// Waits until a connection has said something: one that is silent takes nobody's turn, and is
    /// closed when a handshake would be.
    fn listen_to(
        &self,
        source: Source,
        accepted: Accepted,
        speaks: mpsc::UnboundedSender<(Source, Urgency, Accepted)>,
    ) {
        let limit = self.limits.handshake_timeout;
        tokio::spawn(async move {
            let heard = tokio::time::timeout(limit, first_words(&accepted.socket)).await;
            if let Ok(Ok(urgency)) = heard {
                // The port may have been closed.
                speaks.send((source, urgency, accepted)).ok();
            }
        });
    }

    /// Asks nodes to leave where more wait than there are places for.
    fn make_room(&self, waiting: usize, free: usize) {
        let wanted = waiting.min(ROOM_AT_ONCE).saturating_sub(free);
        if wanted == 0 {
            return;
        }
        let asked = self.crowd.make_room(wanted, self.clock.now().mono);
        if asked > 0 {
            tracing::debug!(
                waiting,
                asked,
                "more nodes than memory has room for: some are asked to come back later"
            );
        }
    }

    /// The next connection, once there is a place for it; `None` if none came.
    async fn accept(&self, sockets: &Arc<Semaphore>) -> Option<(Source, Accepted)> {
        // The semaphore lives as long as the task and is never closed.
        let socket_place = Arc::clone(sockets).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((socket, address)) => {
                let accepted = Accepted {
                    socket,
                    address,
                    socket_place,
                };
                Some((Source::of(address.ip()), accepted))
            }
            Err(error) => {
                pause_after(&error).await;
                None
            }
        }
    }

    fn begin(
        &self,
        source: Source,
        accepted: Accepted,
        place: OwnedSemaphorePermit,
        done: mpsc::UnboundedSender<Source>,
    ) {
        let (acceptor, established) = (self.acceptor.clone(), self.established.clone());
        let limit = self.limits.handshake_timeout;
        tokio::spawn(async move {
            let Accepted {
                socket,
                address,
                socket_place,
            } = accepted;
            let outcome = tokio::time::timeout(limit, shake(acceptor, socket, address)).await;
            // The port may have been closed, and counts no longer.
            done.send(source).ok();
            match outcome {
                Ok(Ok((stream, origin))) => {
                    let connection = TlsConnection {
                        stream,
                        origin,
                        _places: [socket_place, place],
                    };
                    // The server stopped taking connections: this one ends with it.
                    drop(established.send(Ok(connection)).await);
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
    }
}

/// What the first message says; it stays where it is, for the handshake.
async fn first_words(socket: &TcpStream) -> io::Result<Urgency> {
    let mut again = REST_OF_HELLO;
    loop {
        let heard = std::future::poll_fn(|cx| {
            // Here, and not in what is kept while a connection is silent.
            let mut bytes = [0; HELLO_MAX];
            let mut first = ReadBuf::new(&mut bytes);
            socket.poll_peek(cx, &mut first).map_ok(|length| {
                if length == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                Ok(Urgency::of_hello(first.filled()))
            })
        })
        .await??;
        match heard {
            Some(urgency) => return Ok(urgency),
            // What has been read of stays readable: the kernel would say so again and again.
            None => tokio::time::sleep(again).await,
        }
        again *= 2;
    }
}

/// Whether the client has given up while it waited: a handshake would be for nobody.
async fn is_gone(socket: &TcpStream) -> bool {
    // At once: what it said is there to be read.
    let ready = socket.ready(Interest::READABLE).await;
    ready.is_ok_and(tokio::io::Ready::is_read_closed)
}

async fn shake(
    acceptor: Acceptor,
    socket: TcpStream,
    address: SocketAddr,
) -> io::Result<(ServerStream<TcpStream>, TlsOrigin)> {
    socket.set_nodelay(true)?;
    let stream = acceptor.accept(socket).await?;
    let peer = Peer::of_client(&stream)
        .map_err(io::Error::other)?
        .map(Arc::new);
    let line = Arc::default();
    Ok((
        stream,
        TlsOrigin {
            peer,
            address,
            line,
        },
    ))
}

/// Running out of descriptors is no reason to spin: what is open must close first.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "could not accept a connection");
    if matches!(error.raw_os_error(), Some(code) if code == nix::libc::EMFILE || code == nix::libc::ENFILE)
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = TlsOrigin;
    fn connect_info(&self) -> TlsOrigin {
        self.origin.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.origin.line.poll_closed(cx).is_ready() {
            // The end, as the client would have sent it.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
