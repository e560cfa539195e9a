//! `muster.node.admin.v1.NodeSightings`: what this node sees, for its operator.

use std::sync::Arc;
use std::time::Duration;

use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::node_sightings_server;
use muster_wire::agent::write_time;
use muster_wire::sighting::write_sighted;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status};

use super::{Ask, Outcome};

/// The service's name, for reflection.
pub(crate) const NAME: &str = "muster.node.admin.v1.NodeSightings";

/// How long a sweep that was asked for may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The service; the mode of the socket's file is the authorization.
pub(crate) struct SightingsApi {
    ask: mpsc::Sender<Ask>,
    latest: watch::Receiver<Arc<Outcome>>,
    interval: Duration,
}

impl SightingsApi {
    pub(super) fn new(
        ask: mpsc::Sender<Ask>,
        latest: watch::Receiver<Arc<Outcome>>,
        interval: Duration,
    ) -> Self {
        Self {
            ask,
            latest,
            interval,
        }
    }

    async fn swept(&self) -> Result<Arc<Outcome>, Status> {
        let ended = || Status::unavailable("the node is shutting down");
        let (reply, answer) = oneshot::channel();
        let work = async {
            self.ask.send(reply).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())
        };
        tokio::time::timeout(PATIENCE, work).await.map_err(|_| {
            Status::deadline_exceeded(format!(
                "the sweep took more than {} s; ask without `now` for what is known",
                PATIENCE.as_secs()
            ))
        })?
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

#[tonic::async_trait]
impl node_sightings_server::NodeSightings for SightingsApi {
    /// # Path
    ///
    /// `node/sightings` (the sweep), `core/sighting` (what agents look like).
    async fn list_local_sightings(
        &self,
        request: Request<admin::ListLocalSightingsRequest>,
    ) -> Result<Response<admin::ListLocalSightingsResponse>, Status> {
        let outcome = if request.into_inner().now {
            self.swept().await?
        } else {
            self.latest.borrow().clone()
        };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(Response::new(admin::ListLocalSightingsResponse {
            sightings: outcome
                .rows
                .iter()
                .map(|row| admin::LocalSighting {
                    seen: Some(write_sighted(&row.seen)),
                    standing: row.standing.to_string(),
                })
                .collect(),
            swept_at: outcome.swept_at.map(write_time),
            processes: count(outcome.processes),
            looked_at: count(outcome.looked_at),
            worked: Some(duration(outcome.worked)),
            left_out: count(outcome.left_out),
            reported: outcome.reported,
            interval: (!self.interval.is_zero()).then(|| duration(self.interval)),
        }))
    }
}
