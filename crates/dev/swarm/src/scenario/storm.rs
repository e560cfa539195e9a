//! A reconnect storm: the server dies and comes back, and all nodes connect at once, each with SVIDs
//! to renew. Some hold nothing that is still good; the others renew early.
//!
//! Two rates are compared: *peak*, what the server signs when the same work comes in good order, a
//! few nodes at a time; and *goodput*, what it signs in the storm. What a node does is the same in
//! both: a handshake, its view, one batch signed. Both count what arrived while its node still
//! waited for it, by the second of the core that others left (`ledger.rs`); what the server did not
//! use counts against it. After the storm, nodes stay connected as far as the server has room.

mod account;
mod judge;
mod ledger;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_model::Timestamp;
use muster_proto::muster::node::v1::WatchResponse;
use muster_tls::Urgency;
use muster_wire::status::retry_after;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::{Code, Streaming};

use crate::clock::{Stopwatch, wall};
use crate::node::Known;
use crate::report::Figure;
use crate::server::{Dialect, Place};
use crate::times::{millis, number, rate};
use crate::{Cage, Failure, Fleet, Link, Node, Program, entries};

use judge::judge;
use ledger::Keeper;

/// In so many ticks of that length all nodes have set out; few of them sooner.
const TICKS: usize = 100;
const BY_TICK: usize = 100;
const TICK: Duration = Duration::from_millis(10);
/// Nodes at a time, while the peak is measured.
const IN_ORDER: usize = 16;
/// How soon a node that found no server tries again, at first and at last.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_LAST: Duration = Duration::from_secs(1);
/// How long a node that was told no moment waits before it asks again.
const BACKOFF: Duration = Duration::from_secs(1);
/// How long the storm may last.
const PATIENCE: Duration = Duration::from_mins(10);
/// How long a node waits for an answer, as `muster-node` does.
const RPC_TIMEOUT: Duration = Duration::from_secs(30);
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
    /// How often it was told to come again.
    deferred: usize,
    /// How often it lost its connection, or its patience.
    broken: usize,
}

/// Plays it.
///
/// With `csv`, what became of each node is written there, in milliseconds since the storm began.
pub async fn run(
    program: Program,
    sizes: Sizes,
    cage: Cage,
    csv: Option<&Path>,
) -> Result<Vec<Figure>, Failure> {
    let dialect = program.dialect();
    let place = Place::new(program)?;
    let (server, _) = place.start(cage).await?;
    let mut fleet = Fleet::attest(&server, sizes.nodes).await?;
    entries::give(&server, &mut fleet, sizes.svids).await?;
    let address = server.address.clone();

    let clock = Arc::new(Stopwatch::start());
    let keeper = Keeper::start(cage.core, server.pid, Arc::clone(&clock));
    let (signed, from, to) = in_good_order(dialect, &fleet, &address, &clock, sizes).await?;
    let peak = rate(signed, keeper.close().left(from, to));
    let before = server.pid.resident()?;
    server.kill().await?;

    // All nodes stand ready: they come when the server is back.
    let ready = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let (over, end) = watch::channel(());
    let mut storm: JoinSet<Result<(), Failure>> = JoinSet::new();
    for (number, node) in fleet.nodes.iter().enumerate() {
        let (node, address, clock) = (Arc::clone(node), address.clone(), Arc::clone(&clock));
        let (ready, tell, mut end) = (Arc::clone(&ready), tell.clone(), end.clone());
        let expired = is_expired(number, sizes);
        storm.spawn(async move {
            ready.acquire().await?.forget();
            let (fate, mut here) = come_back(dialect, &node, &address, &clock, expired).await?;
            tell.send(fate)?;
            // It stays until all is over, or until the server has no room for it.
            tokio::select! {
                _over = end.changed() => {}
                () = here.stay() => {}
            }
            Ok(())
        });
    }
    let (mut server, restart) = place.start(cage).await?;
    let (began, began_at) = (clock.elapsed(), wall());
    let releasing = tokio::spawn(release(ready, fleet.nodes.len()));
    let keeper = Keeper::start(cage.core, server.pid, Arc::clone(&clock));
    let cpu = server.pid.cpu()?;
    let mut fates: Vec<Fate> = Vec::with_capacity(fleet.nodes.len());
    let weathered = async {
        while fates.len() < fleet.nodes.len() {
            tokio::select! {
                fate = told.recv() => fates.extend(fate),
                // One that stays no longer has been served, or the server refuses it.
                Some(left) = storm.join_next() => left??,
            }
        }
        Ok::<_, Failure>(())
    };
    let outcome = timeout(PATIENCE, weathered).await;
    server.check()?;
    outcome.map_err(|_| {
        let here = fates.len();
        format!(
            "the storm lasts too long: {here} of {} nodes came back",
            sizes.nodes
        )
    })??;
    let ledger = keeper.close();
    releasing.await?;
    let cpu = server.pid.cpu()?.saturating_sub(cpu);
    let lasted = clock.elapsed().saturating_sub(began);
    let highest = server.pid.peak()?;
    let settled = server.pid.resident()?;
    drop(over);
    while let Some(left) = storm.join_next().await {
        left??;
    }
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
    if let Some(csv) = csv {
        fs::write(csv, table(&fates, began))?;
    }
    figures.extend(judge(fates, began, &ledger, peak, sizes));
    server.stop().await?;
    if dialect == Dialect::Muster {
        let expired = fleet.nodes.iter().enumerate();
        let expired = expired
            .filter(|(place, _)| is_expired(*place, sizes))
            .map(|(_, node)| node.id.clone())
            .collect();
        let overtaken = account::overtaken(&place.database(), began_at, &expired).await?;
        let what = "storm: expired nodes overtaken by an early renewal that came later";
        figures.push(Figure::cost(what, number(overtaken), "").at_most(0.0));
    }
    Ok(figures)
}

