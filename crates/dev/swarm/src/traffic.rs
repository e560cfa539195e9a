//! What a connection costs on the wire.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Headers of TCP with timestamps (32 bytes) and IPv4 (20 bytes).
const HEADERS: u64 = 52;
/// What one segment carries at the most on an Ethernet: 1500 bytes less the headers.
const SEGMENT: u64 = 1500 - HEADERS;

/// Bytes and segments that went over the sockets of one node, TLS included.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    segments: AtomicU64,
}

impl Traffic {
    /// The bytes that TCP carried, in both directions.
    pub fn payload(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The bytes on the wire: the payload, and 52 bytes of headers for each segment and for its
    /// acknowledgement. An upper bound: the kernel joins small segments, and acknowledges several
    /// at once or with data.
    pub fn on_the_wire(&self) -> u64 {
        self.payload() + self.segments.load(Ordering::Relaxed) * 2 * HEADERS
    }

    fn note(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes > 0 {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.segments
                .fetch_add(bytes.div_ceil(SEGMENT), Ordering::Relaxed);
        }
    }
}

/// A socket whose bytes are counted.
pub(crate) struct Counted<S> {
    inner: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, traffic: Arc<Traffic>) -> Self {
        Self { inner, traffic }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.traffic
            .note(buffer.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.traffic.note(*written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_costs_its_headers_and_its_acknowledgement() {
        let traffic = Traffic::default();
        traffic.note(0);
        assert_eq!(traffic.on_the_wire(), 0);
        traffic.note(39);
        assert_eq!(traffic.on_the_wire(), 39 + 104);
        traffic.note(1449);
        assert_eq!(traffic.on_the_wire(), 39 + 1449 + 3 * 104);
    }
}
