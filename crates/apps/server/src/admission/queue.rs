//! Who is next: earliest due first, within bounds. Pure: no clock, no waiting.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use muster_model::{SpiffeId, Timestamp};

/// Bounds on what may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Signatures that may wait, all callers together.
    pub(crate) signatures: usize,
    /// Requests that one caller may have waiting.
    pub(crate) by_caller: usize,
    /// Signatures that are made by the second, until that is known better.
    pub(crate) by_second: usize,
}

/// A place in the queue: due when, and which arrival. Smaller is sooner.
type Place = (Timestamp, u64);

struct Waiting<T> {
    caller: SpiffeId,
    signatures: usize,
    /// Whether it was due soon when it came.
    soon: bool,
    item: T,
}

/// What came of a request to wait.
pub(crate) struct Entered<T> {
    /// Who must leave, and after how long it may come again: perhaps the newcomer itself.
    pub(crate) refused: Vec<(T, Duration)>,
}

/// Requests that wait to be signed.
pub(crate) struct Queue<T> {
    bounds: Bounds,
    waiting: BTreeMap<Place, Waiting<T>>,
    callers: HashMap<SpiffeId, usize>,
    signatures: usize,
    /// Those of them that were due soon when they came.
    signatures_soon: usize,
    arrivals: u64,
    /// Until when the time of the signers is promised to those who were sent away.
    promised: Timestamp,
    pace: Pace,
}

/// How many signatures are made by the second, as seen while there was no lack of work.
struct Pace {
    by_second: usize,
    since: Timestamp,
    made: usize,
    idle: bool,
}

/// How long a look at the pace takes at least.
const LOOK: Duration = Duration::from_secs(1);

impl Pace {
    fn look(&mut self, now: Timestamp) {
        let passed = now.since(self.since);
        if passed < LOOK {
            return;
        }
        if !self.idle && passed < 5 * LOOK {
            let millis = usize::try_from(passed.as_millis()).unwrap_or(usize::MAX);
            let seen = self.made.saturating_mul(1000) / millis.max(1);
            self.by_second = usize::midpoint(self.by_second, seen).max(1);
        }
        *self = Self {
            since: now,
            made: 0,
            idle: false,
            ..*self
        };
    }
}

/// What is due within this time is due soon.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// The shortest and the longest wait that a refused caller is told.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

impl<T> Queue<T> {
    /// A queue with nobody in it.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: BTreeMap::new(),
            callers: HashMap::new(),
            signatures: 0,
            signatures_soon: 0,
            arrivals: 0,
            promised: Timestamp::EPOCH,
            pace: Pace {
                by_second: bounds.by_second,
                since: Timestamp::EPOCH,
                made: 0,
                idle: true,
            },
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many signatures wait.
    pub(crate) fn signatures(&self) -> usize {
        self.signatures
    }

    /// How many of them were due within [`SOON`] when they came.
    pub(crate) fn signatures_soon(&self) -> usize {
        self.signatures_soon
    }

    /// Lets a request for `signatures` wait that is due at `due`.
    ///
    /// What is due already is due at its arrival: those who are late are served as they come, and
    /// whoever claims to be later than late gains nothing. Since time goes on, whatever waits is
    /// the first one day: nobody starves.
    ///
    /// Where there is no room, the least urgent leave, and are told when to come again: one after
    /// the other, at the pace at which signatures are made, once what waits is done; and before half
    /// of the time that they have left is over.
    pub(crate) fn enter(
        &mut self,
        caller: SpiffeId,
        due: Timestamp,
        signatures: usize,
        item: T,
        now: Timestamp,
    ) -> Entered<T> {
        self.pace.look(now);
        self.arrivals += 1;
        let due = due.max(now);
        let mut refused = Vec::new();
        let own = self.callers.get(&caller).copied().unwrap_or(0);
        if own >= self.bounds.by_caller {
            refused.push((item, self.promise(due, signatures, now)));
            return Entered { refused };
        }
        *self.callers.entry(caller.clone()).or_default() += 1;
        let soon = due <= now.plus(SOON);
        self.signatures += signatures;
        if soon {
            self.signatures_soon += signatures;
        }
        let waiting = Waiting {
            caller,
            signatures,
            soon,
            item,
        };
        self.waiting.insert((due, self.arrivals), waiting);
        // One request is always let in, however large it is.
        while self.signatures > self.bounds.signatures && self.waiting.len() > 1 {
            let Some(((due, _), last)) = self.waiting.pop_last() else {
                break;
            };
            self.leave(&last);
            let wait = self.promise(due, last.signatures, now);
            refused.push((last.item, wait));
        }
        Entered { refused }
    }

