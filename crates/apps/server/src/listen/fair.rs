//! Whose handshake is next: who cannot wait first, and one source after the other. Pure: no sockets,
//! no clock.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use muster_tls::Urgency;

/// Where connections come from: an IPv4 address, or the /64 network of an IPv6 address, of which
/// one host can have all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The source of a connection from `address`.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) >> 64 << 64;
                Self(IpAddr::V6(Ipv6Addr::from(network)))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// Who may begin a handshake now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Everyone.
    Open,
    /// Who cannot wait. So much is to be signed already that more of the others would only wait
    /// elsewhere, at a higher price.
    Urgent,
    /// Nobody, unless nothing at all is under way.
    Shut,
}

/// After so many urgent connections one that can wait comes first, if there is one: who says nothing
/// must not starve behind those who always claim to be in need.
const URGENT_IN_A_ROW: usize = 7;

/// Connections that wait for their handshake: those that cannot wait, and the others; each by
/// source.
pub(crate) struct FairQueue<T> {
    urgent: Lane<T>,
    patient: Lane<T>,
    urgent_in_a_row: usize,
    busy: HashMap<Source, usize>,
    busy_all: usize,
    most: usize,
}

/// Connections of like urgency.
struct Lane<T> {
    waiting: HashMap<Source, VecDeque<T>>,
    /// The sources with something waiting, in the order of their turns.
    turns: VecDeque<Source>,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    fn push(&mut self, source: Source, item: T) {
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.turns.push_back(source);
        }
        waiting.push_back(item);
    }

    /// The next connection of a source that `may` begin one.
    fn pop(&mut self, may: impl Fn(Source) -> bool) -> Option<(Source, T)> {
        for _ in 0..self.turns.len() {
            let source = self.turns.pop_front()?;
            let item = if may(source) {
                self.waiting.get_mut(&source).and_then(VecDeque::pop_front)
            } else {
                None
            };
            if self.waiting.get(&source).is_some_and(VecDeque::is_empty) {
                self.waiting.remove(&source);
            } else {
                self.turns.push_back(source);
            }
            if let Some(item) = item {
                return Some((source, item));
            }
        }
        None
    }

    fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }
}

