//! What happens to callers, told to the server for its audit log.
//!
//! Whoever serves leaves a note, without waiting; a loop of its own tells the server. What is kept is
//! bounded (`table.rs`): the same is told as one with a number, not one by one, and what there is no
//! place for is counted. What waits when the node ends is not told. What there is to tell of, and of
//! whom, a [`Topic`] says: `denials`, `attestations`.

mod table;

use std::convert::Infallible;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use muster_svid::x509::X509Svid;
use muster_wire::trace::TraceId;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use self::table::Table;
pub(crate) use self::table::{Batch, Place, Tally, Terms};
use crate::upstream::Upstream;

/// How long a report may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long between two reports.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after one that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long after one that the server does not know what to do with.
const AFTER_UNKNOWN: Duration = Duration::from_mins(10);

/// Something that the server is told of.
pub(crate) trait Topic: Send + Sync + Sized + 'static {
    /// Who it happens to: each has one row.
    type Who: Clone + Eq + Hash + fmt::Debug + Send + Sync;
    /// What happened.
    type Tally: Tally + fmt::Debug + Send + Sync;
    /// The message to the server.
    type Report: Send;

    /// How much is kept and told.
    const TERMS: Terms;
    /// What the server is told, for the log.
    const WHAT: &'static str;

    /// What counts more has the lower rank.
    fn rank(who: &Self::Who) -> u8;

    /// The message of a batch.
    fn report(batch: &Batch<Self::Who, Self::Tally>) -> Self::Report;

    /// Sends it, and returns how many of it are not on the record.
    fn tell(
        channel: Channel,
        request: Request<Self::Report>,
    ) -> impl Future<Output = Result<u64, Status>> + Send;
}

/// Where notes are left; clones are the same.
pub(crate) struct Notes<T: Topic> {
    shared: Arc<Shared<T>>,
    clock: Arc<dyn Clock>,
}

impl<T: Topic> Clone for Notes<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            clock: Arc::clone(&self.clock),
        }
    }
}

struct Shared<T: Topic> {
    table: Mutex<Table<T::Who, T::Tally>>,
    news: Notify,
}

impl<T: Topic> Shared<T> {
    fn table(&self) -> MutexGuard<'_, Table<T::Who, T::Tally>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Topic> Notes<T> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            table: Mutex::new(Table::new(T::TERMS)),
            news: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
            clock,
        }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Counts something with `count`; whoever is new, and has a place, is added as `first` says, which
    /// may take its time.
    pub(crate) fn note(
        &self,
        who: &T::Who,
        count: impl FnOnce(&mut T::Tally),
        first: impl FnOnce() -> T::Tally,
    ) {
        let place = self.shared.table().place(who, T::rank(who), count);
        match place {
            Place::Counted => return,
            Place::Pending => {}
            Place::New => {
                let first = first();
                let mut table = self.shared.table();
                table.add(who.clone(), T::rank(who), first);
            }
        }
        self.shared.news.notify_one();
    }

    /// Takes out what is to be told now, or says how long until something is, if nothing more comes.
    pub(crate) fn due(&self) -> Result<Batch<T::Who, T::Tally>, Option<Duration>> {
        let now = self.clock.now();
        let mut table = self.shared.table();
        table.due(now).ok_or_else(|| table.wait(now.mono))
    }

    /// The server has been told.
    pub(crate) fn told(&self, batch: &Batch<T::Who, T::Tally>) {
        let now = self.clock.now().mono;
        self.shared.table().told(batch, now);
    }

    /// The loop that tells the server.
    pub(crate) fn reporter(
        &self,
        upstream: Upstream,
        node: watch::Receiver<Option<X509Svid>>,
    ) -> Reporter<T> {
        Reporter {
            notes: self.clone(),
            upstream,
            node,
        }
    }
}

/// Tells the server.
pub(crate) struct Reporter<T: Topic> {
    notes: Notes<T>,
    upstream: Upstream,
    node: watch::Receiver<Option<X509Svid>>,
}

impl<T: Topic> Reporter<T> {
    /// Tells what there is until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            // A node that has not joined has nobody to tell.
            let batch = tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                batch = self.joined_and_next() => batch,
            };
            pause = tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                pause = self.tell(batch) => pause,
            };
        }
    }

    async fn joined_and_next(&mut self) -> Batch<T::Who, T::Tally> {
        if self.node.wait_for(Option::is_some).await.is_err() {
            // What joins is gone: the node is ending.
            std::future::pending::<()>().await;
        }
        self.next().await
    }

    /// The next that is to be told.
    async fn next(&self) -> Batch<T::Who, T::Tally> {
        loop {
            let wait = match self.notes.due() {
                Ok(batch) => return batch,
                Err(wait) => wait,
            };
            let news = self.notes.shared.news.notified();
            match wait {
                // What is due and not told waits for the ration.
                Some(wait) => drop(tokio::time::timeout(wait.max(PAUSE), news).await),
                None => news.await,
            }
        }
    }

    /// Tells the server, and returns how long to leave it alone.
    async fn tell(&self, batch: Batch<T::Who, T::Tally>) -> Duration {
        let trace = TraceId::new();
        let mut request = trace.request(T::report(&batch));
        request.set_timeout(TIMEOUT);
        let told = T::tell(self.upstream.channel(), request).await;
        match told {
            Ok(unrecorded) => {
                if unrecorded > 0 {
                    tracing::warn!(
                        unrecorded,
                        what = T::WHAT,
                        "the server has not put all on its record: there is too much"
                    );
                }
                tracing::debug!(trace_id = %trace, what = T::WHAT, "the server was told");
                self.notes.told(&batch);
                PAUSE
            }
            Err(status) if status.code() == Code::Unimplemented => {
                tracing::debug!(
                    what = T::WHAT,
                    "the server is older than this node and is not told"
                );
                self.notes.shared.table().forget();
                AFTER_UNKNOWN
            }
            Err(status) => {
                tracing::info!(code = ?status.code(), error = status.message(), what = T::WHAT, "the server could not be told; trying again");
                self.notes.shared.table().put_back(batch);
                AFTER_FAILURE
            }
        }
    }
}
