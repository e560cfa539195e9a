//! The node's Unix sockets as HTTP/2 servers: a connection of its own for every workload, and as
//! little memory by connection as the HTTP/2 stack allows.
//!
//! `tonic::transport::Server` does the same with more layers: by connection it keeps a protocol
//! detector, a copy of all settings, a timer for the connection's age and a boxed service. What is
//! left here is the stack's own (`docs/memory.md` has the figures).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use muster_peer::{Connection, PeerInfo};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Connected as _;
use tower::Service as _;

/// Serves `routes` on every connection until `shutdown` resolves or there are no more connections,
/// then tells every client to open no further call (GOAWAY) and returns when the calls have ended.
///
/// A connection has at most `calls` open at a time; one whose end does not answer a ping every
/// `keepalive`, in as much time, is closed.
pub(crate) async fn serve(
    routes: Routes,
    connections: impl Stream<Item = io::Result<Connection>>,
    calls: u32,
    keepalive: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive)
        .max_concurrent_streams(calls)
        // Whoever asks on and on without reading is dropped for that, on the record, and not by the
        // stack for the calls that it refused.
        .max_local_error_reset_streams(None)
        // Nobody asks a node for the time.
        .auto_date_header(false);
    let routes = routes.prepare();
    let (end, ended) = watch::channel(());
    {
        let mut connections = pin!(connections);
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                next = connections.next() => match next {
                    Some(Ok(connection)) => {
                        let service = Answering {
                            routes: routes.clone(),
                            peer: connection.connect_info(),
                        };
                        let served = builder.serve_connection(TokioIo::new(connection), service);
                        let served = Box::pin(served);
                        tokio::spawn(until_closed(served, ended.clone()));
                    }
                    Some(Err(error)) => tracing::warn!(%error, "a connection was not accepted"),
                    None => break,
                },
            }
        }
        // The listening socket is closed here, before calls are waited for.
    }
    drop(ended);
    // No connection is open, or all hear of it.
    let _alone = end.send(()).is_err();
    end.closed().await;
}

/// In a box, which a task of its own holds by reference: a future that takes it over would have
/// room for it twice.
type Served = Pin<Box<http2::Connection<TokioIo<Connection>, Answering, TokioExecutor>>>;

async fn until_closed(mut served: Served, mut ended: watch::Receiver<()>) {
    let closed = tokio::select! {
        closed = &mut served => closed,
        _gone = ended.changed() => {
            served.as_mut().graceful_shutdown();
            (&mut served).await
        }
    };
    if let Err(error) = closed {
        tracing::debug!(%error, "a connection failed");
    }
}

/// What answers one connection's calls.
struct Answering {
    routes: Routes,
    peer: PeerInfo,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    // Boxed, so that it is let go when the answer begins: a stream may last for months.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        // Always ready: `Routes` has no back-pressure of its own.
        Box::pin(self.routes.clone().call(request))
    }
}
