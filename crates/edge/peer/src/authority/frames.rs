//! The client's frames (RFC 9113, 3.4, 4.1, 6.2 and 6.10).

use bytes::{BufMut, Bytes, BytesMut};

use super::block::{self, BlockError};
use super::table::Table;

/// The most that a header block may have, as received and as written out, in bytes. `hyper` allows
/// its decoded fields 16 KiB.
pub const MAX_HEADER_BLOCK: usize = 64 * 1024;
/// The most frames that a header block may come in; empty ones cost time, not memory.
const MAX_FRAMES: usize = 128;
/// The largest frame payload that any receiver must take (RFC 9113, 4.2).
const MAX_PAYLOAD: usize = 16 * 1024;
/// Stop rewriting when so much waits to be read, in bytes.
const HIGH_WATER: usize = 16 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

const HEADERS: u8 = 0x1;
const PUSH_PROMISE: u8 = 0x5;
const CONTINUATION: u8 = 0x9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_LENGTH: usize = 5;

/// Why a connection's bytes cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// A header block is too large.
    #[error("a header block exceeds {MAX_HEADER_BLOCK} bytes")]
    HeaderBlockTooLarge,
    /// A header block came in too many frames.
    #[error("a header block came in more than {MAX_FRAMES} frames")]
    TooManyFrames,
    /// Another frame came in the middle of a header block.
    #[error("a frame of type {kind} came in the middle of a header block")]
    Interleaved {
        /// The frame's type.
        kind: u8,
    },
    /// A CONTINUATION frame continues nothing.
    #[error("a CONTINUATION frame continues no header block")]
    Orphan,
    /// A HEADERS frame is shorter than its padding and priority.
    #[error("a HEADERS frame is shorter than its padding")]
    BadPadding,
    /// A client does not push.
    #[error("a client sent PUSH_PROMISE")]
    PushPromise,
    /// A header block is malformed.
    #[error("a header block is malformed: {0}")]
    Block(#[from] BlockError),
}

/// Replaces every `:authority` in the bytes of an HTTP/2 client, without doing any I/O.
///
/// It counts on a server that does not announce a SETTINGS_HEADER_TABLE_SIZE or a
/// SETTINGS_MAX_FRAME_SIZE of its own; tonic and hyper do neither unless told to.
#[derive(Debug)]
pub struct Rewriter {
    state: State,
    open: Option<OpenBlock>,
    table: Table,
}

/// What a client speaks, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, with prior knowledge.
    Http2,
    /// Something else: HTTP/1.1, if anything.
    Other,
}

#[derive(Debug)]
enum State {
    /// So many octets of the preface have come.
    Preface(usize),
    /// Not HTTP/2.
    Opaque,
    /// The head of a frame, as far as it has come.
    Head(BytesMut),
    /// A payload that is none of our business; so many octets are to come.
    Pass(usize),
    /// The payload of a frame that belongs to a header block.
    Collect { head: Head, payload: BytesMut },
}

#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// A header block that has not ended.
#[derive(Debug)]
struct OpenBlock {
    /// Flags of the HEADERS frame, without those that tell of its form.
    flags: u8,
    stream: u32,
    priority: Bytes,
    block: BytesMut,
    frames: usize,
}

impl Head {
    fn read(octets: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *octets else {
            return None;
        };
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }

    fn write(&self, out: &mut BytesMut) {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        out.put_uint(u64::from(length), 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }

    /// The stream without the reserved bit.
    fn stream_id(&self) -> u32 {
        self.stream & 0x7fff_ffff
    }
}

impl Default for Rewriter {
    fn default() -> Self {
        Self::new()
    }
}

impl Rewriter {
    /// For a new connection.
    pub fn new() -> Self {
        Self {
            state: State::Preface(0),
            open: None,
            table: Table::new(),
        }
    }

    /// What the client speaks; `None` until it has sent enough.
    pub fn protocol(&self) -> Option<Protocol> {
        match self.state {
            State::Preface(_) => None,
            State::Opaque => Some(Protocol::Other),
            State::Head(_) | State::Pass(_) | State::Collect { .. } => Some(Protocol::Http2),
        }
    }

