//! `[agents]`: how patient the server is with agents.

use std::time::Duration;

use muster_roll::agents::reconcile::Settings;
use muster_roll::agents::task::{Bounds, Patience};
use muster_rt::config::{self, Table};

use super::LONGEST;
use crate::tasks;

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

/// How many tasks there may be: more than this does not fit into a server's memory.
const MOST: i64 = 10_000_000;

/// The part of `[agents]` that is about their tasks.
pub(super) fn read_tasks(table: &Table<'_>) -> tasks::Settings {
    let (bounds, patience) = (Bounds::default(), Patience::default());
    let count = |key: &str, default| table.default(key, config::integer(1..=MOST), default);
    tasks::Settings {
        bounds: Bounds {
            per_node: count("max_tasks_per_node", bounds.per_node),
            per_class: count("max_tasks_per_class", bounds.per_class),
        },
        patience: Patience {
            keep_ended: table.default(
                "keep_ended_tasks",
                config::duration_within(SHORTEST..=LONGEST),
                patience.keep_ended,
            ),
            most_ended: count("max_ended_tasks", patience.most_ended),
        },
    }
}
