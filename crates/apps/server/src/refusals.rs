//! Refused callers on the record, without letting them fill the disk.
//!
//! A refusal is recorded after the answer has left, in batches. Callers that are refused faster
//! than the log takes it are counted, and the count is itself a record.

use std::sync::atomic::{AtomicU64, Ordering};

use muster_audit::Record;
use tokio::sync::mpsc;

use crate::writer::RollHandle;

/// How many refusals may wait to be written.
const QUEUE: usize = 256;

/// Takes notes of refusals.
pub(crate) struct Refusals {
    notes: mpsc::Sender<Record>,
    dropped: AtomicU64,
}

impl Refusals {
    /// A notebook, and the queue that [`keep`] writes from.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Record>) {
        let (notes, queue) = mpsc::channel(QUEUE);
        (
            Self {
                notes,
                dropped: AtomicU64::new(0),
            },
            queue,
        )
    }

    /// Notes a refusal; never waits.
    pub(crate) fn note(&self, mut record: Record) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            record = record.with("unrecorded_before", dropped.to_string());
        }
        if self.notes.try_send(record).is_err() {
            self.dropped
                .fetch_add(dropped.saturating_add(1), Ordering::Relaxed);
        }
    }
}

/// Writes the notes until the notebook is gone.
pub(crate) async fn keep(mut queue: mpsc::Receiver<Record>, roll: RollHandle) {
    let mut batch = Vec::with_capacity(QUEUE);
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        let count = batch.len();
        if let Err(error) = roll.audit(std::mem::take(&mut batch)).await {
            tracing::error!(%error, count, "refusals could not be recorded");
        }
    }
}
