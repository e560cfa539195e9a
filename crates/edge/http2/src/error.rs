//! What ends streams and connections.

use std::io;

use crate::hpack::BlockError;
use crate::{HEADER_BLOCK_MAX, frame};

/// An error code (RFC 9113, 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// It is over, and nothing is wrong.
    NoError = 0x0,
    /// The protocol was violated.
    Protocol = 0x1,
    /// Something is wrong here, and not with the client.
    Internal = 0x2,
    /// More was sent than there was room for.
    FlowControl = 0x3,
    /// A frame for a stream that is closed.
    StreamClosed = 0x5,
    /// A frame has the wrong size.
    FrameSize = 0x6,
    /// The call was not begun.
    RefusedStream = 0x7,
    /// Nobody waits for the call's answer any more.
    Cancel = 0x8,
    /// A header block cannot be read.
    Compression = 0x9,
    /// The client asks for too much.
    EnhanceYourCalm = 0xb,
}

/// What a client did that ends its connection (RFC 9113, 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It does not speak HTTP/2.
    #[error("it does not begin as HTTP/2 does")]
    NotHttp2,
    /// The first frame is not SETTINGS.
    #[error("its first frame is not SETTINGS")]
    NoSettings,
    /// A frame is larger than was allowed.
    #[error("a frame of {length} bytes is larger than {max}", max = frame::PAYLOAD_MAX)]
    FrameTooLarge {
        /// The length of its payload, in bytes.
        length: usize,
    },
    /// A frame is shorter or longer than one of its type can be.
    #[error("a {kind} frame has {length} bytes")]
    BadLength {
        /// The frame's type.
        kind: &'static str,
        /// The length of its payload, in bytes.
        length: usize,
    },
    /// A frame is on a stream on which one of its type cannot be.
    #[error("a {kind} frame is on stream {stream}")]
    BadStream {
        /// The frame's type.
        kind: &'static str,
        /// The stream.
        stream: u32,
    },
    /// Fields came on a stream on which the client had said that nothing more would.
    #[error("fields came on stream {stream}, which has ended")]
    Closed {
        /// The stream.
        stream: u32,
    },
    /// A client does not push.
    #[error("it sent PUSH_PROMISE")]
    PushPromise,
    /// A frame has as much padding as it is long.
    #[error("a {kind} frame is shorter than its padding")]
    BadPadding {
        /// The frame's type.
        kind: &'static str,
    },
    /// Another frame came in the middle of a header block.
    #[error("a frame of type {kind} came in the middle of a header block")]
    Interleaved {
        /// The frame's type.
        kind: u8,
    },
    /// A header block is too large.
    #[error("a header block exceeds {HEADER_BLOCK_MAX} bytes")]
    HeaderBlockTooLarge,
    /// A header block came in too many frames.
    #[error("a header block came in more than {max} frames", max = frame::BLOCK_FRAMES_MAX)]
    TooManyFrames,
    /// A header block is malformed.
    #[error("a header block is malformed: {0}")]
    Block(#[from] BlockError),
    /// A setting has a value that it cannot have.
    #[error("setting {id:#x} cannot be {value}")]
    BadSetting {
        /// The setting.
        id: u16,
        /// Its value.
        value: u32,
    },
    /// A stream depends on itself.
    #[error("stream {stream} depends on itself")]
    SelfDependency {
        /// The stream.
        stream: u32,
    },
    /// A window was widened by nothing.
    #[error("a WINDOW_UPDATE frame widens nothing")]
    NoIncrement,
    /// A window was widened beyond 2^31-1.
    #[error("a window was made wider than any can be")]
    WindowTooWide,
    /// More was sent than the connection's window has.
    #[error("it sent more than the connection's window has")]
    WindowExceeded,
}

impl Violation {
    /// How it is told to the client.
    pub fn code(self) -> Code {
        match self {
            Self::NotHttp2
            | Self::NoSettings
            | Self::BadStream { .. }
            | Self::PushPromise
            | Self::BadPadding { .. }
            | Self::Interleaved { .. }
            | Self::SelfDependency { .. }
            | Self::BadSetting { .. }
            | Self::NoIncrement => Code::Protocol,
            Self::FrameTooLarge { .. } | Self::BadLength { .. } => Code::FrameSize,
            Self::HeaderBlockTooLarge
            | Self::TooManyFrames
            | Self::Block(BlockError::TooLarge { .. }) => Code::EnhanceYourCalm,
            Self::Block(_) => Code::Compression,
            Self::Closed { .. } => Code::StreamClosed,
            Self::WindowTooWide | Self::WindowExceeded => Code::FlowControl,
        }
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client violated the protocol.
    #[error("the client violates HTTP/2: {0}")]
    Violation(#[from] Violation),
    /// The client did not answer a ping in time.
    #[error("the client did not answer a ping in time")]
    Silent,
}
