//! The node's Unix sockets as HTTP servers: a connection of its own for every workload, and as
//! little memory by connection as can be (`docs/memory.md` has the figures).
//!
//! What does not begin as HTTP/2 does is HTTP/1.1, where a socket has something for it: shells have
//! no gRPC.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, Stream};
use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use muster_http2::{Answer, Ended, Protocol, RequestBody, Settings, recognize};
use muster_peer::{Connection, PeerInfo};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

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
    http2: Settings,
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
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .auto_date_header(false);
        Arc::new(Self {
            http2: Settings {
                calls,
                window: Settings::WINDOW,
                keepalive,
            },
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
        ended: Ended,
    ) {
        let peer = connection.peer().clone();
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
    let begin = |connection, ended| stack.begin(connection, None, ended);
    muster_http2::for_each(connections, shutdown, begin).await;
}

/// Answers a gRPC request. Always ready: `Routes` has no back-pressure of its own.
pub(crate) fn ask<S, B>(service: &S, request: Request<RequestBody>) -> Answer<B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    let answer = service.clone().call(request);
    // Boxed, so that it is let go when the answer begins: a stream may last for months.
    Box::pin(answer.map(|answer| match answer {
        Ok(response) => response,
        Err(never) => match never {},
    }))
}

async fn until_closed(answering: Answering, mut connection: Box<Connection>, mut ended: Ended) {
    let first = tokio::select! {
        first = recognize(&mut connection) => first,
        _gone = ended.changed() => return,
    };
    let (protocol, seen) = match first {
        Ok(Some(first)) => first,
        // Whoever connects and goes away without a word is no news.
        Ok(None) => return,
        Err(error) => return failed(error),
    };
    match protocol {
        Protocol::Other if answering.stack.shell.is_some() => {
            // In a box: few are, and all would have room for it.
            let closed = Box::pin(http1(answering, connection, seen, ended)).await;
            closed.unwrap_or_else(failed);
        }
        Protocol::Http2 | Protocol::Other => {
            let closed = http2(answering, connection, seen, ended).await;
            closed.unwrap_or_else(failed);
        }
    }
}

fn failed(error: impl fmt::Display) {
    tracing::debug!(%error, "a connection failed");
}

async fn http2(
    answering: Answering,
    connection: Box<Connection>,
    seen: Bytes,
    ended: Ended,
) -> Result<(), muster_http2::Error> {
    let patience = answering.patience();
    let settings = answering.stack.http2;
    let answer = move |mut request: Request<RequestBody>| {
        answering.introduce(request.extensions_mut());
        ask(&answering.stack.routes, request)
    };
    let mut connection = muster_http2::Connection::new(connection, &seen, settings, answer);
    drop(seen);
    connection.until(ended, patience).await
}

async fn http1(
    answering: Answering,
    connection: Box<Connection>,
    seen: Bytes,
    mut ended: Ended,
) -> hyper::Result<()> {
    let patience = answering.patience();
    let stack = Arc::clone(&answering.stack);
    let (reading, writing) = tokio::io::split(connection);
    let connection = tokio::io::join(io::Cursor::new(seen).chain(reading), writing);
    let served = stack
        .http1
        .serve_connection(TokioIo::new(connection), Speaking(answering));
    let mut served = Box::pin(served);
    tokio::select! {
        closed = &mut served => closed,
        _gone = ended.changed() => {
            served.as_mut().graceful_shutdown();
            match patience {
                Some(patience) => timeout(patience, served).await.unwrap_or(Ok(())),
                None => served.await,
            }
        }
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

/// What answers one connection's calls over HTTP/1.1.
struct Speaking(Answering);

impl hyper::service::Service<Request<Incoming>> for Speaking {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

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
