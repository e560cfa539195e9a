//! A reconnect storm: the server dies and comes back, and all nodes connect at once, each with SVIDs
//! to renew. Some hold nothing that is still good; the others renew early.
//!
//! Two rates are compared: *peak*, what the server signs when the same work comes in good order, a
//! few nodes at a time; and *goodput*, what it signs in the storm. What a node does is the same in
//! both: a handshake, its view, one batch signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster_model::Timestamp;
use muster_proto::muster::node::v1::WatchResponse;
use muster_wire::status::retry_after;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::{Code, Streaming};

use crate::clock::{Stopwatch, wall};
use crate::node::Known;
use crate::report::Figure;
use crate::server::{Dialect, Place};
use crate::times::{Times, millis, number, rate};
use crate::{Cage, Failure, Fleet, Link, Node, Program, entries};

/// Nodes at a time, while the peak is measured.
const IN_ORDER: usize = 16;
/// How soon a node that found no server tries again, at first and at last.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_LAST: Duration = Duration::from_secs(1);
/// How long a node that was told no moment waits before it asks again.
const BACKOFF: Duration = Duration::from_secs(1);
/// How long the storm may last.
const PATIENCE: Duration = Duration::from_mins(10);
/// An answer that comes so much earlier than another was not let past it: the time that a request
/// may be under way, and one batch may be in the works.
const TOLERANCE: Duration = Duration::from_millis(500);
/// How long a node that renews early has left.
const EARLY: Duration = Duration::from_mins(20);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Nodes that come at once.
    pub nodes: usize,
    /// SVIDs of each.
    pub svids: usize,
    /// How many of a hundred nodes hold nothing that is still good.
    pub expired_per_cent: usize,
    /// Nodes that take part in the measurement of the peak.
    pub peak_nodes: usize,
}

/// How a node fared.
#[derive(Clone, Copy, Debug)]
struct Fate {
    expired: bool,
    /// The handshake was done.
    connected: Duration,
    /// Its request was sent for the first time.
    asked: Duration,
    /// Its SVIDs were there.
    done: Duration,
    deferred: usize,
}

/// Plays it.
pub async fn run(program: Program, sizes: Sizes, cage: Cage) -> Result<Vec<Figure>, Failure> {
    let dialect = program.dialect();
    let place = Place::new(program)?;
    let (server, _) = place.start(cage).await?;
    let mut fleet = Fleet::attest(&server, sizes.nodes).await?;
    entries::give(&server, &mut fleet, sizes.svids).await?;
    let address = server.address.clone();

    let clock = Arc::new(Stopwatch::start());
    let peak = peak(dialect, &fleet, &address, sizes).await?;
    let before = server.pid.resident()?;
    server.kill().await?;

    // All nodes stand ready before the server is back.
    let ready = Arc::new(Barrier::new(fleet.nodes.len() + 1));
    let here = Arc::new(AtomicUsize::new(0));
    let mut storm = JoinSet::new();
    for (place, node) in fleet.nodes.iter().enumerate() {
        let (node, address, clock) = (Arc::clone(node), address.clone(), Arc::clone(&clock));
        let (ready, here) = (Arc::clone(&ready), Arc::clone(&here));
        let expired = place % 100 < sizes.expired_per_cent;
        storm.spawn(async move {
            ready.wait().await;
            come_back(dialect, &node, &address, &clock, expired, &here).await
        });
    }
    ready.wait().await;
    let (mut server, restart) = place.start(cage).await?;
    let began = clock.elapsed();
    let cpu = server.pid.cpu()?;
    let mut fates = Vec::with_capacity(fleet.nodes.len());
    let weathered = async {
        while let Some(fate) = storm.join_next().await {
            fates.push(fate??);
        }
        Ok::<_, Failure>(())
    };
    timeout(PATIENCE, weathered).await.map_err(|_| {
        let here = here.load(Ordering::Relaxed);
        format!(
            "the storm lasts too long: {here} of {} nodes came back",
            sizes.nodes
        )
    })??;
    server.check()?;
    let cpu = server.pid.cpu()?.saturating_sub(cpu);
    let lasted = clock.elapsed().saturating_sub(began);
    let highest = server.pid.peak()?;
    let settled = server.pid.resident()?;
    let mut figures = vec![
        Figure::gain("storm: peak, SVIDs signed in good order", peak, "/s"),
        Figure::new("storm: server resident, before", before, "MiB"),
        Figure::new("storm: restart to serving", millis(restart), "ms"),
        Figure::cost("storm: server resident, peak", highest, "MiB").at_most(512.0),
        Figure::cost("storm: server resident, after", settled, "MiB"),
        Figure::new(
            "storm: server, part of a core",
            cpu.as_secs_f64() / lasted.as_secs_f64().max(0.001) * 100.0,
            "%",
        ),
    ];
    figures.extend(judge(fates, began, peak, sizes));
    server.stop().await?;
    Ok(figures)
}

