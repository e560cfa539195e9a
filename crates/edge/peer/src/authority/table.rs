//! The client's dynamic table, as far as it matters here (RFC 7541, 2.3.2 and 4).

use std::collections::VecDeque;

use bytes::Bytes;

/// The size that both sides begin with, and that the server never raises, in octets.
pub(super) const MAX_TABLE: usize = 4096;
/// What an entry counts beyond its strings (RFC 7541, 4.1).
const OVERHEAD: usize = 32;
/// The static table's index of `:authority`.
pub(super) const AUTHORITY: usize = 1;
/// How many entries the static table has.
pub(super) const STATIC_ENTRIES: usize = 61;

/// The lengths of the static table's names, in its order (RFC 7541, appendix A).
const STATIC_NAME_LENGTHS: [u8; STATIC_ENTRIES] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

/// A string as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// With its length prefix and Huffman flag.
    pub(super) wire: Bytes,
    /// How many octets it stands for.
    pub(super) decoded_len: usize,
}

/// A field's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// An index of the static table.
    Static(usize),
    /// Written out; never `:authority`, which is always `Static(AUTHORITY)`.
    Text(Text),
}

impl Name {
    pub(super) fn is_authority(&self) -> bool {
        *self == Self::Static(AUTHORITY)
    }

    fn decoded_len(&self) -> usize {
        match self {
            Self::Static(index) => index
                .checked_sub(1)
                .and_then(|at| STATIC_NAME_LENGTHS.get(at))
                .map_or(0, |length| usize::from(*length)),
            Self::Text(text) => text.decoded_len,
        }
    }
}

/// A field of the dynamic table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) value: Text,
}

impl Field {
    fn size(&self) -> usize {
        self.name.decoded_len() + self.value.decoded_len + OVERHEAD
    }
}

/// A field as the table keeps it: a copy, small and in one piece, because every connection of
/// thousands has a few of them for as long as it lasts.
#[derive(Debug)]
struct Kept {
    /// The name, if it is none of the static table's, and the value: as the client sent them.
    wire: Box<[u8]>,
    /// How many octets of it are the name.
    name_length: u16,
    /// The static table's index of the name, or 0.
    static_name: u16,
    name_decoded_len: u16,
    value_decoded_len: u16,
}

impl Kept {
    fn new(field: &Field) -> Self {
        let (static_name, name, name_decoded_len) = match &field.name {
            Name::Static(index) => (*index, &[][..], 0),
            Name::Text(text) => (0, &*text.wire, text.decoded_len),
        };
        Self {
            wire: [name, &field.value.wire].concat().into(),
            name_length: short(name.len()),
            static_name: short(static_name),
            name_decoded_len: short(name_decoded_len),
            value_decoded_len: short(field.value.decoded_len),
        }
    }

    fn field(&self) -> Field {
        let (name, value) = self
            .wire
            .split_at_checked(usize::from(self.name_length))
            .unwrap_or_default();
        let text = |wire, decoded_len| Text {
            wire: Bytes::copy_from_slice(wire),
            decoded_len: usize::from(decoded_len),
        };
        Field {
            name: match self.static_name {
                0 => Name::Text(text(name, self.name_decoded_len)),
                index => Name::Static(usize::from(index)),
            },
            value: text(value, self.value_decoded_len),
        }
    }

    fn size(&self) -> usize {
        self.field().size()
    }
}

/// The lengths of what fits into the table: it has at most 4096 octets as decoded, and no code of
/// an octet has more than four.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Newest first.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Kept>,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: MAX_TABLE,
        }
    }

    /// The entry with `index` of the joint address space, static entries excluded.
    pub(super) fn entry(&self, index: usize) -> Option<Field> {
        let kept = self.entries.get(index.checked_sub(STATIC_ENTRIES + 1)?)?;
        Some(kept.field())
    }

    pub(super) fn insert(&mut self, field: &Field) {
        let size = field.size();
        self.evict(self.max.saturating_sub(size));
        // One that is larger than the table leaves it empty (RFC 7541, 4.4).
        if size <= self.max {
            self.size += size;
            self.entries.push_front(Kept::new(field));
        }
    }

    /// Sets the size that the client chose; `None` if it may not.
    pub(super) fn resize(&mut self, max: usize) -> Option<()> {
        if max > MAX_TABLE {
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
            self.size = self.size.saturating_sub(oldest.size());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of RFC 7541, appendix A.
    const STATIC_NAMES: &str = "
        :authority :method :method :path :path :scheme :scheme :status :status :status :status
        :status :status :status accept-charset accept-encoding accept-language accept-ranges
        accept access-control-allow-origin age allow authorization cache-control
        content-disposition content-encoding content-language content-length content-location
        content-range content-type cookie date etag expect expires from host if-match
        if-modified-since if-none-match if-range if-unmodified-since last-modified link location
        max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after
        server set-cookie strict-transport-security transfer-encoding user-agent vary via
        www-authenticate
    ";

    fn field(name: usize, value: usize) -> Field {
        let text = |decoded_len| Text {
            wire: Bytes::new(),
            decoded_len,
        };
        Field {
            name: Name::Text(text(name)),
            value: text(value),
        }
    }

    #[test]
    fn static_names_have_their_lengths() {
        let lengths: Vec<_> = STATIC_NAMES.split_whitespace().map(str::len).collect();
        let table: Vec<_> = STATIC_NAME_LENGTHS
            .iter()
            .map(|l| usize::from(*l))
            .collect();
        assert_eq!(lengths, table);
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut table = Table::new();
        table.resize(100).unwrap();
        table.insert(&field(1, 1));
        table.insert(&field(2, 2));
        assert_eq!(table.entry(62), Some(field(2, 2)));
        assert_eq!(table.entry(63), Some(field(1, 1)));
        table.insert(&field(3, 3));
        assert_eq!(table.entry(63), Some(field(2, 2)));
        assert_eq!(table.entry(64), None);
        assert_eq!(table.entry(61), None);
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::new();
        table.insert(&field(1, 1));
        table.insert(&field(1, MAX_TABLE));
        assert_eq!(table.entry(62), None);
        assert_eq!(table.size, 0);
    }

    #[test]
    fn the_client_may_shrink_and_not_grow_it() {
        let mut table = Table::new();
        table.insert(&field(1, 1));
        assert_eq!(table.resize(MAX_TABLE + 1), None);
        table.resize(0).unwrap();
        assert_eq!(table.entry(62), None);
        table.resize(MAX_TABLE).unwrap();
        table.insert(&field(1, 1));
        assert!(table.entry(62).is_some());
    }
}
