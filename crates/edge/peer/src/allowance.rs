//! What each neighbour may ask of a socket, decided before anything is learnt about it.
//!
//! A neighbour is a user in a control group, so that containers that all run as user 0 are told
//! apart. Who makes control groups of its own gains little: all groups of a user together have
//! [`GROUPS`] times one group's allowance.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_rt::Clock;

/// How many control groups' allowances one user has in all.
const GROUPS: u32 = 4;
/// When this many neighbours are known, those who are owed nothing are forgotten.
const SWEEP_AT: usize = 4_096;

/// So many by the second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// By the second, in the long run. At least 1.
    pub per_second: u32,
    /// At once, after a silence. At least 1.
    pub burst: u32,
}

impl Rate {
    fn times(self, factor: u32) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(factor),
            burst: self.burst.saturating_mul(factor),
        }
    }

    fn cost(self, units: u32) -> Duration {
        Duration::from_secs(1) * units / self.per_second.max(1)
    }
}

/// The limits of one neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// New connections.
    pub connections: Rate,
    /// Calls, weighed by the work that they ask for: see [`CallPlace::charge`].
    pub calls: Rate,
    /// Calls of one user that are open at the same time.
    pub open_calls: usize,
}

impl Default for Allowance {
    /// What no honest workload meets: ten thousand processes of a user that all connect within a
    /// second, and each call again within it.
    fn default() -> Self {
        Self {
            connections: Rate {
                per_second: 6_000,
                burst: 12_000,
            },
            calls: Rate {
                per_second: 10_000,
                burst: 20_000,
            },
            open_calls: 49_152,
        }
    }
}

/// What a neighbour was refused. A closed set: the words label metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// Too many calls in a short time, or too costly ones.
    #[error("too many calls, or too costly ones, in a short time; call again later")]
    Calls,
    /// Too many calls at the same time.
    #[error("too many calls of one user are open; end some, or call again later")]
    OpenCalls,
}

impl OverLimit {
    /// The word for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Calls => "call_rate",
            Self::OpenCalls => "calls_per_user",
        }
    }
}

/// Rations by the generic cell rate algorithm: `paid_until` is when all that was taken is earned.
/// Times are those of a monotonic clock.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    paid_until: Mutex<Duration>,
}

impl Bucket {
    fn new(rate: Rate, now: Duration) -> Self {
        Self {
            rate,
            paid_until: Mutex::new(now),
        }
    }

    fn has_room(&self, now: Duration) -> bool {
        let until = (*self.lock()).max(now) + self.rate.cost(1);
        until.saturating_sub(now) <= self.rate.cost(self.rate.burst.max(1))
    }

    /// Takes `units` whether or not there is room for them: what was done is owed.
    fn take(&self, units: u32, now: Duration) {
        let mut paid_until = self.lock();
        *paid_until = (*paid_until).max(now) + self.rate.cost(units);
    }

    fn owes_nothing(&self, now: Duration) -> bool {
        *self.lock() <= now
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One neighbour, or all of a user's neighbours together.
#[derive(Debug)]
struct Account {
    connections: Bucket,
    calls: Bucket,
    open_calls: AtomicUsize,
}

impl Account {
    fn new(allowance: &Allowance, factor: u32, now: Duration) -> Self {
        Self {
            connections: Bucket::new(allowance.connections.times(factor), now),
            calls: Bucket::new(allowance.calls.times(factor), now),
            open_calls: AtomicUsize::new(0),
        }
    }
}

/// A neighbour as its connections know it. Clones are the same neighbour.
#[derive(Clone)]
pub(crate) struct Neighbour {
    own: Arc<Account>,
    user: Arc<Account>,
    rules: Arc<Rules>,
}

/// What is the same for all neighbours of a socket.
struct Rules {
    allowance: Allowance,
    clock: Arc<dyn Clock>,
}

impl Rules {
    fn now(&self) -> Duration {
        self.clock.now().mono
    }
}

impl Neighbour {
    pub(crate) fn admit_call(&self) -> Result<CallPlace, OverLimit> {
        let now = self.rules.now();
        if !(self.own.calls.has_room(now) && self.user.calls.has_room(now)) {
            return Err(OverLimit::Calls);
        }
        let most = self.rules.allowance.open_calls;
        if self.user.open_calls.fetch_add(1, Ordering::Relaxed) >= most {
            self.user.open_calls.fetch_sub(1, Ordering::Relaxed);
            return Err(OverLimit::OpenCalls);
        }
        self.own.calls.take(1, now);
        self.user.calls.take(1, now);
        Ok(CallPlace {
            neighbour: self.clone(),
        })
    }
}

/// A call's place among its user's; given back when dropped.
pub struct CallPlace {
    neighbour: Neighbour,
}

impl CallPlace {
    /// Charges for what was done for the call beyond an ordinary one, in units of about a
    /// millisecond of processor time. By the work and not by the time that it took: who has to
    /// wait because of its neighbours does not pay for it.
    pub fn charge(&self, units: u32) {
        if units > 0 {
            let now = self.neighbour.rules.now();
            // At most half a burst, so that nobody pays for ever for one large program.
            for account in [&self.neighbour.own, &self.neighbour.user] {
                let most = account.calls.rate.burst / 2;
                account.calls.take(units.min(most), now);
            }
        }
    }
}

impl fmt::Debug for CallPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallPlace")
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.neighbour
            .user
            .open_calls
            .fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who: a user, or a user in a control group. Where no group can be told, all of them are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    User(u32),
    Group(u32, Option<u64>),
}

/// All neighbours of a socket.
pub(crate) struct Neighbours {
    rules: Arc<Rules>,
    accounts: Mutex<HashMap<Key, Arc<Account>>>,
}

impl Neighbours {
    pub(crate) fn new(allowance: Allowance, clock: Arc<dyn Clock>) -> Self {
        Self {
            rules: Arc::new(Rules { allowance, clock }),
            accounts: Mutex::default(),
        }
    }

