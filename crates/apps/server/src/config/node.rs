//! `[node]`: what nodes may do beyond the ordinary.

use std::time::Duration;

use muster_rt::config::{self, Table};

/// The longest grace: a key that was in use so long ago has had time to be found.
const LONGEST_GRACE: Duration = Duration::from_hours(24 * 30);

/// What nodes may do beyond the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// How long after its SVID has expired a node may still renew it, by proof of its key; zero is
    /// not at all, as in SPIRE.
    pub renew_grace: Duration,
}

impl NodeConfig {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            renew_grace: table.default(
                "renew_grace",
                config::duration_within(Duration::ZERO..=LONGEST_GRACE),
                Duration::ZERO,
            ),
        }
    }
}
