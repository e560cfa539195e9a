//! When many want SVIDs signed at once, whoever is left without a good one soonest comes first
//! (`docs/adr/0005-storm.md`).
//!
//! A request takes a [`Turn`] before it signs and gives it up after. There are few turns; those who
//! wait for one stand in a [`Queue`] by the instant at which they are due. A renewal that can wait
//! is sent away with the time after which to come again rather than kept in memory.

mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_model::{SpiffeId, Timestamp};
use muster_wire::status;
use muster_wire::urgency::EXPIRES_AT;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::admission::queue::{Bounds, Queue};

/// A caller that does not say (SPIRE's agents never do) comes after those that hold nothing, and
/// before those that have long.
const UNSAID: Duration = Duration::from_mins(1);
/// A hint further away is as good as this one.
const FURTHEST: Duration = Duration::from_hours(24);

/// Requests of one node that may wait at once; a node sends a few.
const BY_CALLER: usize = 64;
/// Signatures that may wait, by core: some seconds of work. One takes about 500 bytes, its share of
/// the request that asks for it.
const WAITING_BY_CORE: usize = 40_000;
/// Signatures by second and core, until it is known better.
const BY_SECOND_AND_CORE: usize = 5000;
/// Turns by core: one signs while another waits for its key manager.
const TURNS_BY_CORE: usize = 2;

/// What a request that waited is told.
enum Word {
    /// Its turn has come; it is counted already.
    Go,
    /// To come again after that long.
    Later(Duration),
}

struct State {
    free: usize,
    queue: Queue<oneshot::Sender<Word>>,
}

/// The turns of one server; clones share them.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Mutex<State>>);

/// Leave to sign; given up when dropped.
pub(crate) struct Turn(Admission);

impl Admission {
    /// Turns for as many cores as this process may use.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of(cores)
    }

    fn of(cores: usize) -> Self {
        let bounds = Bounds {
            signatures: WAITING_BY_CORE * cores,
            by_caller: BY_CALLER,
            by_second: BY_SECOND_AND_CORE * cores,
        };
        Self(Arc::new(Mutex::new(State {
            free: TURNS_BY_CORE * cores,
            queue: Queue::new(bounds),
        })))
    }

    /// Waits for a turn to make `signatures` for `caller`, which are due at `due`; or says when to
    /// come again.
    pub(crate) async fn turn(
        &self,
        caller: &SpiffeId,
        due: Timestamp,
        signatures: usize,
        now: Timestamp,
    ) -> Result<Turn, Status> {
        let waiting = {
            let mut state = self.state();
            if state.free > 0 && state.queue.is_empty() {
                state.free -= 1;
                return Ok(Turn(self.clone()));
            }
            // Those who gave up must not keep others out.
            state.queue.retain(|waiting| !waiting.is_closed());
            let (word, waiting) = oneshot::channel();
            let entered = state
                .queue
                .enter(caller.clone(), due, signatures, word, now);
            for (gone, wait) in entered.refused {
                // It may have given up just now.
                drop(gone.send(Word::Later(wait)));
            }
            waiting
        };
        match waiting.await {
            Ok(Word::Go) => Ok(Turn(self.clone())),
            Ok(Word::Later(wait)) => Err(status::later(
                format!(
                    "the server signs for callers that are due earlier; come again in {} s",
                    wait.as_secs().max(1)
                ),
                wait,
            )),
            // The queue ends with the server.
            Err(_) => Err(Status::unavailable("the server is shutting down")),
        }
    }

    fn give_back(&self) {
        let mut state = self.state();
        while let Some(next) = state.queue.next() {
            if next.send(Word::Go).is_ok() {
                return;
            }
        }
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// When a request to sign is due, as far as its caller says.
///
/// Nothing but the order depends on it, and an order of arrivals is the most that can be gained:
/// what claims to be late is due now. Whoever always claims so stands among those who really are,
/// with at most so many requests as any other.
pub(crate) fn due(metadata: &MetadataMap, now: Timestamp) -> Timestamp {
    let said = metadata
        .get(EXPIRES_AT)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<i64>().ok());
    match said {
        None => now.plus(UNSAID),
        Some(seconds) => Timestamp::from_unix_seconds(seconds.max(0))
            .max(now)
            .min(now.plus(FURTHEST)),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use muster_model::TrustDomain;

    use super::*;

    fn caller(number: usize) -> SpiffeId {
        let path = format!("/spire/agent/{number}");
        TrustDomain::parse("td").unwrap().with_path(&path).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn a_hint_is_held_within_what_is_harmless() {
        let check = |text: Option<&'static str>, expected: i64| {
            let mut metadata = MetadataMap::new();
            if let Some(text) = text {
                metadata.insert(EXPIRES_AT, text.parse().unwrap());
            }
            assert_eq!(due(&metadata, at(1000)), at(expected), "{text:?}");
        };
        check(Some("1500"), 1500);
        check(Some("0"), 1000);
        check(Some("-9223372036854775808"), 1000);
        check(Some("9223372036854775807"), 1000 + 86_400);
        check(Some("999"), 1000);
        check(Some("soon"), 1060);
        check(None, 1060);
    }

    #[test]
    fn turns_go_to_whoever_is_due_first_and_come_back() {
        let admission = Admission::of(1);
        let now = at(1000);
        let turn = |number: usize, due: i64| {
            let (admission, caller) = (admission.clone(), caller(number));
            async move {
                admission
                    .turn(&caller, at(due), 10, now)
                    .await
                    .map_err(|_| ())
            }
            .boxed()
        };
        let first = turn(1, 5000).now_or_never().unwrap().unwrap();
        let second = turn(2, 5000).now_or_never().unwrap().unwrap();
        let (mut early, mut expired, mut gone) = (turn(3, 5000), turn(4, 0), turn(5, 0));
        assert!((&mut early).now_or_never().is_none());
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut expired).now_or_never().is_none());
        drop(gone);
        drop(first);
        let expired = (&mut expired).now_or_never().unwrap();
        assert!((&mut early).now_or_never().is_none());
        drop(second);
        assert!((&mut early).now_or_never().is_some());
        drop(expired);
        assert_eq!(admission.state().free, 2);
    }

    #[test]
    fn what_can_wait_is_told_when_to_come_again() {
        let admission = Admission::of(1);
        let now = at(1000);
        let full = |number: usize, due: i64| {
            let (admission, caller) = (admission.clone(), caller(number));
            async move { admission.turn(&caller, at(due), 20_000, now).await }.boxed()
        };
        let _held = [1, 2].map(|number| full(number, 0).now_or_never().unwrap().unwrap());
        let mut early = full(3, 5000);
        assert!((&mut early).now_or_never().is_none());
        let mut late = full(4, 0);
        assert!((&mut late).now_or_never().is_none());
        let mut later = full(5, 0);
        assert!((&mut later).now_or_never().is_none());
        let Some(Err(refused)) = early.now_or_never() else {
            panic!("the early renewal has no room")
        };
        let wait = status::retry_after(&refused).unwrap();
        assert!(
            wait >= Duration::from_secs(1) && wait <= Duration::from_mins(1),
            "{wait:?}"
        );
    }
}
