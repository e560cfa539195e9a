//! Whose turn it is to be signed.

use muster_model::{EntryId, Timestamp};

/// Order of the queue: who waits, then what expires first, then what nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueKey {
    pub(super) class: Class,
    pub(super) expires: Timestamp,
    pub(super) entry: EntryId,
}

/// Why an SVID is wanted, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Somebody waits for it.
    Awaited,
    /// It takes the place of one.
    Renewal,
    /// Nobody asked for it yet.
    Prefetch,
}
