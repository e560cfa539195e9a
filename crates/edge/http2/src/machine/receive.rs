//! What comes: each frame, and what it means (RFC 9113, 6 and 8.1).

use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode};

use super::answer::Last;
use super::{Block, Encoding, Event, HEARD, Leaving, Machine, THERE};
use crate::closed::End;
use crate::error::{Code, Violation};
use crate::fields::{Fields, Wrong};
use crate::frame::{self, Head, STREAM_MAX, WINDOW_MAX};
use crate::inbound::{Inbound, RequestBody};
use crate::stream::{Credit, Receiving, Stream};
use crate::{HEADER_BLOCK_MAX, hpack};

/// Of what a frame says about a stream's priority, in bytes.
const PRIORITY_LENGTH: usize = 5;

impl Machine {
    /// A frame has come.
    pub(super) fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if !self.is_settled {
            if head.kind != frame::SETTINGS || head.has(frame::ACK) {
                return Err(Violation::NoSettings);
            }
            self.is_settled = true;
        }
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.stream != block.stream)
        {
            return Err(Violation::Interleaved { kind: head.kind });
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::PRIORITY => priority(head, payload),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => Err(Violation::PushPromise),
            frame::PING => self.pinged(head, payload),
            frame::GOAWAY => self.go_away(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            // RFC 9113, 5.5.
            _ => Ok(()),
        }
    }

    /// Whether the client has never used this stream.
    fn is_unused(&self, id: u32) -> bool {
        id > self.last || id.is_multiple_of(2)
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let id = head.stream;
        if id == 0 || self.is_unused(id) {
            return Err(bad_stream(head));
        }
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.credit.spend(length).ok_or(Violation::WindowExceeded)?;
        let data = without_padding(head, payload)?;
        let open = self.position(id).and_then(|at| self.streams.get_mut(at));
        let Some(receiving) = open.and_then(Stream::receiving) else {
            self.credit.owe(length);
            self.widen();
            // What was reset here may have been under way.
            if self.closed.end(id) != Some(End::Reset) {
                self.refuse(id, Code::StreamClosed);
            }
            return Ok(());
        };
        let ends = head.has(frame::END_STREAM);
        if let Err(code) = receiving.take(data, length, ends) {
            receiving.unread += length;
            self.refuse(id, code);
            return Ok(());
        }
        if ends {
            self.ended(id, None);
        }
        Ok(())
    }

    /// The client's side of a stream has ended.
    fn ended(&mut self, id: u32, trailers: Option<HeaderMap>) {
        let Some(at) = self.position(id) else { return };
        let open = self.streams.get_mut(at);
        if let Some(receiving) = open.and_then(Stream::receiving) {
            receiving.has_ended = true;
            receiving.inbound.finish(trailers);
        }
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let id = head.stream;
        if id.is_multiple_of(2) {
            return Err(bad_stream(head));
        }
        let mut fragment = without_padding(head, payload)?;
        if head.has(frame::WITH_PRIORITY) {
            let priority = fragment.split_at_checked(PRIORITY_LENGTH);
            let (priority, rest) = priority.ok_or_else(|| bad_length(head))?;
            check_dependency(id, priority)?;
            fragment = rest;
        }
        let block = Block {
            stream: id,
            ends_stream: head.has(frame::END_STREAM),
            octets: Vec::new(),
            frames: 1,
        };
        if head.has(frame::END_HEADERS) {
            return self.fields(&block, fragment);
        }
        self.block = Some(Box::new(Block {
            octets: fragment.to_vec(),
            ..block
        }));
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let mut block = self.block.take().ok_or_else(|| bad_stream(head))?;
        if block.frames == frame::BLOCK_FRAMES_MAX {
            return Err(Violation::TooManyFrames);
        }
        if block.octets.len() + payload.len() > HEADER_BLOCK_MAX {
            return Err(Violation::HeaderBlockTooLarge);
        }
        block.frames += 1;
        block.octets.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            return self.fields(&block, &block.octets);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A header block is complete.
    fn fields(&mut self, block: &Block, octets: &[u8]) -> Result<(), Violation> {
        let mut fields = Fields::default();
        // Whatever becomes of it, the table must be in step.
        hpack::decode(octets, &mut self.table, HEADER_BLOCK_MAX, |name, value| {
            fields.add(name, value);
        })?;
        let id = block.stream;
        if id > self.last {
            self.last = id;
            self.open(id, fields, block.ends_stream);
            return Ok(());
        }
        let open = self.position(id).and_then(|at| self.streams.get_mut(at));
        let Some(stream) = open else {
            return self.late(id);
        };
        let Some(receiving) = stream.receiving() else {
            self.refuse(id, Code::StreamClosed);
            return Ok(());
        };
        // Behind a body come fields that end the stream (8.1), when it is as long as was said.
        let is_whole = block.ends_stream && receiving.promised.is_none_or(|left| left == 0);
        match fields.trailers() {
            Ok(trailers) if is_whole => self.ended(id, Some(trailers)),
            Ok(_) | Err(Wrong::Malformed) => self.refuse(id, Code::Protocol),
            Err(Wrong::TooLarge) => self.refuse(id, Code::EnhanceYourCalm),
        }
        Ok(())
    }

    /// Fields came on a stream that is not open, and whose number is not a new one.
    fn late(&self, id: u32) -> Result<(), Violation> {
        match self.closed.end(id) {
            // It was under way when the client heard of the end.
            Some(End::Reset) => Ok(()),
            Some(End::ByClient) => Err(Violation::Closed { stream: id }),
            // Numbers rise (5.1.1).
            None => Err(Violation::BadStream {
                kind: frame::name(frame::HEADERS),
                stream: id,
            }),
        }
    }

    fn open(&mut self, id: u32, fields: Fields, ends: bool) {
        let is_late = matches!(self.leaving, Leaving::After(last) if id > last);
        if is_late || self.streams.len() >= self.most {
            self.refuse(id, Code::RefusedStream);
            return;
        }
        let head = match fields.request() {
            Ok(head) if !ends || head.length.is_none_or(|length| length == 0) => head,
            Ok(_) | Err(Wrong::Malformed) => return self.refuse(id, Code::Protocol),
            Err(Wrong::TooLarge) => {
                self.insert(id, None);
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                self.respond(id, status, &HeaderMap::new(), Last::Yes);
                return;
            }
        };
        let (body, receiving) = if ends {
            (RequestBody::empty(), None)
        } else {
            let inbound = Inbound::new(Arc::clone(&self.driver));
            let receiving = Receiving {
                inbound: Arc::clone(&inbound),
                credit: Credit::new(self.receive_window),
                promised: head.length,
                unread: 0,
                has_ended: false,
            };
            (RequestBody::of(inbound), Some(receiving))
        };
        self.insert(id, receiving);
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = head.headers;
        self.events.push_back(Event::Opened {
            stream: id,
            request: Box::new(request),
        });
    }

    /// Numbers rise: the newest is last.
    fn insert(&mut self, id: u32, receiving: Option<Receiving>) {
        // Most connections have one stream.
        if self.streams.is_empty() {
            self.streams.reserve_exact(1);
        }
        self.streams.push(Stream {
            id,
            window: self.initial_window,
            receiving,
        });
    }

    fn rst_stream(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        number(head, payload)?;
        let id = head.stream;
        if id == 0 || self.is_unused(id) {
            return Err(bad_stream(head));
        }
        if let Some(at) = self.position(id) {
            self.remove(at, End::ByClient);
            self.events.push_back(Event::Reset { stream: id });
        }
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(bad_stream(head));
        }
        if head.has(frame::ACK) {
            return match payload {
                [] => Ok(()),
                _ => Err(bad_length(head)),
            };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(bad_length(head));
        }
        for [i0, i1, v0, v1, v2, v3] in settings {
            let id = u16::from_be_bytes([*i0, *i1]);
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            self.setting(id, value)?;
        }
        frame::put_head(self.output.tail(), 0, frame::SETTINGS, frame::ACK, 0);
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Violation> {
        let bad = Violation::BadSetting { id, value };
        match id {
            frame::HEADER_TABLE_SIZE => {
                let is_smaller = usize::try_from(value).is_ok_and(|size| size < hpack::TABLE_MAX);
                if is_smaller && self.encoding == Encoding::Default {
                    self.encoding = Encoding::Due;
                }
            }
            frame::ENABLE_PUSH if value > 1 => return Err(bad),
            frame::INITIAL_WINDOW_SIZE => {
                if value > WINDOW_MAX {
                    return Err(Violation::WindowTooWide);
                }
                let change = i64::from(value) - self.initial_window;
                self.initial_window = value.into();
                for stream in &mut self.streams {
                    stream.window += change;
                    if stream.window > WINDOW_MAX.into() {
                        return Err(Violation::WindowTooWide);
                    }
                }
                self.is_widened = true;
            }
            // Frames larger than any client takes would gain nothing.
            frame::MAX_FRAME_SIZE if !(0x4000..=0x00ff_ffff).contains(&value) => return Err(bad),
            _ => {}
        }
        Ok(())
    }

    fn pinged(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(bad_stream(head));
        }
        if payload.len() != THERE.len() {
            return Err(bad_length(head));
        }
        if !head.has(frame::ACK) {
            frame::put_ping(self.output.tail(), frame::ACK, payload);
        } else if payload == HEARD && self.leaving == Leaving::Announced {
            self.leaving = Leaving::After(self.last);
            frame::put_go_away(self.output.tail(), self.last, Code::NoError, "");
        }
        Ok(())
    }

    fn go_away(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(bad_stream(head));
        }
        if payload.len() < 8 {
            return Err(bad_length(head));
        }
        self.is_left = true;
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let increment = number(head, payload)? & WINDOW_MAX;
        let id = head.stream;
        if id == 0 {
            if increment == 0 {
                return Err(Violation::NoIncrement);
            }
            self.window += i64::from(increment);
            if self.window > WINDOW_MAX.into() {
                return Err(Violation::WindowTooWide);
            }
            self.is_widened = true;
            return Ok(());
        }
        if self.is_unused(id) {
            return Err(bad_stream(head));
        }
        let open = self.position(id).and_then(|at| self.streams.get_mut(at));
        // It may have ended before the client heard of it.
        let Some(stream) = open else { return Ok(()) };
        stream.window += i64::from(increment);
        if increment == 0 {
            self.refuse(id, Code::Protocol);
        } else if stream.window > WINDOW_MAX.into() {
            self.refuse(id, Code::FlowControl);
        } else {
            self.is_widened = true;
        }
        Ok(())
    }
}