    /// Rewrites `input` into `out` and returns how many octets of it were used.
    ///
    /// Fewer than all are used only when `out` has grown past a bound: take from it, then call
    /// again with the rest. At most [`MAX_HEADER_BLOCK`] octets are kept inside. After an error
    /// the connection is of no use; `out` holds what came before.
    pub fn push(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, RewriteError> {
        let mut rest = input;
        while !rest.is_empty() && out.len() < HIGH_WATER {
            rest = self.step(rest, out)?;
        }
        Ok(input.len() - rest.len())
    }

    /// Uses some of `input` and returns the rest.
    fn step<'a>(&mut self, input: &'a [u8], out: &mut BytesMut) -> Result<&'a [u8], RewriteError> {
        match &mut self.state {
            State::Opaque => {
                out.put_slice(input);
                Ok(&[])
            }
            State::Preface(seen) => {
                let expected = PREFACE.get(*seen..).unwrap_or_default();
                let (now, rest) = split(input, expected.len());
                out.put_slice(now);
                *seen += now.len();
                if !expected.starts_with(now) {
                    self.state = State::Opaque;
                } else if *seen == PREFACE.len() {
                    self.state = State::Head(BytesMut::new());
                }
                Ok(rest)
            }
            State::Pass(left) => {
                let (now, rest) = split(input, *left);
                out.put_slice(now);
                *left -= now.len();
                if *left == 0 {
                    self.state = State::Head(BytesMut::new());
                }
                Ok(rest)
            }
            State::Head(have) => {
                let (now, rest) = split(input, FRAME_HEAD.saturating_sub(have.len()));
                have.put_slice(now);
                if let Some(head) = Head::read(have) {
                    self.begin(head, out)?;
                }
                Ok(rest)
            }
            State::Collect { head, payload } => {
                let (now, rest) = split(input, head.length.saturating_sub(payload.len()));
                payload.put_slice(now);
                if payload.len() == head.length {
                    let (head, payload) = (*head, std::mem::take(payload).freeze());
                    self.collected(head, payload, out)?;
                }
                Ok(rest)
            }
        }
    }

    /// A frame begins.
    fn begin(&mut self, head: Head, out: &mut BytesMut) -> Result<(), RewriteError> {
        let collected = match &self.open {
            Some(open) => {
                if head.kind != CONTINUATION || head.stream_id() != open.stream & 0x7fff_ffff {
                    return Err(RewriteError::Interleaved { kind: head.kind });
                }
                if open.frames == MAX_FRAMES {
                    return Err(RewriteError::TooManyFrames);
                }
                open.block.len()
            }
            None => match head.kind {
                CONTINUATION => return Err(RewriteError::Orphan),
                PUSH_PROMISE => return Err(RewriteError::PushPromise),
                HEADERS => 0,
                _ => {
                    head.write(out);
                    self.state = match head.length {
                        0 => State::Head(BytesMut::new()),
                        length => State::Pass(length),
                    };
                    return Ok(());
                }
            },
        };
        if collected + head.length > MAX_HEADER_BLOCK {
            return Err(RewriteError::HeaderBlockTooLarge);
        }
        if head.length == 0 {
            return self.collected(head, Bytes::new(), out);
        }
        self.state = State::Collect {
            head,
            payload: BytesMut::new(),
        };
        Ok(())
    }

    /// A frame of a header block is complete.
    fn collected(
        &mut self,
        head: Head,
        payload: Bytes,
        out: &mut BytesMut,
    ) -> Result<(), RewriteError> {
        self.state = State::Head(BytesMut::new());
        let open = match self.open.take() {
            Some(mut open) => {
                open.block.put_slice(&payload);
                open.frames += 1;
                open
            }
            None => OpenBlock::of(head, payload)?,
        };
        if head.flags & END_HEADERS == 0 {
            self.open = Some(open);
            return Ok(());
        }
        let mut block = BytesMut::new();
        let received = open.block.freeze();
        block::transcribe(&received, &mut self.table, &mut block, MAX_HEADER_BLOCK)?;
        write_block(open.flags, open.stream, &open.priority, &block, out);
        Ok(())
    }
}

impl OpenBlock {
    /// Takes padding and priority off a HEADERS frame.
    fn of(head: Head, mut payload: Bytes) -> Result<Self, RewriteError> {
        if head.flags & PADDED != 0 {
            let padding = payload.first().copied().ok_or(RewriteError::BadPadding)?;
            let end = payload
                .len()
                .checked_sub(usize::from(padding))
                .filter(|end| *end >= 1)
                .ok_or(RewriteError::BadPadding)?;
            payload = payload.slice(1..end);
        }
        let mut priority = Bytes::new();
        if head.flags & PRIORITY != 0 {
            if payload.len() < PRIORITY_LENGTH {
                return Err(RewriteError::BadPadding);
            }
            priority = payload.split_to(PRIORITY_LENGTH);
        }
        Ok(Self {
            flags: head.flags & !(PADDED | END_HEADERS),
            stream: head.stream,
            priority,
            block: BytesMut::from(&*payload),
            frames: 1,
        })
    }
}

/// Writes a header block as a HEADERS frame and, if it is longer than one frame may be,
/// CONTINUATION frames.
fn write_block(flags: u8, stream: u32, priority: &[u8], block: &[u8], out: &mut BytesMut) {
    let (first, mut rest) = split(block, MAX_PAYLOAD - PRIORITY_LENGTH);
    let end = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
    Head {
        length: priority.len() + first.len(),
        kind: HEADERS,
        flags: flags | end(rest),
        stream,
    }
    .write(out);
    out.put_slice(priority);
    out.put_slice(first);
    while !rest.is_empty() {
        let now;
        (now, rest) = split(rest, MAX_PAYLOAD);
        Head {
            length: now.len(),
            kind: CONTINUATION,
            flags: end(rest),
            stream,
        }
        .write(out);
        out.put_slice(now);
    }
}

/// The first `most` octets and the others.
fn split(octets: &[u8], most: usize) -> (&[u8], &[u8]) {
    octets.split_at(octets.len().min(most))
}
