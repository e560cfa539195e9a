//! All workloads get new SVIDs at once: their entries are changed at the server.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::entry::v1::{BatchUpdateEntryRequest, ListEntriesRequest};
use muster_proto::spire::api::types::{Entry, EntryMask};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Held, leaf};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::proc::Pid;

/// How long all workloads may wait for their new SVIDs; SPIRE's agent asks every five seconds.
const PATIENCE: Duration = Duration::from_mins(2);
/// The name that the SVIDs get, or lose.
const NAME: &str = "rotated.example.org";

/// Reads on in all streams.
pub(super) struct Followers {
    tasks: JoinSet<()>,
    tell: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
}

/// The number of a stream that brought a new SVID, or why it ended.
type Told = Result<usize, Failure>;

/// How a rotation went.
pub(super) struct Rotated {
    /// From the change of the entries to the last stream.
    pub(super) took: Duration,
    /// The most that the node had resident meanwhile, in MiB.
    pub(super) peak: f64,
    /// What it has afterwards.
    pub(super) after: f64,
}

impl Followers {
    pub(super) fn new() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            tasks: JoinSet::new(),
            tell,
            told,
        }
    }

    /// How many streams there are.
    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Reads on in a stream.
    pub(super) fn follow(&mut self, held: Held) {
        let (number, tell) = (self.tasks.len(), self.tell.clone());
        self.tasks.spawn(async move {
            let ended = follow(held, number, &tell).await;
            // Nobody listens any more once the scenario is over.
            drop(tell.send(Err(format!("stream {number}: {ended}").into())));
        });
    }

    /// Changes all entries of the server and waits until each stream has brought a new SVID.
    pub(super) async fn rotate(mut self, server: &Path, node: Pid) -> Result<Rotated, Failure> {
        node.forget_peak()?;
        let watch = Stopwatch::start();
        change_entries(server).await?;
        let mut left: BTreeSet<usize> = (0..self.count()).collect();
        let all = async {
            while !left.is_empty() {
                let number = self.told.recv().await.ok_or("nobody reads the streams")??;
                left.remove(&number);
            }
            Ok::<_, Failure>(())
        };
        let all = timeout(PATIENCE, all).await;
        match all {
            Ok(read) => read?,
            Err(_elapsed) => {
                return Err(format!("{} streams brought no new SVID in time", left.len()).into());
            }
        }
        Ok(Rotated {
            took: watch.elapsed(),
            peak: node.peak()?,
            after: node.resident()?,
        })
    }
}

async fn follow(mut held: Held, number: usize, tell: &mpsc::UnboundedSender<Told>) -> Failure {
    loop {
        let svid = match held.stream.message().await {
            Ok(Some(answer)) => leaf(&answer),
            Ok(None) => Err("ended with OK".into()),
            Err(status) => Err(status.into()),
        };
        match svid {
            // The same again, because something else changed.
            Ok(svid) if svid == held.svid => {}
            Ok(svid) => {
                held.svid = svid;
                drop(tell.send(Ok(number)));
            }
            Err(error) => return error,
        }
    }
}

/// Gives the SVIDs of every entry another name, so that they are signed anew.
async fn change_entries(server: &Path) -> Result<(), Failure> {
    let mut api = EntryClient::new(muster_peer::connect(server).await?);
    let mask = || EntryMask {
        dns_names: true,
        ..EntryMask::default()
    };
    let listed = api
        .list_entries(ListEntriesRequest {
            output_mask: Some(mask()),
            ..ListEntriesRequest::default()
        })
        .await?
        .into_inner();
    let other = |entry: Entry| Entry {
        dns_names: match entry.dns_names.as_slice() {
            [] => vec![NAME.into()],
            _ => Vec::new(),
        },
        ..entry
    };
    let request = BatchUpdateEntryRequest {
        entries: listed.entries.into_iter().map(other).collect(),
        input_mask: Some(mask()),
        output_mask: Some(EntryMask::default()),
    };
    for result in api.batch_update_entry(request).await?.into_inner().results {
        let status = result.status.unwrap_or_default();
        if status.code != 0 {
            return Err(format!("an entry is not changed: {}", status.message).into());
        }
    }
    Ok(())
}
