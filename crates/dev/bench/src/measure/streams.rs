//! The node's memory while many workloads hold a stream open, each on a connection of its own.

use super::{Figure, Sizes, workload};
use crate::Failure;
use crate::subject::Domain;

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let before = domain.node.resident()?;
    let mut open = Vec::new();
    for _ in 0..sizes.streams {
        open.push(workload::open(domain).await?);
    }
    let during = domain.node.resident()?;
    Ok(vec![
        Figure::memory("node resident, before", before),
        Figure::memory(
            format!("node resident, {} X.509 streams", open.len()),
            during,
        ),
    ])
}
