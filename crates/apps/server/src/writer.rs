//! The single writer of the roll: what is decided against one state is committed on that state.
//!
//! Requests to write are closures over the roll as it will be once everything before them is
//! committed. The writer runs those that wait, commits their transactions together (one sync of
//! the disk for all), publishes the new roll, and only then answers. A reader takes a snapshot and
//! is never in anyone's way.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use muster_audit::Record;
use muster_model::{Revision, SpiffeId};
use muster_roll::{Change, Concern, Roll};
use muster_store::{Disposition, Store, StoreError, Transaction};
use tokio::sync::{mpsc, oneshot};

use crate::audit_log::Publisher;
use crate::dispatch::{Dispatch, Subscription};
use crate::{sightings, tasks};

/// How many requests may wait for the writer; more wait for a place.
const QUEUE: usize = 1024;
/// How many requests are committed together at the most.
const BATCH: usize = 256;
/// How many changes are kept in memory for streams that resume; older ones start over.
const WINDOW_CHANGES: usize = 100_000;

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The store did not take it; nothing of it was kept.
    #[error("the write was not stored: {0}")]
    Store(Arc<StoreError>),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Closed,
}

type Reply = Box<dyn FnOnce(Result<(), WriteError>) + Send>;
type Job = Box<dyn FnOnce(&Roll, &mut Transaction) -> Reply + Send>;

/// A handle to the roll: snapshots for readers, a queue for writers, news for streams.
#[derive(Clone)]
pub(crate) struct RollHandle {
    current: Arc<ArcSwap<Roll>>,
    jobs: mpsc::Sender<Job>,
    dispatch: Arc<Dispatch>,
    window: Arc<Mutex<Window>>,
}

impl RollHandle {
    /// The roll as it is committed now.
    pub(crate) fn snapshot(&self) -> Arc<Roll> {
        self.current.load_full()
    }

    /// Follows what concerns `node`. Take the snapshot after this.
    pub(crate) fn follow(&self, node: SpiffeId) -> Subscription {
        self.dispatch.subscribe(node)
    }

    /// The changes of the transactions after `revision`, oldest first; `None` if they are no longer
    /// all in memory, or more than `most`. What no view has is left out: join tokens, journals.
    pub(crate) fn since(&self, revision: Revision, most: usize) -> Option<Vec<Arc<[Change]>>> {
        self.window
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .since(revision, most)
    }

    /// Runs `decide` on the roll as it will be, commits the transaction that it fills, and returns
    /// what it returned once that is durable and published.
    ///
    /// A closure that fills nothing commits nothing, and still answers in order.
    pub(crate) async fn write<R: Send + 'static>(
        &self,
        decide: impl FnOnce(&Roll, &mut Transaction) -> R + Send + 'static,
    ) -> Result<R, WriteError> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |roll, transaction| {
            let value = decide(roll, transaction);
            Box::new(move |outcome| {
                // A caller that no longer waits has nothing to be told.
                drop(answer.send(outcome.map(|()| value)));
            })
        });
        self.jobs.send(job).await.map_err(|_| WriteError::Closed)?;
        wait.await.map_err(|_| WriteError::Closed)?
    }

    /// Appends `records` to the audit log; returns once they are durable.
    pub(crate) async fn audit(&self, records: Vec<Record>) -> Result<(), WriteError> {
        self.write(move |_, transaction| {
            for record in records {
                transaction.audit(record);
            }
        })
        .await
    }
}

/// The recent transactions, for streams that resume.
#[derive(Default)]
struct Window {
    start: Revision,
    transactions: VecDeque<(Revision, Arc<[Change]>)>,
    changes: usize,
}

impl Window {
    fn push(&mut self, revision: Revision, changes: Arc<[Change]>) {
        self.changes += changes.len();
        self.transactions.push_back((revision, changes));
        while self.changes > WINDOW_CHANGES {
            let Some((oldest, dropped)) = self.transactions.pop_front() else {
                break;
            };
            self.changes -= dropped.len();
            self.start = oldest;
        }
    }

    fn since(&self, revision: Revision, most: usize) -> Option<Vec<Arc<[Change]>>> {
        if revision < self.start {
            return None;
        }
        let from = self.transactions.partition_point(|(r, _)| *r <= revision);
        let mut count = 0;
        let mut found = Vec::new();
        for (_, changes) in self.transactions.iter().skip(from) {
            count += changes.len();
            if count > most {
                return None;
            }
            found.push(Arc::clone(changes));
        }
        Some(found)
    }
}

/// The changes that a view can be about.
fn seen_by_views(before: &Roll, changes: &[Change]) -> Arc<[Change]> {
    changes
        .iter()
        .filter(|change| match change {
            Change::PutEntry(_)
            | Change::DeleteEntry(_)
            | Change::PutNode(_)
            | Change::DeleteNode(_)
            | Change::PutBundle(_)
            | Change::DeleteBundle(_)
            | Change::PutRule(_)
            | Change::DeleteRule(_) => true,
            Change::Agent(change) => change.is_seen_by_views(before.agents()),
            Change::PutJoinToken(_) | Change::DeleteJoinToken(_) | Change::PutJournal { .. } => {
                false
            }
        })
        .cloned()
        .collect()
}

