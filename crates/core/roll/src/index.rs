//! Secondary indexes of the entries.

use std::ops::RangeInclusive;

use imbl::OrdSet;

/// A persistent multimap from a 64-bit key to the ordinals of entries, in ascending order.
///
/// Keys are hashes of what the index is about (or instants), so that a pair is 16 bytes whatever
/// is indexed and one tree serves a parent with 100,000 children as well as 100,000 parents with
/// one. Two things may share a hash: who reads an index compares the entry itself.
#[derive(Clone, Default)]
pub(crate) struct Index(OrdSet<(u64, u64)>);

impl Index {
    pub(crate) fn insert(&mut self, key: u64, ordinal: u64) {
        self.0.insert((key, ordinal));
    }

    pub(crate) fn remove(&mut self, key: u64, ordinal: u64) {
        self.0.remove(&(key, ordinal));
    }

    /// The ordinals under `key`, ascending.
    pub(crate) fn at(&self, key: u64) -> impl Iterator<Item = u64> + '_ {
        self.within(key, 0..=u64::MAX)
    }

    /// The ordinals under `key` that are greater than `ordinal`, ascending.
    pub(crate) fn after(&self, key: u64, ordinal: u64) -> impl Iterator<Item = u64> + '_ {
        // No entry has the ordinal `u64::MAX`: ordinals are counted from 1.
        self.within(key, ordinal.saturating_add(1)..=u64::MAX)
    }

    /// All ordinals whose key is at most `key`, by ascending key.
    pub(crate) fn up_to(&self, key: u64) -> impl Iterator<Item = u64> + '_ {
        self.0.range(..=(key, u64::MAX)).map(|pair| pair.1)
    }

    fn within(&self, key: u64, ordinals: RangeInclusive<u64>) -> impl Iterator<Item = u64> + '_ {
        self.0
            .range((key, *ordinals.start())..=(key, *ordinals.end()))
            .map(|pair| pair.1)
    }

    /// Fills an empty index, see [`in_packing_order`].
    pub(crate) fn fill(&mut self, mut pairs: Vec<(u64, u64)>) {
        pairs.sort_unstable();
        self.0.extend(in_packing_order(pairs));
    }
}

/// Sorted items in the order in which a B-tree that is filled with them ends up full: first every
/// second one, which leaves each node half full as ascending inserts do, then those between, which
/// fill the nodes. The tree takes half of the memory, and is built left to right, twice.
pub(crate) fn in_packing_order<T: Clone>(sorted: Vec<T>) -> impl Iterator<Item = T> {
    let between: Vec<T> = sorted.iter().skip(1).step_by(2).cloned().collect();
    sorted.into_iter().step_by(2).chain(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_by_packing() {
        for count in [0, 1, 2, 3, 1000, 1001] {
            let mut packed: Vec<u64> = in_packing_order((0..count).collect()).collect();
            packed.sort_unstable();
            assert_eq!(packed, (0..count).collect::<Vec<_>>());
        }
        assert_eq!(
            in_packing_order(vec![1, 2, 3, 4, 5]).collect::<Vec<_>>(),
            [1, 3, 5, 2, 4]
        );
    }
}
