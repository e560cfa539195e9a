//! The node's standing with its server: its own SVID, and the long stream of its view.

mod step;

use std::sync::Arc;
use std::time::Duration;

use muster_model::{Revision, SpiffeId};
use muster_plugin::node::NodeAttestor;
use muster_policy::NodeRefusal;
use muster_proto::muster::node::v1::node_view_client::NodeViewClient;
use muster_proto::muster::node::v1::{WatchRequest, WatchResponse};
use muster_roster::{Event, ViewDigest};
use muster_rt::lifecycle::Shutdown;
use muster_svid::x509::X509Svid;
use muster_tls::Rejected;
use muster_wire::status as wire_status;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use self::step::Gathered;
pub(crate) use self::step::read_step;
use crate::config::{FirstTrust, Join};
use crate::driver::{Driver, Stopped};
use crate::handover::Pause;
use crate::join::{self, AskError, JoinError};
use crate::material::{Renewal, verifying};
use crate::pace::Pace;
use crate::recovery::{self, Held, Means, Stranger, Try};
use crate::state::{State, StateError};
use crate::upstream::{MESSAGE_MAX, Upstream, UpstreamError};
use crate::words;

/// How long the server may take to begin its stream, the connection included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(45);
/// A stream that lived so long was a good one: the next failure is the first again.
const GOOD_STREAM: Duration = Duration::from_secs(10);
/// A wait that is worth to be cut short when the roster wants its view again.
const LONG_WAIT: Duration = Duration::from_secs(30);
/// How often the renewal looks at the civil clock, which may step.
const CLOCK_CHECK: Duration = Duration::from_secs(5);
/// How long after a renewal the next one may not be forced.
const FORCED_INTERVAL: Duration = Duration::from_mins(1);

/// Counts what the server said of the view and was not believed.
const VIEW_REFUSED: &str = "muster_node_view_refused_total";

/// Why the node cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It cannot join.
    #[error("cannot join the trust domain")]
    Join(#[from] JoinError),
    /// An operator banned it.
    #[error(
        "the node is banned: its SVID was removed; `muster node evict` lifts the ban, and a new join token lets the node in again"
    )]
    Banned,
    /// Its SVID is good for nothing, and it cannot attest again by itself.
    #[error(
        "the server does not accept the node's SVID any more ({0}), and the node has no other way in: make a new join token with `muster token create`"
    )]
    Finished(NodeRefusal),
    /// Its files.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its own connection.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// What the link is made of.
pub(crate) struct Link {
    pub(crate) upstream: Upstream,
    pub(crate) state: State,
    pub(crate) join: Join,
    /// The program that proves what the node is, if there is one.
    pub(crate) attestor: Option<Arc<dyn NodeAttestor>>,
    pub(crate) driver: Driver,
    pub(crate) seed: u64,
    pub(crate) availability_target: Option<Duration>,
    /// When to let another process have the state.
    pub(crate) pause: Pause,
    /// Who the node is, told to everyone who waits for it.
    pub(crate) node: watch::Sender<Option<X509Svid>>,
    /// Grows when the stream is to be opened anew.
    pub(crate) resync: watch::Receiver<u64>,
    /// What the server said to others that may mean the end.
    pub(crate) verdicts: watch::Receiver<Option<Status>>,
}

/// Why a stream ended.
enum StreamEnd {
    /// The server, or the way to it.
    Status(Status),
    /// What it sent was not understood.
    Nonsense(String),
    /// The roster does not believe it.
    Resync,
    /// A new connection is there to be used.
    NewChannel,
    /// The node is shutting down.
    Stopped,
}

/// Why the node's standing with its server is over.
enum End {
    /// The server refuses the node.
    Refused(NodeRefusal),
    /// The node itself cannot go on.
    Failed(LinkError),
    /// The node is shutting down.
    Stopped,
}

