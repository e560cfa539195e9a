//! How many connections one socket keeps, and who holds them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bounds on the connections of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all. Further ones are closed at once, which gRPC clients report as
    /// `UNAVAILABLE` and retry.
    pub open: usize,
    /// Connections that have not sent a whole HTTP/2 preface yet.
    pub half_open: usize,
    /// The part of `half_open` that one user's processes may hold, so that one user cannot keep
    /// the others out.
    pub half_open_per_uid: usize,
    /// How long a connection may take to send the preface.
    pub first_bytes: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open: 16_384,
            half_open: 1_024,
            half_open_per_uid: 512,
            first_bytes: Duration::from_secs(10),
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
    /// Connections closed at once because a limit was reached.
    pub over_limit: u64,
    /// Connections refused because of who was at the other end.
    pub refused: u64,
    /// Descriptors that others tried to hand over.
    pub descriptors: u64,
    /// Times when accepting had to pause, for want of descriptors or memory.
    pub pauses: u64,
}

/// Counts the connections of one socket.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tally: Tally,
    half_open_by_uid: HashMap<u32, usize>,
}

/// A connection's place; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    /// The user, while the connection is half-open.
    half_open_uid: Option<u32>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
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

    pub(crate) fn count_refused(&self) {
        self.with(|state| state.tally.refused += 1);
    }

    pub(crate) fn count_pause(&self) {
        self.with(|state| state.tally.pauses += 1);
    }

    pub(crate) fn count_descriptors(&self, number: usize) {
        self.with(|state| state.tally.descriptors += number as u64);
    }

    /// Whether another connection fits at all; asked before anything is learnt about it.
    pub(crate) fn has_room(&self) -> bool {
        self.with(|state| {
            let room = state.tally.open < self.limits.open
                && state.tally.half_open < self.limits.half_open;
            if !room {
                state.tally.over_limit += 1;
            }
            room
        })
    }

    /// Takes a place for a new connection of `uid`.
    pub(crate) fn enter(self: &Arc<Self>, uid: u32) -> Option<Place> {
        self.with(|state| {
            let mine = state.half_open_by_uid.entry(uid).or_default();
            if state.tally.open >= self.limits.open
                || state.tally.half_open >= self.limits.half_open
                || *mine >= self.limits.half_open_per_uid
            {
                if *mine == 0 {
                    state.half_open_by_uid.remove(&uid);
                }
                state.tally.over_limit += 1;
                return None;
            }
            *mine += 1;
            state.tally.half_open += 1;
            state.tally.open += 1;
            Some(Place {
                gate: Arc::clone(self),
                half_open_uid: Some(uid),
            })
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // Counters stay consistent whatever panicked: every update is one step.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Place {
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The preface has arrived.
    pub(crate) fn settle(&mut self) {
        let Some(uid) = self.half_open_uid.take() else {
            return;
        };
        self.gate.with(|state| {
            state.tally.half_open = state.tally.half_open.saturating_sub(1);
            if let Some(mine) = state.half_open_by_uid.get_mut(&uid) {
                *mine = mine.saturating_sub(1);
                if *mine == 0 {
                    state.half_open_by_uid.remove(&uid);
                }
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle();
        self.gate
            .with(|state| state.tally.open = state.tally.open.saturating_sub(1));
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

    #[test]
    fn one_user_cannot_hold_every_half_open_place() {
        let gate = gate();
        let held: Vec<_> = (0..3).map(|_| gate.enter(7)).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        assert!(gate.enter(8).is_some());
    }

    #[test]
    fn a_place_is_given_back_once() {
        let gate = gate();
        let mut place = gate.enter(7).unwrap();
        place.settle();
        place.settle();
        assert_eq!((gate.tally().open, gate.tally().half_open), (1, 0));
        drop(place);
        drop(gate.enter(7));
        assert_eq!((gate.tally().open, gate.tally().half_open), (0, 0));
        assert!(gate.with(|state| state.half_open_by_uid.is_empty()));
    }

    #[test]
    fn settled_connections_count_against_the_whole() {
        let gate = gate();
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut place = gate.enter(7).unwrap();
            place.settle();
            held.push(place);
        }
        assert!(!gate.has_room());
        assert!(gate.enter(8).is_none());
        assert_eq!(gate.tally().over_limit, 2);
        held.pop();
        assert!(gate.has_room());
    }
}
