//! The node's memory while many tasks are live, each with its socket and its SVID. They are the
//! tasks of children of the bench, several to a child where there are many tasks: a socket and a
//! process take a descriptor each, and machines allow some 20,000.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::agents::{self, Tasks};
use super::{Figure, Sizes, workload};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::numbers::number;
use crate::subject::{Node, Own};

/// The first few.
const FEW: usize = 100;
/// The most processes.
const PROCESSES: usize = 5000;
/// Opened at the same time.
const AT_ONCE: usize = 64;
/// The bars are in MB, the figures in MiB.
const MIB: f64 = 1.048_576;

pub(super) async fn measure(muster: &Path, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut own = Own::start(muster).await?;
    let node = own.node("n").await?;
    agents::found(&own).await?;
    agents::register(&own, &[node.ready().await?]).await?;
    drop(workload::open(&node.workload_socket).await?);
    let tasks = Tasks::at(&node.workload_socket).await?;
    let mut live = Live::default();
    let bare = node.pid.resident()?;
    let few = live.grow(&node, &tasks, FEW).await?;
    let many = live.grow(&node, &tasks, sizes.live).await?;
    let peak = node.pid.peak()?;
    let what = |tasks: usize| {
        let processes = tasks.min(PROCESSES);
        format!("node resident, {tasks} live tasks of {processes} processes")
    };
    let each = (many - few) * 1024.0 / number(sizes.live - FEW);
    let watch = Stopwatch::start();
    drop(live);
    node.stands(|info| info.entries == 1).await?;
    let ended = watch.elapsed();
    Ok(vec![
        Figure::memory("node resident, no task", bare),
        Figure::memory(what(FEW), few).at_most(30.0 / MIB),
        Figure::memory(what(sizes.live), many).at_most(300.0 / MIB),
        Figure::memory("node resident at the most until then", peak),
        Figure::memory("node resident when all have ended", node.pid.resident()?),
        Figure::new("node resident, by live task", each, "KiB"),
        Figure::time(
            format!("{} tasks ended with their processes", sizes.live),
            ended.as_secs_f64() * 1e3,
        ),
    ])
}

/// Processes and how many tasks they have together. They end with this value.
#[derive(Default)]
struct Live {
    children: Vec<Child>,
    tasks: usize,
}

impl Live {
    /// Opens tasks until there are so many; the node's memory once it holds an SVID for each.
    async fn grow(&mut self, node: &Node, tasks: &Tasks, until: usize) -> Result<f64, Failure> {
        while self.children.len() < until.min(PROCESSES) {
            self.children.push(idler()?);
        }
        let mut opening: JoinSet<Result<(), Failure>> = JoinSet::new();
        for number in self.tasks..until {
            if opening.len() >= AT_ONCE
                && let Some(done) = opening.join_next().await
            {
                done??;
            }
            let child = self.children.get(number % self.children.len());
            let pid = child.and_then(Child::id).ok_or("a child has ended")?;
            let mut tasks = tasks.clone();
            opening.spawn(async move {
                tasks.open_for(pid).await?;
                Ok(())
            });
        }
        while let Some(done) = opening.join_next().await {
            done??;
        }
        self.tasks = until;
        let wanted = u64::try_from(until)?;
        // The agent's own SVID is not streamed, and gives way to those that are.
        node.stands(|info| info.x509_svids >= wanted).await?;
        node.pid.resident()
    }
}

/// A process that does nothing.
fn idler() -> Result<Child, Failure> {
    Ok(Command::new("sleep")
        .arg("infinity")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?)
}
