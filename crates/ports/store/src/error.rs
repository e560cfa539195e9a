//! What can go wrong in a store, and what is to be done then.

use std::path::PathBuf;

use muster_model::Revision;

/// Why a store did not do what was asked. The text is for operators: it names the place and the
/// remedy, and no key material, because a store's errors never quote what was to be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no space left.
    #[error(
        "{}: no space left to write; everything acknowledged is safe, and writing goes on once \
         space is free", path.display()
    )]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// The file, its folder or its file system cannot be written.
    #[error(
        "{}: cannot be written ({cause}); give the server's user write access to the file and its \
         folder", path.display()
    )]
    ReadOnly {
        /// The store's file.
        path: PathBuf,
        /// What the operating system said.
        cause: String,
    },
    /// The file is not what a store wrote.
    #[error("{}: {cause}; {remedy}", path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file was written by a newer version.
    #[error(
        "{}: written by a newer version (schema {found}; this version knows up to {known}); start \
         that version, or restore a backup from before the upgrade", path.display()
    )]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// The schema of the file.
        found: u32,
        /// The newest schema that this version knows.
        known: u32,
    },
    /// Another process has the store.
    #[error(
        "{}: in use by another server{}; stop that one first, or give this one its own data folder",
        path.display(),
        by.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    Locked {
        /// The store's file.
        path: PathBuf,
        /// The process that has it, if it can be told.
        by: Option<u32>,
    },
    /// The change log no longer reaches back to a revision.
    #[error(
        "the change log begins after revision {oldest}, and {asked} was asked for; load afresh"
    )]
    Forgotten {
        /// The revision that was asked for.
        asked: Revision,
        /// The oldest revision that can be asked for.
        oldest: Revision,
    },
    /// A transaction contradicts the rows that are there: a mistake of the writer.
    #[error("{}: {cause}; this is a mistake of the server, please report it", path.display())]
    Conflict {
        /// The store's file.
        path: PathBuf,
        /// What contradicts what.
        cause: String,
    },
    /// Another program holds the database, and did not let go for a while.
    #[error(
        "{}: held by another program, such as a backup or a database shell; nothing was written, \
         end that program", path.display()
    )]
    Busy {
        /// The store's file.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{}: {cause}; nothing was acknowledged", path.display())]
    Unavailable {
        /// The store's file.
        path: PathBuf,
        /// What the operating system or the database said.
        cause: String,
    },
    /// The store was closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing was written; the same call may succeed later without anybody's doing, or after an
    /// operator made room.
    RetryLater,
    /// Nothing was written, and nothing will be before an operator has acted.
    Operator,
    /// Whether it was written is not known: load afresh before the next write.
    Unknown,
    /// The caller must load everything afresh.
    Reload,
    /// The server itself is at fault: the same call fails again.
    Bug,
}

impl StoreError {
    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Full { .. } | Self::Busy { .. } => Disposition::RetryLater,
            Self::ReadOnly { .. }
            | Self::Corrupt { .. }
            | Self::NewerSchema { .. }
            | Self::Locked { .. } => Disposition::Operator,
            Self::Unavailable { .. } | Self::Closed => Disposition::Unknown,
            Self::Forgotten { .. } => Disposition::Reload,
            Self::Conflict { .. } => Disposition::Bug,
        }
    }
}
