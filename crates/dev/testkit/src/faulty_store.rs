//! A store that fails when it is told to.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use muster_audit::Record;
use muster_model::{PolicyText, Revision};
use muster_roll::{Change, Loaded};
use muster_store::{Retention, Store, StoreError, Transaction};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

/// What happens to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// Nothing: it goes through.
    Pass,
    /// Nothing is written, and the error is the answer: a full disk, a busy database.
    Refuse(StoreError),
    /// The batch is durable, and the error is the answer all the same: the machine lost power, or
    /// the disk failed, between the write and the acknowledgement.
    LoseAnswer(StoreError),
    /// Only the first transactions of the batch are durable, and the error is the answer: what a
    /// store must never do, for tests of those that look after stores.
    Tear {
        /// How many transactions are written.
        keep: usize,
        /// The answer.
        error: StoreError,
    },
}

/// A store before another one, which lets everything through until it is told to fail.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    commits: Mutex<VecDeque<CommitFault>>,
    loads: Mutex<VecDeque<StoreError>>,
    gate: Arc<RwLock<()>>,
}

/// Commits wait until this is dropped.
#[must_use = "commits go on as soon as this is dropped"]
pub struct HeldCommits {
    _gate: OwnedRwLockWriteGuard<()>,
}

impl FaultyStore {
    /// A store that passes everything on to `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            commits: Mutex::default(),
            loads: Mutex::default(),
            gate: Arc::default(),
        }
    }

    /// Plans what happens to the next commits, one after the other, after what was planned before.
    pub fn plan_commits(&self, faults: impl IntoIterator<Item = CommitFault>) {
        locked(&self.commits).extend(faults);
    }

    /// Plans errors for the next loads, one after the other.
    pub fn fail_loads(&self, errors: impl IntoIterator<Item = StoreError>) {
        locked(&self.loads).extend(errors);
    }

    /// Whether everything that was planned has happened.
    pub fn is_done(&self) -> bool {
        locked(&self.commits).is_empty() && locked(&self.loads).is_empty()
    }

    /// Waits for the commits under way and then holds back the next ones, so that a test can look
    /// at what is published before anything is durable.
    pub async fn hold_commits(&self) -> HeldCommits {
        HeldCommits {
            _gate: Arc::clone(&self.gate).write_owned().await,
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let planned = locked(&self.loads).pop_front();
        match planned {
            Some(error) => Err(error),
            None => self.inner.load().await,
        }
    }

    async fn commit(&self, mut batch: Vec<Arc<Transaction>>) -> Result<Revision, StoreError> {
        let _open = self.gate.read().await;
        let planned = locked(&self.commits).pop_front();
        match planned.unwrap_or(CommitFault::Pass) {
            CommitFault::Pass => self.inner.commit(batch).await,
            CommitFault::Refuse(error) => Err(error),
            CommitFault::LoseAnswer(error) => {
                self.inner.commit(batch).await?;
                Err(error)
            }
            CommitFault::Tear { keep, error } => {
                batch.truncate(keep);
                self.inner.commit(batch).await?;
                Err(error)
            }
        }
    }

    async fn changes_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<(Revision, Vec<Change>)>, StoreError> {
        self.inner.changes_after(revision, limit).await
    }

    async fn audit_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        self.inner.audit_after(sequence, limit).await
    }

    async fn audit_before(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        self.inner.audit_before(sequence, limit).await
    }

    async fn policy_text(&self, number: u64) -> Result<Option<PolicyText>, StoreError> {
        self.inner.policy_text(number).await
    }

    async fn prune_changes(&self, keep: Retention) -> Result<u64, StoreError> {
        self.inner.prune_changes(keep).await
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore")
            .field("commits", &*locked(&self.commits))
            .field("loads", &*locked(&self.loads))
            .finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use muster_model::JoinToken;
    use muster_model::Timestamp;
    use muster_policy::{Caller, Prune, decide};
    use muster_store_sqlite::SqliteStore;
    use tempfile::TempDir;

    use super::*;

    fn one(value: &str) -> Arc<Transaction> {
        let permit = decide::<Prune>(&Caller::System("test")).unwrap();
        let mut transaction = Transaction::new();
        let token = JoinToken {
            value: value.into(),
            expires_at: Timestamp::EPOCH,
        };
        transaction.put_join_token(&permit, token);
        Arc::new(transaction)
    }

    #[tokio::test]
    async fn it_fails_as_planned() {
        let dir = TempDir::new().unwrap();
        let store = FaultyStore::new(Arc::new(SqliteStore::open(dir.path().join("db")).unwrap()));
        store.plan_commits([
            CommitFault::Pass,
            CommitFault::Refuse(StoreError::Closed),
            CommitFault::LoseAnswer(StoreError::Closed),
            CommitFault::Tear {
                keep: 1,
                error: StoreError::Closed,
            },
        ]);
        store.fail_loads([StoreError::Closed]);
        let lost = Err(StoreError::Closed);
        assert_eq!(store.commit(vec![one("a")]).await, Ok(Revision(1)));
        assert_eq!(store.commit(vec![one("b")]).await, lost);
        assert_eq!(store.commit(vec![one("c")]).await, lost);
        assert_eq!(store.commit(vec![one("d"), one("e")]).await, lost);
        assert!(store.load().await.is_err() && store.is_done());
        assert_eq!(store.commit(vec![one("f")]).await, Ok(Revision(4)));
        let loaded = store.load().await.unwrap();
        let mut tokens: Vec<_> = loaded.join_tokens.into_iter().map(|t| t.value).collect();
        tokens.sort();
        assert_eq!(tokens, ["a", "c", "d", "f"]);
    }

    #[tokio::test]
    async fn held_commits_wait() {
        let dir = TempDir::new().unwrap();
        let store = FaultyStore::new(Arc::new(SqliteStore::open(dir.path().join("db")).unwrap()));
        let held = store.hold_commits().await;
        let mut commit = store.commit(vec![one("a")]);
        let waiting = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(commit.as_mut().poll(cx).is_pending())
        });
        assert!(waiting.await);
        assert_eq!(store.load().await.unwrap().head, Revision(0));
        drop(held);
        assert_eq!(commit.await, Ok(Revision(1)));
    }
}
