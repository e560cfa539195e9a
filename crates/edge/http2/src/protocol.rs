//! What a client speaks, by its first octets.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::frame::PREFACE;

/// How much is read at once, in bytes.
const CHUNK: usize = 4 * 1024;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, with prior knowledge (RFC 9113, 3.3).
    Http2,
    /// Something else: HTTP/1.1, if anything.
    Other,
}

/// Reads until it is known what the client speaks, and returns it with all that was read; `None`
/// if it went away first.
pub async fn recognize<I>(io: &mut I) -> io::Result<Option<(Protocol, Bytes)>>
where
    I: AsyncRead + Unpin,
{
    let mut seen = Vec::new();
    loop {
        let read = poll_fn(|cx| {
            // On the stack, and the heap gets what has come: connections that begin are many.
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            Pin::new(&mut *io)
                .poll_read(cx, &mut chunk)
                .map_ok(|()| seen.extend_from_slice(chunk.filled()))
                .map_ok(|()| chunk.filled().len())
        })
        .await?;
        if read == 0 {
            return Ok(None);
        }
        let compared = seen.len().min(PREFACE.len());
        if seen.get(..compared) != PREFACE.get(..compared) {
            return Ok(Some((Protocol::Other, Bytes::from(seen))));
        }
        if compared == PREFACE.len() {
            return Ok(Some((Protocol::Http2, Bytes::from(seen))));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn recognized(pieces: &[&[u8]]) -> Option<(Protocol, Bytes)> {
        let (mut client, mut server) = tokio::io::duplex(16);
        let writing = async move {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let ((), seen) = tokio::join!(writing, recognize(&mut server));
        seen.unwrap()
    }

    #[tokio::test]
    async fn the_first_octets_tell() {
        let http2 = Some(Protocol::Http2);
        let other = Some(Protocol::Other);
        let check = async |pieces: &[&[u8]], expected: Option<Protocol>| {
            let seen = recognized(pieces).await;
            assert_eq!(seen.map(|(protocol, _)| protocol), expected, "{pieces:?}");
        };
        check(&[PREFACE], http2).await;
        check(&[b"P", b"RI * HTTP/2.0\r\n\r\nS", b"M\r\n\r\n"], http2).await;
        check(&[b"PRI * HTTP/1"], other).await;
        check(&[b"POST / HTTP/1.1"], other).await;
        check(&[b"PRI"], None).await;
        check(&[], None).await;
    }

    #[tokio::test]
    async fn nothing_that_was_read_is_lost() {
        let (_, octets) = recognized(&[b"GE", b"T /"]).await.unwrap();
        assert_eq!(octets, "GE");
    }
}
