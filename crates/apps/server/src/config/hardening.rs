//! `[hardening]`: what the daemon gives up at its start.

use std::path::{Path, PathBuf};

use muster_peer::harden::{Options, Writes};
use muster_rt::config::{self, Table};

use super::{Config, KeysConfig};

/// What the operator lets the daemon give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardeningConfig {
    /// Programs that it starts gain no privileges.
    pub no_new_privileges: bool,
    /// No core files, no debuggers of the same user.
    pub private_memory: bool,
    /// Nothing goes to swap.
    pub lock_memory: bool,
    /// System calls that it does not need kill it.
    pub system_calls: bool,
    /// Files are written only where the configuration says.
    pub writes: bool,
}

impl HardeningConfig {
    /// Reads the table; what is absent is given up.
    pub(super) fn read(table: &Table<'_>) -> Self {
        let flag = |key: &str| table.default(key, config::boolean(), true);
        Self {
            no_new_privileges: flag("no_new_privileges"),
            private_memory: flag("private_memory"),
            lock_memory: flag("lock_memory"),
            system_calls: flag("system_calls"),
            writes: flag("writes"),
        }
    }

    /// What it means for a server with this configuration. A directory that does not exist yet
    /// and that nobody made is left out, and its first use says so.
    pub(crate) fn options(&self, config: &Config) -> Options {
        Options {
            no_new_privileges: self.no_new_privileges,
            private_memory: self.private_memory,
            lock_memory: self.lock_memory,
            system_calls: self.system_calls,
            writes: if self.writes {
                Writes::Below(directories(config))
            } else {
                Writes::Anywhere
            },
        }
    }
}

/// Where a server writes: its data, the database with its journal, the keys, the socket, and what
/// SQLite puts aside while it sorts.
fn directories(config: &Config) -> Vec<PathBuf> {
    let keys = match &config.keys {
        KeysConfig::Memory => None,
        KeysConfig::Disk(path) => path.parent(),
    };
    let mut all: Vec<PathBuf> = [
        Some(config.data_dir.as_path()),
        config.database.parent(),
        keys,
        config.admin_socket.parent(),
    ]
    .into_iter()
    .flatten()
    .filter_map(existing)
    .map(Path::to_owned)
    .chain([std::env::temp_dir()])
    .filter(|directory| directory.is_dir())
    .collect();
    all.sort();
    all.dedup();
    all
}

/// The directory, or the nearest above it that exists: it will be made there.
fn existing(directory: &Path) -> Option<&Path> {
    directory.ancestors().find(|path| path.is_dir())
}
