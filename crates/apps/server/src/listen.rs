//! The TCP port: accepts connections, bounds the handshakes, and hands on what is authenticated.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use muster_tls::{Acceptor, Peer, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Bounds on connections that have not proved anything yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Handshakes under way at once; further connections wait in the kernel's queue.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Connections open at once; further ones wait in the kernel's queue.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 2048,
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
    _place: tokio::sync::OwnedSemaphorePermit,
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
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(limits.handshakes));
        let connections = Arc::new(Semaphore::new(limits.connections));
        loop {
            // Both semaphores live as long as this task and are never closed.
            let Ok(place) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let (socket, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                },
                () = established.closed() => return,
            };
            let (acceptor, established) = (acceptor.clone(), established.clone());
            tokio::spawn(async move {
                let handshake = tokio::time::timeout(
                    limits.handshake_timeout,
                    shake(acceptor, socket, address),
                );
                let outcome = handshake.await;
                drop(turn);
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
    });
    ReceiverStream::new(incoming)
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
