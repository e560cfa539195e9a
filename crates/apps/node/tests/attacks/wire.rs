//! A client that says exactly what it is told, on a socket that it may have from anywhere.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use httlib_hpack::Decoder;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A message.
    Answer(Vec<u8>),
    /// The end, with a gRPC status.
    Ended(String),
    /// The stream was reset, with this HTTP/2 error.
    Reset(u32),
    /// The connection ended.
    Closed,
}

impl Seen {
    /// In a word, as actors report it.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Answer(_) => "answered".to_owned(),
            Self::Ended(status) => format!("ended {status}"),
            Self::Reset(error) => format!("reset {error}"),
            Self::Closed => "closed".to_owned(),
        }
    }
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field, literally and never indexed.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).ok().filter(|n| *n < 127).unwrap();
    let mut bytes = vec![0x10, length(name)];
    bytes.extend(name);
    bytes.push(length(value));
    bytes.extend(value);
    bytes
}

/// The fields of a call of FetchX509SVID, with this authority.
pub(crate) fn fields(authority: &[u8]) -> Vec<Vec<u8>> {
    vec![
        field(b":method", b"POST"),
        field(b":scheme", b"http"),
        field(b":path", b"/SpiffeWorkloadAPI/FetchX509SVID"),
        field(b":authority", authority),
        field(b"content-type", b"application/grpc"),
        field(b"te", b"trailers"),
        field(b"workload.spiffe.io", b"true"),
    ]
}

/// A whole call with these fields.
pub(crate) fn call(stream: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &fields.concat());
    bytes.extend(frame(DATA, END_STREAM, stream, &[0; 5]));
    bytes
}

/// Asks for X509-SVIDs on a new connection.
pub(crate) fn ask(socket: &mut impl Write) -> io::Result<()> {
    socket.write_all(&[PREFACE, &call(1, &fields(b"localhost"))].concat())
}

/// Asks again on the same connection.
pub(crate) fn ask_again(socket: &mut impl Write, stream: u32) -> io::Result<()> {
    socket.write_all(&call(stream, &fields(b"localhost")))
}

/// Reads what comes, whatever the stream.
pub(crate) struct Reader<S> {
    socket: S,
    decoder: Decoder<'static>,
}

impl<S: Read> Reader<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            decoder: Decoder::with_dynamic_size(4096),
        }
    }

    pub(crate) fn next(&mut self) -> Seen {
        loop {
            let mut head = [0; 9];
            if self.socket.read_exact(&mut head).is_err() {
                return Seen::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if self.socket.read_exact(&mut payload).is_err() {
                return Seen::Closed;
            }
            match head[3] {
                DATA if !payload.is_empty() => return Seen::Answer(payload),
                RESET => return Seen::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                HEADERS => {
                    let mut found = Vec::new();
                    let decoded = self.decoder.decode(&mut payload, &mut found);
                    // Whoever took a connection over does not have the table of its headers.
                    if decoded.is_err() && head[4] & END_STREAM != 0 {
                        return Seen::Ended("unknown".to_owned());
                    }
                    let status = found.iter().find(|(name, _, _)| name == b"grpc-status");
                    if let Some((_, status, _)) = status {
                        return Seen::Ended(String::from_utf8_lossy(status).into_owned());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Asks on a connection of one's own.
pub(crate) fn connect_and_ask(path: &std::path::Path) -> io::Result<UnixStream> {
    let mut socket = UnixStream::connect(path)?;
    ask(&mut socket)?;
    Ok(socket)
}
