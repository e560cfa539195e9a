//! What is played. Each scenario is a module of its own and tells its figures.
//!
//! [`idle`]: many nodes that have nothing to do. [`churn`]: entries come and go, and nodes hear of
//! it. [`storm`]: all nodes lose their server and come back at once. [`streams`]: many workloads
//! hold a stream open at one node. [`restart`]: a server starts with very many entries.

pub mod churn;
pub mod idle;
pub mod restart;
pub mod storm;
pub mod streams;

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::server::Dialect;
use crate::{Failure, Fleet, Link, Node, Program};

/// The name of the thread on which our store reads.
const READER: &str = "store-read";

impl Program {
    /// The protocol of its own nodes.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Muster(_) => Dialect::Muster,
            Self::Spire(_) => Dialect::Spire,
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Muster(_))
    }
}

/// Connects all nodes, `at_once` at a time.
async fn connect_all(
    fleet: &Fleet,
    address: &str,
    at_once: usize,
) -> Result<Vec<(Arc<Node>, Link)>, Failure> {
    let mut connected = Vec::with_capacity(fleet.nodes.len());
    let mut connecting: JoinSet<Result<_, Failure>> = JoinSet::new();
    for node in &fleet.nodes {
        if connecting.len() >= at_once
            && let Some(done) = connecting.join_next().await
        {
            connected.push(done??);
        }
        let (node, address) = (Arc::clone(node), address.to_owned());
        connecting.spawn(async move {
            let link = node.connect(&address).await?;
            Ok((node, link))
        });
    }
    while let Some(done) = connecting.join_next().await {
        connected.push(done??);
    }
    Ok(connected)
}
