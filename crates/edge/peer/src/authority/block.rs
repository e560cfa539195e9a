//! One header block, transcribed (RFC 7541, 5 and 6).

use bytes::{BufMut, Bytes, BytesMut};

use super::huffman;
use super::table::{AUTHORITY, Field, Name, STATIC_ENTRIES, Table, Text};

/// What every `:authority` becomes: nine octets, not Huffman-coded, with its length prefix.
const REPLACEMENT: &[u8] = b"\x09localhost";
const AUTHORITY_NAME: &[u8] = b":authority";
/// The only Huffman coding of that name.
const AUTHORITY_NAME_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// A literal field that enters no table (6.2.2).
const WITHOUT_INDEXING: u8 = 0x00;
/// A literal field that no intermediary may put into a table (6.2.3).
const NEVER_INDEXED: u8 = 0x10;
/// A change of the table's size (6.3).
const SIZE_UPDATE: u8 = 0x20;
/// An indexed field (6.1).
const INDEXED: u8 = 0x80;

/// Why a header block cannot be read; a connection error of type COMPRESSION_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It ends in the middle of a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// A number has more octets than any valid one.
    #[error("a number in it is too large")]
    IntegerTooLarge,
    /// An index is 0 or beyond both tables.
    #[error("it refers to a table entry that does not exist")]
    NoSuchEntry,
    /// A Huffman-coded string is invalid.
    #[error("a string in it is not valid Huffman coding")]
    BadHuffman,
    /// The dynamic table is asked to grow beyond what we allow.
    #[error("it makes the dynamic table larger than the server allows")]
    TableTooLarge,
    /// Written out, the fields exceed the limit.
    #[error("its fields exceed {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Transcribes `block` into `out`, with every authority replaced; `table` is the client's.
///
/// After an error neither `table` nor `out` is of use.
pub(super) fn transcribe(
    block: &Bytes,
    table: &mut Table,
    out: &mut BytesMut,
    limit: usize,
) -> Result<(), BlockError> {
    let mut reader = Reader { block, at: 0 };
    while let Some(first) = reader.peek() {
        match first {
            INDEXED.. => {
                let index = reader.integer(7)?;
                put_indexed(out, table, index)?;
            }
            0x40..INDEXED => {
                let name = reader.name(6, table)?;
                let value = reader.value()?;
                put_literal(out, WITHOUT_INDEXING, &name, &value);
                table.insert(&Field { name, value });
            }
            SIZE_UPDATE..0x40 => {
                let size = reader.integer(5)?;
                table.resize(size).ok_or(BlockError::TableTooLarge)?;
                // Whether it may stand here is for `h2` to say.
                put_integer(out, SIZE_UPDATE, 5, size);
            }
            0..SIZE_UPDATE => {
                let kind = first & NEVER_INDEXED;
                let name = reader.name(4, table)?;
                let value = reader.value()?;
                put_literal(out, kind, &name, &value);
            }
        }
        // After each field: a field adds little more than it has, but a block's references could
        // unfold to a thousand times its size.
        if out.len() > limit {
            return Err(BlockError::TooLarge { limit });
        }
    }
    Ok(())
}

fn put_indexed(out: &mut BytesMut, table: &Table, index: usize) -> Result<(), BlockError> {
    match index {
        0 => Err(BlockError::NoSuchEntry),
        // The static entry has an empty value.
        AUTHORITY => {
            put_integer(out, WITHOUT_INDEXING, 4, AUTHORITY);
            out.put_slice(REPLACEMENT);
            Ok(())
        }
        2..=STATIC_ENTRIES => {
            put_integer(out, INDEXED, 7, index);
            Ok(())
        }
        _ => {
            let field = table.entry(index).ok_or(BlockError::NoSuchEntry)?;
            put_literal(out, WITHOUT_INDEXING, &field.name, &field.value);
            Ok(())
        }
    }
}

fn put_literal(out: &mut BytesMut, kind: u8, name: &Name, value: &Text) {
    match name {
        Name::Static(index) => put_integer(out, kind, 4, *index),
        Name::Text(text) => {
            out.put_u8(kind);
            out.put_slice(&text.wire);
        }
    }
    out.put_slice(if name.is_authority() {
        REPLACEMENT
    } else {
        &value.wire
    });
}

/// Writes an integer with a prefix of `bits` bits (5.1).
fn put_integer(out: &mut BytesMut, flags: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    let octet = |value: usize| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    if value < mask {
        out.put_u8(flags | octet(value));
        return;
    }
    out.put_u8(flags | octet(mask));
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.put_u8(octet(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.put_u8(octet(rest));
}

struct Reader<'a> {
    block: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn octet(&mut self) -> Result<u8, BlockError> {
        let octet = self.peek().ok_or(BlockError::Truncated)?;
        self.at += 1;
        Ok(octet)
    }

    /// Reads an integer with a prefix of `bits` bits (5.1), of five octets at most: what a header
    /// block can need, and what `h2` accepts.
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

    /// Reads a string (5.2), and gives its content as it is coded.
    fn text(&mut self) -> Result<(Text, Content<'_>), BlockError> {
        let start = self.at;
        let coded = self.peek().ok_or(BlockError::Truncated)? & 0x80 != 0;
        let length = self.integer(7)?;
        let begin = self.at;
        let end = begin.checked_add(length).ok_or(BlockError::Truncated)?;
        let octets = self.block.get(begin..end).ok_or(BlockError::Truncated)?;
        self.at = end;
        let (decoded_len, content) = if coded {
            let decoded_len = huffman::decoded_len(octets).ok_or(BlockError::BadHuffman)?;
            (decoded_len, Content::Huffman(octets))
        } else {
            (length, Content::Plain(octets))
        };
        let wire = self.block.slice(start..end);
        Ok((Text { wire, decoded_len }, content))
    }

    fn value(&mut self) -> Result<Text, BlockError> {
        self.text().map(|(text, _)| text)
    }

    /// Reads a literal field's name: an index with a prefix of `bits` bits, or a string.
    fn name(&mut self, bits: u32, table: &Table) -> Result<Name, BlockError> {
        match self.integer(bits)? {
            0 => Ok(match self.text()? {
                (_, Content::Plain(AUTHORITY_NAME) | Content::Huffman(AUTHORITY_NAME_CODED)) => {
                    Name::Static(AUTHORITY)
                }
                (text, _) => Name::Text(text),
            }),
            index @ 1..=STATIC_ENTRIES => Ok(Name::Static(index)),
            index => table
                .entry(index)
                .map(|field| field.name)
                .ok_or(BlockError::NoSuchEntry),
        }
    }
}

/// A string's octets, without their length.
enum Content<'a> {
    Plain(&'a [u8]),
    Huffman(&'a [u8]),
}
