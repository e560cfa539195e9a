//! The floor: an HTTP/2 server that does nothing, to see what the stack alone costs by stream.
//!
//! It is the stack of the node with its settings; a process of its own, so that its memory can be
//! told from the swarm's.

use std::convert::Infallible;
use std::future::ready;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body::Frame;
use muster_http2::{Answer, Connection, RequestBody, Settings};
use muster_proto::workload::{X509svid, X509svidResponse};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{Sizes, open};
use crate::Failure;
use crate::proc::Pid;
use crate::times::number;

/// As the node has them.
const SETTINGS: Settings = Settings {
    calls: 100,
    window: Settings::WINDOW,
    keepalive: Duration::from_secs(30),
};
/// As large as a usual SVID with its key and bundle, in bytes.
const ANSWER: usize = 1800;
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// What the stack alone has resident by stream, in KiB, with the streams of `sizes`.
pub(super) async fn by_stream(sizes: &Sizes) -> Result<f64, Failure> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("bare.sock");
    let server: Child = Command::new(std::env::current_exe()?)
        .args(["bare", "--socket"])
        .arg(&socket)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let id = server.id().ok_or("the bare server has ended")?;
    let serving = async {
        while !socket.exists() {
            sleep(POLL).await;
        }
    };
    timeout(PATIENCE, serving)
        .await
        .map_err(|_| "the bare server does not serve")?;
    let sizes = Sizes {
        socket,
        node: Pid(i32::try_from(id)?),
        ..sizes.clone()
    };
    let before = sizes.node.resident()?;
    let opened = open(&sizes).await?;
    let during = sizes.node.resident()?;
    Ok((during - before) * 1024.0 / number(opened.followers.count().max(1)))
}

/// Serves at `socket` until it is killed: one answer by call, which is then left open.
pub async fn serve(socket: &Path) -> Result<(), Failure> {
    let answer = answer()?;
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = answer.clone();
        let served = Connection::new(stream, &[], SETTINGS, move |_: Request<RequestBody>| {
            let mut response = Response::new(Once(Some(answer.clone())));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            let answer: Answer<Once> = Box::pin(ready(response));
            answer
        });
        tokio::spawn(served);
    }
}

/// A message as it stands on the wire (gRPC over HTTP/2, Length-Prefixed-Message).
fn answer() -> Result<Bytes, Failure> {
    let message = X509svidResponse {
        svids: vec![X509svid {
            x509_svid: vec![0; ANSWER].into(),
            ..X509svid::default()
        }],
        ..X509svidResponse::default()
    };
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.encoded_len())?.to_be_bytes());
    message.encode(&mut frame)?;
    Ok(frame.into())
}

/// A body of one frame, and no end.
struct Once(Option<Bytes>);

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame)))),
            None => Poll::Pending,
        }
    }
}
