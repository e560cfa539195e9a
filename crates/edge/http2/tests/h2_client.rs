//! The client that nearly everyone in Rust has, against this server.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use muster_http2::{Answer, Connection, Error, RequestBody, Settings};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Frame = http_body::Frame<Bytes>;

const SETTINGS: Settings = Settings {
    calls: 100,
    window: Settings::WINDOW,
    keepalive: Duration::from_mins(10),
};

struct Served {
    client: SendRequest<Bytes>,
    /// Dropped, it tells the connection to end.
    end: watch::Sender<()>,
    server: JoinHandle<Result<(), Error>>,
    client_task: JoinHandle<Result<(), h2::Error>>,
}

async fn serve<F>(settings: Settings, answer: F) -> Served
where
    F: Fn(Request<RequestBody>) -> Answer<Body> + Send + Sync + 'static,
{
    // A little pipe, so that everything waits for everything at times.
    let (near, far) = tokio::io::duplex(1000);
    let (end, ended) = watch::channel(());
    let mut connection = Connection::new(far, &[], settings, answer);
    let server = tokio::spawn(async move { connection.until(ended, None).await });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    let client_task = tokio::spawn(connection);
    Served {
        client,
        end,
        server,
        client_task,
    }
}

fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    body.boxed_unsync()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://localhost{path}"))
        .body(())
        .unwrap()
}

async fn all(body: &mut h2::RecvStream) -> Vec<u8> {
    let mut octets = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        octets.extend_from_slice(&piece);
    }
    octets
}

/// Answers with the body and the trailers of the request.
fn echo(request: Request<RequestBody>) -> Answer<Body> {
    Box::pin(async move {
        let response = Response::builder().header("path", request.uri().path());
        response
            .body(boxed(request.into_body().map_err(never)))
            .unwrap()
    })
}

fn never(broken: muster_http2::Broken) -> Infallible {
    panic!("{broken}")
}

fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

async fn send_all(stream: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(10_000));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let now = data.split_to(room.unwrap().unwrap().min(data.len()));
        stream.send_data(now, false).unwrap();
    }
}

/// Bodies far beyond every window, in both directions at once, on many streams.
#[tokio::test]
async fn bodies_of_any_length_come_back_whole() {
    let served = serve(SETTINGS, echo).await;
    let calls = [0, 1, 16_384, 65_535, 65_536, 1_000_000, 1_000_000].map(|length| {
        let mut client = served.client.clone();
        async move {
            let sent = pattern(length);
            let (response, mut stream) = client.send_request(post("/a"), false).unwrap();
            let sending = async {
                send_all(&mut stream, sent.clone()).await;
                let mut trailers = HeaderMap::new();
                trailers.insert("length", length.into());
                stream.send_trailers(trailers).unwrap();
            };
            let receiving = async {
                let mut response = response.await.unwrap();
                assert_eq!(response.headers()["path"], "/a");
                let octets = all(response.body_mut()).await;
                let trailers = response.body_mut().trailers().await.unwrap().unwrap();
                assert_eq!(trailers["length"], length.to_string());
                octets
            };
            let ((), received) = tokio::join!(sending, receiving);
            assert!(received == sent, "{length} bytes");
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_stop_the_others() {
    let served = serve(SETTINGS, |request| {
        Box::pin(async move {
            if request.uri().path() == "/read" {
                return echo(request).await;
            }
            Response::new(boxed(Empty::new()))
        })
    })
    .await;
    let mut client = served.client.clone();
    for _ in 0..50 {
        let (response, mut stream) = client.send_request(post("/ignore"), false).unwrap();
        // As much as may come unasked; whether all of it is taken depends on who is faster.
        drop(stream.send_data(pattern(20_000), true));
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }
    let (response, mut stream) = client.send_request(post("/read"), false).unwrap();
    let sending = async {
        send_all(&mut stream, pattern(200_000)).await;
        stream.send_data(Bytes::new(), true).unwrap();
    };
    let receiving = async { all(response.await.unwrap().body_mut()).await };
    let ((), received) = tokio::join!(sending, receiving);
    assert_eq!(received, pattern(200_000));
}

#[tokio::test]
async fn a_call_ends_when_its_client_takes_it_back() {
    struct Gone(Option<oneshot::Sender<()>>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.take().unwrap().send(()).unwrap();
        }
    }
    let (gone, heard) = oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    let begun = Arc::new(Notify::new());
    let begins = Arc::clone(&begun);
    let served = serve(SETTINGS, move |_request| {
        let gone = Gone(gone.lock().unwrap().take());
        let begins = Arc::clone(&begins);
        Box::pin(async move {
            begins.notify_one();
            std::future::pending::<()>().await;
            drop(gone);
            Response::new(boxed(Empty::new()))
        })
    })
    .await;
    let mut client = served.client.clone();
    let (response, mut stream) = client.send_request(post("/"), true).unwrap();
    begun.notified().await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    heard.await.unwrap();
}

/// GOAWAY: what is open is served to its end, and then the connection ends on both sides.
#[tokio::test]
async fn a_connection_that_is_to_end_serves_what_is_open() {
    let (pieces, source) = futures::channel::mpsc::unbounded::<Bytes>();
    let source = std::sync::Mutex::new(Some(source));
    let served = serve(SETTINGS, move |_request| {
        let source = source.lock().unwrap().take().unwrap();
        let frames = futures::StreamExt::map(source, |piece| Ok(Frame::data(piece)));
        Box::pin(async move { Response::new(boxed(StreamBody::new(frames))) })
    })
    .await;
    let mut client = served.client.clone();
    let (response, _) = client.send_request(post("/"), true).unwrap();
    let mut response = response.await.unwrap();
    pieces
        .unbounded_send(Bytes::from_static(b"before "))
        .unwrap();
    let first = response.body_mut().data().await.unwrap().unwrap();
    assert_eq!(first, "before ");
    drop(served.end);
    // The client hears of it.
    while client.clone().ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    pieces.unbounded_send(Bytes::from_static(b"after")).unwrap();
    drop(pieces);
    assert_eq!(all(response.body_mut()).await, b"after");
    drop((response, client, served.client));
    served.server.await.unwrap().unwrap();
    served.client_task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_goes_takes_its_calls_with_it() {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let served = serve(SETTINGS, move |_request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let frames = stream::pending::<Result<Frame, Infallible>>();
        Box::pin(async move { Response::new(boxed(StreamBody::new(frames))) })
    })
    .await;
    let mut client = served.client.clone();
    let (response, _) = client.send_request(post("/"), true).unwrap();
    let response = response.await.unwrap();
    served.client_task.abort();
    drop((response, client, served.client));
    served.server.await.unwrap().unwrap();
    assert_eq!(open.load(Ordering::SeqCst), 1);
}

/// h2 answers pings while it is polled.
#[tokio::test(start_paused = true)]
async fn whoever_answers_pings_may_be_silent_for_days() {
    let settings = Settings {
        keepalive: Duration::from_secs(30),
        ..SETTINGS
    };
    let served = serve(settings, |_request| {
        let days = tokio::time::timeout(Duration::from_hours(48), std::future::pending::<()>());
        let frames = futures::StreamExt::map(futures::FutureExt::into_stream(days), |_elapsed| {
            Ok(Frame::data(Bytes::from_static(b"late")))
        });
        Box::pin(async move { Response::new(boxed(StreamBody::new(frames))) })
    })
    .await;
    let mut client = served.client.clone();
    let (response, _) = client.send_request(post("/"), true).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(all(response.body_mut()).await, b"late");
}
