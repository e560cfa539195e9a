//! The TCP port: accepts connections, bounds the handshakes, and hands on what is authenticated.
//!
//! A connection that was accepted waits as a bare socket until it is its source's turn: a handshake
//! costs memory and the time of a core, a socket costs neither. When ten thousand nodes come back
//! at once, or one address opens as many, the handshakes under way stay few.

mod fair;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use muster_tls::{Acceptor, Peer, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::listen::fair::{FairQueue, Source};

/// Bounds on connections that have not proved anything yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Handshakes under way at once; further connections wait as sockets, fairly by source.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Connections open at once; further ones wait in the kernel's queue.
    pub connections: usize,
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

/// What is known of the other end of a TLS connection.
#[derive(Clone)]
pub(crate) struct TlsOrigin {
    /// The verified certificate, if the client showed one.
    pub peer: Option<Arc<Peer>>,
    /// The address it came from.
    pub address: SocketAddr,
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
    _place: OwnedSemaphorePermit,
}

impl fmt::Debug for TlsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

/// Accepts connections for ever; the stream yields those whose handshake succeeded.
///
/// A client certificate was verified in the handshake against the bundle of its trust domain.
pub(crate) fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    limits: Limits,
) -> ReceiverStream<io::Result<TlsConnection>> {
    let (established, incoming) = mpsc::channel(64);
    let port = Port {
        listener,
        acceptor,
        limits,
        established,
    };
    tokio::spawn(port.run());
    ReceiverStream::new(incoming)
}

/// A connection that was accepted, and its place among those that are open.
struct Accepted {
    socket: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
}

/// The task that accepts.
struct Port {
    listener: TcpListener,
    acceptor: Acceptor,
    limits: Limits,
    established: mpsc::Sender<io::Result<TlsConnection>>,
}

impl Port {
    async fn run(self) {
        let connections = Arc::new(Semaphore::new(self.limits.connections));
        let mut queue = FairQueue::new(self.limits.handshakes);
        let (done, mut ended) = mpsc::unbounded_channel();
        loop {
            while let Some((source, accepted)) = queue.pop() {
                self.begin(source, accepted, done.clone());
            }
            tokio::select! {
                Some(source) = ended.recv() => queue.done(source),
                Some((source, accepted)) = self.accept(&connections) => queue.push(source, accepted),
                () = self.established.closed() => return,
            }
        }
    }

    /// The next connection, once there is a place for it; `None` if none came.
    async fn accept(&self, connections: &Arc<Semaphore>) -> Option<(Source, Accepted)> {
        // The semaphore lives as long as the task and is never closed.
        let place = Arc::clone(connections).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((socket, address)) => {
                let accepted = Accepted {
                    socket,
                    address,
                    place,
                };
                Some((Source::of(address.ip()), accepted))
            }
            Err(error) => {
                pause_after(&error).await;
                None
            }
        }
    }

    fn begin(&self, source: Source, accepted: Accepted, done: mpsc::UnboundedSender<Source>) {
        let (acceptor, established) = (self.acceptor.clone(), self.established.clone());
        let limit = self.limits.handshake_timeout;
        tokio::spawn(async move {
            let Accepted {
                socket,
                address,
                place,
            } = accepted;
            let outcome = tokio::time::timeout(limit, shake(acceptor, socket, address)).await;
            // The port may have been closed, and counts no longer.
            done.send(source).ok();
            match outcome {
                Ok(Ok((stream, origin))) => {
                    let connection = TlsConnection {
                        stream,
                        origin,
                        _place: place,
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
    Ok((stream, TlsOrigin { peer, address }))
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
