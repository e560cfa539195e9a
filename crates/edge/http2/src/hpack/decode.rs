//! One header block, field by field (RFC 7541, 5 and 6).

use std::borrow::Cow;

use super::{BlockError, Table, huffman};

/// A literal field that enters the table (6.2.1).
const INCREMENTAL: u8 = 0x40;
/// A change of the table's size (6.3).
const SIZE_UPDATE: u8 = 0x20;
/// An indexed field (6.1).
const INDEXED: u8 = 0x80;
/// The mark of a Huffman-coded string (5.2).
const HUFFMAN: u8 = 0x80;

/// Gives `each` the name and value of every field of `block`, in order; `table` is the client's.
///
/// `limit` bounds what all fields have together, in bytes. After an error `table` is of no use.
pub(crate) fn decode(
    block: &[u8],
    table: &mut Table,
    limit: usize,
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<(), BlockError> {
    let mut reader = Reader {
        rest: block,
        left: limit,
        limit,
    };
    let mut may_resize = true;
    while let Some(first) = reader.rest.first().copied() {
        if (SIZE_UPDATE..INCREMENTAL).contains(&first) {
            // RFC 7541, 4.2.
            if !may_resize {
                return Err(BlockError::LateSize);
            }
            let size = reader.integer(5)?;
            table.resize(size).ok_or(BlockError::TableTooLarge)?;
            continue;
        }
        may_resize = false;
        if first >= INDEXED {
            let index = reader.integer(7)?;
            let (name, value) = table.entry(index).ok_or(BlockError::NoSuchEntry)?;
            reader.spend(name.len() + value.len())?;
            each(name, value);
            continue;
        }
        let enters = first >= INCREMENTAL;
        let index = reader.integer(if enters { 6 } else { 4 })?;
        if index == 0 {
            let name = reader.text()?;
            let value = reader.text()?;
            each(&name, &value);
            if enters {
                table.insert(&name, &value);
            }
        } else {
            let (name, _value) = table.entry(index).ok_or(BlockError::NoSuchEntry)?;
            reader.spend(name.len())?;
            let value = reader.text()?;
            each(name, &value);
            if enters {
                // Apart from the table: the entry may be evicted by the one that it names.
                let name = name.to_vec();
                table.insert(&name, &value);
            }
        }
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
    left: usize,
    limit: usize,
}

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Result<u8, BlockError> {
        let (first, rest) = self.rest.split_first().ok_or(BlockError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn spend(&mut self, octets: usize) -> Result<(), BlockError> {
        let left = self.left.checked_sub(octets);
        self.left = left.ok_or(BlockError::TooLarge { limit: self.limit })?;
        Ok(())
    }

    /// Reads an integer with a prefix of `bits` bits (5.1), of five octets at most: more than a
    /// header block can need.
    fn integer(&mut self, bits: u32) -> Result<usize, BlockError> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(self.octet()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = usize::from(self.octet()?);
            value += (octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BlockError::IntegerTooLarge)
    }

    /// Reads a string (5.2).
    fn text(&mut self) -> Result<Cow<'a, [u8]>, BlockError> {
        let coded = self.rest.first().ok_or(BlockError::Truncated)? & HUFFMAN != 0;
        let length = self.integer(7)?;
        let (octets, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(BlockError::Truncated)?;
        self.rest = rest;
        if !coded {
            self.spend(octets.len())?;
            return Ok(Cow::Borrowed(octets));
        }
        // No code is shorter than five bits.
        let mut text = Vec::with_capacity((octets.len() * 8 / 5).min(self.left));
        match huffman::decode(octets, &mut text, self.left) {
            Ok(()) => {}
            Err(BlockError::TooLarge { .. }) => {
                return Err(BlockError::TooLarge { limit: self.limit });
            }
            Err(error) => return Err(error),
        }
        self.spend(text.len())?;
        Ok(Cow::Owned(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 * 1024;

    fn decoded(block: &[u8], table: &mut Table) -> Result<Vec<(String, String)>, BlockError> {
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        let mut fields = Vec::new();
        decode(block, table, LIMIT, |name, value| {
            fields.push((text(name), text(value)));
        })?;
        Ok(fields)
    }

    /// RFC 7541, C.4: three requests on one connection, Huffman-coded.
    #[test]
    fn the_requests_of_the_standard() {
        let mut table = Table::new();
        let mut check = |block: &[u8], expected: &[(&str, &str)]| {
            let fields = decoded(block, &mut table).unwrap();
            let fields: Vec<_> = fields
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(fields, expected);
        };
        let common = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ];
        check(
            &[
                0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
                0x90, 0xf4, 0xff,
            ],
            &common,
        );
        check(
            &[
                0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
            ],
            &[&common[..], &[("cache-control", "no-cache")]].concat(),
        );
        check(
            &[
                0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
                0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
            ],
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                (":authority", "www.example.com"),
                ("custom-key", "custom-value"),
            ],
        );
    }

    #[test]
    fn what_is_not_a_header_block() {
        let check = |block: &[u8], expected: BlockError| {
            assert_eq!(
                decoded(block, &mut Table::new()),
                Err(expected),
                "{block:x?}"
            );
        };
        check(&[0x80], BlockError::NoSuchEntry);
        check(&[0xbe], BlockError::NoSuchEntry);
        check(&[0x7f, 0x80], BlockError::Truncated);
        check(&[0x40, 0x05, b'a'], BlockError::Truncated);
        check(&[0x40], BlockError::Truncated);
        check(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            BlockError::IntegerTooLarge,
        );
        check(&[0x3f, 0xe2, 0x1f], BlockError::TableTooLarge);
        check(&[0x82, 0x20], BlockError::LateSize);
        check(&[0x00, 0x81, 0xff, 0x00], BlockError::BadHuffman);
    }

    #[test]
    fn a_name_may_come_from_the_entry_that_it_evicts() {
        let mut table = Table::new();
        let mut block = vec![0x3f, 0x15, 0x40, 0x01, b'n', 0x01, b'1'];
        // Size 52: the second entry has no room beside the first, whose name it has.
        block.extend([0x7e, 0x12]);
        block.extend([b'v'; 18]);
        let fields = decoded(&block, &mut table).unwrap();
        assert_eq!(fields[1], ("n".to_owned(), "v".repeat(18)));
        let newest = table.entry(62).unwrap();
        assert_eq!(newest, (&b"n"[..], &[b'v'; 18][..]));
        assert_eq!(table.entry(63), None);
    }

    /// RFC 7541, 7.3: a large entry, referred to again and again.
    #[test]
    fn what_unfolds_too_far_is_not_unfolded() {
        let mut table = Table::new();
        let mut block = vec![0x40, 0x01, b'n', 0x7f, 0xa1, 0x1e];
        block.extend([b'v'; 4000]);
        block.resize(block.len() + 1000, 0xbe);
        let error = decoded(&block, &mut table).unwrap_err();
        assert_eq!(error, BlockError::TooLarge { limit: LIMIT });
    }
}
