//! Clients that write their own frames, right and wrong (RFC 9113; WEP-07, BEP-14).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use httlib_hpack::Decoder;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use muster_http2::{Answer, Connection, Error, RequestBody, Settings, Violation};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method`, `:scheme` and `:path`.
const PSEUDO: &[u8] = b"\x83\x86\x04\x0a/test.T/Do";
/// `content-type`.
const REST: &[u8] = b"\x0f\x10\x10application/grpc";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 0x5;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Answers `/test.T/Do` with what it saw, and everything else never.
fn witness(request: Request<RequestBody>) -> Answer<Body> {
    let path = request.uri().path().to_owned();
    let has_authority = request.uri().authority().is_some();
    Box::pin(async move {
        if path != "/test.T/Do" {
            std::future::pending::<()>().await;
        }
        let length = match request.into_body().collect().await {
            Ok(body) => body.to_bytes().len().to_string(),
            Err(broken) => broken.to_string(),
        };
        Response::builder()
            .header("path", path)
            .header("authority", has_authority.to_string())
            .header("length", length)
            .body(Full::from("seen").boxed_unsync())
            .unwrap()
    })
}

struct Client {
    stream: DuplexStream,
    decoder: Decoder<'static>,
    server: JoinHandle<Result<(), Error>>,
}

fn served(answer: fn(Request<RequestBody>) -> Answer<Body>) -> Client {
    let (near, far) = tokio::io::duplex(1 << 20);
    let settings = Settings {
        calls: 100,
        window: Settings::WINDOW,
        keepalive: Duration::from_secs(30),
    };
    Client {
        stream: near,
        decoder: Decoder::with_dynamic_size(4096),
        server: tokio::spawn(Connection::new(far, &[], settings, answer)),
    }
}

/// What came, by its kind.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Fields(u32, Vec<(String, String)>),
    Data(u32, Vec<u8>),
    Reset(u32, u32),
    GoAway(u32),
    Other(u8),
}

impl Client {
    async fn open() -> Self {
        let mut client = served(witness);
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, b"")]).await;
        client
    }

    async fn send(&mut self, pieces: &[&[u8]]) {
        self.stream.write_all(&pieces.concat()).await.unwrap();
    }

    /// The next frame that is no SETTINGS; `None` at the end.
    async fn next(&mut self) -> Option<Seen> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, _flags, stream @ ..] = head;
            let stream = u32::from_be_bytes(stream);
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            return Some(match kind {
                SETTINGS => continue,
                HEADERS => {
                    let mut fields = Vec::new();
                    self.decoder.decode(&mut payload, &mut fields).unwrap();
                    let text = |octets| String::from_utf8(octets).unwrap();
                    let fields = fields.into_iter().map(|(n, v, _)| (text(n), text(v)));
                    Seen::Fields(stream, fields.collect())
                }
                DATA => Seen::Data(stream, payload),
                RST_STREAM => Seen::Reset(stream, number(0)),
                GOAWAY => Seen::GoAway(number(4)),
                kind => Seen::Other(kind),
            });
        }
    }

    async fn check_served(&mut self, stream: u32, length: &str) {
        let Some(Seen::Fields(on, fields)) = self.next().await else {
            panic!("no fields");
        };
        let value = |name| &fields.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(on, stream);
        assert_eq!(value(":status"), "200");
        assert_eq!(value("path"), "/test.T/Do");
        assert_eq!(value("authority"), "false");
        assert_eq!(value("length"), length);
        assert_eq!(
            self.next().await,
            Some(Seen::Data(stream, b"seen".to_vec()))
        );
    }
}

/// Missing, empty (literal and indexed), localhost, raw path, percent-encoded path, and what no
/// URI allows; each entered into the client's table, so that the second request refers to it.
#[tokio::test]
async fn every_form_of_authority_is_served() {
    let forms: [&[u8]; 9] = [
        b"",
        b"\x41\x00",
        b"\x81",
        b"\x41\x09localhost",
        b"\x41\x0b/tmp/a.sock",
        b"\x41\x0ctmp%2Fa.sock",
        b"\x41\x07http://",
        b"\x41\x04\x01\x80 \xff",
        // Huffman-coded "/tmp/a.sock".
        b"\x41\x88\x61\x34\xd6\xc0\xd7\x41\xc9\xd7",
    ];
    for authority in forms {
        let mut client = Client::open().await;
        let block = [PSEUDO, authority, REST].concat();
        client.send(&[&frame(HEADERS, WHOLE, 1, &block)]).await;
        client.check_served(1, "0").await;
        if authority.starts_with(b"\x41") {
            let block = [PSEUDO, b"\xbe", REST].concat();
            client.send(&[&frame(HEADERS, WHOLE, 3, &block)]).await;
            client.check_served(3, "0").await;
        }
    }
}

