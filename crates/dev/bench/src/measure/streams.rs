//! The node's memory while many workloads hold a stream open, each on a connection of its own, and
//! its peak while all of them are sent something new.

use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use nix::unistd::getuid;
use tokio::time::sleep;

use super::{Figure, Sizes};
use crate::Failure;
use crate::caller::{create, entry};
use crate::numbers::number;
use crate::raw::Raw;
use crate::subject::{Domain, Kind};

/// How many times a connection is tried again that the node has no place for yet.
const TRIES: usize = 100;
const TRY_AGAIN: Duration = Duration::from_millis(50);

pub(super) async fn measure(
    kind: &Kind,
    domain: &Domain,
    sizes: &Sizes,
) -> Result<Vec<Figure>, Failure> {
    let before = domain.node.resident()?;
    let mut open = Vec::new();
    for _ in 0..sizes.streams {
        open.push(open_one(domain).await?);
    }
    let during = domain.node.resident()?;
    domain.node.forget_peak()?;
    // One more identity for each: a signature, and a new answer to every stream.
    let mut api = EntryClient::new(muster_peer::connect(&domain.server.admin_socket).await?);
    let selector = [("unix", format!("uid:{}", getuid()))];
    let second = entry(&domain.node_id, "/bench/second", &selector);
    create(&mut api, vec![second]).await?;
    for stream in &mut open {
        stream.answer()?;
    }
    let peak = domain.node.peak()?;
    let streams = open.len();
    let mut all = Figure::memory(format!("node resident, {streams} X.509 streams"), during);
    let mut times = Figure::new("peak while all are sent anew, by that", peak / during, "x");
    if kind.is_ours() {
        all = all.at_most(100.0);
        times = times.at_most(1.3);
    }
    let each = (during - before) * 1024.0 / number(streams).max(1.0);
    Ok(vec![
        Figure::memory("node resident, before", before),
        all,
        Figure::new("node resident, by stream", each, "KiB"),
        times,
    ])
}

async fn open_one(domain: &Domain) -> Result<Raw, Failure> {
    for _ in 0..TRIES {
        let opened = Raw::open(&domain.workload_socket).and_then(|mut stream| {
            stream.answer()?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => return Ok(stream),
            Err(_refused) => sleep(TRY_AGAIN).await,
        }
    }
    Err("the node takes no further stream".into())
}
