//! The double's TCP port: real TLS, and a switch that cuts all connections at once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use muster_tls::{Acceptor, Peer, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Who is at the other end.
#[derive(Clone)]
pub(crate) struct Origin(pub(crate) Option<Arc<Peer>>);

/// A connection that ends when it is cut.
pub(crate) struct Connection {
    stream: ServerStream<TcpStream>,
    origin: Origin,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    dead: bool,
}

impl Connected for Connection {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        self.origin.clone()
    }
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.dead {
            self.dead = self.cut.as_mut().poll(cx).is_ready();
        }
        if self.dead {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts until `cut` says so; then everything that was accepted is cut as well.
pub(crate) fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    mut cut: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<Connection>> {
    let (connections, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let accepted: io::Result<(TcpStream, SocketAddr)> = tokio::select! {
                accepted = listener.accept() => accepted,
                _cut = cut.wait_for(|cut| *cut) => return,
            };
            let Ok((tcp, _)) = accepted else { continue };
            let (acceptor, connections, cut) = (acceptor.clone(), connections.clone(), cut.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let origin = Origin(Peer::of_client(&stream).ok().flatten().map(Arc::new));
                let mut cut = cut;
                let connection = Connection {
                    stream,
                    origin,
                    cut: Box::pin(async move {
                        let _gone = cut.wait_for(|cut| *cut).await.is_err();
                    }),
                    dead: false,
                };
                let _gone = connections.send(Ok(connection)).await.is_err();
            });
        }
    });
    ReceiverStream::new(incoming)
}
