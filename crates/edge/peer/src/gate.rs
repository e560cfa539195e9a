//! How many connections one socket keeps, and who holds them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures::task::AtomicWaker;
use muster_rt::{Clock, SystemClock};

use crate::allowance::{Allowance, Neighbour, Neighbours};
use crate::caller::Refusal;
use crate::refused::{Observer, RefusedPeer};

/// Bounds on the connections of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all. Further ones are closed at once, which gRPC clients report as
    /// `UNAVAILABLE` and retry.
    pub open: usize,
    /// Connections that have not sent a whole HTTP/2 preface yet. For a further one the oldest is
    /// closed.
    pub half_open: usize,
    /// The part of `half_open` that one user's processes may hold, so that one user cannot keep
    /// the others out.
    pub half_open_per_uid: usize,
    /// How long a connection may take to send the preface.
    pub first_bytes: Duration,
    /// Connections that one user's processes hold open, so that one user cannot keep the others
    /// out.
    pub open_per_uid: usize,
    /// What each user in each control group may ask for.
    pub allowance: Allowance,
    /// How long the other end may leave its socket full before its connection is closed: whoever
    /// does not read is not waited for.
    pub unread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open: 16_384,
            half_open: 1_024,
            half_open_per_uid: 512,
            first_bytes: Duration::from_secs(10),
            open_per_uid: 12_288,
            allowance: Allowance::default(),
            unread: Duration::from_secs(30),
        }
    }
}

/// What a socket has seen; for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Open connections now.
    pub open: usize,
    /// Those among them that have not sent a preface.
    pub half_open: usize,
    /// Connections accepted since the start, whatever became of them.
    pub accepted: u64,
    /// Connections closed because a limit was reached.
    pub over_limit: u64,
    /// Those among them whose user, or its control group, had used up its own allowance.
    pub over_allowance: u64,
    /// Connections refused because of who was at the other end.
    pub refused: u64,
    /// Descriptors that others tried to hand over.
    pub descriptors: u64,
    /// Times when accepting had to pause, for want of descriptors or memory.
    pub pauses: u64,
}

/// Counts the connections of one socket.
pub(crate) struct Gate {
    limits: Limits,
    neighbours: OnceLock<Neighbours>,
    observer: OnceLock<Observer>,
    state: Mutex<State>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("limits", &self.limits)
            .field("tally", &self.tally())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    tally: Tally,
    /// Per user, the half-open connections by their age.
    half_open: HashMap<u32, BTreeMap<u64, Arc<Displacement>>>,
    next_number: u64,
    /// Per user, the open connections.
    open: HashMap<u32, usize>,
}

/// Tells a half-open connection that another one got its place.
#[derive(Debug, Default)]
pub(crate) struct Displacement {
    happened: AtomicBool,
    waker: AtomicWaker,
}