/// What the fates of the nodes amount to.
fn judge(mut fates: Vec<Fate>, began: Duration, peak: f64, sizes: Sizes) -> Vec<Figure> {
    let end = fates.iter().map(|fate| fate.done).max().unwrap_or(began);
    let lasted = end.saturating_sub(began);
    let goodput = rate(fates.len() * sizes.svids, lasted);
    let mut expired = Times::default();
    let mut early = Times::default();
    for fate in &fates {
        let times = if fate.expired {
            &mut expired
        } else {
            &mut early
        };
        times.add(fate.done.saturating_sub(began));
    }
    let mut handshakes = Times::default();
    let mut waits = Times::default();
    for fate in &fates {
        handshakes.add(fate.connected.saturating_sub(began));
        if fate.expired {
            waits.add(fate.done.saturating_sub(fate.asked));
        }
    }
    let deferred: usize = fates.iter().map(|fate| fate.deferred).sum();
    let overtaken = overtaken(&mut fates);
    vec![
        Figure::new("storm: nodes that came at once", number(fates.len()), ""),
        Figure::new("storm: lasted", lasted.as_secs_f64(), "s"),
        Figure::gain("storm: goodput, SVIDs signed", goodput, "/s"),
        Figure::gain("storm: goodput, of the peak", goodput / peak * 100.0, "%").at_least(80.0),
        Figure::cost("storm: connected, p50", handshakes.quantile(50), "ms"),
        Figure::cost("storm: connected, last", handshakes.quantile(100), "ms"),
        Figure::cost(
            "storm: expired nodes served, p50",
            expired.quantile(50),
            "ms",
        ),
        Figure::cost(
            "storm: expired nodes served, last",
            expired.quantile(100),
            "ms",
        ),
        Figure::cost(
            "storm: early renewals served, p50",
            early.quantile(50),
            "ms",
        ),
        Figure::cost(
            "storm: early renewals served, p95",
            early.quantile(95),
            "ms",
        ),
        Figure::cost(
            "storm: early renewals served, last",
            early.quantile(100),
            "ms",
        ),
        Figure::cost(
            "storm: an expired node waited for its SVIDs, p99",
            waits.quantile(99),
            "ms",
        ),
        Figure::new(
            "storm: early renewals told to come again",
            number(deferred),
            "",
        ),
        Figure::cost(
            "storm: expired nodes overtaken by an early renewal",
            number(overtaken),
            "",
        )
        .at_most(0.0),
    ]
}

/// How many expired nodes waited while an early renewal that had asked after them was answered.
fn overtaken(fates: &mut [Fate]) -> usize {
    // By the time of asking, latest first: what comes before in this order asked later.
    fates.sort_by_key(|fate| std::cmp::Reverse(fate.asked));
    let mut soonest = Duration::MAX;
    let mut pending = std::collections::VecDeque::new();
    let mut count = 0;
    for fate in fates.iter() {
        if !fate.expired {
            pending.push_back(*fate);
            continue;
        }
        while let Some(early) = pending.front()
            && early.asked > fate.asked + TOLERANCE
        {
            soonest = soonest.min(early.done);
            pending.pop_front();
        }
        if soonest.saturating_add(TOLERANCE) < fate.done {
            count += 1;
        }
    }
    count
}

/// What the server signs by the second when nodes come in good order.
async fn peak(
    dialect: Dialect,
    fleet: &Fleet,
    address: &str,
    sizes: Sizes,
) -> Result<f64, Failure> {
    if dialect == Dialect::Spire {
        // SPIRE's server knows new entries after five seconds.
        sleep(Duration::from_secs(7)).await;
    }
    let clock = Arc::new(Stopwatch::start());
    let mut coming = JoinSet::new();
    let mut done = 0;
    let here = Arc::new(AtomicUsize::new(0));
    for node in fleet.nodes.iter().take(sizes.peak_nodes) {
        if coming.len() >= IN_ORDER {
            coming.join_next().await.transpose()?.transpose()?;
            done += 1;
        }
        let (node, address, clock) = (Arc::clone(node), address.to_owned(), Arc::clone(&clock));
        let here = Arc::clone(&here);
        coming.spawn(async move {
            come_back(dialect, &node, &address, &clock, true, &here)
                .await
                .map(|_| ())
        });
    }
    while let Some(last) = coming.join_next().await {
        last??;
        done += 1;
    }
    Ok(rate(done * sizes.svids, clock.elapsed()))
}