    /// The request that is due first.
    pub(crate) fn next(&mut self) -> Option<T> {
        let Some((_, first)) = self.waiting.pop_first() else {
            self.pace.idle = true;
            return None;
        };
        self.pace.made += first.signatures;
        self.leave(&first);
        Some(first.item)
    }

    /// Forgets those that have gone by themselves.
    pub(crate) fn retain(&mut self, still_there: impl Fn(&T) -> bool) {
        let gone: Vec<Place> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| !still_there(&waiting.item))
            .map(|(place, _)| *place)
            .collect();
        for place in gone {
            if let Some(waiting) = self.waiting.remove(&place) {
                self.leave(&waiting);
            }
        }
    }

    fn leave(&mut self, waiting: &Waiting<T>) {
        self.signatures -= waiting.signatures;
        if waiting.soon {
            self.signatures_soon -= waiting.signatures;
        }
        if let Some(own) = self.callers.get_mut(&waiting.caller) {
            *own -= 1;
            if *own == 0 {
                self.callers.remove(&waiting.caller);
            }
        }
    }

    /// Promises time to a caller that is sent away, and tells it how far off that is.
    fn promise(&mut self, due: Timestamp, signatures: usize, now: Timestamp) -> Duration {
        let free = now.plus(self.work(self.signatures).max(SHORTEST));
        // Nobody is told more than the longest wait: what is further off is anyone's guess, and
        // whoever comes too early is sent away again.
        let start = if self.promised > now.plus(LONGEST) {
            free
        } else {
            self.promised.max(free)
        };
        self.promised = start.plus(self.work(signatures));
        let left = due.since(now) / 2;
        start.since(now).min(LONGEST).min(left.max(SHORTEST))
    }

    /// Half of the time that it takes to make so many: whoever comes too early finds a place to wait
    /// by then, or is sent away once more, which costs little; whoever comes too late leaves the
    /// signers idle.
    fn work(&self, signatures: usize) -> Duration {
        let millis = signatures.saturating_mul(500) / self.pace.by_second.max(1);
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use muster_model::TrustDomain;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        signatures: 100,
        by_caller: 3,
        by_second: 10,
    };

    fn caller(number: u32) -> SpiffeId {
        let path = format!("/spire/agent/{number}");
        TrustDomain::parse("td").unwrap().with_path(&path).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn order(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn whoever_is_due_first_is_first() {
        let mut queue = Queue::new(BOUNDS);
        for (number, name, due) in [(1, "early", 900), (2, "soon", 110), (3, "expired", 20)] {
            assert!(
                queue
                    .enter(caller(number), at(due), 1, name, at(100))
                    .refused
                    .is_empty()
            );
        }
        assert_eq!(order(&mut queue), ["expired", "soon", "early"]);
    }

    #[test]
    fn the_late_are_served_as_they_come_whatever_they_claim() {
        let mut queue = Queue::new(BOUNDS);
        queue.enter(caller(1), at(99), 1, "first", at(100));
        queue.enter(caller(2), at(1), 1, "claims to be later than late", at(101));
        assert_eq!(order(&mut queue), ["first", "claims to be later than late"]);
    }

    #[test]
    fn nobody_starves() {
        let mut queue = Queue::new(BOUNDS);
        queue.enter(caller(1), at(130), 1, "early", at(100));
        queue.enter(caller(2), at(0), 1, "expired", at(131));
        // What expired after the early one became due comes after it.
        assert_eq!(order(&mut queue), ["early", "expired"]);
    }

    #[test]
    fn without_room_the_least_urgent_leave() {
        let mut queue = Queue::new(BOUNDS);
        queue.enter(caller(1), at(500), 60, "early", at(100));
        queue.enter(caller(2), at(400), 30, "less early", at(100));
        let refused = queue
            .enter(caller(3), at(0), 50, "expired", at(100))
            .refused;
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].0, "early");
        let refused = queue
            .enter(caller(4), at(900), 50, "earliest", at(100))
            .refused;
        assert_eq!(refused[0].0, "earliest");
        assert!(refused[0].1 >= SHORTEST && refused[0].1 <= LONGEST);
        assert_eq!(order(&mut queue), ["expired", "less early"]);
    }

    #[test]
    fn nobody_is_sent_away_beyond_half_of_what_is_left() {
        let mut queue = Queue::new(BOUNDS);
        queue.enter(caller(1), at(0), 100, "expired", at(100));
        let refused = queue.enter(caller(2), at(106), 1, "soon", at(100)).refused;
        assert!(refused[0].1 <= Duration::from_secs(3), "{:?}", refused[0].1);
    }

    #[test]
    fn those_who_are_sent_away_come_back_at_the_pace_of_the_signers() {
        let mut queue = Queue::new(BOUNDS);
        queue.enter(caller(0), at(0), 100, "expired", at(100));
        let waits: Vec<u64> = (1..=5)
            .map(|number| {
                let refused = queue
                    .enter(caller(number), at(9000), 20, "early", at(100))
                    .refused;
                refused[0].1.as_secs()
            })
            .collect();
        // Ten seconds of work wait, and each of them is two; half of that is waited.
        assert_eq!(waits, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn the_pace_is_what_was_seen() {
        let mut queue = Queue::new(BOUNDS);
        queue.enter(caller(0), at(0), 50, "a", at(100));
        queue.enter(caller(1), at(0), 50, "b", at(100));
        assert_eq!(queue.next(), Some("a"));
        // Fifty in the second that has passed, and ten were thought: the middle is thirty.
        let refused = queue
            .enter(caller(2), at(9000), 60, "early", at(101))
            .refused;
        assert_eq!(refused[0].1, SHORTEST);
        assert_eq!(queue.pace.by_second, 30);
        // Nothing is learned from a time without work.
        assert_eq!((queue.next(), queue.next()), (Some("b"), None));
        queue.enter(caller(3), at(0), 90, "c", at(103));
        assert_eq!(queue.pace.by_second, 30);
    }

    #[test]
    fn one_caller_has_so_many_places_and_no_more() {
        let mut queue = Queue::new(BOUNDS);
        for _ in 0..3 {
            assert!(
                queue
                    .enter(caller(1), at(0), 1, "x", at(100))
                    .refused
                    .is_empty()
            );
        }
        assert_eq!(
            queue.enter(caller(1), at(0), 1, "y", at(100)).refused[0].0,
            "y"
        );
        assert!(
            queue
                .enter(caller(2), at(0), 1, "z", at(100))
                .refused
                .is_empty()
        );
        queue.next();
        assert!(
            queue
                .enter(caller(1), at(0), 1, "y", at(100))
                .refused
                .is_empty()
        );
    }

    #[test]
    fn one_large_request_is_let_in() {
        let mut queue = Queue::new(BOUNDS);
        assert!(
            queue
                .enter(caller(1), at(0), 5000, "large", at(100))
                .refused
                .is_empty()
        );
        assert_eq!(order(&mut queue), ["large"]);
    }

    proptest! {
        /// Whatever comes and goes: the bounds hold, the counts are right, and nobody who is served
        /// was due after somebody who waits.
        #[test]
        fn bounds_and_order(steps in prop::collection::vec((0..6_u32, 0..1000_i64, 1..40_usize, 0..3_u8), 1..200)) {
            let mut queue = Queue::new(BOUNDS);
            for (now, (number, due, signatures, what)) in (500_i64..).zip(steps) {
                match what {
                    0 => {
                        let first = queue.waiting.keys().next().copied();
                        prop_assert_eq!(queue.next(), first.map(|place| place.1));
                    }
                    1 => queue.retain(|arrival| arrival % 7 != 0),
                    _ => {
                        let arrival = queue.arrivals + 1;
                        queue.enter(caller(number), at(due), signatures, arrival, at(now));
                    }
                }
                prop_assert!(queue.signatures <= BOUNDS.signatures);
                prop_assert_eq!(queue.signatures, queue.waiting.values().map(|w| w.signatures).sum::<usize>());
                prop_assert_eq!(queue.signatures_soon, queue.waiting.values().filter(|w| w.soon).map(|w| w.signatures).sum::<usize>());
                prop_assert_eq!(queue.waiting.len(), queue.callers.values().sum::<usize>());
                prop_assert!(queue.callers.values().all(|own| *own <= BOUNDS.by_caller));
            }
        }
    }
}
