//! When many want SVIDs signed at once, whoever is left without a good one soonest comes first
//! (`docs/adr/0005-storm.md`).
//!
//! A request takes a [`Turn`] before it signs, whatever it has signed, and gives it up after. There are few turns; those who
//! wait for one stand in a [`Queue`] by the instant at which they are due. A renewal that can wait
//! is sent away with the time after which to come again rather than kept in memory.

mod asking;
mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_model::{SpiffeId, Timestamp};
use muster_wire::status;
use tokio::sync::{Notify, oneshot};
use tonic::Status;

use crate::admission::queue::{Bounds, Queue};
use crate::listen::Gate;

pub(crate) use asking::Asking;

/// Requests of one node that may wait at once; a node sends a few.
const BY_CALLER: usize = 64;
/// Signatures that may wait, by core: some seconds of work. One takes about 500 bytes, its share of
/// the request that asks for it.
const WAITING_BY_CORE: usize = 40_000;
/// Signatures by second and core, until it is known better.
const BY_SECOND_AND_CORE: usize = 5000;
/// Signatures that wait, by core, are enough for the signers: a quarter of a second's work. With as
/// many, connections that can wait are left outside.
const ENOUGH_BY_CORE: usize = 1000;
/// Turns by core: one signs while another waits for its key manager.
const TURNS_BY_CORE: usize = 2;

/// What a request that waited is told.
enum Word {
    /// Its turn has come. Should nobody hear it any more, the turn goes on to the next.
    Go(Turn),
    /// To come again after that long.
    Later(Duration),
}

struct State {
    free: usize,
    queue: Queue<oneshot::Sender<Word>>,
}

struct Shared {
    state: Mutex<State>,
    enough: usize,
    eased: Notify,
}

/// The turns of one server; clones share them.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Shared>);

