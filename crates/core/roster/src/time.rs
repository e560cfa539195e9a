//! Instants on two clocks, the alarms that hang on them, and how waits grow.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use muster_model::{EntryId, Now, Timestamp};

use crate::groups::GroupId;
use crate::kinds::SvidKind;
use crate::{CallId, RequestId};

/// The longest the machine sleeps while something depends on the civil clock: a step of that
/// clock is noticed after this long, without any news from outside.
pub(crate) const CLOCK_CHECK: Duration = Duration::from_secs(5);

/// An instant that has come as soon as *either* clock says so.
///
/// Civil time alone would let a clock that is set back prolong a lifetime; monotonic time alone
/// stands still while the machine is suspended. Whoever waits for both is fooled by neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    wall: Timestamp,
    mono: Duration,
}

impl When {
    /// `by` from now, by the monotonic clock only: for waits that have nothing to do with dates.
    pub(crate) fn after(now: Now, by: Duration) -> Self {
        Self::at(now.mono.saturating_add(by))
    }

    /// An instant of the monotonic clock only.
    pub(crate) fn at(mono: Duration) -> Self {
        Self {
            wall: Timestamp::MAX,
            mono,
        }
    }

    /// The instant on the civil clock.
    pub(crate) fn wall(self) -> Timestamp {
        self.wall
    }

    /// Whether the instant has come.
    pub(crate) fn reached(self, now: Now) -> bool {
        now.wall >= self.wall || self.is_over_for_good(now)
    }

    /// Whether it has come by the clock that nobody sets.
    pub(crate) fn is_over_for_good(self, now: Now) -> bool {
        now.mono >= self.mono
    }
}

/// When a piece of signed material is renewed and when it is dead. Decided once, on arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) renew: When,
    pub(crate) expire: When,
}

impl Schedule {
    /// The schedule of material that is good from `not_before` to `not_after` and arrives now.
    ///
    /// `renew_at` is the instant that its lifetime gives. Where the two clocks of node and server
    /// are so far apart that this instant has passed on arrival, renewing at once would only
    /// fetch the same again: then half of what remains is waited for, and never less than a
    /// twentieth of the whole life, so that a stepped clock cannot start a storm.
    pub(crate) fn new(
        not_before: Timestamp,
        not_after: Timestamp,
        renew_at: Timestamp,
        now: Now,
    ) -> Self {
        let start = now.wall.max(not_before);
        let remaining = not_after.since(start);
        let expire = When {
            wall: not_after,
            mono: now.mono.saturating_add(remaining),
        };
        let renew = if renew_at > start {
            When {
                wall: renew_at,
                mono: now.mono.saturating_add(renew_at.since(start)),
            }
        } else {
            let least = not_after.since(not_before) / 20;
            When::after(now, (remaining / 2).max(least))
        };
        Self { renew, expire }
    }
}

/// What the machine wakes up for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// An SVID is to be renewed.
    Renew(SvidKind, EntryId),
    /// An SVID has expired.
    Expire(SvidKind, EntryId),
    /// An entry whose signature failed, or waits for its bundle, is due again.
    Retry(SvidKind, EntryId),
    /// Signing was paused after a failure and may go on.
    Resume(SvidKind),
    /// A call has waited long enough for the thing it waits for.
    Call(CallId),
    /// A group has waited long enough for its last missing SVID.
    Settle(SvidKind, GroupId),
    /// A JWT-SVID whose signature failed is due again.
    RetryJwt(RequestId),
    /// Nobody used a name that a rule gave for long enough.
    Forget(EntryId),
}

/// The alarms, ordered by both clocks.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    of: BTreeMap<Alarm, When>,
    by_mono: BTreeSet<(Duration, Alarm)>,
    by_wall: BTreeSet<(Timestamp, Alarm)>,
}

impl Agenda {
    /// Sets or moves an alarm.
    pub(crate) fn set(&mut self, alarm: Alarm, when: When) {
        self.clear(&alarm);
        self.by_mono.insert((when.mono, alarm.clone()));
        if when.wall < Timestamp::MAX {
            self.by_wall.insert((when.wall, alarm.clone()));
        }
        self.of.insert(alarm, when);
    }

    /// Whether an alarm is set.
    pub(crate) fn is_set(&self, alarm: &Alarm) -> bool {
        self.of.contains_key(alarm)
    }

    /// Forgets an alarm.
    pub(crate) fn clear(&mut self, alarm: &Alarm) {
        if let Some(when) = self.of.remove(alarm) {
            self.by_mono.remove(&(when.mono, alarm.clone()));
            self.by_wall.remove(&(when.wall, alarm.clone()));
        }
    }

