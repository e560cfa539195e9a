//! The store port: what keeps the roll over a restart, and what every adapter must promise.
//!
//! Start at [`Store`]. What is written is a [`Transaction`]: its changes can be put in only with a
//! [`muster_policy::Permit`] for an action that writes such rows, so that a write which nobody
//! authorized does not compile. [`conformance`] is the suite that every adapter passes.
//!
//! Deliberately not here: reading single rows (the roll is in memory, `core/roll`, but for the texts
//! of policies), when several
//! transactions are committed together (the server's writer decides), and any adapter.

pub mod conformance;
mod error;
mod transaction;

use std::sync::Arc;

use async_trait::async_trait;
use muster_audit::Record;
use muster_model::{PolicyText, Revision, Timestamp};
use muster_roll::Change;

pub use error::{Disposition, StoreError};
pub use muster_roll::Loaded;
pub use transaction::Transaction;

/// How much of the change log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At most this many of the newest revisions.
    pub revisions: u64,
    /// Nothing that was written before this instant, by the first audit record of the transaction;
    /// one without a record has no age.
    pub since: Timestamp,
}

/// Keeps the roll, its change log and the audit records.
///
/// A store has one writer: whoever opens it holds it alone, and a second one is refused with
/// [`StoreError::Locked`]. Every method may be called from any task.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Everything that the store holds, and the revision at which it stands.
    async fn load(&self) -> Result<Loaded, StoreError>;

    /// Makes a batch of transactions durable, all or none, and returns the head revision.
    ///
    /// Each transaction that has changes gets the next revision, in the order of the batch and
    /// without gaps; one that has only audit records gets none. Every row that a transaction puts
    /// gets its revision as `changed_at`. When the call returns, the batch survives the loss of the
    /// process and of the machine's power; after an error nothing of it is there, with the one
    /// exception of [`Disposition::Unknown`].
    async fn commit(&self, batch: Vec<Arc<Transaction>>) -> Result<Revision, StoreError>;

    /// The changes of the transactions after `revision`, oldest first, of at most `limit`
    /// transactions. Each transaction comes whole. [`StoreError::Forgotten`] when the log no longer
    /// reaches back so far.
    async fn changes_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<(Revision, Vec<Change>)>, StoreError>;

    /// The audit records after the one numbered `sequence`, oldest first, at most `limit`. The
    /// first record has the number 1, and there are no gaps.
    async fn audit_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError>;

    /// The audit records before the one numbered `sequence`, newest first, at most `limit`; those
    /// before [`u64::MAX`] are the newest of all.
    async fn audit_before(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError>;

    /// The text of the set of policies of that number; `None` where it is not kept. The roll has all
    /// that is known of the sets but their texts, which may be long and are seldom asked for.
    async fn policy_text(&self, number: u64) -> Result<Option<PolicyText>, StoreError>;

    /// Shortens the change log to `keep` and returns how many revisions were forgotten. The rows
    /// themselves and the audit records stay.
    async fn prune_changes(&self, keep: Retention) -> Result<u64, StoreError>;
}
