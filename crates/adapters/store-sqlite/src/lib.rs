//! The roll in one SQLite file.
//!
//! Start at [`SqliteStore::open`]. One thread owns the connection that writes, another one a
//! connection that reads; callers wait for their answers without holding a thread. A commit is one
//! SQLite transaction in WAL mode with `synchronous=FULL`: when it returns, the disk has it.
//!
//! Beside the file `NAME` stand `NAME-wal` and `NAME-shm`, which belong to it and are SQLite's, and
//! `NAME.lock`, by which a second server on the same file is refused. All are readable by their
//! owner only.
//!
//! Deliberately not here: queries. The roll is in memory; this file is what it is loaded from.

mod agents;
mod codec;
mod error;
mod lock;
mod read;
mod schema;
mod worker;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use muster_audit::Record;
use muster_model::{PolicyText, Revision};
use muster_roll::{Change, Loaded};
use muster_store::{Retention, Store, StoreError, Transaction};

use crate::lock::Lock;
use crate::worker::Worker;

/// A store in one SQLite file.
///
/// Dropping it waits for what was begun, closes the file and lets it go. A call whose future is
/// dropped may still take effect.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    // Fields are dropped in this order: the lock goes last, when nobody uses the file any more.
    reader: Worker,
    writer: Worker,
    _lock: Lock,
}

impl SqliteStore {
    /// Opens the file at `path`, or creates it if there is none; its folder must exist.
    ///
    /// Refuses a file that another server has open ([`StoreError::Locked`], also when it came there
    /// by another path), that a newer version wrote, that is damaged or something else altogether,
    /// and that cannot be written. A file from an older version is brought up to date first.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = schema::place(path.as_ref())?;
        let lock = Lock::take(&path)?;
        let writer = schema::open_writer(&path)?;
        let reader = schema::open_reader(&path)?;
        Ok(Self {
            reader: Worker::start("store-read", reader, &path)?,
            writer: Worker::start("store-write", writer, &path)?,
            _lock: lock,
            path,
        })
    }

    /// The file, by its real path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Limits the file to about `bytes`: writes beyond that fail with [`StoreError::Full`], as on a
    /// full disk, until the limit is raised. The limit holds until the store is closed.
    pub async fn limit_size(&self, bytes: u64) -> Result<(), StoreError> {
        self.writer
            .run(move |connection| write::limit_size(connection, bytes))
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.reader.run(read::load).await
    }

    async fn commit(&self, batch: Vec<Arc<Transaction>>) -> Result<Revision, StoreError> {
        self.writer
            .run(move |connection| write::commit(connection, &batch))
            .await
    }

    async fn changes_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<(Revision, Vec<Change>)>, StoreError> {
        self.reader
            .run(move |connection| read::changes_after(connection, revision, limit))
            .await
    }

    async fn audit_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        self.reader
            .run(move |connection| read::audit_after(connection, sequence, limit))
            .await
    }

    async fn audit_before(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        self.reader
            .run(move |connection| read::audit_before(connection, sequence, limit))
            .await
    }

    async fn policy_text(&self, number: u64) -> Result<Option<PolicyText>, StoreError> {
        self.reader
            .run(move |connection| agents::policy_text(connection, number))
            .await
    }

    async fn prune_changes(&self, keep: Retention) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            // Piece by piece, so that a commit never waits for a long deletion.
            let piece = self
                .writer
                .run(move |connection| write::prune_changes(connection, keep))
                .await?;
            if piece == 0 {
                return Ok(forgotten);
            }
            forgotten += piece;
        }
    }
}
