//! What is to be written, and has not been yet.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;

use bytes::{Buf, Bytes};

/// From so many bytes on no more is taken from calls, and nothing is read.
const HIGH_WATER: usize = 64 * 1024;
/// Payloads up to this size are copied beside their heads, larger ones are passed on as they are.
const COPIED: usize = 1024;

/// Octets in their order. Holds no memory while there are none.
#[derive(Debug, Default)]
pub(crate) struct Output {
    queue: VecDeque<Bytes>,
    /// Of the queue, in bytes.
    queued: usize,
    /// Behind the queue.
    tail: Vec<u8>,
}

impl Output {
    /// Where frames without a large payload are written.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// A payload, behind its head.
    pub(crate) fn payload(&mut self, payload: Bytes) {
        if payload.len() <= COPIED {
            self.tail.extend_from_slice(&payload);
            return;
        }
        self.close_tail();
        self.queued += payload.len();
        self.queue.push_back(payload);
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len() < HIGH_WATER
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.queue.push_back(Bytes::from(mem::take(&mut self.tail)));
        }
    }

    /// The first of what waits, in as many slices as there is room for; returns how many.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.queue.iter().map(|piece| &**piece);
        let tail = (!self.tail.is_empty()).then_some(&*self.tail);
        let mut used = 0;
        for (place, piece) in slices.iter_mut().zip(pieces.chain(tail)) {
            *place = IoSlice::new(piece);
            used += 1;
        }
        used
    }

    /// So many bytes have been written.
    pub(crate) fn advance(&mut self, written: usize) {
        let mut left = written;
        while let Some(first) = self.queue.front_mut() {
            if left < first.len() {
                first.advance(left);
                self.queued -= left;
                return;
            }
            left -= first.len();
            self.queued -= first.len();
            self.queue.pop_front();
        }
        self.queue = VecDeque::new();
        if left >= self.tail.len() {
            self.tail = Vec::new();
        } else {
            self.tail.drain(..left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(output: &mut Output, at_once: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let used = output.slices(&mut slices);
            let now: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
            let now = &now[..now.len().min(at_once)];
            all.extend_from_slice(now);
            output.advance(now.len());
        }
        all
    }

    #[test]
    fn octets_leave_in_their_order_however_many_at_once() {
        let large = Bytes::from(vec![7; COPIED + 1]);
        for at_once in [1, 2, 3, 1000, 1024, 1025, 5000] {
            let mut output = Output::default();
            output.tail().extend(b"ab");
            output.payload(large.clone());
            output.tail().extend(b"c");
            output.payload(Bytes::from_static(b"d"));
            output.payload(large.clone());
            output.tail().extend(b"e");
            let expected = [b"ab", &*large, b"cd", &*large, b"e"].concat();
            assert_eq!(output.len(), expected.len());
            assert_eq!(written(&mut output, at_once), expected, "{at_once}");
            assert_eq!(output.queue.capacity() + output.tail.capacity(), 0);
        }
    }
}