impl Displacement {
    /// Whether it has happened; if not, whoever asks is woken when it does.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.happened.load(Ordering::Acquire)
    }

    fn happen(&self) {
        self.happened.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// A connection's place; gives it back when dropped.
pub(crate) struct Place {
    gate: Arc<Gate>,
    uid: u32,
    /// The user and the number, while the connection is half-open.
    half_open: Option<(u32, u64)>,
    displacement: Arc<Displacement>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            neighbours: OnceLock::new(),
            observer: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn tally(&self) -> Tally {
        self.with(|state| state.tally)
    }

    pub(crate) fn count_accepted(&self) {
        self.with(|state| state.tally.accepted += 1);
    }

    /// Counts a refusal and tells whoever wants to know.
    pub(crate) fn refused(&self, peer: RefusedPeer) {
        self.with(|state| state.tally.refused += 1);
        if let Some(observer) = self.observer.get() {
            observer.tell(peer);
        }
    }

    /// Has `observer` told of every refusal from now on; the first one stays.
    pub(crate) fn observe(&self, observer: Observer) {
        drop(self.observer.set(observer));
    }

    pub(crate) fn count_pause(&self) {
        self.with(|state| state.tally.pauses += 1);
    }

    pub(crate) fn count_descriptors(&self, number: usize) {
        self.with(|state| state.tally.descriptors += number as u64);
    }

    /// Counts a connection that was closed because of a limit, and tells whoever wants to know.
    pub(crate) fn limited(&self, peer: RefusedPeer) {
        self.with(|state| {
            state.tally.over_limit += 1;
            if !matches!(peer.refusal, Refusal::Full { .. }) {
                state.tally.over_allowance += 1;
            }
        });
        if let Some(observer) = self.observer.get() {
            observer.tell(peer);
        }
    }

    /// Has allowances be earned by `clock`, if nobody has connected yet.
    pub(crate) fn timed_by(&self, clock: Arc<dyn Clock>) {
        drop(
            self.neighbours
                .set(Neighbours::new(self.limits.allowance, clock)),
        );
    }

    /// Takes a connection of process `pid` from the allowance of its user in its control group,
    /// before anything is done for it.
    pub(crate) fn admit(
        &self,
        pid: u32,
        uid: u32,
        cgroup: Option<u64>,
    ) -> Result<Neighbour, Refusal> {
        let held = self.with(|state| {
            (state.tally.open < self.limits.open)
                .then(|| state.open.get(&uid).copied().unwrap_or_default())
        });
        let held = held.ok_or(Refusal::Full { pid })?;
        if held >= self.limits.open_per_uid {
            return Err(Refusal::HoldsTooMany { pid });
        }
        self.neighbours
            .get_or_init(|| Neighbours::new(self.limits.allowance, SystemClock::shared()))
            .admit_connection(uid, cgroup)
            .ok_or(Refusal::ConnectsTooOften { pid })
    }

    /// Takes a place for a new connection of `uid`.
    ///
    /// Where too many are half-open, the oldest gives way: of the same user if that user has all
    /// of its part, otherwise of the user who has most. Whoever speaks at once is thus served, however
    /// many stay silent.
    pub(crate) fn enter(self: &Arc<Self>, uid: u32) -> Place {
        self.with(|state| {
            let mine = state.half_open.get(&uid).map_or(0, BTreeMap::len);
            if mine >= self.limits.half_open_per_uid {
                state.displace_oldest_of(uid);
            } else if state.tally.half_open >= self.limits.half_open {
                let most = state
                    .half_open
                    .iter()
                    .max_by_key(|(_, silent)| silent.len());
                if let Some(most) = most.map(|(uid, _)| *uid) {
                    state.displace_oldest_of(most);
                }
            }
            let number = state.next_number;
            state.next_number = number.wrapping_add(1);
            let displacement = Arc::<Displacement>::default();
            let silent = state.half_open.entry(uid).or_default();
            silent.insert(number, Arc::clone(&displacement));
            state.tally.half_open += 1;
            state.tally.open += 1;
            *state.open.entry(uid).or_default() += 1;
            Place {
                gate: Arc::clone(self),
                uid,
                half_open: Some((uid, number)),
                displacement,
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // Counters stay consistent whatever panicked: every update is one step.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn displace_oldest_of(&mut self, uid: u32) {
        let oldest = self
            .half_open
            .get(&uid)
            .and_then(|silent| silent.keys().next().copied());
        if let Some(number) = oldest
            && let Some(displacement) = self.leave(uid, number)
        {
            self.tally.over_limit += 1;
            displacement.happen();
        }
    }

    /// The connection is no longer half-open; `None` if it was not.
    fn leave(&mut self, uid: u32, number: u64) -> Option<Arc<Displacement>> {
        let silent = self.half_open.get_mut(&uid)?;
        let left = silent.remove(&number)?;
        if silent.is_empty() {
            self.half_open.remove(&uid);
        }
        self.tally.half_open = self.tally.half_open.saturating_sub(1);
        Some(left)
    }
}

impl Place {
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether another connection got this half-open connection's place.
    pub(crate) fn displaced(&self, cx: &Context<'_>) -> bool {
        self.displacement.poll(cx)
    }

    /// The preface has arrived.
    pub(crate) fn settle(&mut self) {
        if let Some((uid, number)) = self.half_open.take() {
            // One that was displaced meanwhile has left already.
            self.gate.with(|state| drop(state.leave(uid, number)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle();
        self.gate.with(|state| {
            state.tally.open = state.tally.open.saturating_sub(1);
            if let Some(open) = state.open.get_mut(&self.uid) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    state.open.remove(&self.uid);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Arc<Gate> {
        Gate::new(Limits {
            open: 4,
            half_open: 3,
            half_open_per_uid: 2,
            ..Limits::default()
        })
    }

    /// The numbers of the places that were displaced.
    fn displaced(places: &[Place]) -> Vec<usize> {
        let cx = Context::from_waker(std::task::Waker::noop());
        let gone = places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.displaced(&cx));
        gone.map(|(index, _)| index).collect()
    }

    #[test]
    fn the_oldest_silent_connection_gives_way() {
        let gate = Gate::new(Limits {
            open: 100,
            half_open: 3,
            half_open_per_uid: 2,
            ..Limits::default()
        });
        let mut held: Vec<_> = [7, 7, 7].map(|uid| gate.enter(uid)).into();
        assert_eq!(
            displaced(&held),
            [0],
            "a user's own oldest, when it has all of its part"
        );
        held.push(gate.enter(8));
        assert_eq!(displaced(&held), [0]);
        held.push(gate.enter(9));
        assert_eq!(
            displaced(&held),
            [0, 1],
            "the oldest of the user who has most"
        );
        assert_eq!((gate.tally().half_open, gate.tally().over_limit), (3, 2));
        drop(held);
        assert_eq!((gate.tally().open, gate.tally().half_open), (0, 0));
    }

    #[test]
    fn a_place_is_given_back_once() {
        let gate = gate();
        let mut place = gate.enter(7);
        place.settle();
        place.settle();
        assert_eq!((gate.tally().open, gate.tally().half_open), (1, 0));
        drop(place);
        drop(gate.enter(7));
        assert_eq!((gate.tally().open, gate.tally().half_open), (0, 0));
        assert!(gate.with(|state| state.half_open.is_empty()));
    }

    #[test]
    fn settled_connections_count_against_the_whole() {
        let gate = gate();
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut place = gate.enter(7);
            place.settle();
            held.push(place);
        }
        assert_eq!(gate.admit(1, 8, None).err(), Some(Refusal::Full { pid: 1 }));
        held.pop();
        gate.admit(1, 8, None).unwrap();
    }

    #[test]
    fn one_user_leaves_room_for_others() {
        let gate = Gate::new(Limits {
            open: 4,
            open_per_uid: 2,
            ..Limits::default()
        });
        let held = [gate.enter(7), gate.enter(7)];
        let refused = gate.admit(1, 7, None).err();
        assert_eq!(refused, Some(Refusal::HoldsTooMany { pid: 1 }));
        gate.admit(1, 8, None).unwrap();
        drop(held);
        gate.admit(1, 7, None).unwrap();
    }
}
