//! The channel between the loop and a stream: it holds one thing, what the stream is to be told.
//!
//! There is one for each of ten thousand streams, one sender and one receiver each. A channel for
//! many receivers, such as `tokio::sync::watch`, is four times its size.

use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use muster_roster::Refusal;

/// What a stream is told: its last full answer, and its end.
pub(crate) struct Told<T> {
    /// The last answer. A slow reader misses those in between (WAPI-09).
    pub(crate) latest: Option<Arc<T>>,
    /// Why the stream ends, once it does.
    pub(crate) end: Option<Refusal>,
}

/// The loop's end. Dropped, it closes the channel.
pub(super) struct Teller<T>(Arc<Shared<T>>);

/// The stream's end.
pub(crate) struct Listener<T>(Arc<Shared<T>>);

/// The loop has ended, and so does the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

struct Shared<T> {
    state: Mutex<State<T>>,
    waker: AtomicWaker,
}

struct State<T> {
    latest: Option<Arc<T>>,
    end: Option<Refusal>,
    /// Whether the listener has not seen all of it.
    is_news: bool,
    is_closed: bool,
}

/// A new channel, nothing told yet.
pub(super) fn channel<T>() -> (Teller<T>, Listener<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            latest: None,
            end: None,
            is_news: false,
            is_closed: false,
        }),
        waker: AtomicWaker::new(),
    });
    (Teller(Arc::clone(&shared)), Listener(shared))
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Every change is one step: the state is whole whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Teller<T> {
    /// A new answer, in place of the last.
    pub(super) fn tell(&self, latest: Arc<T>) {
        let before = {
            let mut state = self.0.state();
            state.is_news = true;
            state.latest.replace(latest)
        };
        // Perhaps the last of its kind: freed outside the lock.
        drop(before);
        self.0.waker.wake();
    }

    /// The stream ends.
    pub(super) fn end(&self, refusal: Refusal) {
        {
            let mut state = self.0.state();
            state.is_news = true;
            state.end = Some(refusal);
        }
        self.0.waker.wake();
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.waker.wake();
    }
}

impl<T> Listener<T> {
    /// Resolves when there is something that was not taken yet, and then with all there is. What
    /// was told before the channel closed is still told.
    pub(crate) async fn told(&mut self) -> Result<Told<T>, Closed> {
        poll_fn(|cx| self.poll_told(cx)).await
    }

    /// The same for a stream that is polled.
    pub(crate) fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Result<Told<T>, Closed>> {
        // First, so that what is told after the look below wakes us.
        self.0.waker.register(cx.waker());
        let mut state = self.0.state();
        if mem::take(&mut state.is_news) {
            Poll::Ready(Ok(Told {
                latest: state.latest.clone(),
                end: state.end,
            }))
        } else if state.is_closed {
            Poll::Ready(Err(Closed))
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;
    use futures::task::noop_waker_ref;

    use super::*;

    fn now<T>(listener: &mut Listener<T>) -> Option<Result<Told<T>, Closed>> {
        pin!(listener.told()).now_or_never()
    }

    #[test]
    fn a_slow_listener_hears_the_last_answer_and_hears_it_once() {
        let (teller, mut listener) = channel();
        assert!(now(&mut listener).is_none());
        teller.tell(Arc::new(1));
        teller.tell(Arc::new(2));
        let told = now(&mut listener).unwrap().unwrap();
        assert_eq!((told.latest.as_deref(), told.end), (Some(&2), None));
        assert!(now(&mut listener).is_none());
    }

    #[test]
    fn an_end_is_heard_though_the_channel_is_closed_then() {
        let (teller, mut listener) = channel::<()>();
        teller.end(Refusal::NoIdentity);
        drop(teller);
        let told = now(&mut listener).unwrap().unwrap();
        assert_eq!(told.end, Some(Refusal::NoIdentity));
        assert_eq!(now(&mut listener).unwrap().err(), Some(Closed));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let (teller, mut listener) = channel();
        let waiting = tokio::spawn(async move {
            let told = listener.told().await.unwrap();
            let closed = listener.told().await.err();
            (told.latest, closed)
        });
        tokio::task::yield_now().await;
        teller.tell(Arc::new(7));
        tokio::task::yield_now().await;
        drop(teller);
        let (latest, closed) = waiting.await.unwrap();
        assert_eq!((latest.as_deref(), closed), (Some(&7), Some(Closed)));
    }

    #[test]
    fn ten_thousand_are_small() {
        assert!(size_of::<Shared<String>>() <= 96);
        let (_teller, mut listener) = channel::<String>();
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(listener.poll_told(&mut cx).is_pending());
    }
}
