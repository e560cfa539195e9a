//! The node's Unix sockets as HTTP servers: a connection of its own for every workload, and as
//! little memory by connection as the HTTP stack allows.
//!
//! `tonic::transport::Server` does the same with more layers: by connection it keeps a protocol
//! detector, a copy of all settings, a timer for the connection's age and a boxed service. What is
//! left here is the stack's own (`docs/memory.md` has the figures).
//!
//! What does not begin as HTTP/2 does is HTTP/1.1, where a socket has something for it: shells have
//! no gRPC.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use muster_peer::{Connection, PeerInfo, Protocol};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Connected as _;
use tower::Service as _;

use crate::tasks::{OnTask, Shell};

/// How long the head of an HTTP/1.1 request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head of an HTTP/1.1 request, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// How long the connections of a task's socket may stay open when the task has ended: their streams
/// end at once.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What all connections of a socket have in common; the sockets of all tasks have one.
pub(crate) struct Stack {
    http2: http2::Builder<TokioExecutor>,
    http1: http1::Builder,
    routes: Routes,
    shell: Option<Shell>,
}

impl Stack {
    /// Serves `routes` by gRPC, and `shell` to those who speak HTTP/1.1.
    ///
    /// A connection has at most `calls` open at a time; one whose end does not answer a ping every
    /// `keepalive`, in as much time, is closed.
    pub(crate) fn new(
        routes: Routes,
        shell: Option<Shell>,
        calls: u32,
        keepalive: Duration,
    ) -> Arc<Self> {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .max_concurrent_streams(calls)
            // Whoever asks on and on without reading is dropped for that, on the record, and not by
            // the stack for the calls that it refused.
            .max_local_error_reset_streams(None)
            // Nobody asks a node for the time.
            .auto_date_header(false);
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .auto_date_header(false);
        Arc::new(Self {
            http2,
            http1,
            routes: routes.prepare(),
            shell,
        })
    }

    /// Serves a connection, of a task's socket perhaps, until its end, or until `ended` changes or
    /// has no sender any more: then its client is told to open no further call.
    pub(crate) fn begin(
        self: &Arc<Self>,
        connection: Connection,
        on: Option<OnTask>,
        ended: watch::Receiver<()>,
    ) {
        let peer = connection.connect_info();
        let answering = Answering {
            stack: Arc::clone(self),
            peer,
            on,
        };
        // In a box, which what serves it holds by reference: a future that takes it over would have
        // room for it twice.
        tokio::spawn(until_closed(answering, Box::new(connection), ended));
    }
}

/// Serves every connection until `shutdown` resolves or there are no more connections, then tells
/// every client to open no further call (GOAWAY) and returns when the calls have ended.
pub(crate) async fn serve(
    stack: Arc<Stack>,
    connections: impl Stream<Item = io::Result<Connection>>,
    shutdown: impl Future<Output = ()>,
) {
    let (end, ended) = watch::channel(());
    {
        let mut connections = pin!(connections);
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                next = connections.next() => match next {
                    Some(Ok(connection)) => stack.begin(connection, None, ended.clone()),
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

async fn until_closed(
    answering: Answering,
    mut connection: Box<Connection>,
    mut ended: watch::Receiver<()>,
) {
    let protocol = tokio::select! {
        protocol = connection.protocol() => protocol,
        _gone = ended.changed() => return,
    };
    let closed = match protocol {
        // Whoever connects and goes away without a word is no news.
        Ok(None) => Ok(()),
        Ok(Some(Protocol::Other)) if answering.stack.shell.is_some() => {
            http1(answering, connection, ended).await
        }
        Ok(Some(Protocol::Http2 | Protocol::Other)) => http2(answering, connection, ended).await,
        Err(error) => {
            tracing::debug!(%error, "a connection failed");
            Ok(())
        }
    };
    if let Err(error) = closed {
        tracing::debug!(%error, "a connection failed");
    }
}

async fn http2(
    answering: Answering,
    connection: Box<Connection>,
    mut ended: watch::Receiver<()>,
) -> hyper::Result<()> {
    let patience = answering.patience();
    let stack = Arc::clone(&answering.stack);
    let served = stack
        .http2
        .serve_connection(TokioIo::new(connection), answering);
    let mut served = Box::pin(served);
    tokio::select! {
        closed = &mut served => closed,
        _gone = ended.changed() => {
            served.as_mut().graceful_shutdown();
            within(patience, served).await
        }
    }
}

async fn http1(
    answering: Answering,
    connection: Box<Connection>,
    mut ended: watch::Receiver<()>,
) -> hyper::Result<()> {
    let patience = answering.patience();
    let stack = Arc::clone(&answering.stack);
    let served = stack
        .http1
        .serve_connection(TokioIo::new(connection), Speaking(answering));
    let mut served = Box::pin(served);
    tokio::select! {
        closed = &mut served => closed,
        _gone = ended.changed() => {
            served.as_mut().graceful_shutdown();
            within(patience, served).await
        }
    }
}

/// Waits for the end of a connection, but not longer than that.
async fn within(
    patience: Option<Duration>,
    served: impl Future<Output = hyper::Result<()>>,
) -> hyper::Result<()> {
    match patience {
        Some(patience) => tokio::time::timeout(patience, served)
            .await
            .unwrap_or(Ok(())),
        None => served.await,
    }
}

/// What answers one connection's calls.
struct Answering {
    stack: Arc<Stack>,
    peer: PeerInfo,
    on: Option<OnTask>,
}

impl Answering {
    /// How long the connection may go on when it is to end; the main sockets have a limit of their
    /// own.
    fn patience(&self) -> Option<Duration> {
        self.on.as_ref().map(|_| LAST_WORDS)
    }

    fn introduce(&self, extensions: &mut Extensions) {
        extensions.insert(self.peer.clone());
        if let Some(on) = &self.on {
            extensions.insert(on.clone());
        }
    }
}

// Boxed, so that it is let go when the answer begins: a stream may last for months.
type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.introduce(request.extensions_mut());
        // Always ready: `Routes` has no back-pressure of its own.
        Box::pin(self.stack.routes.clone().call(request))
    }
}

/// What answers one connection's calls over HTTP/1.1.
struct Speaking(Answering);

impl hyper::service::Service<Request<Incoming>> for Speaking {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.0.introduce(request.extensions_mut());
        let shell = self.0.stack.shell.clone();
        Box::pin(async move {
            Ok(match shell {
                Some(shell) => shell.answer(request).await,
                None => Response::new(Body::empty()),
            })
        })
    }
}
