//! gRPC messages on HTTP bodies, by hand where it matters.
//!
//! The generated server would encode each answer anew for each of a thousand streams, keep a
//! buffer per stream, and end a stream with OK when its source ends. Here an answer is encoded
//! once and shared, and a stream cannot end without a status that was meant (WAPI-14, WAPI-15).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, Streaming};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// The largest request, in bytes: a token to validate is at most 64 KiB, an audience list is
/// shorter.
const REQUEST_MAX: usize = 256 * 1024;
/// How long a request may take from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes: what all clients take by default (WAPI-18).
pub(crate) const ANSWER_MAX: usize = 4 * 1024 * 1024;

/// Reads the one message of a request.
pub(crate) async fn read<T: Message + Default + Send + 'static>(
    request: Request<Body>,
) -> Result<T, Status> {
    let encoding = request.headers().get("grpc-encoding");
    if encoding.is_some_and(|e| e != "identity") {
        return Err(Status::unimplemented(
            "compressed requests are not supported; send them uncompressed",
        ));
    }
    let decoder = ProstCodec::<T, T>::default().decoder();
    let mut messages =
        Streaming::new_request(decoder, request.into_body(), None, Some(REQUEST_MAX));
    // A request that is never sent to its end must not keep its place for ever.
    let message = tokio::time::timeout(REQUEST_TIMEOUT, messages.message())
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("the request was not sent in time"))??
        .ok_or_else(|| Status::invalid_argument("the request has no message"))?;
    Ok(message)
}

/// Encodes an answer as it stands on the wire: one byte for "not compressed", four for the
/// length, the message.
pub(crate) fn encode(answer: &impl Message) -> Result<Bytes, Status> {
    let length = answer.encoded_len();
    if length > ANSWER_MAX {
        return Err(Status::resource_exhausted(format!(
            "the answer has {length} bytes and clients take {ANSWER_MAX}; give the workload fewer entries, or fewer bundles to federate with"
        )));
    }
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer has room: encoding cannot fail.
    answer
        .encode(&mut frame)
        .map_err(|e| Status::internal(e.to_string()))?;
    Ok(frame.freeze())
}

/// An answer to a unary call.
pub(crate) fn unary(answer: &impl Message) -> Result<Response<Body>, Status> {
    let frame = encode(answer)?;
    Ok(response(Body::new(Once {
        frame: Some(frame),
        trailers: false,
    })))
}

/// An answer to a streaming call: its first message, and what follows. The stream never ends well:
/// its end is the status that it yields last, or UNAVAILABLE.
pub(crate) fn streaming(
    first: Bytes,
    rest: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Response<Body> {
    response(Body::new(Many {
        first: Some(first),
        rest: Some(Box::pin(rest)),
    }))
}

fn response(body: Body) -> Response<Body> {
    let content_type = HeaderValue::from_static("application/grpc");
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(2);
    if status.add_header(&mut map).is_err() {
        // A text that is no header value: the code is what counts.
        map.insert("grpc-status", HeaderValue::from(i32::from(status.code())));
    }
    map
}

struct Once {
    frame: Option<Bytes>,
    trailers: bool,
}

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.frame.take() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if self.trailers {
            return Poll::Ready(None);
        }
        self.trailers = true;
        let ok = trailers(&Status::new(Code::Ok, ""));
        Poll::Ready(Some(Ok(Frame::trailers(ok))))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

type Rest = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

struct Many {
    first: Option<Bytes>,
    rest: Option<Rest>,
}

impl http_body::Body for Many {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let end = match ready!(rest.as_mut().poll_next(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(Frame::data(frame)))),
            Some(Err(status)) => status,
            None => Status::unavailable("the stream ended; open it again"),
        };
        self.rest = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&end)))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body::Body as _;

    use super::*;

    async fn read_all(mut body: Body) -> Vec<Frame<Bytes>> {
        let mut frames = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            frames.push(frame.unwrap());
        }
        frames
    }

    fn status_of(frame: &Frame<Bytes>) -> (&str, &str) {
        let map = frame.trailers_ref().expect("trailers");
        let text = |name| map.get(name).map_or("", |v| v.to_str().unwrap());
        (text("grpc-status"), text("grpc-message"))
    }

    /// WAPI-14: whatever a stream's source does, its end is not OK.
    #[tokio::test]
    async fn a_stream_never_ends_well() {
        let rest = stream::iter([Ok(Bytes::from_static(b"b"))]);
        let response = streaming(Bytes::from_static(b"a"), rest);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        let frames = read_all(response.into_body()).await;
        assert_eq!(frames.len(), 3);
        assert_eq!(status_of(&frames[2]).0, "14");

        let rest = stream::iter([Err(Status::permission_denied("no identity issued"))]);
        let response = streaming(Bytes::from_static(b"a"), rest);
        let ended = read_all(response.into_body()).await;
        assert_eq!(status_of(&ended[1]), ("7", "no%20identity%20issued"));
    }

    #[tokio::test]
    async fn a_unary_answer_has_one_message_and_ok() {
        let response = unary(&prost_types::Timestamp {
            seconds: 1,
            nanos: 0,
        })
        .unwrap();
        let frames = read_all(response.into_body()).await;
        assert_eq!(&frames[0].data_ref().unwrap()[..], [0, 0, 0, 0, 2, 8, 1]);
        assert_eq!(status_of(&frames[1]).0, "0");
    }

    #[test]
    fn an_answer_that_no_client_would_take_is_not_sent() {
        let large = prost_types::Any {
            type_url: String::new(),
            value: vec![0; ANSWER_MAX],
        };
        assert_eq!(encode(&large).unwrap_err().code(), Code::ResourceExhausted);
    }
}
