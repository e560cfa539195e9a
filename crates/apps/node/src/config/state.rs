//! `[state]`: what of the node's memory outlives its process.

use muster_rt::config::{self, Table};

/// What of the node's memory outlives its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateConfig {
    /// Whether the workloads' SVIDs and the node's view are sealed, with a key that the kernel
    /// keeps, for the process that follows this one on the same machine.
    pub survive_restart: bool,
}

impl StateConfig {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            survive_restart: table.default("survive_restart", config::boolean(), true),
        }
    }
}
