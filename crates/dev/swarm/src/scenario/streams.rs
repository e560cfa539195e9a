//! Many workloads that hold a stream of X.509-SVIDs open at one node, and all get new ones at once.

mod bare;
mod rotation;

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_proto::workload::{X509svidRequest, X509svidResponse};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

pub use self::bare::serve as serve_bare;
use self::rotation::Followers;
use crate::Failure;
use crate::clock::Stopwatch;
use crate::proc::Pid;
use crate::report::Figure;
use crate::times::{Times, number, rate};

/// Connections that are opened at a time.
const AT_ONCE: usize = 32;
/// How long a workload may wait for its first answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that the node may have resident with all streams open, in MiB.
const RESIDENT: f64 = 100.0;
/// The most that it may have by stream beyond what the HTTP/2 stack has, in KiB.
const OVER_BARE: f64 = 4.0;
/// With fewer streams, what the node takes once for all of them hides what one takes.
const ENOUGH: usize = 1000;
/// The most that it may have while all rotate, in terms of that with all open.
const PEAK: f64 = 1.3;

/// The node that is called.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Its Workload API.
    pub socket: PathBuf,
    /// Its process.
    pub node: Pid,
    /// How many streams.
    pub streams: usize,
    /// How many of them on one connection.
    pub per_connection: usize,
    /// The operators' socket of its server, to have all SVIDs replaced.
    pub server: Option<PathBuf>,
    /// Whether to see what the HTTP/2 stack alone costs.
    pub bare: bool,
}

impl Sizes {
    /// How the streams lie on connections, for headings.
    fn layout(&self) -> String {
        match self.per_connection {
            1 => "each on its connection".into(),
            many => format!("{many} by connection"),
        }
    }
}

/// Plays it: this process must be one that the node has an identity for.
pub async fn run(sizes: Sizes) -> Result<Vec<Figure>, Failure> {
    let layout = sizes.layout();
    let bare = if sizes.bare {
        Some(bare::by_stream(&sizes).await?)
    } else {
        None
    };
    let before = sizes.node.resident()?;
    let watch = Stopwatch::start();
    let Opened {
        followers,
        mut times,
    } = open(&sizes).await?;
    let opened = watch.elapsed();
    let during = sizes.node.resident()?;
    let count = followers.count();
    let named = |what: &str| format!("streams, {layout}: {what}");
    let by_stream = (during - before) * 1024.0 / number(count.max(1));
    let mut figures = vec![
        Figure::new(named("open at once"), number(count), ""),
        Figure::gain(named("opened"), rate(count, opened), "/s"),
        Figure::cost(
            named("until the first answer, p99"),
            times.quantile(99),
            "ms",
        ),
        Figure::new(named("node resident, before"), before, "MiB"),
        Figure::cost(named("node resident, all open"), during, "MiB").at_most(RESIDENT),
        Figure::cost(named("node resident by stream"), by_stream, "KiB"),
    ];
    if let Some(bare) = bare {
        let over = Figure::cost(
            named("the node over that, by stream"),
            by_stream - bare,
            "KiB",
        );
        figures.extend([
            Figure::new(named("the HTTP/2 stack alone, by stream"), bare, "KiB"),
            if count < ENOUGH {
                over
            } else {
                over.at_most(OVER_BARE)
            },
        ]);
    }
    if let Some(server) = &sizes.server {
        let rotated = followers.rotate(server, sizes.node).await?;
        figures.extend([
            Figure::cost(
                named("all have a new SVID after"),
                rotated.took.as_secs_f64(),
                "s",
            ),
            Figure::cost(
                named("node resident, peak while all rotate"),
                rotated.peak,
                "MiB",
            ),
            Figure::cost(named("that peak over all open"), rotated.peak / during, "x")
                .at_most(PEAK),
            Figure::cost(named("node resident, after"), rotated.after, "MiB"),
        ]);
    }
    Ok(figures)
}

/// All streams, open.
struct Opened {
    followers: Followers,
    times: Times,
}

async fn open(sizes: &Sizes) -> Result<Opened, Failure> {
    let mut followers = Followers::new();
    let mut times = Times::default();
    let mut opening = JoinSet::new();
    let mut take = |done: Result<Result<Vec<Held>, Failure>, _>| -> Result<(), Failure> {
        for held in done?? {
            times.add(held.took);
            followers.follow(held);
        }
        Ok(())
    };
    let mut left = sizes.streams;
    while left > 0 {
        if opening.len() >= AT_ONCE
            && let Some(done) = opening.join_next().await
        {
            take(done)?;
        }
        let count = left.min(sizes.per_connection.max(1));
        left -= count;
        let socket = sizes.socket.clone();
        opening.spawn(async move { connection(&socket, count).await });
    }
    while let Some(done) = opening.join_next().await {
        take(done)?;
    }
    Ok(Opened { followers, times })
}

/// A stream that has had its first answer.
struct Held {
    stream: Streaming<X509svidResponse>,
    /// The certificates that it brought.
    svid: Vec<u8>,
    took: Duration,
}

/// A connection with so many streams, one after the other.
async fn connection(socket: &Path, count: usize) -> Result<Vec<Held>, Failure> {
    let mut watch = Stopwatch::start();
    let channel = muster_peer::connect(socket).await?;
    let mut api = SpiffeWorkloadApiClient::new(channel);
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let first = async {
            let mut request = Request::new(X509svidRequest {});
            request
                .metadata_mut()
                .insert("workload.spiffe.io", MetadataValue::from_static("true"));
            let mut stream = api.fetch_x509svid(request).await?.into_inner();
            let first = stream.message().await?.ok_or("the stream ended with OK")?;
            Ok::<_, Failure>((stream, leaf(&first)?))
        };
        let (stream, svid) = timeout(PATIENCE, first)
            .await
            .map_err(|_| "a stream had no answer in time")??;
        held.push(Held {
            stream,
            svid,
            took: watch.elapsed(),
        });
        watch = Stopwatch::start();
    }
    Ok(held)
}

/// The certificates of an answer's first SVID.
fn leaf(answer: &X509svidResponse) -> Result<Vec<u8>, Failure> {
    let svid = answer.svids.first().ok_or("an answer without SVID")?;
    Ok(svid.x509_svid.to_vec())
}