#[tokio::test]
async fn padded_prioritised_and_continued_headers_are_served() {
    let mut client = Client::open().await;
    let block = [PSEUDO, b"\x41\x0b/tmp/a.sock", REST].concat();
    let mut id = 1;
    for cut in 0..=block.len() {
        let (first, second) = block.split_at(cut);
        let first = [b"\x07\0\0\0\0\x10", first, &[0; 7]].concat();
        let wire = [
            frame(HEADERS, 0x1 | 0x8 | 0x20, id, &first),
            frame(CONTINUATION, 0, id, b""),
            frame(CONTINUATION, 4, id, second),
        ]
        .concat();
        // In two writes that do not care for frames.
        let (now, later) = wire.split_at(wire.len() * cut / (block.len() + 1));
        client.send(&[now]).await;
        tokio::task::yield_now().await;
        client.send(&[later]).await;
        client.check_served(id, "0").await;
        id += 2;
    }
}

#[tokio::test]
async fn a_padded_body_counts_without_its_padding() {
    let mut client = Client::open().await;
    let block = [PSEUDO, REST, b"\x0f\x0d\x013"].concat();
    client
        .send(&[
            &frame(HEADERS, 4, 1, &block),
            &frame(DATA, 0x8, 1, b"\x04ab\0\0\0\0"),
            &frame(DATA, 0x9, 1, b"\0c"),
        ])
        .await;
    client.check_served(1, "3").await;
}

