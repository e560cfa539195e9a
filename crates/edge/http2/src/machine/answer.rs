//! The verbs of an answer. Those for a stream that is not open any more do nothing.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{Encoding, Machine};
use crate::closed::End;
use crate::error::Code;
use crate::{frame, hpack, reader};

/// Whether something is the last that is sent on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Yes,
    No,
}

/// How much of an answer's data was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Some or all of it.
    Some,
    /// Nothing: the client has no room for it, and [`Event::Widened`](super::Event::Widened) says
    /// when it may have.
    Nothing,
}

impl Machine {
    /// The head of an answer, which ends the stream if there is nothing else.
    pub(crate) fn respond(&mut self, id: u32, status: StatusCode, headers: &HeaderMap, last: Last) {
        if self.position(id).is_none() {
            return;
        }
        let mut block = Vec::new();
        if self.encoding == Encoding::Due {
            hpack::put_table_size(&mut block, 0);
            self.encoding = Encoding::Told;
        }
        hpack::put_status(&mut block, status);
        self.put_block(id, block, headers, last);
    }

    /// The fields behind an answer's data; they end the stream.
    pub(crate) fn trailers(&mut self, id: u32, trailers: &HeaderMap) {
        if self.position(id).is_some() {
            self.put_block(id, Vec::new(), trailers, Last::Yes);
        }
    }

    /// As much of an answer's data as one frame takes; it ends the stream with all of it if it is
    /// the last.
    pub(crate) fn send(&mut self, id: u32, data: &mut Bytes, last: Last) -> Sent {
        let open = self.position(id).and_then(|at| self.streams.get_mut(at));
        let Some(stream) = open else {
            data.clear();
            return Sent::Some;
        };
        let room = stream.window.min(self.window);
        let room = usize::try_from(room).unwrap_or(0).min(frame::PAYLOAD_MAX);
        let now = data.split_to(data.len().min(room));
        if now.is_empty() && !data.is_empty() {
            return Sent::Nothing;
        }
        let sent = i64::try_from(now.len()).unwrap_or(i64::MAX);
        stream.window -= sent;
        self.window -= sent;
        let ends = last == Last::Yes && data.is_empty();
        let flags = if ends { frame::END_STREAM } else { 0 };
        frame::put_head(self.output.tail(), now.len(), frame::DATA, flags, id);
        self.output.payload(now);
        if ends {
            self.answered(id);
        }
        Sent::Some
    }

    /// Breaks an answer off.
    pub(crate) fn reset(&mut self, id: u32, code: Code) {
        if let Some(at) = self.position(id) {
            frame::put_reset(self.output.tail(), id, code);
            self.remove(at, End::Reset);
        }
    }

    fn put_block(&mut self, id: u32, mut block: Vec<u8>, headers: &HeaderMap, last: Last) {
        for (name, value) in headers {
            hpack::put_field(&mut block, name, value);
        }
        let mut flags = match last {
            Last::Yes => frame::END_STREAM,
            Last::No => 0,
        };
        let mut kind = frame::HEADERS;
        let mut rest = &*block;
        loop {
            let now = reader::take(&mut rest, frame::PAYLOAD_MAX);
            if rest.is_empty() {
                flags |= frame::END_HEADERS;
            }
            let out = self.output.tail();
            frame::put_head(out, now.len(), kind, flags, id);
            out.extend_from_slice(now);
            if rest.is_empty() {
                break;
            }
            (kind, flags) = (frame::CONTINUATION, 0);
        }
        if last == Last::Yes {
            self.answered(id);
        }
    }

    /// Our side of a stream has ended.
    fn answered(&mut self, id: u32) {
        let Some(at) = self.position(id) else { return };
        let open = self.streams.get_mut(at);
        let is_receiving = open.is_some_and(|stream| stream.receiving().is_some());
        if is_receiving {
            // The rest of the request is not needed (RFC 9113, 8.1).
            frame::put_reset(self.output.tail(), id, Code::NoError);
        }
        let end = if is_receiving {
            End::Reset
        } else {
            End::ByClient
        };
        self.remove(at, end);
    }
}
