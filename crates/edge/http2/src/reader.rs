//! From octets to frames.

use std::borrow::Cow;
use std::mem;

use crate::error::Violation;
use crate::frame::{HEAD, Head, PAYLOAD_MAX, PREFACE};

/// A frame's head and payload.
type Frame<'a> = (Head, Cow<'a, [u8]>);

/// Cuts what a client sends into frames. Holds what is incomplete, and nothing else.
#[derive(Debug)]
pub(crate) struct Reader {
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many octets of the preface have come.
    Preface(usize),
    /// The head of a frame, as far as it has come.
    Head { octets: [u8; HEAD], have: usize },
    /// The payload of a frame, as far as it has come.
    Payload { head: Head, payload: Vec<u8> },
}

const NEXT: State = State::Head {
    octets: [0; HEAD],
    have: 0,
};

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Preface(0),
        }
    }

    /// Takes the next frame off `input`, or all of it when that has none whole.
    pub(crate) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Frame<'a>>, Violation> {
        loop {
            match &mut self.state {
                State::Preface(seen) => {
                    let expected = PREFACE.get(*seen..).unwrap_or_default();
                    let now = take(input, expected.len());
                    if !expected.starts_with(now) {
                        return Err(Violation::NotHttp2);
                    }
                    *seen += now.len();
                    if *seen < PREFACE.len() {
                        return Ok(None);
                    }
                    self.state = NEXT;
                }
                State::Head { octets, have } => {
                    let room = octets.get_mut(*have..).unwrap_or_default();
                    let now = take(input, room.len());
                    for (place, octet) in room.iter_mut().zip(now) {
                        *place = *octet;
                    }
                    *have += now.len();
                    if *have < HEAD {
                        return Ok(None);
                    }
                    let head = Head::read(*octets);
                    if head.length > PAYLOAD_MAX {
                        let length = head.length;
                        return Err(Violation::FrameTooLarge { length });
                    }
                    // Most frames come whole, and are not copied.
                    if head.length <= input.len() {
                        self.state = NEXT;
                        return Ok(Some((head, Cow::Borrowed(take(input, head.length)))));
                    }
                    let payload = Vec::new();
                    self.state = State::Payload { head, payload };
                }
                State::Payload { head, payload } => {
                    let now = take(input, head.length.saturating_sub(payload.len()));
                    payload.extend_from_slice(now);
                    if payload.len() < head.length {
                        return Ok(None);
                    }
                    let (head, payload) = (*head, mem::take(payload));
                    self.state = NEXT;
                    return Ok(Some((head, Cow::Owned(payload))));
                }
            }
        }
    }
}

/// Takes the first octets off `input`, `most` of them at most.
pub(crate) fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (now, rest) = input.split_at(input.len().min(most));
    *input = rest;
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(reader: &mut Reader, mut input: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some((head, payload)) = reader.next(&mut input).unwrap() {
            frames.push((head.kind, head.stream, payload.into_owned()));
        }
        assert!(input.is_empty());
        frames
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let mut wire = PREFACE.to_vec();
        wire.extend(b"\0\0\x03\x06\0\x80\0\0\x05abc\0\0\0\x04\x01\0\0\0\0");
        let expected = [(6, 5, b"abc".to_vec()), (4, 0, Vec::new())];
        for size in 1..=wire.len() {
            let mut reader = Reader::new();
            let seen: Vec<_> = wire
                .chunks(size)
                .flat_map(|piece| frames(&mut reader, piece))
                .collect();
            assert_eq!(seen, expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_does_not_begin_as_http2_is_refused_at_the_first_wrong_octet() {
        let mut reader = Reader::new();
        let mut input = &b"PRI * HTTP/2.1"[..];
        assert_eq!(reader.next(&mut input), Err(Violation::NotHttp2));
    }

    #[test]
    fn no_room_is_made_for_what_is_only_announced() {
        let mut reader = Reader::new();
        let mut input = &[PREFACE, b"\0\x40\0\0\0\0\0\0\x01x"].concat()[..];
        assert_eq!(reader.next(&mut input), Ok(None));
        match &reader.state {
            State::Payload { payload, .. } => assert!(payload.capacity() < 64),
            other @ (State::Preface(_) | State::Head { .. }) => panic!("{other:?}"),
        }
        let mut reader = Reader::new();
        let mut input = &[PREFACE, b"\0\x40\x01\0\0\0\0\0\x01"].concat()[..];
        let error = Violation::FrameTooLarge { length: 16_385 };
        assert_eq!(reader.next(&mut input), Err(error));
    }
}
