//! HPACK (RFC 7541): header blocks to fields, and back.
//!
//! What a client sends is decoded with the dynamic table that the standard demands, and within a
//! budget: a few octets can unfold to megabytes (section 7.3). What is sent is written without any
//! table: an idle connection holds nothing for it.

mod decode;
mod encode;
mod huffman;
mod statics;
mod table;

pub(crate) use decode::decode;
pub(crate) use encode::{put_field, put_status, put_table_size};
pub(crate) use table::Table;

/// The size of the dynamic table that both sides begin with, and that is never raised here, in
/// octets.
pub(crate) const TABLE_MAX: usize = 4096;

/// What an entry or a field counts beyond its strings (RFC 7541, 4.1; RFC 9113, 6.5.2).
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// Why a header block cannot be read; a connection error, since the table is lost with it.
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
    /// A change of the table's size stands behind a field.
    #[error("it changes the size of the dynamic table behind a field")]
    LateSize,
    /// Written out, the fields exceed the limit.
    #[error("its fields exceed {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}