fn bad_stream(head: Head) -> Violation {
    Violation::BadStream {
        kind: frame::name(head.kind),
        stream: head.stream,
    }
}

fn bad_length(head: Head) -> Violation {
    Violation::BadLength {
        kind: frame::name(head.kind),
        length: head.length,
    }
}

/// The payload of a frame that is one number.
fn number(head: Head, payload: &[u8]) -> Result<u32, Violation> {
    let octets = payload.try_into().map_err(|_| bad_length(head))?;
    Ok(u32::from_be_bytes(octets))
}

/// What is left of the payload of DATA and HEADERS (6.1).
fn without_padding(head: Head, payload: &[u8]) -> Result<&[u8], Violation> {
    if !head.has(frame::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or_else(|| bad_length(head))?;
    let length = rest.len().checked_sub(usize::from(*padding));
    length
        .and_then(|length| rest.get(..length))
        .ok_or(Violation::BadPadding {
            kind: frame::name(head.kind),
        })
}

fn priority(head: Head, payload: &[u8]) -> Result<(), Violation> {
    if head.stream == 0 {
        return Err(bad_stream(head));
    }
    if payload.len() != PRIORITY_LENGTH {
        return Err(bad_length(head));
    }
    check_dependency(head.stream, payload)
}

/// RFC 7540, 5.3.1: priorities are ignored, and this is still no sense.
fn check_dependency(stream: u32, priority: &[u8]) -> Result<(), Violation> {
    let on = priority
        .first_chunk()
        .map(|octets| u32::from_be_bytes(*octets) & STREAM_MAX);
    if on == Some(stream) {
        return Err(Violation::SelfDependency { stream });
    }
    Ok(())
}
