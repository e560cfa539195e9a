//! Looking for processes that look like AI agents, and telling the server.
//!
//! Start at [`Sweeper::run`]. `sweep` goes through `/proc` on a thread of its own, at low priority
//! and with pauses; `look` reads one process; `group` makes rows of what was found; `report` tells
//! the server; `service` tells an operator.
//!
//! What holds: nothing that leaves `look` has text of a process in it but names of files, of units
//! and of users. Deliberately not here: what agents look like (`core/sighting`).

mod group;
mod look;
mod report;
mod service;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use muster_model::{Confidence, SightingKind, SightingStanding, Timestamp};
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use muster_sighting::{CustomFault, Signatures};
use muster_svid::x509::X509Svid;
use tokio::sync::{mpsc, oneshot, watch};

use self::group::{Group, Joined};
use self::report::Reporter;
pub(crate) use self::service::{NAME, SightingsApi};
use self::sweep::{Swept, Thread};
use crate::config::SightingsConfig;
use crate::driver::Driver;
use crate::target::Targets;
use crate::upstream::Upstream;

/// How many processes are attested at once: each may be a question to a container engine.
const ATTESTED_AT_ONCE: usize = 4;
/// How many may wait for a sweep that they asked for.
const ASKING: usize = 16;

/// What the last sweep came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    rows: Vec<Row>,
    swept_at: Option<Timestamp>,
    processes: usize,
    looked_at: usize,
    worked: Duration,
    left_out: usize,
    reported: bool,
}

/// A kind of process, and how it stands.
#[derive(Clone, Debug)]
struct Row {
    seen: muster_model::Sighted,
    standing: SightingStanding,
}

type Ask = oneshot::Sender<Arc<Outcome>>;

/// Sweeps every so often, and when asked.
pub(crate) struct Sweeper {
    interval: Duration,
    at_least: Confidence,
    thread: Thread,
    driver: Driver,
    targets: Targets,
    clock: Arc<dyn Clock>,
    node: watch::Receiver<Option<X509Svid>>,
    reporter: Reporter,
    outcome: watch::Sender<Arc<Outcome>>,
    asked: mpsc::Receiver<Ask>,
}

/// What the sweeper is made of.
pub(crate) struct Parts {
    pub(crate) driver: Driver,
    pub(crate) targets: Targets,
    pub(crate) upstream: Upstream,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) node: watch::Receiver<Option<X509Svid>>,
}

/// Why there is no sweeper.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweeperError {
    #[error(transparent)]
    Signature(#[from] CustomFault),
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Sweeper {
    /// A sweeper, and the service by which it is asked.
    pub(crate) fn new(
        config: &SightingsConfig,
        parts: Parts,
    ) -> Result<(Self, SightingsApi), SweeperError> {
        let signatures = Signatures::new(&config.own)?;
        let thread = Thread::start(signatures, config.at_least, parts.clock.clone())?;
        let (ask, asked) = mpsc::channel(ASKING);
        let (outcome, latest) = watch::channel(Arc::new(Outcome::default()));
        let sweeper = Self {
            interval: config.interval,
            at_least: config.at_least,
            thread,
            driver: parts.driver,
            targets: parts.targets,
            clock: parts.clock,
            node: parts.node,
            reporter: Reporter::new(parts.upstream),
            outcome,
            asked,
        };
        Ok((sweeper, SightingsApi::new(ask, latest, config.interval)))
    }

    /// Sweeps until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        let never = self.interval.is_zero();
        let mut ticks = tokio::time::interval(if never {
            Duration::from_hours(1)
        } else {
            self.interval
        });
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first is at once, and a node that starts has better things to do.
        ticks.tick().await;
        loop {
            let ask = tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                ask = self.asked.recv() => ask,
                _instant = ticks.tick(), if !never => None,
            };
            let done = tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                done = self.sweep() => done,
            };
            if let (Some(done), Some(ask)) = (done, ask) {
                // Whoever asked may have gone.
                drop(ask.send(done));
            }
        }
    }

    /// One sweep: what is found, who that is, and the server told. `None` where the node is ending.
    async fn sweep(&mut self) -> Option<Arc<Outcome>> {
        let swept = self.thread.sweep().await?;
        let node = self
            .node
            .borrow()
            .as_ref()
            .map(|svid| svid.spiffe_id.clone());
        let joined = self.join(&swept).await;
        let groups = Group::all(node.as_ref(), joined, swept.boot_time);
        let told = self
            .reporter
            .tell(node.as_ref(), &groups, &self.clock)
            .await;
        let rows = groups
            .rows
            .into_iter()
            .map(|seen| {
                let standing = self
                    .reporter
                    .standing(&seen)
                    .unwrap_or_else(|| group::standing(&seen));
                Row { seen, standing }
            })
            .collect();
        let outcome = Arc::new(Outcome {
            rows,
            swept_at: Some(self.clock.now().wall),
            processes: swept.processes,
            looked_at: swept.looked_at,
            worked: swept.worked,
            left_out: swept.left_out + groups.left_out,
            reported: told,
        });
        gauge(&outcome);
        tracing::debug!(
            processes = outcome.processes,
            looked_at = outcome.looked_at,
            found = outcome.rows.len(),
            at_least = %self.at_least,
            worked_ms = outcome.worked.as_millis(),
            "looked for agents"
        );
        self.outcome.send_replace(Arc::clone(&outcome));
        Some(outcome)
    }

    /// Attests what was found, and asks the roster which identities that has.
    async fn join(&self, swept: &Swept) -> Vec<Joined> {
        stream::iter(swept.found.iter().cloned())
            .map(|found| async move {
                let attested = self.targets.attest_one(found.pid, found.start_time).await;
                let Ok(attested) = attested else {
                    return Joined::unknown(found);
                };
                let matched = self.driver.identities(attested.who).await;
                let identities = matched
                    .map(|matched| matched.identities)
                    .unwrap_or_default();
                Joined::known(found, &attested.facts, identities)
            })
            .buffered(ATTESTED_AT_ONCE)
            .collect()
            .await
    }
}

/// Sets the gauges, by kind and standing; both are closed sets.
fn gauge(outcome: &Outcome) {
    metrics::counter!("muster_node_sweeps_total").increment(1);
    for kind in SightingKind::ALL {
        for standing in SightingStanding::ALL {
            let count = outcome
                .rows
                .iter()
                .filter(|row| row.seen.kind == *kind && row.standing == *standing)
                .count();
            metrics::gauge!("muster_node_sightings", "kind" => kind.as_str(), "standing" => standing.as_str())
                .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
}
