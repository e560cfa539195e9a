//! `[agents]`: how patient the server is with agents.

use std::time::Duration;

use muster_roll::agents::reconcile::Settings;
use muster_rt::config::{self, Table};

use super::LONGEST;

/// Below it, an agent whose SVID lives an ordinary time would be lost between two renewals.
const SHORTEST: Duration = Duration::from_mins(1);

pub(super) fn read(table: &Table<'_>) -> Settings {
    let defaults = Settings::default();
    let time = |key: &str, default| {
        table.default(key, config::duration_within(SHORTEST..=LONGEST), default)
    };
    Settings {
        warn_before: time("warn_before", defaults.warn_before),
        idle_after: time("idle_after", defaults.idle_after),
        lost_after: time("lost_after", defaults.lost_after),
        forget_after: time("forget_after", defaults.forget_after),
    }
}
