//! `muster.node.v1.NodeView`: each node's view of the roll, pushed as it changes.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{EntryId, Revision, RuleName, SpiffeId, TaskId, TrustDomain};
use muster_policy as policy;
use muster_policy::NodeRefusal;
use muster_proto::muster::node::v1::{WatchRequest, WatchResponse, node_view_server};
use muster_roll::agents::{AgentChange, task};
use muster_roll::{Change, Delta, NodeView, Roll};
use muster_wire::trace::TraceId;
use muster_wire::{bundle as wire_bundle, entry as wire_entry, rule as wire_rule, status};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::api::agent::note_version;
use crate::crowd::Seat;
use crate::dispatch::Subscription;
use crate::listen::TlsOrigin;
use crate::metrics;
use crate::operation::begin;
use crate::server::Server;

/// Rows in one message: some thousand entries stay below gRPC's usual 4 MiB.
const ROWS: usize = 2000;
/// Changes that a view is brought up to date by one after the other. A node that nothing concerned
/// for long may have missed more: its view is then computed anew, and compared.
const LOOKED_THROUGH: usize = 1000;

/// How long the last word to a node that has to leave may take to go out.
const PARTING: Duration = Duration::from_secs(1);

/// The service.
pub(crate) struct NodeViewService(pub Arc<Server>);

