//! A Workload API client of a few hundred bytes: HTTP/2 by hand over a blocking socket, for when
//! there are ten thousand of them, or when the socket itself is to be passed on.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::Failure;

/// A node that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Frame types and flags of RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A stream of X509-SVIDs.
pub(crate) struct Raw(UnixStream);

/// What came on it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A part of an answer, so many bytes long.
    Data(usize),
    /// The end: of the stream, or of the connection.
    End,
}

impl Raw {
    /// Connects and asks.
    pub(crate) fn open(socket: &Path) -> Result<Self, Failure> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, HEADERS, END_HEADERS, &headers());
        // One empty message, not compressed.
        frame(&mut bytes, DATA, END_STREAM, &[0; 5]);
        stream.write_all(&bytes)?;
        Ok(Self(stream))
    }

    /// The socket goes on as another's.
    pub(crate) fn over(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    /// Another descriptor of the same socket.
    pub(crate) fn socket(&self) -> Result<OwnedFd, Failure> {
        Ok(self.0.try_clone()?.into())
    }

    /// The next part of an answer, or the end.
    pub(crate) fn next(&mut self) -> Result<Came, Failure> {
        loop {
            let mut head = [0; 9];
            match self.0.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err("no answer in time".into());
                }
                Err(_closed) => return Ok(Came::End),
            }
            let [a, b, c, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; usize::try_from(length)?];
            self.0.read_exact(&mut payload)?;
            match kind {
                DATA if !payload.is_empty() => return Ok(Came::Data(payload.len())),
                HEADERS if flags & END_STREAM != 0 => return Ok(Came::End),
                RST_STREAM | GOAWAY => return Ok(Came::End),
                _ => {}
            }
        }
    }

    /// The first part of the next answer.
    pub(crate) fn answer(&mut self) -> Result<(), Failure> {
        match self.next()? {
            Came::Data(_) => Ok(()),
            Came::End => Err("the stream ended instead of answering".into()),
        }
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    bytes.extend(length.to_be_bytes().iter().skip(1));
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
}

/// The request's headers by RFC 7541: indexed names, and literals that are not kept.
fn headers() -> Vec<u8> {
    // :method POST, :scheme http
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &[u8]| {
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap_or_default());
        block.extend(value);
    };
    literal(&[0x04], b"/SpiffeWorkloadAPI/FetchX509SVID");
    literal(&[0x01], b"localhost");
    literal(&[0x0f, 0x10], b"application/grpc");
    literal(b"\x00\x02te", b"trailers");
    literal(b"\x00\x12workload.spiffe.io", b"true");
    block
}
