//! The body of a request, on its way from the connection to the call.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// When the call has taken so much, the connection is told, so that the client may send on; in
/// bytes. What a hundred calls keep to themselves is less than the narrowest window.
const WORTH_TELLING: usize = 512;

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` if there is none.
    inbound: Option<Arc<Inbound>>,
}

/// The request broke off before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request broke off before its end")]
pub struct Broken;

/// What has come of a body and was not taken yet.
#[derive(Debug)]
pub(crate) struct Inbound {
    state: Mutex<State>,
    /// Wakes the connection.
    connection: Arc<AtomicWaker>,
}

#[derive(Debug, Default)]
struct State {
    /// In one piece, however many frames it came in.
    came: BytesMut,
    trailers: Option<Box<HeaderMap>>,
    end: Option<End>,
    /// So many bytes were taken, and the connection has not heard of it.
    taken: usize,
    /// Nobody will take any more.
    abandoned: bool,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Whole,
    Broken,
}

impl Inbound {
    pub(crate) fn new(connection: Arc<AtomicWaker>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            connection,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one step: the state is whole whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let reader = {
            let mut state = self.state();
            change(&mut state);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// A piece has come; `false` if nobody wants it.
    pub(crate) fn push(&self, piece: &[u8]) -> bool {
        let mut wanted = false;
        self.change(|state| {
            wanted = !state.abandoned;
            if wanted {
                state.came.extend_from_slice(piece);
            }
        });
        wanted
    }

    /// The body is whole.
    pub(crate) fn finish(&self, trailers: Option<HeaderMap>) {
        self.change(|state| {
            state.trailers = trailers.map(Box::new);
            state.end = Some(End::Whole);
        });
    }

    /// No more will come. A body that is whole stays so.
    pub(crate) fn break_off(&self) {
        self.change(|state| {
            if state.end.is_none() {
                state.came = BytesMut::new();
                state.end = Some(End::Broken);
            }
        });
    }

    /// So many bytes need nobody to take them.
    pub(crate) fn give_back(&self, octets: u32) {
        if octets > 0 {
            self.state().taken += usize::try_from(octets).unwrap_or(usize::MAX);
        }
    }

    /// How many bytes were taken since this was last asked.
    pub(crate) fn taken(&self) -> usize {
        mem::take(&mut self.state().taken)
    }
}

impl RequestBody {
    pub(crate) fn empty() -> Self {
        Self { inbound: None }
    }

    pub(crate) fn of(inbound: Arc<Inbound>) -> Self {
        Self {
            inbound: Some(inbound),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(inbound) = &self.inbound else {
            return Poll::Ready(None);
        };
        let mut state = inbound.state();
        if !state.came.is_empty() {
            let came = mem::take(&mut state.came).freeze();
            state.taken += came.len();
            if state.taken >= WORTH_TELLING {
                inbound.connection.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(came))));
        }
        match state.end {
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(End::Broken) => {
                state.end = Some(End::Whole);
                Poll::Ready(Some(Err(Broken)))
            }
            Some(End::Whole) => {
                let trailers = state.trailers.take();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inbound.as_ref().is_none_or(|inbound| {
            let state = inbound.state();
            state.came.is_empty()
                && state.trailers.is_none()
                && matches!(state.end, Some(End::Whole))
        })
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(inbound) = &self.inbound else { return };
        let mut state = inbound.state();
        state.taken += mem::take(&mut state.came).len();
        state.abandoned = true;
        if state.taken > 0 {
            inbound.connection.wake();
        }
    }
}