/// Leave to sign; given up when dropped.
pub(crate) struct Turn(Option<Admission>);

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
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                free: TURNS_BY_CORE * cores,
                queue: Queue::new(bounds),
            }),
            enough: ENOUGH_BY_CORE * cores,
            eased: Notify::new(),
        }))
    }

    /// Who may come in, by how much there is to be signed. It never keeps out who cannot wait for
    /// the sake of what can.
    pub(crate) fn gate(&self) -> Gate {
        self.0.gate(&self.state().queue)
    }

    /// Resolves when [`Admission::gate`] has opened further, also when that was since the last time
    /// and nobody waited.
    pub(crate) async fn eased(&self) {
        self.0.eased.notified().await;
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
                return Ok(Turn(Some(self.clone())));
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
            Ok(Word::Go(turn)) => Ok(turn),
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

    /// Hands a turn on to whoever is due first.
    fn hand_on(&self) {
        loop {
            let next = {
                let mut state = self.state();
                let gate = self.0.gate(&state.queue);
                let next = state.queue.next();
                if next.is_none() {
                    state.free += 1;
                }
                if self.0.gate(&state.queue) != gate {
                    self.0.eased.notify_one();
                }
                next
            };
            let Some(next) = next else {
                return;
            };
            match next.send(Word::Go(Turn(Some(self.clone())))) {
                // It has gone: the turn is the next one's.
                Err(Word::Go(mut turn)) => turn.0 = None,
                Err(Word::Later(_)) | Ok(()) => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn gate(&self, queue: &Queue<oneshot::Sender<Word>>) -> Gate {
        if queue.signatures() < self.enough {
            Gate::Open
        } else if queue.signatures_soon() < self.enough {
            Gate::Urgent
        } else {
            Gate::Shut
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(admission) = self.0.take() {
            admission.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use muster_model::TrustDomain;
    use proptest::prelude::*;

    use super::*;

    fn caller(number: usize) -> SpiffeId {
        let path = format!("/spire/agent/{number}");
        TrustDomain::parse("td").unwrap().with_path(&path).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
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

    /// What comes, goes and ends in the worlds below.
    #[derive(Clone, Debug)]
    enum Step {
        Comes(Coming),
        GivesUp(prop::sample::Index),
        Ends(prop::sample::Index),
    }

    #[derive(Clone, Copy, Debug)]
    struct Coming {
        caller: usize,
        due: i64,
        signatures: usize,
    }

    /// The time of the worlds: what is due then had expired when it came.
    const NOW: i64 = 10_000;

    fn step() -> impl Strategy<Value = Step> {
        // Expired, unsaid, early.
        let due = prop_oneof![Just(NOW), Just(NOW + 60), NOW + 61..NOW + 3600];
        let coming = (0..40_usize, due, 1..3000_usize).prop_map(|(caller, due, signatures)| {
            Step::Comes(Coming {
                caller,
                due,
                signatures,
            })
        });
        prop_oneof![
            4 => coming,
            1 => any::<prop::sample::Index>().prop_map(Step::GivesUp),
            3 => any::<prop::sample::Index>().prop_map(Step::Ends),
        ]
    }

    struct World {
        admission: Admission,
        waiting: Vec<(i64, BoxFuture<'static, Result<Turn, Status>>)>,
        held: Vec<Turn>,
    }

    impl World {
        fn new() -> Self {
            Self {
                admission: Admission::of(1),
                waiting: Vec::new(),
                held: Vec::new(),
            }
        }

        fn take(&mut self, step: &Step) {
            match step {
                Step::Comes(coming) => {
                    let (admission, coming) = (self.admission.clone(), *coming);
                    let turn = async move {
                        let caller = caller(coming.caller);
                        admission
                            .turn(&caller, at(coming.due), coming.signatures, at(NOW))
                            .await
                    };
                    let mut turn = turn.boxed();
                    match (&mut turn).now_or_never() {
                        None => self.waiting.push((coming.due, turn)),
                        Some(Ok(turn)) => self.held.push(turn),
                        Some(Err(_comes_again)) => {}
                    }
                }
                Step::GivesUp(which) if !self.waiting.is_empty() => {
                    drop(self.waiting.swap_remove(which.index(self.waiting.len())));
                }
                Step::Ends(which) if !self.held.is_empty() => {
                    drop(self.held.swap_remove(which.index(self.held.len())));
                }
                Step::GivesUp(_) | Step::Ends(_) => {}
            }
        }

        /// Who waits looks whether it is its turn; when those were due that it is.
        fn look(&mut self) -> Vec<i64> {
            let mut began = Vec::new();
            for (due, mut turn) in std::mem::take(&mut self.waiting) {
                match (&mut turn).now_or_never() {
                    None => self.waiting.push((due, turn)),
                    Some(Err(_comes_again)) => {}
                    Some(Ok(turn)) => {
                        began.push(due);
                        self.held.push(turn);
                    }
                }
            }
            began
        }
    }

    proptest! {
        /// No request begins while one waits that is due earlier, whichever of the two came first:
        /// nothing that has expired is overtaken by an early renewal. And the gate never keeps out
        /// who cannot wait because of what can.
        #[test]
        fn nothing_expired_is_overtaken(steps in prop::collection::vec(step(), 1..300)) {
            let mut world = World::new();
            for step in steps {
                world.take(&step);
                let began = world.look();
                let first = world.waiting.iter().map(|(due, _)| *due).min();
                for due in began {
                    prop_assert!(first.is_none_or(|first| due <= first), "{due} before {first:?}");
                }
                // Those that gave up are forgotten when the next one comes.
                world.admission.state().queue.retain(|waiting| !waiting.is_closed());
                let soon = world.waiting.iter().filter(|(due, _)| *due <= NOW + 60).count();
                prop_assert!(soon > 0 || world.admission.gate() != Gate::Shut);
            }
        }

        /// Whoever gives up, at whatever moment, no turn is lost and none is made up.
        #[test]
        fn turns_are_neither_lost_nor_made_up(steps in prop::collection::vec(step(), 1..300)) {
            let mut world = World::new();
            for step in &steps {
                world.take(step);
            }
            world.look();
            let free = world.admission.state().free;
            prop_assert_eq!(free + world.held.len(), 2);
            prop_assert!(free == 0 || world.waiting.is_empty());
        }
    }
}