/// Stream errors end a stream and no other.
#[tokio::test]
async fn what_is_wrong_on_a_stream_ends_that_stream() {
    let request = [PSEUDO, REST].concat();
    let never = b"\x83\x86\x04\x01/";
    let with = |more: &[u8]| frame(HEADERS, WHOLE, 1, &[&request, more].concat());
    let begun = |more: &[u8]| frame(HEADERS, 4, 1, &[&request, more].concat());
    let cases: Vec<(Vec<u8>, u32)> = vec![
        // Two authorities.
        (
            frame(
                HEADERS,
                WHOLE,
                1,
                &[PSEUDO, b"\x41\x01/\x41\x01/", REST].concat(),
            ),
            PROTOCOL_ERROR,
        ),
        // A pseudo-header field after a regular one.
        (with(b"\x84"), PROTOCOL_ERROR),
        // Upper case.
        (with(b"\x00\x01A\x01b"), PROTOCOL_ERROR),
        // Connection-specific.
        (with(b"\x00\x0aconnection\x05close"), PROTOCOL_ERROR),
        // A length without a body, and one that is not kept.
        (with(b"\x0f\x0d\x011"), PROTOCOL_ERROR),
        (
            [begun(b"\x0f\x0d\x011"), frame(DATA, 1, 1, b"ab")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            [begun(b"\x0f\x0d\x013"), frame(DATA, 1, 1, b"ab")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            [begun(b"\x0f\x0d\x011"), frame(HEADERS, WHOLE, 1, b"")].concat(),
            PROTOCOL_ERROR,
        ),
        // Trailers that do not end it, or have pseudo-header fields.
        (
            [begun(b""), frame(HEADERS, 4, 1, b"")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            [begun(b""), frame(HEADERS, WHOLE, 1, b"\x84")].concat(),
            PROTOCOL_ERROR,
        ),
        // More of a stream that has ended.
        (
            [frame(HEADERS, WHOLE, 1, never), frame(DATA, 1, 1, b"a")].concat(),
            STREAM_CLOSED,
        ),
        (
            [
                frame(HEADERS, WHOLE, 1, never),
                frame(HEADERS, WHOLE, 1, b""),
            ]
            .concat(),
            STREAM_CLOSED,
        ),
        // Windows.
        (
            [
                frame(HEADERS, WHOLE, 1, never),
                frame(WINDOW_UPDATE, 0, 1, &[0; 4]),
            ]
            .concat(),
            PROTOCOL_ERROR,
        ),
        (
            [
                frame(HEADERS, WHOLE, 1, never),
                frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
            ]
            .concat(),
            FLOW_CONTROL_ERROR,
        ),
    ];
    for (wire, code) in cases {
        let mut client = Client::open().await;
        client.send(&[&wire]).await;
        assert_eq!(client.next().await, Some(Seen::Reset(1, code)), "{wire:x?}");
        client.send(&[&frame(HEADERS, WHOLE, 3, &request)]).await;
        client.check_served(3, "0").await;
    }
}

#[tokio::test]
async fn what_is_wrong_on_a_connection_ends_it_and_is_told() {
    for (wire, code) in wrong_on_a_connection() {
        let mut client = Client::open().await;
        client.send(&[&wire]).await;
        let mut last = None;
        while let Some(seen) = client.next().await {
            last = Some(seen);
        }
        assert_eq!(
            last,
            Some(Seen::GoAway(code)),
            "{:x?}",
            &wire[..wire.len().min(40)]
        );
        drop(client.stream);
        let ended = client.server.await.unwrap();
        assert!(matches!(ended, Err(Error::Violation(_))), "{ended:?}");
    }
}

fn wrong_on_a_connection() -> Vec<(Vec<u8>, u32)> {
    let request = [PSEUDO, REST].concat();
    let whole = frame(HEADERS, WHOLE, 1, &request);
    let ones = [0xff; 4];
    vec![
        (frame(DATA, 0, 0, b"a"), PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"a"), PROTOCOL_ERROR),
        (frame(HEADERS, WHOLE, 0, &request), PROTOCOL_ERROR),
        (frame(HEADERS, WHOLE, 2, &request), PROTOCOL_ERROR),
        (frame(HEADERS, WHOLE | 0x8, 1, b"\x05abc"), PROTOCOL_ERROR),
        (frame(HEADERS, WHOLE | 0x8, 1, b""), FRAME_SIZE_ERROR),
        (
            frame(HEADERS, WHOLE | 0x20, 1, b"\0\0\0\0"),
            FRAME_SIZE_ERROR,
        ),
        (
            frame(HEADERS, WHOLE | 0x20, 1, b"\0\0\0\x01\0"),
            PROTOCOL_ERROR,
        ),
        (frame(PRIORITY, 0, 1, b"\0\0\0\x01\0"), PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, b"\0\0\0\x01\0"), PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, b"\0\0\0\x03"), FRAME_SIZE_ERROR),
        (frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        (
            [whole.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            FRAME_SIZE_ERROR,
        ),
        (frame(SETTINGS, 0, 1, b""), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, b"abc"), FRAME_SIZE_ERROR),
        (frame(SETTINGS, 1, 0, &[0; 6]), FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), PROTOCOL_ERROR),
        (
            frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            FLOW_CONTROL_ERROR,
        ),
        (
            frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]),
            PROTOCOL_ERROR,
        ),
        (frame(5, 4, 1, b"\0\0\0\x02"), PROTOCOL_ERROR),
        (frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        (frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, &ones), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, &ones), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        (frame(CONTINUATION, 4, 1, b""), PROTOCOL_ERROR),
        (
            [frame(HEADERS, 1, 1, &request), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            [
                frame(HEADERS, 1, 1, &request),
                frame(CONTINUATION, 4, 3, b""),
            ]
            .concat(),
            PROTOCOL_ERROR,
        ),
        (
            [frame(HEADERS, 1, 1, &request), frame(99, 0, 0, b"")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            frame(HEADERS, WHOLE, 1, b"\xff\xff\xff\xff\xff\xff"),
            COMPRESSION_ERROR,
        ),
        (frame(HEADERS, WHOLE, 1, b"\x40\x05ab"), COMPRESSION_ERROR),
        (b"\0\x40\x01\0\0\0\0\0\0".to_vec(), FRAME_SIZE_ERROR),
        (
            [
                frame(HEADERS, 1, 1, &request),
                frame(CONTINUATION, 0, 1, b"").repeat(128),
            ]
            .concat(),
            ENHANCE_YOUR_CALM,
        ),
        (
            [
                frame(HEADERS, 1, 1, &request),
                frame(CONTINUATION, 0, 1, &[0; 16_384]).repeat(4),
            ]
            .concat(),
            ENHANCE_YOUR_CALM,
        ),
    ]
}

