//! A new connection to the Workload API up to its first X.509 answer: one after another for how long
//! it takes, several at a time for how many a core of the node answers. One that comes alone pays for
//! waking the node up, which many share.

use futures::stream::{StreamExt as _, TryStreamExt as _, iter};

use super::{Figure, Sizes, workload};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::numbers::Times;
use crate::process::Spending;
use crate::subject::Domain;

/// Connections that are being opened at the same time.
const AT_ONCE: usize = 32;

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut times = Times::default();
    for _ in 0..sizes.connections {
        let watch = Stopwatch::start();
        let open = workload::open(&domain.workload_socket).await?;
        times.add(watch.elapsed());
        drop(open);
    }
    let spending = Spending::of(domain.node)?;
    let opened = iter(0..sizes.connections)
        .map(|_| workload::open(&domain.workload_socket))
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |count, open| async move {
            drop(open);
            Ok(count + 1)
        })
        .await?;
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
            format!("new connections answered, {AT_ONCE} at a time, by core of the node"),
            spending.per_core(opened)?,
        )
        .at_least(5000.0),
    ])
}
