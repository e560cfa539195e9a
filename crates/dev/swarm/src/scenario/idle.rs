//! Many nodes that have nothing to do: what do they cost?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{READER, connect_all};
use crate::node::Known;
use crate::report::Figure;
use crate::server::{Dialect, Place};
use crate::times::{large, number};
use crate::{Cage, Failure, Fleet, Link, Node, Program, Running, entries};

/// How often an agent of SPIRE asks.
const SYNC: Duration = Duration::from_secs(5);
/// How long a first view may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Handshakes at a time.
const AT_ONCE: usize = 64;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Idle nodes.
    pub nodes: usize,
    /// Entries of each of them.
    pub entries_each: usize,
    /// Entries of one more node, for the bytes of a node with many.
    pub entries_big: usize,
    /// How long they are idle.
    pub lasting: Duration,
}

/// What the nodes have heard together.
#[derive(Default)]
struct Heard {
    /// Nodes whose first view is complete.
    ready: AtomicU64,
    /// Messages and answers.
    messages: AtomicU64,
}

/// Plays it.
pub async fn run(program: Program, sizes: Sizes, cage: Cage) -> Result<Vec<Figure>, Failure> {
    let ours = program.is_ours();
    let dialect = program.dialect();
    let place = Place::new(program)?;
    let (mut server, _) = place.start(cage).await?;
    let bare = server.pid.resident()?;
    let mut fleet = Fleet::attest(&server, sizes.nodes).await?;
    let mut big = Fleet::attest(&server, 1).await?;
    entries::give(&server, &mut fleet, sizes.entries_each).await?;
    entries::give(&server, &mut big, sizes.entries_big).await?;
    let loaded = server.pid.resident()?;

    let heard = Arc::new(Heard::default());
    let (end, ended) = watch::channel(());
    let mut holding = JoinSet::new();
    for fleet in [&fleet, &big] {
        for (node, link) in connect_all(fleet, &server.address, AT_ONCE).await? {
            let (heard, ended) = (Arc::clone(&heard), ended.clone());
            holding.spawn(hold(dialect, node, link, heard, ended));
        }
    }
    heard.ready(sizes.nodes + 1).await?;
    // What the first views left under way is not idleness.
    sleep(SYNC).await;

    let before = Sample::take(&server, &fleet, &big, &heard)?;
    sleep(sizes.lasting).await;
    let after = Sample::take(&server, &fleet, &big, &heard)?;
    let resident = [bare, loaded, server.pid.resident()?, server.pid.peak()?];
    server.check()?;
    if let Some(failed) = holding.try_join_next() {
        failed??;
        return Err("a node ended before it was told to".into());
    }
    drop(end);
    while let Some(node) = holding.join_next().await {
        node??;
    }
    let mut figures = figures(&before, &after, resident, sizes);
    if ours {
        let (Some(before), Some(after)) = (before.reads, after.reads) else {
            return Err(format!("the server has no thread named {READER}").into());
        };
        let what = format!("idle: store reads in {} s", sizes.lasting.as_secs());
        figures.push(Figure::cost(what, large(after - before), "").at_most(0.0));
    }
    server.stop().await?;
    Ok(figures)
}

/// Counters at one moment.
struct Sample {
    payload: u64,
    wire: u64,
    wire_big: u64,
    messages: u64,
    /// How often the thread that reads the store was given work; `None` without such a thread.
    reads: Option<u64>,
    cpu: Duration,
}

impl Sample {
    fn take(server: &Running, fleet: &Fleet, big: &Fleet, heard: &Heard) -> Result<Self, Failure> {
        let wire = |fleet: &Fleet| fleet.nodes.iter().map(|n| n.traffic.on_the_wire()).sum();
        Ok(Self {
            payload: fleet.nodes.iter().map(|n| n.traffic.payload()).sum(),
            wire: wire(fleet),
            wire_big: wire(big),
            messages: heard.messages.load(Ordering::Relaxed),
            reads: server.pid.wakes(READER)?,
            cpu: server.pid.cpu()?,
        })
    }
}

fn figures(
    before: &Sample,
    after: &Sample,
    [bare, loaded, resident, peak]: [f64; 4],
    sizes: Sizes,
) -> Vec<Figure> {
    let minutes = sizes.lasting.as_secs_f64() / 60.0;
    let nodes = number(sizes.nodes);
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    let by_node = |count: u64| large(count) / minutes / nodes;
    vec![
        Figure::new("idle: nodes connected", nodes + 1.0, ""),
        Figure::cost(
            format!(
                "idle: bytes by node and minute, {} entries of its own",
                sizes.entries_big
            ),
            large(after.wire_big - before.wire_big) / minutes,
            "B",
        )
        .at_most(5000.0),
        Figure::cost(
            "idle: bytes by node and minute, on the wire",
            by_node(after.wire - before.wire),
            "B",
        ),
        Figure::cost(
            "idle: bytes by node and minute, TCP payload",
            by_node(after.payload - before.payload),
            "B",
        ),
        Figure::cost(
            "idle: messages of the server by node and minute",
            by_node(after.messages - before.messages),
            "",
        ),
        Figure::cost(
            "idle: server, part of a core",
            cpu / sizes.lasting.as_secs_f64() * 100.0,
            "%",
        ),
        Figure::new("idle: server resident, bare", bare, "MiB"),
        Figure::cost(
            "idle: server resident, nodes attested, none connected",
            loaded,
            "MiB",
        ),
        Figure::cost("idle: server resident, all connected", resident, "MiB").at_most(512.0),
        Figure::cost("idle: server resident, peak", peak, "MiB"),
        Figure::cost(
            "idle: server resident by connected node",
            (resident - loaded) * 1024.0 / (nodes + 1.0),
            "KiB",
        ),
    ]
}

impl Heard {
    /// Waits until so many nodes have their first view.
    async fn ready(&self, nodes: usize) -> Result<(), Failure> {
        let wanted = u64::try_from(nodes)?;
        timeout(PATIENCE, async {
            while self.ready.load(Ordering::Relaxed) < wanted {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .map_err(|_| "not every node got its first view".into())
    }
}

/// One node until the end.
async fn hold(
    dialect: Dialect,
    node: Arc<Node>,
    link: Link,
    heard: Arc<Heard>,
    mut ended: watch::Receiver<()>,
) -> Result<(), Failure> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", node.id);
    match dialect {
        Dialect::Muster => {
            let mut stream = link.watch().await.map_err(|e| told(&e))?;
            let mut ready = false;
            loop {
                let message = tokio::select! {
                    message = stream.message() => message.map_err(|e| told(&e))?,
                    _gone = ended.changed() => return Ok(()),
                };
                let message = message.ok_or_else(|| told(&"the server ended the stream"))?;
                heard.messages.fetch_add(1, Ordering::Relaxed);
                if message.complete && !ready {
                    ready = true;
                    heard.ready.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Dialect::Spire => {
            let mut known = Known::default();
            link.sync(&mut known).await.map_err(|e| told(&e))?;
            heard.ready.fetch_add(1, Ordering::Relaxed);
            loop {
                // The connections were made one after the other, which spreads the questions.
                tokio::select! {
                    () = sleep(SYNC) => {}
                    _gone = ended.changed() => return Ok(()),
                }
                link.sync(&mut known).await.map_err(|e| told(&e))?;
                heard.messages.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
