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

    /// Fills an empty index: sorted, the tree is built left to right and stays in the cache.
    pub(crate) fn fill(&mut self, mut pairs: Vec<(u64, u64)>) {
        pairs.sort_unstable();
        self.0.extend(pairs);
    }
}