/// The writer; [`RollWriter::run`] is one of the server's essential tasks.
pub(crate) struct RollWriter {
    store: Arc<dyn Store>,
    current: Arc<ArcSwap<Roll>>,
    jobs: mpsc::Receiver<Job>,
    dispatch: Arc<Dispatch>,
    window: Arc<Mutex<Window>>,
    log: Publisher,
    /// The last commit may or may not have happened.
    in_doubt: bool,
}

impl RollWriter {
    /// A writer that goes on from `roll`, tells `log` of each record, and the handle to it.
    pub(crate) fn new(store: Arc<dyn Store>, roll: Roll, log: Publisher) -> (Self, RollHandle) {
        let head = roll.head();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let dispatch = Arc::new(Dispatch::default());
        let window = Arc::new(Mutex::new(Window {
            start: head,
            ..Window::default()
        }));
        let current = Arc::new(ArcSwap::from_pointee(roll));
        let handle = RollHandle {
            current: Arc::clone(&current),
            jobs,
            dispatch: Arc::clone(&dispatch),
            window: Arc::clone(&window),
        };
        (
            Self {
                store,
                current,
                jobs: queue,
                dispatch,
                window,
                log,
                in_doubt: false,
            },
            handle,
        )
    }

    /// Writes until `stop`, and then what was asked for before.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                count = self.jobs.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.commit(batch.drain(..)).await;
                }
                () = &mut stop, if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
    }

    async fn commit(&mut self, jobs: impl Iterator<Item = Job>) {
        if let Err(error) = self.catch_up().await {
            for job in jobs {
                let current = self.current.load();
                job(&current, &mut Transaction::new())(Err(WriteError::Store(Arc::clone(&error))));
            }
            return;
        }
        let mut working = Roll::clone(&self.current.load());
        let mut replies = Vec::new();
        let mut transactions = Vec::new();
        for job in jobs {
            let mut transaction = Transaction::new();
            replies.push(job(&working, &mut transaction));
            tasks::follow(&working, &mut transaction);
            sightings::follow(&working, &mut transaction);
            if transaction.is_audit_only() && transaction.records().is_empty() {
                continue;
            }
            if !transaction.is_audit_only() {
                let revision = working.head().next();
                // Before anyone shares its rows: they would be copied to get their revision.
                transaction.stamp(revision);
                working.apply(revision, transaction.changes());
            }
            transactions.push(Arc::new(transaction));
        }
        let outcome = if transactions.is_empty() {
            Ok(())
        } else {
            self.publish(working, transactions).await
        };
        for reply in replies {
            reply(outcome.clone().map_err(WriteError::Store));
        }
    }

    /// After a commit whose outcome is not known, takes the store's word for what it holds.
    async fn catch_up(&mut self) -> Result<(), Arc<StoreError>> {
        if !self.in_doubt {
            return Ok(());
        }
        let trust_domain = self.current.load().trust_domain().clone();
        let roll = Roll::load(trust_domain, self.store.load().await.map_err(Arc::new)?);
        let head = roll.head();
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = Window {
            start: head,
            ..Window::default()
        };
        let roll = Arc::new(roll);
        self.current.store(Arc::clone(&roll));
        self.dispatch.publish(&Concern::everyone(), &roll);
        self.log.start_over().await.map_err(Arc::new)?;
        self.in_doubt = false;
        tracing::warn!(revision = %head, "the roll was loaded afresh after a commit in doubt");
        Ok(())
    }

    /// Persists, then publishes: what a reader can see survives a crash.
    async fn publish(
        &mut self,
        working: Roll,
        transactions: Vec<Arc<Transaction>>,
    ) -> Result<(), Arc<StoreError>> {
        let before = self.current.load_full();
        if let Err(error) = self.store.commit(transactions.clone()).await {
            tracing::error!(%error, "a commit failed");
            metrics::counter!("muster_server_commits_total", "outcome" => "failed").increment(1);
            self.in_doubt = error.disposition() == Disposition::Unknown;
            return Err(Arc::new(error));
        }
        metrics::counter!("muster_server_commits_total", "outcome" => "done").increment(1);
        if working.head() != before.head() {
            self.publish_roll(&before, working, &transactions);
        }
        // After the roll: whoever hears of a record finds what it is about.
        self.log.publish(transactions);
        Ok(())
    }

    fn publish_roll(&self, before: &Roll, working: Roll, transactions: &[Arc<Transaction>]) {
        let concern = Concern::of(
            before,
            &working,
            transactions
                .iter()
                .flat_map(|transaction| transaction.changes()),
        );
        // The window first: whoever sees the new roll finds all that led to it.
        {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            let mut revision = before.head();
            for transaction in transactions.iter().filter(|t| !t.is_audit_only()) {
                revision = revision.next();
                window.push(revision, seen_by_views(before, transaction.changes()));
            }
        }
        let working = Arc::new(working);
        self.current.store(Arc::clone(&working));
        self.dispatch.publish(&concern, &working);
    }
}