#[tokio::test]
async fn who_does_not_begin_as_http2_is_told_so() {
    for (wire, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], Violation::NotHttp2),
        (
            &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
            Violation::NoSettings,
        ),
        (
            &[PREFACE, &frame(SETTINGS, 1, 0, b"")].concat(),
            Violation::NoSettings,
        ),
    ] {
        let mut client = served(witness);
        client.send(&[wire]).await;
        assert_eq!(client.next().await, Some(Seen::GoAway(PROTOCOL_ERROR)));
        drop(client.stream);
        let ended = client.server.await.unwrap();
        assert!(
            matches!(ended, Err(Error::Violation(violation)) if violation == expected),
            "{ended:?}"
        );
    }
}

/// A client that sends on and never reads why, and never goes.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_go_is_left() {
    let mut client = Client::open().await;
    client.send(&[&frame(PING, 0, 1, &[0; 8])]).await;
    let ended = client.server.await.unwrap();
    assert!(matches!(ended, Err(Error::Violation(_))), "{ended:?}");
}

/// Nor is one waited for that sends on and on: there is always more to read.
#[tokio::test]
async fn a_client_that_does_not_stop_is_left() {
    let wrong = [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat();
    let reading = std::io::Cursor::new(wrong).chain(tokio::io::repeat(0));
    let socket = tokio::io::join(reading, tokio::io::sink());
    let settings = Settings {
        calls: 1,
        window: Settings::WINDOW,
        keepalive: Duration::from_mins(10),
    };
    let served = Connection::new(socket, &[], settings, witness);
    let ended = tokio::time::timeout(Duration::from_mins(1), served).await;
    assert!(matches!(ended, Ok(Err(Error::Violation(_)))), "{ended:?}");
}

/// What is under way on a stream that was reset here is no fault of the client.
#[tokio::test]
async fn data_for_a_stream_that_was_refused_is_passed_over() {
    let mut client = Client::open().await;
    let request = [PSEUDO, REST].concat();
    let malformed = frame(HEADERS, 4, 1, &[&request[..], b"\x84"].concat());
    client.send(&[&malformed]).await;
    assert_eq!(client.next().await, Some(Seen::Reset(1, PROTOCOL_ERROR)));
    let late = frame(DATA, 0, 1, &[0; 1000]).repeat(3);
    let trailers = frame(HEADERS, WHOLE, 1, b"");
    let next = frame(HEADERS, WHOLE, 3, &request);
    client.send(&[&late, &trailers, &next]).await;
    client.check_served(3, "0").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_left() {
    let mut client = Client::open().await;
    let block = [b"\x83\x86\x04\x01/", REST].concat();
    client.send(&[&frame(HEADERS, WHOLE, 1, &block)]).await;
    assert_eq!(client.next().await, Some(Seen::Other(PING)));
    let ended = client.server.await.unwrap();
    assert!(matches!(ended, Err(Error::Silent)), "{ended:?}");
}

/// Without calls nothing is at stake, and nobody is asked.
#[tokio::test(start_paused = true)]
async fn an_idle_client_is_not_asked() {
    let mut client = Client::open().await;
    let days = Duration::from_hours(48);
    assert!(tokio::time::timeout(days, client.next()).await.is_err());
    let request = [PSEUDO, REST].concat();
    client.send(&[&frame(HEADERS, WHOLE, 1, &request)]).await;
    client.check_served(1, "0").await;
}

/// RFC 9113, 6.9.2: a window may become negative.
#[tokio::test]
async fn an_answer_waits_for_the_window_that_the_client_gives() {
    let mut client = served(|_request| {
        Box::pin(async { Response::new(Full::from(vec![b'x'; 10]).boxed_unsync()) })
    });
    let window = |size: u8| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, size]);
    let request = [PSEUDO, REST].concat();
    client
        .send(&[PREFACE, &window(4), &frame(HEADERS, WHOLE, 1, &request)])
        .await;
    assert!(matches!(client.next().await, Some(Seen::Fields(1, _))));
    assert_eq!(client.next().await, Some(Seen::Data(1, vec![b'x'; 4])));
    // Down to -3, and up to 1.
    let wider = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 4]);
    client.send(&[&window(1), &wider]).await;
    assert_eq!(client.next().await, Some(Seen::Data(1, vec![b'x'; 1])));
    client.send(&[&window(100)]).await;
    assert_eq!(client.next().await, Some(Seen::Data(1, vec![b'x'; 5])));
}

