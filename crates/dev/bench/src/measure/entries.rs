//! Entries created, durably, until very many stand under one parent; and how soon a server serves
//! that starts with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster_model::TrustDomain;
use muster_proto::spire::api::server::entry::v1::CountEntriesRequest;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use tokio::task::JoinSet;

use super::{Figure, Sizes};
use crate::Failure;
use crate::caller::{create, entry};
use crate::clock::Stopwatch;
use crate::numbers::{Times, number, rate};
use crate::process::Spending;
use crate::subject::{Kind, Server, TRUST_DOMAIN};

const CALLERS: usize = 8;
const BATCH: usize = 50;

pub(super) async fn measure(kind: &Kind, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let prepared = kind.prepare_server()?;
    let (running, empty) = prepared.start().await?;
    let spending = Spending::of(running.server.pid)?;
    let watch = Stopwatch::start();
    let limit = (!kind.is_ours()).then_some(sizes.peer_entries);
    let mut times = fill(&running.server, sizes.entries, limit).await?;
    let created = times.count() * BATCH;
    let by_second = rate(created, watch.elapsed());
    let per_core = spending.per_core(created)?;
    running.stop().await?;

    let (running, full) = prepared.start().await?;
    let stand = count(&running.server).await?;
    if stand != created {
        return Err(format!("{created} entries were acknowledged, {stand} survived").into());
    }
    let resident = running.server.pid.resident()?;
    running.stop().await?;
    Ok(vec![
        Figure::new("entries that stand under one parent", number(stand), ""),
        Figure::rate(
            "entries created durably, batches of 50 by 8 callers",
            by_second,
        )
        .at_least(5000.0),
        Figure::rate("entries created, by core of the server", per_core),
        Figure::time("a batch of 50 entries, p50", times.quantile(50)),
        Figure::time("a batch of 50 entries, p99", times.quantile(99)),
        Figure::time("server start to serving, empty", millis(empty)),
        Figure::time("server start to serving, with the entries", millis(full)).at_most(1000.0),
        Figure::memory("server resident, with the entries", resident),
    ])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Creates the entries, and tells the time of each batch. Stops early at the limit, if there is one.
async fn fill(server: &Server, total: usize, limit: Option<Duration>) -> Result<Times, Failure> {
    let parent = TrustDomain::parse(TRUST_DOMAIN)?.with_path("/bench/parent")?;
    let next = Arc::new(AtomicUsize::new(0));
    let watch = Arc::new(Stopwatch::start());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut api = EntryClient::new(muster_peer::connect(&server.admin_socket).await?);
        let (parent, next, watch) = (parent.clone(), next.clone(), watch.clone());
        callers.spawn(async move {
            let mut times = Times::default();
            while limit.is_none_or(|limit| watch.elapsed() < limit) {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= total {
                    break;
                }
                let entries = (first..first + BATCH)
                    .map(|number| {
                        let path = format!("/bench/workload/{number}");
                        let uid = ("unix", format!("uid:{number}"));
                        entry(&parent, &path, &[uid, ("unix", "group:bench".into())])
                    })
                    .collect();
                let began = watch.elapsed();
                create(&mut api, entries).await?;
                times.add(watch.elapsed().saturating_sub(began));
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut times = Times::default();
    while let Some(caller) = callers.join_next().await {
        times.extend(caller??);
    }
    Ok(times)
}

async fn count(server: &Server) -> Result<usize, Failure> {
    let channel = muster_peer::connect(&server.admin_socket).await?;
    let answer = EntryClient::new(channel)
        .count_entries(CountEntriesRequest::default())
        .await?;
    Ok(usize::try_from(answer.into_inner().count)?)
}