impl<T> FairQueue<T> {
    /// A queue from which `most` may be busy at a time. An eighth of that is kept from any single
    /// source, so that the next one finds room at once.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            urgent: Lane::new(),
            patient: Lane::new(),
            urgent_in_a_row: 0,
            busy: HashMap::new(),
            busy_all: 0,
            most,
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.urgent.len() + self.patient.len()
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.urgent.turns.is_empty() && self.patient.turns.is_empty()
    }

    /// Lets a connection wait.
    pub(crate) fn push(&mut self, source: Source, urgency: Urgency, item: T) {
        match urgency {
            Urgency::Now => self.urgent.push(source, item),
            Urgency::CanWait => self.patient.push(source, item),
        }
    }

    /// The next connection, if there is room and `gate` lets one of its kind through; its source is
    /// busy with it until [`FairQueue::done`].
    pub(crate) fn pop(&mut self, gate: Gate) -> Option<(Source, T)> {
        if self.busy_all >= self.most {
            return None;
        }
        // However much is to be signed, there is always a way in: behind it may stand someone who
        // wants something else.
        let gate = if self.busy_all == 0 { Gate::Open } else { gate };
        let share = (self.most - self.most / 8).max(1);
        let may = |source| self.busy.get(&source).copied().unwrap_or(0) < share;
        let turn_of_the_patient = self.urgent_in_a_row >= URGENT_IN_A_ROW;
        let (popped, urgent) = match gate {
            Gate::Shut => return None,
            Gate::Urgent => (self.urgent.pop(may), true),
            Gate::Open if turn_of_the_patient => match self.patient.pop(may) {
                Some(popped) => (Some(popped), false),
                None => (self.urgent.pop(may), true),
            },
            Gate::Open => match self.urgent.pop(may) {
                Some(popped) => (Some(popped), true),
                None => (self.patient.pop(may), false),
            },
        };
        let (source, item) = popped?;
        self.urgent_in_a_row = if urgent { self.urgent_in_a_row + 1 } else { 0 };
        *self.busy.entry(source).or_default() += 1;
        self.busy_all += 1;
        Some((source, item))
    }

    /// A handshake of `source` has ended, however it did.
    pub(crate) fn done(&mut self, source: Source) {
        self.busy_all = self.busy_all.saturating_sub(1);
        if let Some(busy) = self.busy.get_mut(&source) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn push<T>(queue: &mut FairQueue<T>, source: Source, item: T) {
        queue.push(source, Urgency::CanWait, item);
    }

    #[test]
    fn a_network_is_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    }

    #[test]
    fn sources_take_turns_however_many_one_brings() {
        let mut queue = FairQueue::new(16);
        let (many, few) = (source("192.0.2.1"), source("192.0.2.2"));
        for number in 0..1000 {
            push(&mut queue, many, number);
        }
        push(&mut queue, few, 2000);
        push(&mut queue, few, 2001);
        let order: Vec<i32> = (0..5)
            .filter_map(|_| queue.pop(Gate::Open))
            .map(|(_, n)| n)
            .collect();
        assert_eq!(order, [0, 2000, 1, 2001, 2]);
    }

    #[test]
    fn one_source_never_has_all_the_room() {
        let mut queue = FairQueue::new(16);
        let (greedy, other) = (source("192.0.2.1"), source("192.0.2.2"));
        for number in 0..100 {
            push(&mut queue, greedy, number);
        }
        assert_eq!(std::iter::from_fn(|| queue.pop(Gate::Open)).count(), 14);
        push(&mut queue, other, 200);
        assert_eq!(queue.pop(Gate::Open), Some((other, 200)));
        assert_eq!(queue.pop(Gate::Open), None);
        queue.done(greedy);
        assert_eq!(queue.pop(Gate::Open), Some((greedy, 14)));
        queue.done(other);
        for _ in 0..14 {
            queue.done(greedy);
        }
        assert_eq!(queue.busy_all, 0);
        assert!(queue.busy.is_empty());
        assert_eq!(std::iter::from_fn(|| queue.pop(Gate::Open)).count(), 14);
    }

    #[test]
    fn what_was_emptied_is_forgotten() {
        let mut queue = FairQueue::new(4);
        push(&mut queue, source("192.0.2.1"), 1);
        assert!(queue.pop(Gate::Open).is_some());
        queue.done(source("192.0.2.1"));
        assert!(queue.patient.waiting.is_empty() && queue.patient.turns.is_empty());
        assert!(queue.busy.is_empty() && queue.is_empty());
    }

    #[test]
    fn who_cannot_wait_comes_first_and_nobody_starves() {
        let mut queue = FairQueue::new(100);
        let here = source("192.0.2.1");
        for number in 0..20 {
            queue.push(here, Urgency::CanWait, 100 + number);
            queue.push(here, Urgency::Now, number);
        }
        let order: Vec<i32> = (0..18)
            .filter_map(|_| queue.pop(Gate::Open))
            .map(|(_, n)| n)
            .collect();
        let expected = [
            0, 1, 2, 3, 4, 5, 6, 100, 7, 8, 9, 10, 11, 12, 13, 101, 14, 15,
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_gate_holds_back_and_never_all() {
        let mut queue = FairQueue::new(16);
        let here = source("192.0.2.1");
        queue.push(here, Urgency::CanWait, 10);
        queue.push(here, Urgency::CanWait, 11);
        // Nothing is under way: one goes through.
        assert_eq!(queue.pop(Gate::Shut), Some((here, 10)));
        assert_eq!(queue.pop(Gate::Shut), None);
        assert_eq!(queue.pop(Gate::Urgent), None);
        queue.push(here, Urgency::Now, 1);
        assert_eq!(queue.pop(Gate::Shut), None);
        assert_eq!(queue.pop(Gate::Urgent), Some((here, 1)));
        assert_eq!(queue.pop(Gate::Open), Some((here, 11)));
        queue.push(here, Urgency::CanWait, 12);
        for _ in 0..3 {
            queue.done(here);
        }
        assert_eq!(queue.pop(Gate::Shut), Some((here, 12)));
    }
}
