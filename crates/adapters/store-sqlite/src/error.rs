//! What SQLite says, as the port's errors.

use std::path::Path;

use muster_store::StoreError;
use rusqlite::ErrorCode;

const REMEDY: &str = "stop the server, keep a copy of the file and restore it from a backup; or move \
                      it away, with its -wal and -shm files, to begin with an empty roll";

/// Why a job failed, before the file is named.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite refused.
    Sqlite(rusqlite::Error),
    /// A row is not what this program writes.
    Row {
        /// The table.
        table: &'static str,
        /// Which row of it.
        row: String,
        /// What is wrong with it.
        cause: String,
    },
    /// What is to be written contradicts what is there.
    Conflict(String),
    /// The port's own answer.
    Answer(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    /// The port's error about the file at `path`.
    pub(crate) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => sqlite(&error, path),
            Self::Row { table, row, cause } => corrupt(path, format!("{table} {row:?}: {cause}")),
            Self::Conflict(cause) => StoreError::Conflict {
                path: path.to_owned(),
                cause,
            },
            Self::Answer(error) => error,
        }
    }
}

/// A file that is damaged, or not what a store wrote.
pub(crate) fn corrupt(path: &Path, cause: String) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        cause,
        remedy: REMEDY,
    }
}

fn sqlite(error: &rusqlite::Error, path: &Path) -> StoreError {
    let path = path.to_owned();
    let cause = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            StoreError::ReadOnly { path, cause }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => corrupt(&path, cause),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
        Some(ErrorCode::ConstraintViolation) => StoreError::Conflict { path, cause },
        _ => StoreError::Unavailable { path, cause },
    }
}

/// What the operating system says about the file at `path`, or about one beside it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of I/O errors are many and grow; what has no remedy of its own is told as it is"
)]
pub(crate) fn io(path: &Path, error: &std::io::Error) -> StoreError {
    use std::io::ErrorKind;

    let (path, cause) = (path.to_owned(), error.to_string());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { path, cause }
        }
        ErrorKind::StorageFull => StoreError::Full { path },
        ErrorKind::NotFound => StoreError::Unavailable {
            path,
            cause: format!("{cause}; create its folder first"),
        },
        _ => StoreError::Unavailable { path, cause },
    }
}
