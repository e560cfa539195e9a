//! Any `:authority` on a Unix socket (WEP-07, BEP-14).
//!
//! gRPC clients disagree about the `:authority` of a Unix socket: grpc-go sends `localhost`,
//! grpc-java the raw path, gRPC's C core (Python, C++, Ruby, PHP) the percent-encoded path, others
//! nothing or an empty value. `h2` resets the stream when the value is not a URI authority, before
//! any handler runs, and has no switch for it. On a Unix socket the value means nothing to us. So
//! it is replaced by `localhost` on the way in, whatever it was.
//!
//! # How
//!
//! [`Rewriter`] walks the client's frames. All but HEADERS and CONTINUATION pass as they are,
//! unbuffered. A header block (HEADERS with its CONTINUATIONs) is collected, up to
//! [`MAX_HEADER_BLOCK`], and its HPACK representations are transcribed one by one:
//!
//! - Strings are copied as they came, Huffman coding included. We never decode one (only count its
//!   symbols, for the size of dynamic table entries), so `h2` remains the judge of every
//!   octet but the authority's.
//! - What refers to the client's dynamic table is written out, and nothing is written so that it
//!   enters a table. The table of `h2` therefore stays empty, and there is no second state to keep in step.
//!   Ours mirrors the client's, 4096 octets at most (RFC 7541, 4.2: the server announces no
//!   other size, see [`Rewriter`]).
//! - A field named `:authority`, literal or from either table, in whatever coding, gets the value
//!   `localhost`.
//!
//! Editing the value in place, at its length, would need no table. It cannot serve an empty value
//! (a one-octet reference to the static table), nor Huffman codes longer than any that an
//! authority may have, and a value of another length would bring the tables out of step; so it
//! was not chosen. Existing HPACK crates decode eagerly, and cannot stop at a budget while a few
//! octets unfold to megabytes.
//!
//! # What stays the same
//!
//! The sequence of frames, their streams, flags and payloads, with these exceptions: the header
//! block's octets, its division into HEADERS and CONTINUATION frames, and padding of HEADERS. The
//! decoded field list is the same, in the same order, with the same never-indexed marks, but for the
//! authority's value; so nothing can be smuggled past a check that `h2` makes. What is
//! invalid at this level (a broken block, an interleaved frame, an oversized block) ends the
//! connection.
//!
//! What does not begin with the HTTP/2 preface passes untouched.

mod block;
mod frames;
mod huffman;
mod table;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

pub use block::BlockError;
pub use frames::{MAX_HEADER_BLOCK, Protocol, RewriteError, Rewriter};

/// How much is read at once, in bytes.
const CHUNK: usize = 8 * 1024;

/// A connection whose client may send any `:authority`. See the [module](self).
#[derive(Debug)]
pub struct AuthorityRewriter<S> {
    inner: S,
    rewriter: Rewriter,
    /// Read and not yet rewritten; at most one chunk.
    pending: BytesMut,
    /// Rewritten and not yet handed out.
    ready: BytesMut,
    failure: Option<RewriteError>,
}

impl<S> AuthorityRewriter<S> {
    /// Wraps the server's end of a connection, before anything was read from it.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            rewriter: Rewriter::new(),
            pending: BytesMut::new(),
            ready: BytesMut::new(),
            failure: None,
        }
    }

    /// The connection inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The connection itself, for a server that speaks another protocol first, such as TLS. Only
    /// before anything was read through this wrapper: what it holds back is lost.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Rewrites what is pending, as far as there is room.
    fn rewrite(&mut self) {
        match self.rewriter.push(&self.pending, &mut self.ready) {
            Ok(used) => self.pending.advance(used),
            Err(error) => {
                tracing::debug!(%error, "HTTP/2 connection refused");
                self.failure = Some(error);
                self.pending.clear();
            }
        }
        if self.pending.is_empty() {
            // Idle connections hold no buffer.
            self.pending = BytesMut::new();
        }
    }

    /// Reads until it is known what the client speaks; nothing that was read is lost. `None`: it
    /// went away first.
    pub async fn protocol(&mut self) -> io::Result<Option<Protocol>>
    where
        S: AsyncRead + Unpin,
    {
        poll_fn(|cx| self.poll_protocol(cx)).await
    }

    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Protocol>>>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            if let Some(error) = self.failure {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            if let Some(protocol) = self.rewriter.protocol() {
                return Poll::Ready(Ok(Some(protocol)));
            }
            if self.pending.is_empty() && !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Ok(None));
            }
            self.rewrite();
        }
    }

    /// Reads a chunk; `false` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>>
    where
        S: AsyncRead + Unpin,
    {
        let mut chunk = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut chunk))?;
        self.pending.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(!chunk.filled().is_empty()))
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.ready.len().min(buf.remaining());
        buf.put_slice(&self.ready.split_to(len));
        if self.ready.is_empty() {
            self.ready = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityRewriter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() || buf.remaining() == 0 {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.failure {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            if this.pending.is_empty() && !ready!(this.poll_fill(cx))? {
                return Poll::Ready(Ok(()));
            }
            this.rewrite();
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityRewriter<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AuthorityRewriter<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.inner.connect_info()
    }
}
