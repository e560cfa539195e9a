//! Telling the server: all of it, and only when there is news.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Sighted, SightingKey, SightingStanding, SpiffeId};
use muster_proto::muster::node::v1::node_sightings_client::NodeSightingsClient;
use muster_proto::muster::node::v1::{ReportSightingsRequest, ReportSightingsResponse};
use muster_rt::Clock;
use muster_wire::sighting::write_sighted;
use prost::Message as _;
use tonic::{Code, Request};

use super::group::Group;
use crate::upstream::Upstream;

/// How long a report may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often the server is told when there is no news: it may have been set back.
const TOLD_AGAIN: Duration = Duration::from_mins(10);
/// The largest report, in bytes: the server takes 4 MiB.
const LARGEST: usize = 3 * 1024 * 1024;

/// What the server was told last.
struct Told {
    node: SpiffeId,
    rows: Vec<Sighted>,
    at: Duration,
    standings: BTreeMap<SightingKey, SightingStanding>,
}

/// Tells the server.
pub(super) struct Reporter {
    upstream: Upstream,
    told: Option<Told>,
}

impl Reporter {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            told: None,
        }
    }

    /// Tells the server what is seen, unless it knows; returns whether it knows now.
    pub(super) async fn tell(
        &mut self,
        node: Option<&SpiffeId>,
        seen: &Group,
        clock: &Arc<dyn Clock>,
    ) -> bool {
        // A node that has not joined has nobody to tell.
        let Some(node) = node else { return false };
        let now = clock.now().mono;
        if self
            .told
            .as_ref()
            .is_some_and(|told| told.holds(node, &seen.rows, now))
        {
            return true;
        }
        let mut sightings = Vec::with_capacity(seen.rows.len());
        let (mut size, mut left_out) = (0, seen.left_out);
        for row in &seen.rows {
            let message = write_sighted(row);
            size += message.encoded_len();
            if size > LARGEST {
                left_out += 1;
            } else {
                sightings.push(message);
            }
        }
        let mut request = Request::new(ReportSightingsRequest {
            sightings,
            left_out: u64::try_from(left_out).unwrap_or(u64::MAX),
        });
        request.set_timeout(TIMEOUT);
        let mut client = NodeSightingsClient::new(self.upstream.channel());
        match client.report_sightings(request).await {
            Ok(answer) => {
                self.told = Some(Told {
                    node: node.clone(),
                    rows: seen.rows.clone(),
                    at: now,
                    standings: standings(&answer.into_inner()),
                });
                true
            }
            Err(status) if status.code() == Code::Unimplemented => {
                tracing::debug!("the server takes no sightings; it is older than this node");
                false
            }
            Err(status) => {
                tracing::info!(code = ?status.code(), error = status.message(), "what looks like agents could not be reported; trying again with the next sweep");
                false
            }
        }
    }

    /// How a row stands, as the server said, if it was told of these identities.
    pub(super) fn standing(&self, seen: &Sighted) -> Option<SightingStanding> {
        let told = self.told.as_ref()?;
        let before = told.rows.iter().find(|row| row.key == seen.key)?;
        (before.identities == seen.identities)
            .then(|| told.standings.get(&seen.key).copied())
            .flatten()
    }
}

impl Told {
    /// Whether what was told is still so.
    fn holds(&self, node: &SpiffeId, rows: &[Sighted], now: Duration) -> bool {
        self.node == *node
            && now.saturating_sub(self.at) < TOLD_AGAIN
            && self.rows.len() == rows.len()
            && self
                .rows
                .iter()
                .zip(rows)
                .all(|(before, row)| row.tells_the_same(before))
    }
}

fn standings(answer: &ReportSightingsResponse) -> BTreeMap<SightingKey, SightingStanding> {
    let read = |(key, standing): (&String, &String)| {
        let key = SightingKey::parse(key).ok()?;
        Some((key, SightingStanding::from_word(standing)?))
    };
    answer.standings.iter().filter_map(read).collect()
}
