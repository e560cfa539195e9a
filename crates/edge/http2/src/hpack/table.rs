//! The client's dynamic table (RFC 7541, 2.3.2 and 4).

use std::collections::VecDeque;

use super::{FIELD_OVERHEAD, TABLE_MAX, statics};

/// An entry, small and in one piece: every connection of thousands has a few of them for as long as
/// it lasts.
#[derive(Debug)]
struct Entry {
    /// The name and the value.
    octets: Box<[u8]>,
    /// How many octets of it are the name.
    name: usize,
}

/// Newest first.
#[derive(Debug)]
pub(crate) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: TABLE_MAX,
        }
    }

    /// Name and value of an entry of either table.
    pub(super) fn entry(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let at = index.checked_sub(1)?;
        if let Some((name, value)) = statics::ENTRIES.get(at) {
            return Some((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(at - statics::COUNT)?;
        entry.octets.split_at_checked(entry.name)
    }

    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        self.evict(self.max.saturating_sub(size));
        // One that is larger than the table leaves it empty (RFC 7541, 4.4).
        if size <= self.max {
            self.size += size;
            self.entries.push_front(Entry {
                octets: [name, value].concat().into(),
                name: name.len(),
            });
        }
    }

    /// Sets the size that the client chose; `None` if it may not.
    pub(super) fn resize(&mut self, max: usize) -> Option<()> {
        if max > TABLE_MAX {
            return None;
        }
        self.max = max;
        self.evict(max);
        Some(())
    }

    fn evict(&mut self, room: usize) {
        while self.size > room {
            let Some(oldest) = self.entries.pop_back() else {
                break;
            };
            let size = oldest.octets.len() + FIELD_OVERHEAD;
            self.size = self.size.saturating_sub(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_entries_come_first() {
        let table = Table::new();
        assert_eq!(table.entry(0), None);
        assert_eq!(table.entry(1), Some((&b":authority"[..], &b""[..])));
        assert_eq!(table.entry(3), Some((&b":method"[..], &b"POST"[..])));
        assert_eq!(table.entry(61), Some((&b"www-authenticate"[..], &b""[..])));
        assert_eq!(table.entry(62), None);
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut table = Table::new();
        table.resize(100).unwrap();
        table.insert(b"a", b"1");
        table.insert(b"b", b"2");
        assert_eq!(table.entry(62), Some((&b"b"[..], &b"2"[..])));
        assert_eq!(table.entry(63), Some((&b"a"[..], &b"1"[..])));
        table.insert(b"c", b"3");
        assert_eq!(table.entry(63), Some((&b"b"[..], &b"2"[..])));
        assert_eq!(table.entry(64), None);
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::new();
        table.insert(b"a", b"1");
        table.insert(b"b", &[b'x'; TABLE_MAX]);
        assert_eq!(table.entry(62), None);
        assert_eq!(table.size, 0);
    }

    #[test]
    fn the_client_may_shrink_and_not_grow_it() {
        let mut table = Table::new();
        table.insert(b"a", b"1");
        assert_eq!(table.resize(TABLE_MAX + 1), None);
        table.resize(0).unwrap();
        assert_eq!(table.entry(62), None);
        table.resize(TABLE_MAX).unwrap();
        table.insert(b"a", b"1");
        assert!(table.entry(62).is_some());
    }
}