/// Connects as soon as there is a server, asks for its view, and has its SVIDs signed.
async fn come_back(
    dialect: Dialect,
    node: &Arc<Node>,
    address: &str,
    clock: &Stopwatch,
    expired: bool,
    here: &AtomicUsize,
) -> Result<Fate, Failure> {
    let mut link = reach(node, address).await;
    let connected = clock.elapsed();
    let mut view = None;
    let mut asked = None;
    let mut deferred = 0;
    loop {
        let outcome = serve(dialect, node, &link, &mut view, expired, || {
            asked.get_or_insert_with(|| clock.elapsed());
        });
        let failure = match outcome.await {
            Ok(()) => break,
            Err(failure) => failure,
        };
        match failure {
            Setback::Later(wait) => {
                deferred += 1;
                sleep(wait).await;
            }
            Setback::Gone => {
                view = None;
                link = reach(node, address).await;
            }
            Setback::Refused(why) => return Err(format!("{}: {why}", node.id).into()),
        }
    }
    here.fetch_add(1, Ordering::Relaxed);
    let done = clock.elapsed();
    Ok(Fate {
        expired,
        connected,
        asked: asked.unwrap_or(done),
        done,
        deferred,
    })
}

async fn reach(node: &Node, address: &str) -> Link {
    let mut again = AGAIN;
    loop {
        match node.connect(address).await {
            Ok(link) => return link,
            Err(_not_there) => sleep(again).await,
        }
        again = (again * 2).min(AGAIN_AT_LAST);
    }
}

/// Why a node is not served yet.
enum Setback {
    /// It is to ask again after that long.
    Later(Duration),
    /// The connection broke.
    Gone,
    /// It will never be.
    Refused(String),
}

impl From<tonic::Status> for Setback {
    fn from(status: tonic::Status) -> Self {
        match (status.code(), retry_after(&status)) {
            (_, Some(wait)) => Self::Later(wait),
            (Code::ResourceExhausted | Code::NotFound, None) => Self::Later(BACKOFF),
            (Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, None) => {
                Self::Gone
            }
            (_, None) => Self::Refused(status.to_string()),
        }
    }
}

/// A view that the node has; the stream is held, so that the server has it too.
type View = Option<Box<Streaming<WatchResponse>>>;

async fn serve(
    dialect: Dialect,
    node: &Node,
    link: &Link,
    view: &mut Option<View>,
    expired: bool,
    asking: impl FnOnce(),
) -> Result<(), Setback> {
    if view.is_none() {
        *view = Some(match dialect {
            Dialect::Muster => {
                let mut stream = link.watch().await?;
                stream.message().await?.ok_or(Setback::Gone)?;
                Some(Box::new(stream))
            }
            Dialect::Spire => {
                let synced = link.sync(&mut Known::default()).await;
                synced.map_err(|_broken| Setback::Gone)?;
                None
            }
        });
    }
    let expires_at = (dialect == Dialect::Muster).then(|| {
        if expired {
            Timestamp::EPOCH
        } else {
            wall().plus(EARLY)
        }
    });
    asking();
    link.sign(&node.entries, expires_at).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(expired: bool, asked: u64, done: u64) -> Fate {
        Fate {
            expired,
            connected: Duration::ZERO,
            asked: Duration::from_secs(asked),
            done: Duration::from_secs(done),
            deferred: 0,
        }
    }

    #[test]
    fn an_expired_node_is_overtaken_by_an_early_renewal_that_asked_later() {
        let check = |fates: &[Fate], expected| {
            assert_eq!(overtaken(&mut fates.to_vec()), expected);
        };
        check(&[fate(true, 1, 9), fate(false, 3, 5)], 1);
        // It had asked before.
        check(&[fate(true, 3, 9), fate(false, 1, 5)], 0);
        // It was answered later.
        check(&[fate(true, 1, 5), fate(false, 3, 9)], 0);
        // Another expired node may come first.
        check(&[fate(true, 1, 9), fate(true, 3, 5)], 0);
        check(&[fate(true, 1, 9), fate(true, 2, 9), fate(false, 4, 5)], 2);
    }
}
