//! Whose handshake is next: one source after the other. Pure: no sockets, no clock.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

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

/// Connections that wait for their handshake, by source.
pub(crate) struct FairQueue<T> {
    waiting: HashMap<Source, VecDeque<T>>,
    /// The sources with something waiting, in the order of their turns.
    turns: VecDeque<Source>,
    busy: HashMap<Source, usize>,
    busy_all: usize,
    most: usize,
}

impl<T> FairQueue<T> {
    /// A queue from which `most` may be busy at a time. An eighth of that is kept from any single
    /// source, so that the next one finds room at once.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            busy: HashMap::new(),
            busy_all: 0,
            most,
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Lets a connection wait.
    pub(crate) fn push(&mut self, source: Source, item: T) {
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.turns.push_back(source);
        }
        waiting.push_back(item);
    }

    /// The next connection, if there is room; its source is busy with it until
    /// [`FairQueue::done`].
    pub(crate) fn pop(&mut self) -> Option<(Source, T)> {
        if self.busy_all >= self.most {
            return None;
        }
        let share = (self.most - self.most / 8).max(1);
        for _ in 0..self.turns.len() {
            let source = self.turns.pop_front()?;
            let busy = self.busy.get(&source).copied().unwrap_or(0);
            let item = if busy < share {
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
                *self.busy.entry(source).or_default() += 1;
                self.busy_all += 1;
                return Some((source, item));
            }
        }
        None
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
            queue.push(many, number);
        }
        queue.push(few, 2000);
        queue.push(few, 2001);
        let order: Vec<i32> = (0..5).filter_map(|_| queue.pop()).map(|(_, n)| n).collect();
        assert_eq!(order, [0, 2000, 1, 2001, 2]);
    }

    #[test]
    fn one_source_never_has_all_the_room() {
        let mut queue = FairQueue::new(16);
        let (greedy, other) = (source("192.0.2.1"), source("192.0.2.2"));
        for number in 0..100 {
            queue.push(greedy, number);
        }
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 14);
        queue.push(other, 200);
        assert_eq!(queue.pop(), Some((other, 200)));
        assert_eq!(queue.pop(), None);
        queue.done(greedy);
        assert_eq!(queue.pop(), Some((greedy, 14)));
        queue.done(other);
        for _ in 0..14 {
            queue.done(greedy);
        }
        assert_eq!(queue.busy_all, 0);
        assert!(queue.busy.is_empty());
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 14);
    }

    #[test]
    fn what_was_emptied_is_forgotten() {
        let mut queue = FairQueue::new(4);
        queue.push(source("192.0.2.1"), 1);
        assert!(queue.pop().is_some());
        queue.done(source("192.0.2.1"));
        assert!(queue.waiting.is_empty() && queue.turns.is_empty() && queue.busy.is_empty());
    }
}
