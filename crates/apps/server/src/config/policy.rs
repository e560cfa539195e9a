//! `[policy]`: what is kept of decisions about agents.

use muster_rt::config::{self, Table};

/// How many decisions are kept where the operator says nothing.
const RECORD: usize = 10_000;
/// The most that may be kept.
const MOST: i64 = 1_000_000;

/// What is kept of decisions about agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// How many of the last decisions are kept in memory, to try changed policies on; 0 is none.
    pub record: usize,
}

pub(super) fn read(table: &Table<'_>) -> PolicyConfig {
    PolicyConfig {
        record: table.default("record", config::integer(0..=MOST), RECORD),
    }
}