    /// Takes an alarm whose time has come.
    pub(crate) fn pop(&mut self, now: Now) -> Option<Alarm> {
        let mono = self.by_mono.first().filter(|(at, _)| *at <= now.mono);
        let alarm = if let Some((_, alarm)) = mono {
            alarm.clone()
        } else {
            let (_, alarm) = self.by_wall.first().filter(|(at, _)| *at <= now.wall)?;
            alarm.clone()
        };
        self.clear(&alarm);
        Some(alarm)
    }

    /// The monotonic instant at which to look again; `None` when nothing is awaited.
    pub(crate) fn next(&self, now: Now) -> Option<Duration> {
        let mono = self.by_mono.first().map(|(at, _)| *at);
        let wall = self
            .by_wall
            .first()
            .map(|(at, _)| now.mono.saturating_add(at.since(now.wall).min(CLOCK_CHECK)));
        match (mono, wall) {
            (Some(mono), Some(wall)) => Some(mono.min(wall)),
            (mono, wall) => mono.or(wall),
        }
    }
}

/// A fraction from 0 to 1 that looks random and is the same for the same `of`.
///
/// The core has no dice: what must differ from node to node and from attempt to attempt is a
/// hash of who asks and how often.
pub(crate) fn spread(of: impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    // 53 bits are what an f64 holds exactly.
    #[expect(
        clippy::cast_precision_loss,
        reason = "both numbers have at most 53 bits"
    )]
    let fraction = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

/// How waits grow from failure to failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row (from 1): doubled each time up to the
    /// limit, then shortened by up to a half by `of`, so that nodes that failed together do not
    /// come back together.
    pub(crate) fn wait(self, failures: u32, of: impl Hash) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        full.mul_f64(1.0 - spread((of, failures)) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(wall: i64, mono: u64) -> Now {
        Now {
            wall: Timestamp::from_unix_seconds(wall),
            mono: Duration::from_secs(mono),
        }
    }

    fn at(wall: i64) -> Timestamp {
        Timestamp::from_unix_seconds(wall)
    }

    #[test]
    fn either_clock_is_enough() {
        let s = Schedule::new(at(990), at(4600), at(2800), now(1000, 50));
        assert!(!s.renew.reached(now(2799, 1849)));
        assert!(s.renew.reached(now(2800, 60)), "the civil clock stepped on");
        assert!(s.renew.reached(now(-800, 1850)), "it was set back an hour");
        assert!(s.expire.reached(now(1000, 3650)));
    }

    #[test]
    fn a_node_whose_clock_is_ahead_does_not_renew_at_once() {
        // Good for 3600 s, of which 1000 s remain by this clock, past the renewal instant.
        let s = Schedule::new(at(0), at(3600), at(1800), now(2600, 0));
        assert!(!s.renew.reached(now(2600, 499)));
        assert!(s.renew.reached(now(2600, 500)));
        // Ten seconds remain: a twentieth of the life is the least.
        let s = Schedule::new(at(0), at(3600), at(1800), now(3590, 0));
        assert!(!s.renew.reached(now(3590, 179)));
    }

    #[test]
    fn a_node_whose_clock_is_behind_counts_from_the_start_of_validity() {
        let s = Schedule::new(at(3600), at(7200), at(5400), now(0, 0));
        assert!(s.renew.reached(now(1, 1800)) && !s.renew.reached(now(1, 1799)));
        assert!(s.expire.reached(now(1, 3600)) && !s.expire.reached(now(1, 3599)));
    }

    #[test]
    fn agenda_goes_by_both_clocks() {
        let mut agenda = Agenda::default();
        agenda.set(
            Alarm::Resume(SvidKind::X509),
            When::after(now(0, 0), Duration::from_secs(3)),
        );
        assert_eq!(agenda.next(now(0, 0)), Some(Duration::from_secs(3)));
        let expire = Schedule::new(at(0), at(100), at(50), now(0, 0)).expire;
        let entry = EntryId::parse("e").unwrap();
        agenda.set(Alarm::Expire(SvidKind::X509, entry.clone()), expire);
        assert_eq!(agenda.pop(now(0, 2)), None);
        assert_eq!(
            agenda.pop(now(100, 2)),
            Some(Alarm::Expire(SvidKind::X509, entry))
        );
        assert_eq!(agenda.pop(now(100, 3)), Some(Alarm::Resume(SvidKind::X509)));
        assert_eq!(agenda.next(now(100, 3)), None);
    }

    #[test]
    fn waits_double_up_to_the_limit_and_are_spread() {
        let backoff = Backoff {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
        };
        for failures in 1..40 {
            let full = Duration::from_millis(200 << (failures - 1).min(16)).min(backoff.most);
            let wait = backoff.wait(failures, "node");
            assert!(wait <= full && wait >= full / 2, "{failures}: {wait:?}");
        }
        assert_ne!(backoff.wait(3, "a"), backoff.wait(3, "b"));
        assert_eq!(backoff.wait(3, "a"), backoff.wait(3, "a"));
    }
}
