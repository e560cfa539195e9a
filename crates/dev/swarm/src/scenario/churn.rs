//! Entries come and go at a rate while nodes are connected: how soon do the nodes hear of theirs,
//! and what do the changes of others cost?

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connect_all;
use crate::clock::Stopwatch;
use crate::node::Known;
use crate::report::Figure;
use crate::server::{Dialect, Place};
use crate::times::{Times, large, number, rate};
use crate::{Cage, Failure, Fleet, Link, Node, Program, entries};

/// How often an agent of SPIRE asks.
const SYNC: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 64;
/// Entries that are created or deleted in one call.
const BATCH: usize = 10;
/// How long the last change may take to reach its node.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Connected nodes.
    pub nodes: usize,
    /// Changes by the second: one half creates, the other half deletes.
    pub changes_per_second: usize,
    /// For how long.
    pub lasting: Duration,
}

/// A node heard of a new entry.
type Heard = (String, Duration);

/// Plays it.
pub async fn run(program: Program, sizes: Sizes, cage: Cage) -> Result<Vec<Figure>, Failure> {
    let dialect = program.dialect();
    let place = Place::new(program)?;
    let (mut server, _) = place.start(cage).await?;
    let fleet = Fleet::attest(&server, sizes.nodes).await?;
    let clock = Arc::new(Stopwatch::start());
    let (news, mut heard) = mpsc::unbounded_channel();
    let (end, ended) = watch::channel(());
    let mut holding = JoinSet::new();
    for (node, link) in connect_all(&fleet, &server.address, AT_ONCE).await? {
        let (clock, news, ended) = (Arc::clone(&clock), news.clone(), ended.clone());
        holding.spawn(follow(dialect, node, link, clock, news, ended));
    }
    sleep(SYNC).await;

    let traffic = || fleet.nodes.iter().map(|n| n.traffic.payload()).sum::<u64>();
    let (bytes, cpu) = (traffic(), server.pid.cpu()?);
    let mut api = EntryClient::new(muster_peer::connect(&server.admin_socket).await?);
    let batches = (sizes.changes_per_second / BATCH).max(1);
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(batches)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut acknowledged: HashMap<String, Duration> = HashMap::new();
    let mut alive: Vec<Vec<String>> = Vec::new();
    let (mut next, mut changes) = (0, 0);
    let began = clock.elapsed();
    while clock.elapsed().saturating_sub(began) < sizes.lasting {
        ticks.tick().await;
        let created = (0..BATCH)
            .filter_map(|offset| {
                let node = fleet.nodes.get((next + offset) % fleet.nodes.len())?;
                Some(entries::entry(&node.id, next + offset))
            })
            .collect();
        next += BATCH;
        let ids = entries::create(&mut api, created).await?;
        let at = clock.elapsed();
        acknowledged.extend(ids.iter().map(|id| (id.clone(), at)));
        alive.push(ids);
        changes += BATCH;
        ticks.tick().await;
        // Some stand for a while, so that each change meets entries of others.
        if alive.len() > batches {
            let oldest = alive.remove(0);
            changes += oldest.len();
            entries::delete(&mut api, oldest).await?;
        }
    }
    let took = clock.elapsed().saturating_sub(began);
    let mut times = Times::default();
    let wanted = acknowledged.len();
    let complete = async {
        while times.count() < wanted
            && let Some((id, at)) = heard.recv().await
        {
            if let Some(known) = acknowledged.get(&id) {
                times.add(at.saturating_sub(*known));
            }
        }
    };
    let all = timeout(PATIENCE, complete).await.is_ok();
    // An agent that asks every five seconds may miss an entry that was deleted meanwhile.
    if dialect == Dialect::Muster && !all {
        return Err(format!("of {wanted} new entries {} were heard of", times.count()).into());
    }
    let cpu = server.pid.cpu()?.saturating_sub(cpu);
    server.check()?;
    drop(end);
    while let Some(node) = holding.join_next().await {
        node??;
    }
    let mut figures = vec![
        Figure::new("churn: nodes connected", number(sizes.nodes), ""),
        Figure::new("churn: changes", rate(changes, took), "/s"),
    ];
    figures.extend(hearing(&mut times, wanted));
    figures.extend([
        Figure::cost(
            "churn: server, time on a core by change",
            cpu.as_secs_f64() * 1e6 / number(changes.max(1)),
            "us",
        ),
        Figure::cost(
            "churn: bytes of all nodes by change",
            large(traffic() - bytes) / number(changes.max(1)),
            "B",
        ),
    ]);
    server.stop().await?;
    Ok(figures)
}

/// How soon nodes heard of `wanted` new entries.
fn hearing(times: &mut Times, wanted: usize) -> [Figure; 3] {
    let all = number(times.count()) / number(wanted.max(1)) * 100.0;
    let (half, most) = (times.quantile(50), times.quantile(99));
    [
        Figure::cost("churn: acknowledged -> its node knows, p50", half, "ms"),
        Figure::cost("churn: acknowledged -> its node knows, p99", most, "ms").at_most(50.0),
        Figure::gain("churn: new entries that their nodes heard of", all, "%").at_least(100.0),
    ]
}

async fn follow(
    dialect: Dialect,
    node: Arc<Node>,
    link: Link,
    clock: Arc<Stopwatch>,
    news: mpsc::UnboundedSender<Heard>,
    mut ended: watch::Receiver<()>,
) -> Result<(), Failure> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", node.id);
    let mut known = Known::default();
    match dialect {
        Dialect::Muster => {
            let mut stream = link.watch().await.map_err(|e| told(&e))?;
            loop {
                let message = tokio::select! {
                    message = stream.message() => message.map_err(|e| told(&e))?,
                    _gone = ended.changed() => return Ok(()),
                };
                let message = message.ok_or_else(|| told(&"the server ended the stream"))?;
                for entry in message.entries {
                    news.send((entry.id, clock.elapsed()))?;
                }
            }
        }
        Dialect::Spire => loop {
            for id in link.sync(&mut known).await.map_err(|e| told(&e))? {
                news.send((id, clock.elapsed()))?;
            }
            tokio::select! {
                () = sleep(SYNC) => {}
                _gone = ended.changed() => return Ok(()),
            }
        },
    }
}
