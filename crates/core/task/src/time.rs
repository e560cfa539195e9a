//! When tasks end, by both clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_model::{Now, Timestamp};

/// How often the civil clock is looked at while something waits for it: it may step.
const CLOCK_CHECK: Duration = Duration::from_secs(5);

/// An instant on both clocks, whichever comes first: a civil clock that is set back prolongs nothing,
/// and neither does a machine that was suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    pub(crate) wall: Timestamp,
    pub(crate) mono: Duration,
}

impl When {
    /// The civil instant `at`, as far away as it is now.
    pub(crate) fn at(at: Timestamp, now: Now) -> Self {
        Self {
            wall: at,
            mono: now.mono.saturating_add(at.since(now.wall)),
        }
    }

    /// `by` from now, by the monotonic clock only.
    pub(crate) fn after(by: Duration, now: Now) -> Self {
        Self {
            wall: Timestamp::MAX,
            mono: now.mono.saturating_add(by),
        }
    }

    fn reached(self, now: Now) -> bool {
        now.wall >= self.wall || now.mono >= self.mono
    }
}

/// Alarms by name.
#[derive(Debug)]
pub(crate) struct Agenda<A> {
    of: BTreeMap<A, When>,
    by_mono: BTreeSet<(Duration, A)>,
    by_wall: BTreeSet<(Timestamp, A)>,
}

impl<A> Default for Agenda<A> {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
            by_mono: BTreeSet::new(),
            by_wall: BTreeSet::new(),
        }
    }
}

impl<A: Copy + Ord> Agenda<A> {
    /// Sets or moves an alarm.
    pub(crate) fn set(&mut self, alarm: A, when: When) {
        self.clear(alarm);
        self.by_mono.insert((when.mono, alarm));
        if when.wall < Timestamp::MAX {
            self.by_wall.insert((when.wall, alarm));
        }
        self.of.insert(alarm, when);
    }

    /// Forgets an alarm.
    pub(crate) fn clear(&mut self, alarm: A) {
        if let Some(when) = self.of.remove(&alarm) {
            self.by_mono.remove(&(when.mono, alarm));
            self.by_wall.remove(&(when.wall, alarm));
        }
    }

    /// Takes an alarm whose time has come.
    pub(crate) fn pop(&mut self, now: Now) -> Option<A> {
        let first = self.by_mono.first().map(|(_, alarm)| *alarm);
        let next = self.by_wall.first().map(|(_, alarm)| *alarm);
        let alarm = [first, next]
            .into_iter()
            .flatten()
            .find(|alarm| self.of.get(alarm).is_some_and(|when| when.reached(now)))?;
        self.clear(alarm);
        Some(alarm)
    }

    /// The monotonic instant at which to look again; `None` when nothing is awaited.
    pub(crate) fn next(&self, now: Now) -> Option<Duration> {
        let mono = self.by_mono.first().map(|(at, _)| *at);
        let wall = self
            .by_wall
            .first()
            .map(|(at, _)| now.mono.saturating_add(at.since(now.wall).min(CLOCK_CHECK)));
        mono.into_iter().chain(wall).min()
    }
}