/// RFC 7541, 4.2: whoever wants a smaller table is told that there is none.
#[tokio::test]
async fn a_client_with_a_smaller_table_hears_of_it() {
    let mut client = served(witness);
    client.decoder = Decoder::with_dynamic_size(0);
    let smaller = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
    let request = [PSEUDO, REST].concat();
    client
        .send(&[PREFACE, &smaller, &frame(HEADERS, WHOLE, 1, &request)])
        .await;
    client.check_served(1, "0").await;
}

#[tokio::test]
async fn too_many_fields_are_answered_so() {
    let mut client = Client::open().await;
    let long = [&b"\x00\x01a\x7f\x81\x7f"[..], &[b'x'; 16_384]].concat();
    let block = [PSEUDO, REST, &long].concat();
    client
        .send(&[
            &frame(HEADERS, 1, 1, &block[..100]),
            &frame(CONTINUATION, 4, 1, &block[100..]),
        ])
        .await;
    let Some(Seen::Fields(1, fields)) = client.next().await else {
        panic!("no fields");
    };
    assert_eq!(fields, [(":status".to_owned(), "431".to_owned())]);
}

/// Nothing of it was begun: it may be tried again (RFC 9113, 8.7).
#[tokio::test]
async fn a_call_over_the_limit_is_refused() {
    let mut client = Client::open().await;
    let waits = [b"\x83\x86\x04\x01/", REST].concat();
    for call in 0..100 {
        client
            .send(&[&frame(HEADERS, WHOLE, 2 * call + 1, &waits)])
            .await;
    }
    let request = frame(HEADERS, WHOLE, 201, &[PSEUDO, REST].concat());
    client.send(&[&request]).await;
    let refused = Seen::Reset(201, REFUSED_STREAM);
    assert_eq!(client.next().await, Some(refused));
    let cancel = frame(RST_STREAM, 0, 7, &[0, 0, 0, 8]);
    let request = frame(HEADERS, WHOLE, 203, &[PSEUDO, REST].concat());
    client.send(&[&cancel, &request]).await;
    client.check_served(203, "0").await;
}

#[tokio::test]
async fn a_client_that_says_no_more_reads_what_was_said() {
    let mut client = Client::open().await;
    let request = [PSEUDO, REST].concat();
    client.send(&[&frame(HEADERS, WHOLE, 1, &request)]).await;
    client.stream.shutdown().await.unwrap();
    client.check_served(1, "0").await;
    assert_eq!(client.next().await, None);
    client.server.await.unwrap().unwrap();
}

/// A body that is broken off is told to whoever reads it.
#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_broken() {
    let (told, heard) = tokio::sync::oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    let (near, far) = tokio::io::duplex(1 << 20);
    let settings = Settings {
        calls: 1,
        window: Settings::WINDOW,
        keepalive: Duration::from_secs(30),
    };
    let server = tokio::spawn(Connection::new(far, &[], settings, move |request| {
        let told = told.lock().unwrap().take().unwrap();
        // Elsewhere: the call itself ends with the connection.
        tokio::spawn(async move {
            let read = request.into_body().collect().await;
            told.send(read.err()).unwrap();
        });
        Box::pin(async { Response::new(Body::new(StreamBody::new(futures::stream::pending()))) })
    }));
    let mut near = near;
    let block = [PSEUDO, REST].concat();
    let wire = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &frame(HEADERS, 4, 1, &block),
    ]
    .concat();
    near.write_all(&wire).await.unwrap();
    near.write_all(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]))
        .await
        .unwrap();
    assert!(heard.await.unwrap().is_some());
    drop(near);
    server.await.unwrap().unwrap();
}

proptest! {
    /// Whatever comes, however it is cut: no panic, and an end when the client has gone.
    #[test]
    fn any_octets_end_well(
        frames in vec((0_u8..12, any::<u8>(), 0_u32..8, vec(any::<u8>(), 0..40)), 0..30),
        tail in vec(any::<u8>(), 0..50),
        cuts in 1_usize..200,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut client = served(|_request| {
                Box::pin(async { Response::new(Empty::new().boxed_unsync()) })
            });
            let mut wire = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
            for (kind, flags, stream, payload) in frames {
                wire.extend(frame(kind, flags, stream, &payload));
            }
            wire.extend(tail);
            for piece in wire.chunks(cuts) {
                // It may have been left already.
                if client.stream.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(client.stream);
            let ended = client.server.await.unwrap();
            assert!(!matches!(ended, Err(Error::Silent)), "{ended:?}");
        });
    }
}
