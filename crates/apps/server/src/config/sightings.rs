//! `[sightings]`: how much is kept of what nodes find.

use std::time::Duration;

use muster_rt::config::{self, Table};

use super::{HOUR, LONGEST};

/// How much is kept of what nodes find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SightingsConfig {
    /// The most sightings of one node.
    pub per_node: usize,
    /// How long one is kept of which nothing runs any longer.
    pub forget_after: Duration,
}

impl SightingsConfig {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            per_node: table.default("per_node", config::integer(1..=10_000), 1000),
            forget_after: table.default(
                "forget_after",
                config::duration_within(HOUR..=LONGEST),
                24 * 30 * HOUR,
            ),
        }
    }
}
