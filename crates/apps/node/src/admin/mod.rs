//! The operator's socket: who the node is, how it stands, what happens on it, and why a process
//! has no identity. SPIRE's own admin services stand beside ours, one file each.

mod debug;
mod explain;
mod logger;
mod rules;

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

pub(crate) use self::debug::DebugService;
pub(crate) use self::explain::Settings;
pub(crate) use self::logger::LoggerService;
use crate::driver::{Driver, Stopped};
use crate::events::{Events, timestamp};
use crate::target::Targets;
use crate::workload_api::describe_target;

/// How many entries that do not match an explanation lists by default, and at most.
const NEAREST: (usize, usize) = (5, 100);
/// How many entries an inspection lists by default, and at most.
const LISTED: (usize, usize) = (1000, 5000);

/// The service; the mode of the socket's file is the authorization.
pub(crate) struct AdminService {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) started_at: Timestamp,
    pub(crate) hardening: harden::Report,
    pub(crate) node: watch::Receiver<Option<X509Svid>>,
    pub(crate) driver: Driver,
    pub(crate) targets: Targets,
    pub(crate) settings: Settings,
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

    /// # Path
    ///
    /// `node/target.rs` (attestation), `core/roster/explain.rs`.
    async fn explain(
        &self,
        request: Request<admin::ExplainRequest>,
    ) -> Result<Response<admin::ExplainResponse>, Status> {
        let request = request.into_inner();
        let Some(pid) = u32::try_from(request.pid).ok().filter(|pid| *pid > 0) else {
            return Err(Status::invalid_argument(format!(
                "{} is no pid: give a positive number",
                request.pid
            )));
        };
        let target = match self.targets.attest(pid).await {
            Ok(target) => target,
            Err(refusal) => return Ok(Response::new(explain::unattested(request.pid, &refusal))),
        };
        let nearest = bounded(request.nearest, NEAREST);
        let explanation = self
            .driver
            .explain(target.who.clone(), nearest)
            .await
            .map_err(unavailable)?;
        let last = self.driver.last_in_step().await.map_err(unavailable)?;
        Ok(Response::new(explain::attested(
            describe_target(&target),
            &target.left_out,
            &explanation,
            self.events.refusals_of(request.pid),
            last,
            self.clock.now().wall,
        )))
    }

    /// # Path
    ///
    /// `node/admin/rules.rs`, `core/roster/explain.rs`, `core/roll/naming`.
    async fn try_rule(
        &self,
        request: Request<admin::TryRuleRequest>,
    ) -> Result<Response<admin::TryRuleResponse>, Status> {
        let answer = rules::tried(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    /// # Path
    ///
    /// `core/roster/explain.rs`.
    async fn inspect(
        &self,
        request: Request<admin::InspectRequest>,
    ) -> Result<Response<admin::InspectResponse>, Status> {
        let limit = bounded(request.into_inner().limit, LISTED);
        let inventory = self.driver.inventory(limit).await.map_err(unavailable)?;
        let expires = self.node.borrow().as_ref().map(|svid| svid.not_after);
        Ok(Response::new(explain::inventory(
            &inventory,
            expires,
            self.settings,
        )))
    }
}

fn unavailable(stopped: Stopped) -> Status {
    Status::unavailable(stopped.to_string())
}

/// What was asked for, within bounds; 0 asks for the default.
fn bounded(asked: u32, (default, most): (usize, usize)) -> usize {
    match usize::try_from(asked) {
        Ok(0) => default,
        Ok(asked) => asked.min(most),
        Err(_) => most,
    }
}