/// Lets all nodes go within the second in which they find their server. They share one program and
/// its core: if all spoke before any listened, the server would wait for them.
async fn release(ready: Arc<Semaphore>, nodes: usize) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = nodes;
    while left > 0 {
        ticks.tick().await;
        let next = left.min(nodes.div_ceil(TICKS).max(BY_TICK));
        ready.add_permits(next);
        left -= next;
    }
}

/// Whether the node of that number holds nothing that is still good.
fn is_expired(number: usize, sizes: Sizes) -> bool {
    number % 100 < sizes.expired_per_cent
}

/// What became of each node, one a line.
fn table(fates: &[Fate], began: Duration) -> String {
    let mut text = String::from("expired,connected,asked,served,deferred,broken\n");
    for fate in fates {
        let since = |at: Duration| at.saturating_sub(began).as_millis();
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text,
            "{},{},{},{},{},{}",
            u8::from(fate.expired),
            since(fate.connected),
            since(fate.asked),
            since(fate.done),
            fate.deferred,
            fate.broken
        );
    }
    text
}

/// Lets nodes come in good order: how many SVIDs they got, and from when to when.
async fn in_good_order(
    dialect: Dialect,
    fleet: &Fleet,
    address: &str,
    clock: &Arc<Stopwatch>,
    sizes: Sizes,
) -> Result<(usize, Duration, Duration), Failure> {
    if dialect == Dialect::Spire {
        // SPIRE's server knows new entries after five seconds.
        sleep(Duration::from_secs(7)).await;
    }
    let from = clock.elapsed();
    let mut coming = JoinSet::new();
    let mut done = 0;
    for node in fleet.nodes.iter().take(sizes.peak_nodes) {
        if coming.len() >= IN_ORDER {
            coming.join_next().await.transpose()?.transpose()?;
            done += 1;
        }
        let (node, address, clock) = (Arc::clone(node), address.to_owned(), Arc::clone(clock));
        coming.spawn(async move {
            come_back(dialect, &node, &address, &clock, true)
                .await
                .map(|_| ())
        });
    }
    while let Some(last) = coming.join_next().await {
        last??;
        done += 1;
    }
    Ok((done * sizes.svids, from, clock.elapsed()))
}

/// A node that is connected and has what it came for.
struct Here {
    _link: Link,
    view: Option<View>,
}

impl Here {
    /// Resolves when the server ends the node's stream; never, for a node that only asks.
    async fn stay(&mut self) {
        if let Some(Some(stream)) = &mut self.view {
            while let Ok(Some(_news)) = stream.message().await {}
        } else {
            std::future::pending::<()>().await;
        }
    }
}

/// Connects as soon as there is a server, asks for its view, and has its SVIDs signed.
async fn come_back(
    dialect: Dialect,
    node: &Arc<Node>,
    address: &str,
    clock: &Stopwatch,
    expired: bool,
) -> Result<(Fate, Here), Failure> {
    let urgency = if expired && dialect == Dialect::Muster {
        Urgency::Now
    } else {
        Urgency::CanWait
    };
    let mut link = reach(node, address, urgency).await;
    let connected = clock.elapsed();
    let mut view = None;
    let mut asked = None;
    let (mut deferred, mut broken) = (0, 0);
    loop {
        let outcome = serve(dialect, node, &link, &mut view, expired, || {
            asked.get_or_insert_with(|| clock.elapsed());
        });
        let failure = match timeout(RPC_TIMEOUT, outcome).await {
            Ok(Ok(())) => break,
            Ok(Err(failure)) => failure,
            Err(_elapsed) => Setback::Gone,
        };
        match failure {
            Setback::Later(wait) => {
                deferred += 1;
                sleep(wait).await;
            }
            Setback::Gone => {
                broken += 1;
                view = None;
                link = reach(node, address, urgency).await;
            }
            Setback::Refused(why) => return Err(format!("{}: {why}", node.id).into()),
        }
    }
    let done = clock.elapsed();
    let fate = Fate {
        expired,
        connected,
        asked: asked.unwrap_or(done),
        done,
        deferred,
        broken,
    };
    Ok((fate, Here { _link: link, view }))
}

async fn reach(node: &Node, address: &str, urgency: Urgency) -> Link {
    let mut again = AGAIN;
    loop {
        match node.connect_as(urgency, address).await {
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
