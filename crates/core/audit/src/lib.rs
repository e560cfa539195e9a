//! The schema of the audit log: what a record says, under names that stay.
//!
//! Every record is written in the transaction that it belongs to, by the store. The Merkle log
//! over these records is a later layer; the schema is made so that a record, once written, is
//! never changed.
//!
//! No field of a record ever holds key bytes or a token: a token is named by its SHA-256.

mod record;

pub use record::{Actor, Decision, Event, Record};