impl Link {
    /// Joins if need be, then follows the view and renews the node's SVID until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), LinkError> {
        let pause = self.pause.clone();
        loop {
            tokio::select! {
                result = self.work() => return result,
                _reason = shutdown.begun() => return Ok(()),
                () = pause.asked() => {}
            }
            // Dropped wherever it was, as by a kill: what is on the disk is good at any moment.
            if self.driver.tell(Event::LinkDown).is_err() {
                return Ok(());
            }
            self.state.release();
            tokio::select! {
                _reason = shutdown.begun() => return Ok(()),
                () = pause.rest() => {}
            }
            self.state.regain()?;
            pause.goes_on();
        }
    }

    async fn work(&mut self) -> Result<(), LinkError> {
        let mut refused = None;
        loop {
            self.come_in(refused).await?;
            let follower = Follower {
                upstream: self.upstream.clone(),
                driver: self.driver.clone(),
                resync: self.resync.clone(),
                verdicts: self.verdicts.clone(),
                node: self.node.subscribe(),
                pace: Pace::new(self.seed),
            };
            // Side by side: a renewal that takes long must not keep the node from its view.
            let end = tokio::select! {
                end = follower.run() => end,
                end = self.renew_in_time() => end,
            };
            match end {
                End::Stopped => return Ok(()),
                End::Failed(error) => return Err(error),
                End::Refused(NodeRefusal::Banned) => {
                    return Err(self.banned()?);
                }
                End::Refused(refusal) => {
                    tracing::warn!(reason = %refusal, "the server does not accept the node's SVID any more");
                    refused = Some(refusal);
                }
            }
        }
    }

    /// Gives up what a banned node may not keep.
    fn banned(&mut self) -> Result<LinkError, StateError> {
        // What its workloads had is not kept for another run either.
        self.node.send_replace(None);
        self.state.forget_svid()?;
        Ok(LinkError::Banned)
    }

    /// Takes the steps of the recovery plan until the node has an SVID in use.
    async fn come_in(&mut self, refused: Option<NodeRefusal>) -> Result<(), LinkError> {
        let known = join::load_trust(&self.state, &self.join, &self.upstream)?;
        let now = self.upstream.clock().now().wall;
        let held = match (self.state.svid(), refused) {
            _ if !known => Held::Nothing,
            (Some(_), Some(NodeRefusal::Expired)) => Held::Expired,
            (None, _) | (_, Some(_)) => Held::Bundle,
            (Some(svid), None) if svid.is_expired_at(now) => Held::Expired,
            (Some(_), None) => Held::Valid,
        };
        if refused == Some(NodeRefusal::MustReattest) && self.attestor.is_some() {
            self.state.must_reattest();
        }
        let means = match (&self.attestor, &self.join.token) {
            // Whether it works again, the server says with the first SVID.
            (Some(_), _) if self.state.svid().is_none() || self.state.reattests() => Means::Again,
            (Some(_), _) | (None, Some(_)) => Means::Once,
            (None, None) => Means::No,
        };
        let stranger = match self.join.trust {
            FirstTrust::Insecure => Stranger::Believed,
            FirstTrust::Bundle(_) | FirstTrust::Nothing => Stranger::Refused,
        };
        for step in recovery::plan(held, means, stranger) {
            match self.take(*step).await {
                Ok(true) => {
                    if let Some(svid) = self.state.svid().cloned() {
                        self.announce(&svid);
                    }
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => return Err(self.give_up(error, refused)),
            }
        }
        Err(self.give_up(JoinError::NoToken.into(), refused))
    }

    /// The last word about a node that cannot come in: what the server said, if that is the reason.
    fn give_up(&self, error: LinkError, refused: Option<NodeRefusal>) -> LinkError {
        match refused {
            // Its workloads' SVIDs are good to their end, whatever became of its own.
            None | Some(NodeRefusal::Expired) => error,
            Some(refusal) => {
                self.node.send_replace(None);
                let no_way_in = matches!(
                    error,
                    LinkError::Join(
                        JoinError::NoToken | JoinError::Refused(_) | JoinError::NoProof(_)
                    )
                );
                if no_way_in {
                    LinkError::Finished(refusal)
                } else {
                    error
                }
            }
        }
    }

    /// Takes one step; whether the node has an SVID in use afterwards.
    async fn take(&mut self, step: Try) -> Result<bool, LinkError> {
        match step {
            Try::Use => {
                let Some(svid) = self.state.svid() else {
                    return Ok(false);
                };
                tracing::info!(node_id = %svid.spiffe_id, serial = %svid.serial, "using the SVID of an earlier run");
                self.upstream.show(svid)?;
                Ok(true)
            }
            Try::RenewLapsed => self.renew_lapsed().await,
            Try::Attest => self.attest().await,
            Try::AttestBlindly => {
                tracing::warn!(
                    "no bundle is configured: whoever answers is believed to be the server (insecure_bootstrap)"
                );
                self.attest().await
            }
            Try::WantToken => Err(JoinError::NoToken.into()),
            Try::WantTrust => Err(JoinError::NoTrust.into()),
        }
    }

    /// Renews with an expired SVID, as long as the server has not said no.
    async fn renew_lapsed(&mut self) -> Result<bool, LinkError> {
        let Some(svid) = self.state.svid() else {
            return Ok(false);
        };
        tracing::warn!(node_id = %svid.spiffe_id, serial = %svid.serial, "the node's SVID has expired; renewing it by its key");
        self.upstream.show(svid)?;
        let mut pace = Pace::new(self.seed);
        loop {
            let error = match join::renew(&self.upstream, &mut self.state).await {
                Ok(()) => return Ok(true),
                Err(error) => error,
            };
            if let Some(refusal) = error.refusal(&self.upstream, &self.state) {
                tracing::warn!(reason = %refusal, "the server does not renew an SVID that has expired");
                return Ok(false);
            }
            if let AskError::Join(error) = error {
                if !error.may_pass() {
                    return Err(error.into());
                }
                tracing::warn!(%error, "cannot renew yet, will try again");
            } else {
                tracing::warn!(server = %self.upstream.address(), %error, "cannot renew yet, will try again");
            }
            tokio::time::sleep(pace.next()).await;
        }
    }

    /// Says so if the server is not one that the bundle knows: it may have lost its authorities, or
    /// be another. Nothing is thrown away for that: whoever sits on the path can look the same.
    fn say_if_unknown(&self) {
        if self.upstream.rejected() == Some(Rejected::TheirsUnknown) {
            tracing::error!(
                server = %self.upstream.address(),
                "the server's authority is not in the node's bundle; if the trust domain really began anew, stop the node, remove bundle.json and node.json from data_dir, and give it the new bundle and a new token (docs/outage.md)"
            );
        }
    }

    async fn attest(&mut self) -> Result<bool, LinkError> {
        let attestor = join::attestor(&self.join, self.attestor.as_ref())?;
        let mut pace = Pace::new(self.seed);
        // Whoever attests shows no certificate: an old one may be the very reason.
        self.upstream.show_nothing()?;
        loop {
            let error = match join::attest(&self.upstream, &mut self.state, &*attestor).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if error.refusal(&self.upstream, &self.state) == Some(NodeRefusal::Banned) {
                return Err(self.banned()?);
            }
            let error = error.of_attesting(attestor.kind());
            if !(error.may_pass() || self.may_prove_itself_later(&error)) {
                return Err(error.into());
            }
            self.say_if_unknown();
            tracing::warn!(server = %self.upstream.address(), %error, "cannot join yet, will try again");
            tokio::time::sleep(pace.next()).await;
        }
        if let Some(svid) = self.state.svid() {
            tracing::info!(node_id = %svid.spiffe_id, serial = %svid.serial, "the node is attested");
        }
        Ok(true)
    }

    /// Whether a node that was told no may be told yes later: it was in, and its attestor can be asked
    /// again at any time. Until then its workloads' SVIDs are good to their end.
    fn may_prove_itself_later(&self, error: &JoinError) -> bool {
        self.attestor.is_some()
            && self.state.reattests()
            && self.state.svid().is_some()
            && matches!(error, JoinError::Refused(_) | JoinError::NoProof(_))
    }

    fn announce(&self, svid: &X509Svid) {
        self.node.send_replace(Some(svid.clone()));
    }

    /// Renews the node's SVID each time it is due; returns only when that is over.
    async fn renew_in_time(&mut self) -> End {
        // A server that goes on signing with a tainted authority is not asked again and again.
        let mut not_forced_before = Duration::ZERO;
        loop {
            self.renewal_due(not_forced_before).await;
            if let Err(end) = self.renew().await {
                return end;
            }
            not_forced_before = self.upstream.clock().now().mono + FORCED_INTERVAL;
        }
    }

    /// Resolves when the node's SVID is due: by the civil clock, looked at often enough to notice
    /// when it steps, or because its authority is no longer good.
    async fn renewal_due(&self, not_forced_before: Duration) {
        loop {
            let Some(svid) = self.state.svid() else {
                return std::future::pending().await;
            };
            let renewal = Renewal {
                node: svid.spiffe_id.clone(),
                availability_target: self.availability_target,
            };
            let at = renewal.of(svid);
            let now = self.upstream.clock().now();
            if now.wall >= at {
                return;
            }
            if now.mono >= not_forced_before && self.authority_is_gone(svid) {
                tracing::warn!(
                    node_id = %svid.spiffe_id, serial = %svid.serial,
                    "the authority of the node's SVID left the bundle or is tainted: renewing at once"
                );
                return;
            }
            tokio::time::sleep(at.since(now.wall).min(CLOCK_CHECK)).await;
        }
    }

    /// Whether no good authority of the bundle verifies the node's SVID.
    fn authority_is_gone(&self, svid: &X509Svid) -> bool {
        self.upstream.trust().bundle().is_some_and(|bundle| {
            let authority = verifying(svid, &bundle.x509_authorities);
            authority.is_none_or(|authority| authority.tainted)
        })
    }

    /// Asks for the SVID after the one in use: by proof of its key, or of what the machine is.
    async fn ask_for_the_next(&mut self) -> Result<(), AskError> {
        match &self.attestor {
            Some(attestor) if self.state.reattests() => {
                join::attest(&self.upstream, &mut self.state, &**attestor).await
            }
            Some(_) | None => join::renew(&self.upstream, &mut self.state).await,
        }
    }

    async fn renew(&mut self) -> Result<(), End> {
        let mut pace = Pace::new(self.seed);
        loop {
            match self.ask_for_the_next().await {
                Ok(()) => break,
                Err(AskError::Join(error))
                    if !(error.may_pass() || self.may_prove_itself_later(&error)) =>
                {
                    return Err(End::Failed(error.into()));
                }
                Err(error) => {
                    let mut wait = pace.next();
                    let refusal = error.refusal(&self.upstream, &self.state);
                    // An earlier version may not have noted what the server wants.
                    if refusal == Some(NodeRefusal::MustReattest)
                        && self.attestor.is_some()
                        && !self.state.reattests()
                    {
                        self.state.must_reattest();
                        continue;
                    }
                    if let Some(refusal) = refusal {
                        return Err(End::Refused(refusal));
                    }
                    // A server that signs for others first says when to come again.
                    if let AskError::Server(status) = &error {
                        wait = wire_status::retry_after(status).unwrap_or(wait);
                    }
                    metrics::counter!("muster_node_renewals_total", "outcome" => "failed")
                        .increment(1);
                    self.say_if_unknown();
                    tracing::warn!(%error, "the node's SVID could not be renewed, will try again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
        if let Some(svid) = self.state.svid().cloned() {
            tracing::info!(node_id = %svid.spiffe_id, serial = %svid.serial, "the node's SVID is renewed");
            metrics::counter!("muster_node_renewals_total", "outcome" => "done").increment(1);
            self.announce(&svid);
        }
        Ok(())
    }
}

/// Follows the node's view, stream after stream.
struct Follower {
    upstream: Upstream,
    driver: Driver,
    resync: watch::Receiver<u64>,
    verdicts: watch::Receiver<Option<Status>>,
    node: watch::Receiver<Option<X509Svid>>,
    pace: Pace,
}

impl Follower {
    async fn run(mut self) -> End {
        loop {
            let opened = self.upstream.clock().now().mono;
            let end = self.follow().await;
            if self.upstream.clock().now().mono.saturating_sub(opened) >= GOOD_STREAM {
                self.pace.reset();
            }
            let mut wait = None;
            match end {
                StreamEnd::Stopped => return End::Stopped,
                StreamEnd::NewChannel => continue,
                StreamEnd::Status(status) => {
                    if let Some(refusal) = wire_status::node_refusal(&status) {
                        return End::Refused(refusal);
                    }
                    // A server that has no room for all says when to come back.
                    wait = wire_status::retry_after(&status);
                    tracing::warn!(
                        server = %self.upstream.address(),
                        code = ?status.code(),
                        error = words::status(&status),
                        "the stream from the server ended"
                    );
                }
                StreamEnd::Nonsense(error) => {
                    metrics::counter!(VIEW_REFUSED, "reason" => "malformed").increment(1);
                    tracing::error!(server = %self.upstream.address(), error, "what the server sent is not believed");
                }
                // The roster has said why.
                StreamEnd::Resync => {
                    metrics::counter!(VIEW_REFUSED, "reason" => "contradiction").increment(1);
                }
            }
            let pace = self.pace.next();
            self.away(wait.unwrap_or(pace)).await;
        }
    }

    /// Stays away for a while; not when there is a new connection, or something to be told again.
    async fn away(&mut self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _changed = self.resync.changed(), if wait > LONG_WAIT => {}
        }
    }

    async fn follow(&mut self) -> StreamEnd {
        self.resync.mark_unchanged();
        self.verdicts.mark_unchanged();
        let mut channels = self.upstream.changes();
        channels.mark_unchanged();
        let end = self.steps(&mut channels).await;
        match self.driver.tell(Event::LinkDown) {
            Ok(()) => end,
            Err(Stopped) => StreamEnd::Stopped,
        }
    }

    async fn steps(
        &mut self,
        channels: &mut watch::Receiver<tonic::transport::Channel>,
    ) -> StreamEnd {
        let Ok((revision, digest)) = self.driver.standing().await else {
            return StreamEnd::Stopped;
        };
        let Ok(holding) = self.driver.stats().await else {
            return StreamEnd::Stopped;
        };
        let own = self.node.borrow().as_ref().map(|svid| svid.not_after);
        self.upstream.haste().note(&holding, own);
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.open(revision, digest)).await;
        let mut stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(status)) => return StreamEnd::Status(status),
            Err(_elapsed) => {
                return StreamEnd::Status(Status::deadline_exceeded(
                    "the stream did not begin in time",
                ));
            }
        };
        tracing::info!(server = %self.upstream.address(), %revision, "following the server");
        // Names depend on the node's own, which the server has attested by now.
        let own = self.node_id().map(Event::NodeIs);
        for event in own.into_iter().chain([Event::LinkUp]) {
            if self.driver.tell(event).is_err() {
                return StreamEnd::Stopped;
            }
        }
        let mut gathered = Gathered::default();
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                _changed = self.resync.changed() => return StreamEnd::Resync,
                _changed = channels.changed() => return StreamEnd::NewChannel,
                _changed = self.verdicts.changed() => {
                    let status = self.verdicts.borrow_and_update().clone();
                    match status {
                        Some(status) if wire_status::node_refusal(&status).is_some() => {
                            return StreamEnd::Status(status);
                        }
                        _ => continue,
                    }
                }
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => {
                    return StreamEnd::Status(Status::unavailable("the server ended the stream"));
                }
                Err(status) => return StreamEnd::Status(status),
            };
            let own = self.node_id();
            let gathering = gathered.add(&message, self.upstream.trust_domain(), own.as_ref());
            match gathering {
                Ok(None) => {}
                Ok(Some(step)) => {
                    tracing::debug!(revision = %step.revision, replace = step.replace, "a step of the view");
                    if self.driver.tell(Event::Step(step)).is_err() {
                        return StreamEnd::Stopped;
                    }
                }
                Err(why) => return StreamEnd::Nonsense(why),
            }
        }
    }

    fn node_id(&self) -> Option<SpiffeId> {
        let node = self.node.borrow();
        node.as_ref().map(|svid| svid.spiffe_id.clone())
    }

    async fn open(
        &self,
        revision: Revision,
        digest: ViewDigest,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let mut client =
            NodeViewClient::new(self.upstream.channel()).max_decoding_message_size(MESSAGE_MAX);
        let request = WatchRequest {
            revision: revision.0,
            digest: digest.as_bytes().to_vec().into(),
            node_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(client.watch(request).await?.into_inner())
    }
}
