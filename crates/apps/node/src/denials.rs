//! Whom the node refused, for its server's audit log.
//!
//! Whoever refuses leaves a note here, without waiting; a loop of its own tells the server. What is
//! kept is bounded (`table.rs`): refusals are told by process and reason, not one by one, and what
//! there is no place for is counted. What waits when the node ends is not told.

mod table;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_model::Shown;
use muster_proto::muster::node::v1::ReportRefusalsRequest;
use muster_proto::muster::node::v1::node_refusals_client::NodeRefusalsClient;
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use muster_svid::x509::X509Svid;
use muster_wire::denial;
use muster_wire::trace::TraceId;
use tokio::sync::{Notify, watch};
use tonic::Code;

pub(crate) use self::table::Refused;
use self::table::{Batch, Place, Table};
use crate::upstream::Upstream;

/// How long a report may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long between two reports.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after one that failed, or while the node has not joined.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long after one that the server does not know what to do with.
const AFTER_UNKNOWN: Duration = Duration::from_mins(10);

/// Where notes are left; clones are the same.
#[derive(Clone)]
pub(crate) struct Denials {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

struct Shared {
    table: Mutex<Table>,
    news: Notify,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Denials {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            table: Mutex::new(Table::new()),
            news: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
            clock,
        }
    }

    /// Notes that a process was refused.
    pub(crate) fn note(&self, who: Refused) {
        let now = self.clock.now().wall;
        if self.shared.table().place(&who, now) == Place::Counted {
            return;
        }
        // Only of whoever is new, and has a place.
        let executable = executable(who.pid);
        self.shared.table().add(who, executable, now);
        self.shared.news.notify_one();
    }

    /// The loop that tells the server.
    pub(crate) fn reporter(
        &self,
        upstream: Upstream,
        node: watch::Receiver<Option<X509Svid>>,
    ) -> Reporter {
        Reporter {
            denials: self.clone(),
            upstream,
            node,
        }
    }
}

/// Tells the server.
pub(crate) struct Reporter {
    denials: Denials,
    upstream: Upstream,
    node: watch::Receiver<Option<X509Svid>>,
}

impl Reporter {
    /// Tells what there is until the shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            let batch = tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                batch = self.next() => batch,
            };
            pause = tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                pause = self.tell(&batch) => pause,
            };
        }
    }

    /// The next that is to be told.
    async fn next(&self) -> Batch {
        loop {
            let wait = {
                let now = self.denials.clock.now();
                let mut table = self.denials.shared.table();
                if let Some(batch) = table.due(now) {
                    return batch;
                }
                table.wait(now.mono)
            };
            let news = self.denials.shared.news.notified();
            match wait {
                // What is due and not told waits for the ration.
                Some(wait) => drop(tokio::time::timeout(wait.max(PAUSE), news).await),
                None => news.await,
            }
        }
    }

    /// Tells the server, and returns how long to leave it alone.
    async fn tell(&self, batch: &Batch) -> Duration {
        // A node that has not joined has nobody to tell.
        if self.node.borrow().is_none() {
            return AFTER_FAILURE;
        }
        let trace = TraceId::new();
        let mut request = trace.request(ReportRefusalsRequest {
            refused: batch.denials().map(denial::write).collect(),
            unreported: batch.unreported,
        });
        request.set_timeout(TIMEOUT);
        let mut client = NodeRefusalsClient::new(self.upstream.channel());
        match client.report_refusals(request).await {
            Ok(answer) => {
                let unrecorded = answer.into_inner().unrecorded;
                if unrecorded > 0 {
                    tracing::warn!(
                        unrecorded,
                        "the server has not put all refusals on its record: there are too many"
                    );
                }
                tracing::debug!(trace_id = %trace, "the server was told whom this node refused");
                let now = self.denials.clock.now().mono;
                self.denials.shared.table().told(batch, now);
                PAUSE
            }
            Err(status) if status.code() == Code::Unimplemented => {
                tracing::debug!("the server takes no refusals; it is older than this node");
                self.denials.shared.table().forget();
                AFTER_UNKNOWN
            }
            Err(status) => {
                tracing::info!(code = ?status.code(), error = status.message(), "whom this node refused could not be told; trying again");
                AFTER_FAILURE
            }
        }
    }
}

/// Where the executable is of the process that has this number now: for people. Nothing holds the
/// process, so it may be another one already.
fn executable(pid: u32) -> Shown {
    if pid == 0 {
        return Shown::empty();
    }
    std::fs::read_link(format!("/proc/{pid}/exe")).map_or_else(
        |_| Shown::empty(),
        |path| Shown::of(&path.to_string_lossy()),
    )
}
