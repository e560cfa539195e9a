//! The operator's socket: who the node is, how it stands, what happens on it.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use muster_model::{Timestamp, TrustDomain};
use muster_peer::harden;
use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::node_admin_server;
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use muster_svid::x509::X509Svid;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::{Request, Response, Status};

use crate::driver::Driver;
use crate::events::{Events, timestamp};

/// The service; the mode of the socket's file is the authorization.
pub(crate) struct AdminService {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) started_at: Timestamp,
    pub(crate) hardening: harden::Report,
    pub(crate) node: watch::Receiver<Option<X509Svid>>,
    pub(crate) driver: Driver,
    pub(crate) events: Events,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
}

/// A measure as the operator sees it.
fn measure((measure, outcome): &(harden::Measure, harden::Outcome)) -> admin::Hardening {
    admin::Hardening {
        measure: measure.as_str().to_owned(),
        in_force: *outcome == harden::Outcome::InForce,
        outcome: outcome.to_string(),
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<admin::Event, Status>> + Send>>;

#[tonic::async_trait]
impl node_admin_server::NodeAdmin for AdminService {
    type WatchEventsStream = EventStream;

    /// # Path
    ///
    /// `core/roster` (the figures).
    async fn get_info(
        &self,
        _request: Request<admin::GetInfoRequest>,
    ) -> Result<Response<admin::GetInfoResponse>, Status> {
        let stats = self
            .driver
            .stats()
            .await
            .map_err(|stopped| Status::unavailable(stopped.to_string()))?;
        let svid = self.node.borrow().clone();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(Response::new(admin::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.trust_domain.as_str().to_owned(),
            node_id: svid
                .as_ref()
                .map(|s| s.spiffe_id.as_str().to_owned())
                .unwrap_or_default(),
            serial_number: svid
                .as_ref()
                .map(|s| s.serial.as_str().to_owned())
                .unwrap_or_default(),
            expires_at: svid.as_ref().map(|s| timestamp(s.not_after)),
            started_at: Some(timestamp(self.started_at)),
            connected: stats.connected,
            revision: stats.revision.0,
            entries: count(stats.entries),
            x509_svids: count(stats.x509_svids),
            jwt_svids: count(stats.jwt_svids),
            streams: count(stats.streams),
            held_calls: count(stats.waiting),
            hardening: self.hardening.measures.iter().map(measure).collect(),
        }))
    }

    /// # Path
    ///
    /// `node/events.rs`.
    async fn watch_events(
        &self,
        _request: Request<admin::WatchEventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let clock = self.clock.clone();
        let events = BroadcastStream::new(self.events.watch()).map(move |event| {
            Ok(
                event.unwrap_or_else(|BroadcastStreamRecvError::Lagged(events)| admin::Event {
                    at: Some(timestamp(clock.now().wall)),
                    what: Some(admin::event::What::Missed(admin::Missed { events })),
                }),
            )
        });
        let shutdown = self.shutdown.clone();
        let end = async move {
            shutdown.begun().await;
        };
        let last =
            futures::stream::once(async { Err(Status::unavailable("the node is shutting down")) });
        Ok(Response::new(Box::pin(events.take_until(end).chain(last))))
    }
}
