//! HTTP/2, as a server, on one connection: RFC 9113 and RFC 7541 for sockets that have thousands of
//! connections which say next to nothing.
//!
//! # Where to start
//!
//! - [`Connection`] (`serve.rs`) is a future that serves one connection with a function from
//!   requests to responses. It polls its calls itself: a call has no task. [`for_each`]
//!   (`listen.rs`) is the loop around it.
//! - `machine.rs` is the protocol without any I/O or time: octets in, octets and events out.
//! - `hpack/` is the compression of fields, `frame.rs` and `reader.rs` are the frames, `fields.rs`
//!   says what a well-formed request is.
//!
//! # Why not `hyper`
//!
//! For two properties that it cannot have (docs/adr/0007-http2.md has the figures). `h2` holds 28
//! KiB of buffers for every connection as long as that lasts; what is held here is what has not
//! been sent or not been understood yet, and nothing else: some hundred bytes for a stream that
//! waits. And `h2` resets every request whose `:authority` is no authority, which on a Unix socket
//! is what half of all gRPC clients send (WEP-07, BEP-14): here the field is read and passed over.
//!
//! # What is deliberately not here
//!
//! - Clients, server push, priorities (read and ignored, as RFC 9113 deprecates them), CONNECT,
//!   upgrades, and an authority in the request's URI.
//! - Threads: whatever a call does between two awaits delays the other calls of its connection.
//! - A count of what a client asked for and took back. A call that is reset before it was polled
//!   has cost its header block, and one that was polled is dropped with all it holds: there is no
//!   more to be gained by asking and resetting than by asking.
//!
//! Whatever a client sends, what is held for it is bounded: a frame (16 KiB), a header block (64
//! KiB, unfolded as well), the fields of a request (16 KiB), the bodies that nobody took yet
//! ([`Settings::window`]), and what it does not read (64 KiB and a frame: then nothing more is
//! read from it either).

mod closed;
mod error;
mod fields;
mod frame;
mod hpack;
mod inbound;
mod listen;
mod machine;
mod output;
mod protocol;
mod reader;
mod serve;
mod stream;

pub use error::{Code, Error, Violation};
pub use hpack::BlockError;
pub use inbound::{Broken, RequestBody};
pub use listen::{Ended, for_each};
pub use protocol::{Protocol, recognize};
pub use serve::{Answer, Connection, Settings};

/// The most that a header block may have, as received and unfolded, in bytes.
pub const HEADER_BLOCK_MAX: usize = 64 * 1024;
/// The most that the fields of a request may have, in bytes, as RFC 9113, 6.5.2 counts them; a
/// request with more is answered with status 431.
pub const HEADER_LIST_MAX: usize = 16 * 1024;
