//! A connection that remembers why it failed, as far as an identity is the reason: the HTTP/2
//! stack above it keeps the words of an error and not the error.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use muster_tls::Rejected;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Why the last connection failed; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Rejection(Arc<Mutex<Option<Rejected>>>);

impl Rejection {
    /// The reason, if an identity was one.
    pub(crate) fn reason(&self) -> Option<Rejected> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets it: another identity is shown, or another connection begins.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Remembers why `error` came about.
    pub(crate) fn note(&self, error: &io::Error) {
        if let Some(reason) = Rejected::of(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        }
    }
}

/// The connection.
pub(crate) struct Watched<S> {
    stream: S,
    rejection: Rejection,
}

impl<S> Watched<S> {
    /// Notes the errors of `stream` in `rejection`.
    pub(crate) fn new(stream: S, rejection: Rejection) -> Self {
        Self { stream, rejection }
    }

    fn noted<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            self.rejection.note(error);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.noted(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.noted(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
