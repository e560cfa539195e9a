//! Connections of brokers: the handshake comes first, and is bounded in number and time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use futures::{Stream, StreamExt, stream};
use muster_tls::{Acceptor, Peer, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Resolves when nobody is to be let in any more.
pub(super) type Closed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long nothing is accepted after accepting failed, most often for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes under way at once; further connections wait.
    pub(super) handshakes: usize,
    /// How long a handshake may take.
    pub(super) handshake_timeout: Duration,
    /// Connections open at once; further ones wait.
    pub(super) connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            connections: 16_384,
        }
    }
}

/// Over which kind of socket a broker came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The Unix socket: the broker is on this machine.
    Unix,
    /// The TCP port: it may be anywhere.
    Tcp,
}

impl Transport {
    /// The word for logs and metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }
}

/// What is known of a broker's connection.
#[derive(Clone)]
pub(super) struct Origin {
    /// The verified certificate.
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) transport: Transport,
}

/// An established connection. Any `:authority` is accepted on it (BEP-14), below the TLS of a
/// Unix socket each read still has its one sender ([`muster_peer::PeerStream`]).
pub(super) struct BrokerConnection<S> {
    stream: ServerStream<S>,
    pub(super) origin: Origin,
    _place: OwnedSemaphorePermit,
}

impl<S> fmt::Debug for BrokerConnection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerConnection({})", self.origin.transport.word())
    }
}

/// The connections of a TCP listener, until `closed`: then they are the node's that comes after,
/// and the stream rests, for its end would end the connections that were let in.
pub(super) fn tcp(
    listener: std::net::TcpListener,
    closed: Closed,
) -> io::Result<impl Stream<Item = io::Result<TcpStream>> + Send + 'static> {
    let listener = TcpListener::from_std(listener)?;
    Ok(stream::unfold(
        (listener, closed),
        |(listener, mut closed)| async move {
            let accepted = tokio::select! {
                biased;
                () = &mut closed => None,
                accepted = listener.accept() => Some(accepted),
            };
            let Some(accepted) = accepted else {
                drop(listener);
                return std::future::pending().await;
            };
            let accepted = accepted.and_then(|(socket, _address)| {
                socket.set_nodelay(true)?;
                Ok(socket)
            });
            Some((accepted, (listener, closed)))
        },
    ))
}

/// Does the handshakes of `connections`; the stream yields those that succeeded, whose peer was
/// verified against the bundle of its trust domain.
pub(super) fn accept<S>(
    connections: impl Stream<Item = io::Result<S>> + Send + 'static,
    acceptor: Acceptor,
    transport: Transport,
    limits: Limits,
) -> ReceiverStream<io::Result<BrokerConnection<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (established, incoming) = mpsc::channel(64);
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(limits.handshakes));
        let places = Arc::new(Semaphore::new(
            limits.connections.min(Semaphore::MAX_PERMITS),
        ));
        let mut connections = std::pin::pin!(connections);
        loop {
            // Both semaphores live as long as this task and are never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let socket = tokio::select! {
                next = connections.next() => match next {
                    Some(Ok(socket)) => socket,
                    Some(Err(error)) => {
                        tracing::warn!(%error, socket = transport.word(), "could not accept a broker's connection");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    None => return,
                },
                () = established.closed() => return,
            };
            let (acceptor, established) = (acceptor.clone(), established.clone());
            tokio::spawn(async move {
                let shaken =
                    tokio::time::timeout(limits.handshake_timeout, shake(&acceptor, socket)).await;
                drop(turn);
                match shaken {
                    Ok(Ok((stream, peer))) => {
                        let connection = BrokerConnection {
                            stream,
                            origin: Origin { peer, transport },
                            _place: place,
                        };
                        // The server stopped taking connections: this one ends with it.
                        drop(established.send(Ok(connection)).await);
                    }
                    Ok(Err(error)) => refused(transport, &error.to_string()),
                    Err(_elapsed) => refused(transport, "it took too long"),
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

fn refused(transport: Transport, reason: &str) {
    metrics::counter!("muster_node_broker_refused_total", "reason" => "handshake").increment(1);
    tracing::info!(
        reason,
        socket = transport.word(),
        "a broker's TLS handshake failed"
    );
}

async fn shake<S>(
    acceptor: &Acceptor,
    socket: S,
) -> io::Result<(ServerStream<S>, Option<Arc<Peer>>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = acceptor.accept(socket).await?;
    let peer = Peer::of_client(&stream).map_err(io::Error::other)?;
    Ok((stream, peer.map(Arc::new)))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for BrokerConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for BrokerConnection<S> {
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