    /// Takes a connection from the allowance; `None` when it is used up.
    pub(crate) fn admit_connection(&self, uid: u32, cgroup: Option<u64>) -> Option<Neighbour> {
        let now = self.rules.now();
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= SWEEP_AT {
            accounts.retain(|_, account| {
                Arc::strong_count(account) > 1
                    || !account.connections.owes_nothing(now)
                    || !account.calls.owes_nothing(now)
            });
        }
        let mut account = |key, factor| {
            let account = accounts
                .entry(key)
                .or_insert_with(|| Arc::new(Account::new(&self.rules.allowance, factor, now)));
            Arc::clone(account)
        };
        // The user first: who is over that limit makes no further accounts.
        let user = account(Key::User(uid), GROUPS);
        if !user.connections.has_room(now) {
            return None;
        }
        let own = account(Key::Group(uid, cgroup), 1);
        if !own.connections.has_room(now) {
            return None;
        }
        own.connections.take(1, now);
        user.connections.take(1, now);
        Some(Neighbour {
            own,
            user,
            rules: Arc::clone(&self.rules),
        })
    }
}

#[cfg(test)]
mod tests {
    use muster_model::{Now, Timestamp};

    use super::*;

    /// A clock that stands until it is told to go on.
    #[derive(Default)]
    struct Hands(Mutex<Duration>);

    impl Hands {
        fn advance(&self, by: Duration) {
            *self.0.lock().unwrap() += by;
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Now {
            Now {
                wall: Timestamp::from_unix_seconds(0),
                mono: *self.0.lock().unwrap(),
            }
        }
    }

    fn neighbours() -> (Neighbours, Arc<Hands>) {
        let rate = Rate {
            per_second: 10,
            burst: 5,
        };
        let allowance = Allowance {
            connections: rate,
            calls: rate,
            open_calls: 3,
        };
        let clock = Arc::<Hands>::default();
        (Neighbours::new(allowance, clock.clone()), clock)
    }

    fn admitted(all: &Neighbours, uid: u32, cgroup: u64, tries: usize) -> usize {
        let admit = |_: &usize| all.admit_connection(uid, Some(cgroup)).is_some();
        (0..tries).filter(admit).count()
    }

    #[test]
    fn who_floods_meets_its_own_limit_and_no_other() {
        let (all, clock) = neighbours();
        assert_eq!(admitted(&all, 7, 1, 100), 5);
        assert_eq!(admitted(&all, 7, 2, 1), 1, "the same user elsewhere");
        assert_eq!(admitted(&all, 8, 1, 1), 1, "another user");
        clock.advance(Duration::from_millis(300));
        assert_eq!(admitted(&all, 7, 1, 100), 3, "ten by the second");
    }

    #[test]
    fn groups_of_ones_own_do_not_multiply_for_ever() {
        let (all, _clock) = neighbours();
        let admitted: usize = (0..100).map(|group| admitted(&all, 7, group, 5)).sum();
        assert_eq!(admitted, 5 * usize::try_from(GROUPS).unwrap());
        assert_eq!(all.accounts.lock().unwrap().len(), 5, "one is the user's");
    }

    #[test]
    fn calls_are_weighed() {
        let (all, clock) = neighbours();
        let neighbour = all.admit_connection(7, Some(1)).unwrap();
        let place = neighbour.admit_call().unwrap();
        place.charge(0);
        drop(neighbour.admit_call().unwrap());
        place.charge(1_000_000);
        drop(neighbour.admit_call().unwrap());
        assert_eq!(neighbour.admit_call().unwrap_err(), OverLimit::Calls);
        clock.advance(Duration::from_millis(100));
        drop(neighbour.admit_call().unwrap());
    }

    #[test]
    fn open_calls_are_given_back() {
        let (all, _clock) = neighbours();
        let neighbour = all.admit_connection(7, None).unwrap();
        let mut open: Vec<_> = (0..3).map(|_| neighbour.admit_call().unwrap()).collect();
        assert_eq!(neighbour.admit_call().unwrap_err(), OverLimit::OpenCalls);
        open.pop();
        open.push(neighbour.admit_call().unwrap());
    }

    #[test]
    fn those_who_owe_nothing_are_forgotten() {
        let (all, clock) = neighbours();
        for uid in 0..3 * u32::try_from(SWEEP_AT).unwrap() {
            drop(all.admit_connection(uid, None));
            clock.advance(Duration::from_millis(1));
        }
        assert!(all.accounts.lock().unwrap().len() < 2 * SWEEP_AT);
    }
}
