//! From the operator's word that a class is suspended to the end of every stream of its agents and
//! of their tasks, on a hundred nodes.
//!
//! Nothing is simulated: the nodes are processes of `muster-node`'s code, each with its own identity,
//! view, roster and sockets, on one machine. What one machine cannot show is the network between
//! them, and what it shows too much of is a hundred nodes that share its cores.

use std::path::Path;

use futures::future::try_join_all;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::agents::{self, Tasks};
use super::workload::{self, Open};
use super::{Figure, Sizes};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::numbers::Times;
use crate::subject::{Node, Own};

/// The most that it may take until the last but one in a hundred is refused, in milliseconds.
const WITHIN: f64 = 250.0;

/// The two identities of a node that are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Agent,
    Task,
}

pub(super) async fn measure(muster: &Path, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut own = Own::start(muster).await?;
    agents::found(&own).await?;
    let mut nodes = Vec::with_capacity(sizes.suspended);
    for number in 0..sizes.suspended {
        nodes.push(own.node(&format!("n{number}")).await?);
    }
    let mut ids = Vec::with_capacity(nodes.len());
    for node in &nodes {
        ids.push(node.ready().await?);
    }
    agents::register(&own, &ids).await?;
    let mut streams = Vec::with_capacity(2 * nodes.len());
    for node in &nodes {
        streams.push((Whose::Agent, workload::open(&node.workload_socket).await?));
        let task = Tasks::at(&node.workload_socket).await?.open().await?;
        streams.push((Whose::Task, workload::open(Path::new(&task.socket)).await?));
    }

    let mut ending = JoinSet::new();
    let watch = std::sync::Arc::new(Stopwatch::start());
    for (whose, mut stream) in streams {
        let watch = std::sync::Arc::clone(&watch);
        ending.spawn(async move {
            let status = stream.end().await;
            (whose, status, watch.elapsed(), stream)
        });
    }
    let asked = watch.elapsed();
    agents::suspend(&own).await?;
    let answered = watch.elapsed().saturating_sub(asked);
    let (mut of_agents, mut of_tasks) = (Times::default(), Times::default());
    while let Some(ended) = ending.join_next().await {
        let (whose, status, at, stream): (Whose, Status, _, Open) = ended?;
        if status.code() != Code::PermissionDenied {
            let after = at.saturating_sub(asked).as_millis();
            let id = &stream.spiffe_id;
            return Err(format!("the stream of {id} ended after {after} ms: {status:?}").into());
        }
        match whose {
            Whose::Agent => of_agents.add(at.saturating_sub(asked)),
            Whose::Task => of_tasks.add(at.saturating_sub(asked)),
        }
    }
    // At the same time: each is held, as a call is whose entry may still come.
    try_join_all(nodes.iter().map(refused)).await?;
    let what = |who: &str| format!("class suspended to refused on {} nodes, {who}", nodes.len());
    Ok(vec![
        Figure::time(
            "class suspended, until the operator is answered",
            answered.as_secs_f64() * 1e3,
        ),
        Figure::time(what("agents, p50"), of_agents.quantile(50)),
        Figure::time(what("agents, p99"), of_agents.quantile(99)).at_most(WITHIN),
        Figure::time(what("tasks, p50"), of_tasks.quantile(50)),
        Figure::time(what("tasks, p99"), of_tasks.quantile(99)).at_most(WITHIN),
    ])
}

/// The node has no agent any more that could open a task.
async fn refused(node: &Node) -> Result<(), Failure> {
    match Tasks::at(&node.workload_socket).await?.open().await {
        Err(status) if status.code() == Code::PermissionDenied => Ok(()),
        Err(status) => Err(status.into()),
        Ok(task) => Err(format!(
            "{} was opened though its class is suspended",
            task.spiffe_id
        )
        .into()),
    }
}
