//! The HTTP/2 server, judged by an HPACK decoder that is not ours: whatever a client sends, each
//! request that is served has the fields of a header block that came, in the order in which they
//! came, however the bytes are cut; and the connection ends when its client goes.
//!
//! Input: one byte that says how to cut, then what follows the HTTP/2 preface and the first SETTINGS.

#![no_main]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use httlib_hpack::Decoder;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use muster_http2::{Answer, Connection, Error, RequestBody, Settings};
use tokio::io::AsyncWriteExt as _;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The header blocks, decoded one by one: the judge panics on some that are none, so it is asked
/// only about those that a request that was served came in, and those before.
struct Blocks<'a> {
    wire: &'a [u8],
    decoder: Decoder<'a>,
    open: Vec<u8>,
}

impl Iterator for Blocks<'_> {
    type Item = Fields;

    fn next(&mut self) -> Option<Fields> {
        loop {
            let (head, rest) = self.wire.split_first_chunk::<9>()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let (payload, rest) = rest.split_at_checked(length)?;
            self.wire = rest;
            let mut payload = payload.to_vec();
            match kind {
                1 => {
                    if flags & PADDED != 0 {
                        let padding = usize::from(*payload.first()?);
                        let left = payload.len().checked_sub(1 + padding)?;
                        payload = payload[1..=left].to_vec();
                    }
                    if flags & PRIORITY != 0 {
                        payload = payload.split_off(payload.len().min(5));
                    }
                }
                9 => {}
                _ => continue,
            }
            self.open.append(&mut payload);
            if flags & END_HEADERS != 0 {
                let mut fields = Vec::new();
                self.decoder.decode(&mut self.open, &mut fields).ok()?;
                self.open.clear();
                let fields = fields.into_iter().map(|(name, value, _)| (name, value));
                return Some(fields.collect());
            }
        }
    }
}

/// What is left of fields when nothing is said of the order of names.
fn sorted(mut fields: Fields) -> Fields {
    fields.retain(|(name, _)| name != b":authority" && name != b":scheme");
    // The order of a name's values counts.
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields
}

fn seen(request: &Request<RequestBody>) -> Fields {
    let mut fields: Fields = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
        .collect();
    let path = request
        .uri()
        .path_and_query()
        .expect("every request has one");
    fields.push((b":path".to_vec(), path.as_str().into()));
    fields.push((b":method".to_vec(), request.method().as_str().into()));
    sorted(fields)
}

/// The requests that are served, each echoed.
fn served(wire: &[u8], chunk: usize) -> (Vec<Fields>, Result<(), Error>) {
    let requests: Arc<Mutex<Vec<Fields>>> = Arc::default();
    let seeing = Arc::clone(&requests);
    let answer = move |request: Request<RequestBody>| -> Answer<Body> {
        seeing.lock().expect("nobody panics").push(seen(&request));
        Box::pin(async move {
            match request.into_body().collect().await {
                Ok(body) => Response::new(Full::from(body.to_bytes()).boxed_unsync()),
                Err(_broken) => Response::new(Full::default().boxed_unsync()),
            }
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing");
    let ended = runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let settings = Settings {
            calls: 8,
            window: Settings::WINDOW,
            keepalive: Duration::from_secs(30),
        };
        let mut connection = Box::pin(Connection::new(far, &[], settings, answer));
        let mut over = None;
        for piece in wire.chunks(chunk) {
            // It may have been left already.
            if near.write_all(piece).await.is_err() {
                break;
            }
            if let Some(ended) = futures::FutureExt::now_or_never(&mut connection) {
                over = Some(ended);
                break;
            }
        }
        drop(near);
        match over {
            Some(ended) => ended,
            None => connection.await,
        }
    });
    let requests = std::mem::take(&mut *requests.lock().expect("nobody panics"));
    (requests, ended)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, tail)) = data.split_first() else {
        return;
    };
    let wire = [PREFACE, tail].concat();
    // How it is cut decides which streams are still open when something comes for them, and so what
    // is refused; not what a request is.
    for chunk in [wire.len(), usize::from(*cut) + 1] {
        let (requests, ended) = served(&wire, chunk);
        assert!(!matches!(ended, Err(Error::Silent)));
        let mut blocks = Blocks {
            wire: tail,
            decoder: Decoder::with_dynamic_size(4096),
            open: Vec::new(),
        }
        .map(sorted);
        for request in requests {
            assert!(
                blocks.any(|block| block == request),
                "{request:?} never came"
            );
        }
    }
});
