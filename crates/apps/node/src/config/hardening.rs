//! `[hardening]`: what the daemon gives up at its start.

use muster_peer::harden::{Options, Writes};
use muster_rt::config::{self, Table};

/// Reads the table; what is absent is given up.
pub(super) fn read(table: &Table<'_>) -> Options {
    let flag = |key: &str| table.default(key, config::boolean(), true);
    Options {
        no_new_privileges: flag("no_new_privileges"),
        private_memory: flag("private_memory"),
        lock_memory: flag("lock_memory"),
        system_calls: flag("system_calls"),
        writes: Writes::NotConfinable,
    }
}
