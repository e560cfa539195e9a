//! A stock tonic server behind the listener, and clients that write their own HTTP/2 (WEP-07).

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use httlib_hpack::Decoder;
use muster_peer::{Limits, ListenOptions, Listener, PeerInfo};
use tempfile::TempDir;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method`, `:scheme` and `:path`.
const PSEUDO: &[u8] = b"\x83\x86\x04\x0a/test.T/Do";
/// `content-type`.
const REST: &[u8] = b"\x0f\x10\x10application/grpc";

/// Answers every call with what it saw.
#[derive(Clone)]
struct Witness;

impl NamedService for Witness {
    const NAME: &'static str = "test.T";
}

impl Service<http::Request<Body>> for Witness {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let authority = request.uri().authority().map_or("none", |a| a.as_str());
        let caller = request
            .extensions()
            .get::<PeerInfo>()
            .unwrap()
            .caller()
            .unwrap();
        ready(Ok(http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0")
            .header("saw", authority)
            .header("path", request.uri().path())
            .header("pid", caller.pid())
            .body(Body::empty())
            .unwrap()))
    }
}

struct Server {
    path: PathBuf,
    _dir: TempDir,
}

fn serve() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let incoming = listener.incoming(Limits::default()).unwrap();
    let server = tonic::transport::Server::builder().add_service(Witness);
    tokio::spawn(server.serve_with_incoming(incoming));
    Server { path, _dir: dir }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn open(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(4, 0, 0, b"")).unwrap();
    stream
}

/// The response's fields, or what ended the stream.
fn response(
    stream: &mut UnixStream,
    decoder: &mut Decoder,
) -> Result<Vec<(String, String)>, String> {
    loop {
        let mut head = [0; 9];
        stream
            .read_exact(&mut head)
            .map_err(|error| error.to_string())?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            1 => {
                let mut fields = Vec::new();
                decoder.decode(&mut payload, &mut fields).unwrap();
                let text = |octets| String::from_utf8(octets).unwrap();
                return Ok(fields
                    .into_iter()
                    .map(|(n, v, _)| (text(n), text(v)))
                    .collect());
            }
            3 | 7 => return Err(format!("frame {} {payload:x?}", head[3])),
            _ => {}
        }
    }
}

fn check(stream: &mut UnixStream, decoder: &mut Decoder, saw: &str) {
    let fields = response(stream, decoder).unwrap();
    let value = |name| &fields.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(value("saw"), saw);
    assert_eq!(value("path"), "/test.T/Do");
    assert_eq!(value("grpc-status"), "0");
    assert_eq!(*value("pid"), std::process::id().to_string());
}

/// The client's side blocks; it runs beside the server.
async fn client(act: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(act).await.unwrap();
}

/// Missing, empty (literal and indexed), localhost, raw path, percent-encoded path, and what no
/// URI allows; each entered into the client's table, so that the second request refers to it.
#[tokio::test]
async fn every_form_of_authority_is_served() {
    let server = serve();
    client(move || {
        let forms: [(&[u8], &str); 9] = [
            (b"", "none"),
            (b"\x41\x00", "localhost"),
            (b"\x81", "localhost"),
            (b"\x41\x09localhost", "localhost"),
            (b"\x41\x0b/tmp/a.sock", "localhost"),
            (b"\x41\x0ctmp%2Fa.sock", "localhost"),
            (b"\x41\x07http://", "localhost"),
            (b"\x41\x04\x01\x80 \xff", "localhost"),
            // Huffman-coded "/tmp/a.sock".
            (b"\x41\x88\x61\x34\xd6\xc0\xd7\x41\xc9\xd7", "localhost"),
        ];
        for (authority, saw) in forms {
            let mut stream = open(&server.path);
            let mut decoder = Decoder::with_dynamic_size(4096);
            let block = [PSEUDO, authority, REST].concat();
            stream.write_all(&frame(1, 5, 1, &block)).unwrap();
            check(&mut stream, &mut decoder, saw);
            if authority.starts_with(b"\x41") {
                let block = [PSEUDO, b"\xbe", REST].concat();
                stream.write_all(&frame(1, 5, 3, &block)).unwrap();
                check(&mut stream, &mut decoder, saw);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn padded_prioritised_and_continued_headers_are_served() {
    let server = serve();
    client(move || {
        let mut stream = open(&server.path);
        let mut decoder = Decoder::with_dynamic_size(4096);
        let block = [PSEUDO, b"\x41\x0b/tmp/a.sock", REST].concat();
        let mut id = 1;
        for cut in 0..=block.len() {
            let (first, second) = block.split_at(cut);
            let first = [b"\x07\0\0\0\0\x10", first, &[0; 7]].concat();
            let wire = [
                frame(1, 0x1 | 0x8 | 0x20, id, &first),
                frame(9, 0, id, b""),
                frame(9, 4, id, second),
            ]
            .concat();
            // In two writes that do not care for frames.
            let (now, later) = wire.split_at(wire.len() * cut / (block.len() + 1));
            stream.write_all(now).unwrap();
            stream.write_all(later).unwrap();
            check(&mut stream, &mut decoder, "localhost");
            id += 2;
        }
    })
    .await;
}

/// What `h2` refuses stays refused: the rewriter hides nothing from it.
#[tokio::test]
async fn malformed_requests_stay_malformed() {
    let server = serve();
    client(move || {
        let blocks: [&[u8]; 4] = [
            // Two authorities.
            &[PSEUDO, b"\x41\x01/\x41\x01/", REST].concat(),
            // A pseudo-header field after a regular one.
            b"\x83\x86\x04\x0a/test.T/Do\x00\x01a\x01b\x84",
            // Upper case.
            b"\x83\x86\x04\x0a/test.T/Do\x00\x01A\x01b",
            // Connection-specific.
            b"\x83\x86\x04\x0a/test.T/Do\x00\x0aconnection\x05close",
        ];
        for block in blocks {
            let mut stream = open(&server.path);
            stream.write_all(&frame(1, 5, 1, block)).unwrap();
            let error = response(&mut stream, &mut Decoder::with_dynamic_size(4096)).unwrap_err();
            // RST_STREAM or GOAWAY with PROTOCOL_ERROR.
            assert!(
                error.starts_with("frame") && error.ends_with("0, 0, 0, 1]"),
                "{error}"
            );
        }
        // A hostile block ends its connection and no other.
        let mut hostile = open(&server.path);
        hostile
            .write_all(&frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"))
            .unwrap();
        assert!(response(&mut hostile, &mut Decoder::with_dynamic_size(4096)).is_err());
        let mut stream = open(&server.path);
        stream
            .write_all(&frame(1, 5, 1, &[PSEUDO, REST].concat()))
            .unwrap();
        check(&mut stream, &mut Decoder::with_dynamic_size(4096), "none");
    })
    .await;
}

/// The house's own client, many calls on one connection, so that its table fills.
#[tokio::test]
async fn a_tonic_client_is_served() {
    let server = serve();
    let mut channel = muster_peer::connect(&server.path).await.unwrap();
    for call in 0..200 {
        let request = http::Request::post("http://localhost/test.T/Do")
            .header("x-call", call.to_string().repeat(40))
            .body(Body::empty())
            .unwrap();
        std::future::poll_fn(|cx| channel.poll_ready(cx))
            .await
            .unwrap();
        let response = channel.call(request).await.unwrap();
        assert_eq!(response.headers()["saw"], "localhost");
    }
}

#[tokio::test]
async fn clients_are_told_why_they_cannot_connect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let message = |result: Result<_, muster_peer::ConnectError>| result.unwrap_err().to_string();
    assert!(message(muster_peer::connect(&path).await).contains("is the daemon running"));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(message(muster_peer::connect(&path).await).contains("the socket is stale"));
    let long = dir.path().join("x".repeat(108));
    assert!(message(muster_peer::connect(&long).await).contains("allows 107"));
}
