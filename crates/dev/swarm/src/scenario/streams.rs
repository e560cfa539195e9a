//! Many workloads that hold a stream of X.509-SVIDs open at one node.

use std::path::PathBuf;
use std::time::Duration;

use muster_proto::workload::X509svidRequest;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::Failure;
use crate::clock::Stopwatch;
use crate::proc::Pid;
use crate::report::Figure;
use crate::times::{Times, number, rate};

/// Connections that are opened at a time.
const AT_ONCE: usize = 32;
/// How long a workload may wait for its first answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The node that is called.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Its Workload API.
    pub socket: PathBuf,
    /// Its process.
    pub node: Pid,
    /// How many streams.
    pub streams: usize,
}

/// Plays it: this process must be one that the node has an identity for.
pub async fn run(sizes: Sizes) -> Result<Vec<Figure>, Failure> {
    let before = sizes.node.resident()?;
    let watch = Stopwatch::start();
    let mut open = Vec::with_capacity(sizes.streams);
    let mut opening: JoinSet<Result<_, Failure>> = JoinSet::new();
    let mut times = Times::default();
    for number in 0..sizes.streams {
        if opening.len() >= AT_ONCE
            && let Some(done) = opening.join_next().await
        {
            let (stream, took) = done??;
            open.push(stream);
            times.add(took);
        }
        let socket = sizes.socket.clone();
        opening.spawn(async move {
            let watch = Stopwatch::start();
            let first = async {
                let channel = muster_peer::connect(&socket).await?;
                let mut api = SpiffeWorkloadApiClient::new(channel);
                let mut request = Request::new(X509svidRequest {});
                request
                    .metadata_mut()
                    .insert("workload.spiffe.io", MetadataValue::from_static("true"));
                let mut stream = api.fetch_x509svid(request).await?.into_inner();
                let first = stream.message().await?.ok_or("the stream ended with OK")?;
                if first.svids.is_empty() {
                    return Err("an answer without SVID".into());
                }
                Ok::<_, Failure>((api, stream))
            };
            let held = timeout(PATIENCE, first)
                .await
                .map_err(|_| format!("stream {number}: no answer in time"))?
                .map_err(|error| format!("stream {number}: {error}"))?;
            Ok((held, watch.elapsed()))
        });
    }
    while let Some(done) = opening.join_next().await {
        let (stream, took) = done??;
        open.push(stream);
        times.add(took);
    }
    let opened = watch.elapsed();
    let during = sizes.node.resident()?;
    let count = open.len();
    drop(open);
    Ok(vec![
        Figure::new("streams: open at once", number(count), ""),
        Figure::gain(
            "streams: opened, each on a new connection",
            rate(count, opened),
            "/s",
        ),
        Figure::cost(
            "streams: until the first answer, p99",
            times.quantile(99),
            "ms",
        ),
        Figure::new("streams: node resident, before", before, "MiB"),
        Figure::cost("streams: node resident, all open", during, "MiB").at_most(100.0),
        Figure::cost(
            "streams: node resident by stream",
            (during - before) * 1024.0 / number(count.max(1)),
            "KiB",
        ),
    ])
}
