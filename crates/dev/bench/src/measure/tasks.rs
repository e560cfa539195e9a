//! Tasks of one node: how soon one has its identity, how soon that is gone with its process, and how
//! many come and go.
//!
//! The bench is the agent. Its connection to the Workload API stands; that to each task's socket is
//! new, as a program's is that is given `SPIFFE_ENDPOINT_SOCKET`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster_proto::muster::agent::v1::ListLedgerRequest;
use muster_proto::muster::agent::v1::task_ledger_client::TaskLedgerClient;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::agents::{self, Tasks};
use super::gone::{Mortal, Socket};
use super::{Figure, Sizes, workload};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::numbers::{Times, number, rate};
use crate::process::Pid;
use crate::subject::{Node, Own};

/// Agents' work that is under way at the same time.
const AT_ONCE: usize = 64;
/// How long the server may take to hear of the last end.
const HEARD_WITHIN: Duration = Duration::from_mins(1);
const ASK_AGAIN: Duration = Duration::from_millis(5);

pub(super) async fn measure(muster: &Path, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut own = Own::start(muster).await?;
    let node = own.node("n").await?;
    agents::found(&own).await?;
    agents::register(&own, &[node.ready().await?]).await?;
    // Waits until the identity is there.
    drop(workload::open(&node.workload_socket).await?);
    let tasks = Tasks::at(&node.workload_socket).await?;
    let mut figures = first(tasks.clone(), sizes).await?;
    figures.extend(gone(tasks.clone(), sizes).await?);
    figures.extend(come_and_go(&own, &node, &tasks, sizes).await?);
    Ok(figures)
}

/// From the call to the SVID, one task after another.
async fn first(mut tasks: Tasks, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let (mut answered, mut held) = (Times::default(), Times::default());
    for _ in 0..sizes.tasks {
        let watch = Stopwatch::start();
        let task = tasks.open().await?;
        answered.add(watch.elapsed());
        let open = workload::open(Path::new(&task.socket)).await?;
        held.add(watch.elapsed());
        if open.spiffe_id != task.spiffe_id {
            return Err(format!("task {} has the SVID of {}", task.id, open.spiffe_id).into());
        }
        drop(open);
        tasks.complete(task.id).await?;
    }
    Ok(vec![
        Figure::time("Tasks.Open to its answer, p50", answered.quantile(50)),
        Figure::time("Tasks.Open to its answer, p99", answered.quantile(99)),
        Figure::time("Tasks.Open to first SVID in hand, p50", held.quantile(50)).at_most(25.0),
        Figure::time("Tasks.Open to first SVID in hand, p99", held.quantile(99)).at_most(50.0),
    ])
}

/// From the end of the process to which a task is bound until its stream has ended and its socket is
/// gone.
async fn gone(mut tasks: Tasks, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut times = Times::default();
    for _ in 0..sizes.gone {
        let mortal = Mortal::start(Socket::Own)?;
        let task = tasks.open_for(mortal.pid()?).await?;
        times.add(mortal.end(Path::new(&task.socket)).await?);
    }
    let what = "a task's process gone to its identity refused";
    Ok(vec![
        Figure::time(format!("{what}, p50"), times.quantile(50)),
        Figure::time(format!("{what}, p99"), times.quantile(99)).at_most(10.0),
    ])
}

/// Opens and ends tasks, many at a time, until the server has heard of the last end.
async fn come_and_go(
    own: &Own,
    node: &Node,
    tasks: &Tasks,
    sizes: &Sizes,
) -> Result<Vec<Figure>, Failure> {
    let ended = Arc::new(AtomicUsize::new(0));
    let caller = Pid(i32::try_from(std::process::id())?);
    let all = [
        ("node", node.pid),
        ("server", own.server.pid),
        ("caller", caller),
    ];
    let mut before = Vec::with_capacity(all.len());
    for (_, pid) in all {
        before.push(pid.cpu()?);
    }
    let watch = Stopwatch::start();
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut tasks, ended, lasting) = (tasks.clone(), Arc::clone(&ended), sizes.come_and_go);
        workers.spawn(async move {
            let watch = Stopwatch::start();
            while watch.elapsed() < lasting {
                let task = tasks.open().await?;
                tasks.complete(task.id).await?;
                ended.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    none_open(own).await?;
    let took = watch.elapsed();
    let count = ended.load(Ordering::Relaxed);
    let mut figures =
        vec![Figure::rate("tasks opened and ended", rate(count, took)).at_least(1000.0)];
    let mut together = Duration::ZERO;
    for ((who, pid), before) in all.into_iter().zip(before) {
        let spent = pid.cpu()?.saturating_sub(before);
        together += spent;
        let by_task = spent.as_secs_f64() * 1e6 / number(count.max(1));
        figures.push(Figure {
            more_is_better: Some(false),
            ..Figure::new(
                format!("tasks opened and ended, {who}, time on a core by task"),
                by_task,
                "us",
            )
        });
    }
    // What a machine would do that had nothing else to do: neither the load of others nor a core
    // that waits for a disk is in it.
    figures.push(Figure::rate(
        "tasks opened and ended, by two whole cores for all three",
        2.0 * rate(count, together),
    ));
    Ok(figures)
}

/// Waits until the server has no task that is open.
async fn none_open(own: &Own) -> Result<(), Failure> {
    let mut ledger = TaskLedgerClient::new(own.admin().await?);
    let asking = async {
        loop {
            let request = ListLedgerRequest {
                states: vec!["open".into()],
                page_size: 1,
                ..ListLedgerRequest::default()
            };
            if ledger
                .list_tasks(request)
                .await?
                .into_inner()
                .tasks
                .is_empty()
            {
                return Ok(());
            }
            sleep(ASK_AGAIN).await;
        }
    };
    timeout(HEARD_WITHIN, asking)
        .await
        .map_err(|_| "the server does not hear of the end of tasks")?
}
