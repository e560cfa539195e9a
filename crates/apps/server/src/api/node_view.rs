//! `muster.node.v1.NodeView`: each node's view of the roll, pushed as it changes.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{EntryId, Revision, SpiffeId, TrustDomain};
use muster_policy as policy;
use muster_policy::NodeRefusal;
use muster_proto::muster::node::v1::{WatchRequest, WatchResponse, node_view_server};
use muster_roll::{Change, Delta, NodeView, Roll};
use muster_wire::{bundle as wire_bundle, entry as wire_entry, status};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::api::agent::note_version;
use crate::listen::TlsOrigin;
use crate::metrics;
use crate::operation::begin;
use crate::server::Server;

/// Rows in one message: some thousand entries stay below gRPC's usual 4 MiB.
const ROWS: usize = 2000;

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
        let op = begin::<policy::WatchNodeView>(&self.0, request.extensions())
            .await
            .inspect_err(|refused| metrics::answered(method, refused.code()))?;
        metrics::answered(method, Code::Ok);
        let peer = request
            .extensions()
            .get::<TlsOrigin>()
            .and_then(|origin| origin.peer.clone());
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
        };
        tokio::spawn(async move {
            let _counted = metrics::Following::begin();
            let follow = watcher.run(Revision(message.revision), &message.digest);
            let status = match tokio::time::timeout(good_for, follow).await {
                Ok(status) => status,
                // The node holds a renewed certificate by now, or may not follow any longer.
                Err(_) => Some(Status::unavailable(
                    "the certificate of this connection has expired; connect again",
                )),
            };
            if let Some(status) = status {
                // Nobody may be there to hear it.
                drop(watcher.answers.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Watcher {
    server: Arc<Server>,
    node: SpiffeId,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
}

impl Watcher {
    /// Follows the roll until the node is gone (`None`) or may see nothing any more.
    async fn run(&self, revision: Revision, digest: &[u8]) -> Option<Status> {
        let mut head = self.server.roll.head();
        head.mark_unchanged();
        let mut roll = self.server.roll.snapshot();
        if let Some(refused) = standing(&roll, &self.node) {
            return Some(refused);
        }
        let mut view = NodeView::of(&roll, &self.node);
        let first = match self.resume(&roll, &view, revision, digest) {
            Some(delta) => self.send(&view, delta, false).await,
            None => self.send(&view, view.full(), true).await,
        };
        first?;
        loop {
            if self.next(&mut head).await.is_none() {
                return Some(Status::unavailable("the server is shutting down"));
            }
            // The snapshot first: what led to it is in the window before it is published.
            roll = self.server.roll.snapshot();
            // Before anything is said: a node that may see nothing is told why, not to forget all.
            if let Some(refused) = standing(&roll, &self.node) {
                return Some(refused);
            }
            if let Some(transactions) = self.server.roll.since(view.revision()) {
                let changes: Vec<Change> = transactions
                    .iter()
                    .flat_map(|(_, t)| t.changes())
                    .cloned()
                    .collect();
                let delta = view.update(&roll, &changes);
                // What does not concern the node costs it nothing.
                if !delta.is_empty() {
                    self.send(&view, delta, false).await?;
                }
            } else {
                view = NodeView::of(&roll, &self.node);
                self.send(&view, view.full(), true).await?;
            }
        }
    }

    /// Waits for the next revision; `None` if there will be none, or nobody listens.
    async fn next(&self, head: &mut watch::Receiver<Revision>) -> Option<()> {
        tokio::select! {
            changed = head.changed() => changed.ok(),
            () = self.answers.closed() => None,
            _reason = self.server.shutdown.begun() => None,
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
        for (_, transaction) in self.server.roll.since(revision)? {
            for change in transaction.changes() {
                match change {
                    Change::PutEntry(entry) => {
                        note_removed(&mut delta.removed_entries, view, &entry.id);
                    }
                    Change::DeleteEntry(id) => note_removed(&mut delta.removed_entries, view, id),
                    Change::PutBundle(bundle) => {
                        note_gone(&mut delta.removed_bundles, view, &bundle.trust_domain);
                    }
                    Change::DeleteBundle(name) => note_gone(&mut delta.removed_bundles, view, name),
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
        delta.upserts = view
            .entries()
            .filter(|entry| entry.changed_at > revision)
            .cloned()
            .collect();
        delta.bundles = view
            .bundles()
            .filter(|bundle| bundle.changed_at > revision)
            .cloned()
            .collect();
        Some(delta)
    }

    /// Sends one step in as many messages as it needs. `None` when nobody listens.
    async fn send(&self, view: &NodeView, delta: Delta, replace: bool) -> Option<()> {
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
                .ok()?;
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
        last.complete = true;
        self.answers.send(Ok(last)).await.ok()
    }
}

fn note_removed(removed: &mut Vec<EntryId>, view: &NodeView, id: &EntryId) {
    if view.entry(id).is_none() {
        removed.push(id.clone());
    }
}

fn note_gone(removed: &mut Vec<TrustDomain>, view: &NodeView, name: &TrustDomain) {
    if !view.bundles().any(|bundle| bundle.trust_domain == *name) {
        removed.push(name.clone());
    }
}

/// Why the node may no longer follow, if so.
fn standing(roll: &Roll, node: &SpiffeId) -> Option<Status> {
    let refusal = match roll.node(node) {
        None => NodeRefusal::NotAttested,
        Some(node) if node.is_banned() => NodeRefusal::Banned,
        Some(_) => return None,
    };
    Some(status::node_refused(refusal.to_string(), refusal))
}