#[tonic::async_trait]
impl node_view_server::NodeView for NodeViewService {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/view.rs` (what concerns the node), `edge/wire`.
    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let method = <policy::WatchNodeView as policy::Action>::ROW.method;
        let op = begin::<policy::WatchNodeView>(
            &self.0,
            request.extensions(),
            TraceId::of(request.metadata()),
        )
        .await
        .inspect_err(|refused| metrics::answered(method, refused.code()))?;
        metrics::answered(method, Code::Ok);
        let origin = request.extensions().get::<TlsOrigin>().cloned();
        let line = origin.as_ref().map(|o| Arc::clone(&o.line));
        let peer = origin.and_then(|origin| origin.peer);
        let seat = self
            .0
            .crowd
            .sit(line.unwrap_or_default(), self.0.clock.now().mono);
        let good_for = peer.map_or(Duration::ZERO, |peer| peer.not_after.since(op.now));
        let id = op.caller_id()?.clone();
        let message = request.into_inner();
        let version: String = message.node_version.chars().take(255).collect();
        if !version.is_empty() {
            note_version(&self.0, op, id.clone(), version).await?;
        }
        // One message waits at the most: a slow node gets later changes in one step.
        let (answers, receiver) = mpsc::channel(1);
        let watcher = Watcher {
            server: Arc::clone(&self.0),
            node: id,
            answers,
            seat,
        };
        // A copy: the bytes on the wire would be kept with all that came with them.
        let digest = message.digest.to_vec();
        tokio::spawn(async move {
            let _counted = metrics::Following::begin();
            let follow = watcher.run(Revision(message.revision), &digest);
            let mut left = false;
            let status = match tokio::time::timeout(good_for, follow).await {
                Ok(End::Gone) => None,
                Ok(End::Refused(status)) => Some(status),
                Ok(End::MakeRoom(away)) => {
                    left = true;
                    Some(status::later(
                        "more nodes than the server's memory has room for: others come in now",
                        away,
                    ))
                }
                // The node holds a renewed certificate by now, or may not follow any longer.
                Err(_) => Some(Status::unavailable(
                    "the certificate of this connection has expired; connect again",
                )),
            };
            if let Some(status) = status {
                // Nobody may be there to hear it.
                drop(watcher.answers.send(Err(status)).await);
            }
            if left {
                // Its last word has gone out by then; a node that is gone does not mind.
                tokio::time::sleep(PARTING).await;
                watcher.seat.line().close();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Watcher {
    server: Arc<Server>,
    node: SpiffeId,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    seat: Seat,
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Gone,
    /// The node is told why.
    Refused(Status),
    /// Others come in; it is to stay away for so long.
    MakeRoom(Duration),
}

impl Watcher {
    /// Follows the roll until the node is gone, or may see nothing any more, or has to make room.
    async fn run(&self, revision: Revision, digest: &[u8]) -> End {
        match self.follow(revision, digest).await {
            Ok(()) => End::Gone,
            Err(end) => end,
        }
    }

    async fn follow(&self, revision: Revision, digest: &[u8]) -> Result<(), End> {
        let subscription = self.server.roll.follow(self.node.clone());
        let mut roll = self.server.roll.snapshot();
        check_standing(&roll, &self.node)?;
        let mut view = NodeView::of(&roll, &self.node);
        match self.resume(&roll, &view, revision, digest) {
            Some(delta) => Box::pin(self.send(&view, delta, false)).await?,
            None => Box::pin(self.send(&view, view.full(), true)).await?,
        }
        loop {
            // A stream that waits keeps no old roll alive.
            drop(roll);
            self.next(&subscription).await?;
            // The snapshot first: what led to it is in the window before it is published.
            roll = self.server.roll.snapshot();
            // Before anything is said: a node that may see nothing is told why, not to forget all.
            check_standing(&roll, &self.node)?;
            let most = LOOKED_THROUGH.max(view.entry_count());
            let delta = match self.server.roll.since(view.revision(), most) {
                Some(steps) => {
                    let changes: Vec<Change> =
                        steps.iter().flat_map(|step| step.iter()).cloned().collect();
                    view.update(&roll, &changes)
                }
                None => view.refresh(&roll),
            };
            // What does not concern the node costs it nothing.
            if !delta.is_empty() {
                // In a box: a stream that waits, as nearly all do, has no place for it.
                Box::pin(self.send(&view, delta, false)).await?;
            }
        }
    }

    /// Waits for something that may concern the node.
    async fn next(&self, subscription: &Subscription) -> Result<(), End> {
        tokio::select! {
            () = subscription.news() => Ok(()),
            () = self.answers.closed() => Err(End::Gone),
            away = self.seat.asked_to_leave() => Err(End::MakeRoom(away)),
            _reason = self.server.shutdown.begun() => {
                Err(End::Refused(Status::unavailable("the server is shutting down")))
            }
        }
    }

    /// What changed for the node since `revision`, if that can be told from the recent
    /// transactions. Should it be wrong, because the node's reach itself changed, the digest tells
    /// the node, and it starts over.
    fn resume(
        &self,
        roll: &Roll,
        view: &NodeView,
        revision: Revision,
        digest: &[u8],
    ) -> Option<Delta> {
        if revision == Revision::default() || revision > roll.head() {
            return None;
        }
        if digest == view.digest().as_bytes() {
            return Some(Delta::default());
        }
        let mut delta = Delta::default();
        for step in self.server.roll.since(revision, usize::MAX)? {
            for change in step.iter() {
                match change {
                    Change::PutEntry(entry) => {
                        note_removed(&mut delta.removed_entries, view, &entry.id);
                    }
                    Change::DeleteEntry(id) => note_removed(&mut delta.removed_entries, view, id),
                    Change::PutBundle(bundle) => {
                        note_gone(&mut delta.removed_bundles, view, &bundle.trust_domain);
                    }
                    Change::DeleteBundle(name) => note_gone(&mut delta.removed_bundles, view, name),
                    Change::PutRule(rule) => {
                        note_rule(&mut delta.removed_rules, view, &rule.name);
                    }
                    Change::DeleteRule(name) => note_rule(&mut delta.removed_rules, view, name),
                    Change::Agent(AgentChange::PutTask(task)) => {
                        if task.node == self.node {
                            note_task(&mut delta, view, task.id);
                        }
                    }
                    Change::Agent(AgentChange::DeleteTask(id)) => note_task(&mut delta, view, *id),
                    // What was withheld and comes back was not written anew.
                    Change::Agent(_) => return None,
                    // The node's own row changed: its reach may have.
                    Change::PutNode(node) if node.id == self.node => {}
                    Change::PutNode(_)
                    | Change::DeleteNode(_)
                    | Change::PutJoinToken(_)
                    | Change::DeleteJoinToken(_)
                    | Change::PutJournal { .. } => {}
                }
            }
        }
        delta.upserts.extend(
            view.entries()
                .filter(|entry| entry.changed_at > revision)
                .cloned(),
        );
        delta.bundles = view
            .bundles()
            .filter(|bundle| bundle.changed_at > revision)
            .cloned()
            .collect();
        delta.rules = view
            .rules()
            .filter(|rule| rule.changed_at > revision)
            .cloned()
            .collect();
        Some(delta)
    }

    /// Sends one step in as many messages as it needs.
    async fn send(&self, view: &NodeView, delta: Delta, replace: bool) -> Result<(), End> {
        let message = || WatchResponse {
            revision: view.revision().0,
            replace,
            digest: view.digest().as_bytes().to_vec().into(),
            ..WatchResponse::default()
        };
        let mut pages = delta.upserts.chunks(ROWS).peekable();
        while let Some(page) = pages.next() {
            if pages.peek().is_none() && page.len() < ROWS {
                break;
            }
            let entries = page
                .iter()
                .map(|entry| wire_entry::write(entry, None))
                .collect();
            self.answers
                .send(Ok(WatchResponse {
                    entries,
                    ..message()
                }))
                .await
                .map_err(|_gone| End::Gone)?;
        }
        let rest = delta.upserts.len() / ROWS * ROWS;
        let mut last = message();
        last.entries = delta
            .upserts
            .iter()
            .skip(rest)
            .map(|entry| wire_entry::write(entry, None))
            .collect();
        last.removed_entries = delta
            .removed_entries
            .iter()
            .map(ToString::to_string)
            .collect();
        last.bundles = delta
            .bundles
            .iter()
            .map(|bundle| wire_bundle::write(bundle, None))
            .collect();
        last.removed_bundles = delta
            .removed_bundles
            .iter()
            .map(ToString::to_string)
            .collect();
        let texts = |ids: &[SpiffeId]| ids.iter().map(ToString::to_string).collect();
        last.rules = delta
            .rules
            .iter()
            .map(|rule| wire_rule::write(rule))
            .collect();
        last.removed_rules = delta
            .removed_rules
            .iter()
            .map(ToString::to_string)
            .collect();
        last.withheld_names = texts(&delta.withheld);
        last.released_names = texts(&delta.released);
        last.complete = true;
        self.answers.send(Ok(last)).await.map_err(|_gone| End::Gone)
    }
}

fn note_removed(removed: &mut Vec<EntryId>, view: &NodeView, id: &EntryId) {
    if view.entry(id).is_none() {
        removed.push(id.clone());
    }
}

fn note_rule(removed: &mut Vec<RuleName>, view: &NodeView, name: &RuleName) {
    if view.rule(name).is_none() {
        removed.push(name.clone());
    }
}

/// A task of the node that was written: its entry is there, or it is not.
fn note_task(delta: &mut Delta, view: &NodeView, task: TaskId) {
    let Some(id) = task::entry_id(task) else {
        return;
    };
    match view.entry(&id) {
        Some(entry) => delta.upserts.push(Arc::clone(entry)),
        None => delta.removed_entries.push(id),
    }
}

fn note_gone(removed: &mut Vec<TrustDomain>, view: &NodeView, name: &TrustDomain) {
    if !view.bundles().any(|bundle| bundle.trust_domain == *name) {
        removed.push(name.clone());
    }
}

/// Whether the node may follow still.
fn check_standing(roll: &Roll, node: &SpiffeId) -> Result<(), End> {
    let refusal = match roll.node(node) {
        None => NodeRefusal::NotAttested,
        Some(node) if node.is_banned() => NodeRefusal::Banned,
        Some(_) => return Ok(()),
    };
    Err(End::Refused(status::node_refused(
        refusal.to_string(),
        refusal,
    )))
}
