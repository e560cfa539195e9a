//! A new connection to the Workload API up to its first X.509 answer, one after another.

use super::{Figure, Sizes, workload};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::numbers::Times;
use crate::process::Spending;
use crate::subject::Domain;

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut times = Times::default();
    let spending = Spending::of(domain.node)?;
    for _ in 0..sizes.connections {
        let watch = Stopwatch::start();
        let open = workload::open(&domain.workload_socket).await?;
        times.add(watch.elapsed());
        drop(open);
    }
    Ok(vec![
        Figure::time(
            "new connection to first X.509 answer, p50",
            times.quantile(50),
        ),
        Figure::time(
            "new connection to first X.509 answer, p99",
            times.quantile(99),
        ),
        Figure::rate(
            "new connections answered, by core of the node",
            spending.per_core(times.count())?,
        )
        .at_least(5000.0),
    ])
}
