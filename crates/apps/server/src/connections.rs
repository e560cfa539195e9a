//! gRPC on the connections of both listeners: the API port and the admin socket.

use std::io;
use std::time::Duration;

use futures::Stream;
use http::{Request, Response};
use muster_http2::{Answer, Connection, RequestBody, Settings, for_each};
use muster_rt::lifecycle::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tower::Service as _;

/// How often a client with open calls is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Calls that a connection may have open at a time.
const CALLS: u32 = 1024;
/// What a client may send before it is taken, in bytes: nodes may be far away, and their requests
/// large.
const WINDOW: u32 = 1024 * 1024;

/// Serves `routes` on every connection until the shutdown, and their calls until they have ended.
/// A call finds in its extensions who is connected.
pub(crate) async fn serve<C>(
    connections: impl Stream<Item = io::Result<C>>,
    routes: Routes,
    shutdown: Shutdown,
) where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let settings = Settings {
        calls: CALLS,
        window: WINDOW,
        keepalive: KEEPALIVE,
    };
    let begin = |connection: C, ended| {
        let origin = connection.connect_info();
        let routes = routes.clone();
        let answer = move |mut request: Request<RequestBody>| {
            request.extensions_mut().insert(origin.clone());
            apart(&routes, request)
        };
        let mut connection = Connection::new(connection, &[], settings, answer);
        tokio::spawn(async move {
            if let Err(error) = connection.until(ended, None).await {
                tracing::debug!(%error, "a connection failed");
            }
        });
    };
    let end = async move {
        shutdown.begun().await;
    };
    for_each(connections, end, begin).await;
}

/// Answers a call in a task of its own: what it signs, encodes and compares does not hold up the
/// other calls of its connection. Dropped, it takes the task with it.
fn apart(routes: &Routes, request: Request<RequestBody>) -> Answer<Body> {
    let mut task = JoinSet::new();
    task.spawn(routes.clone().call(request));
    Box::pin(async move {
        match task.join_next().await {
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(never))) => match never {},
            Some(Err(_)) | None => panicked(),
        }
    })
}

/// The panic itself is in the log.
fn panicked() -> Response<Body> {
    Status::internal("the server failed to answer; its log says why").into_http()
}
