//! Wakes the streams of those nodes that a commit concerns, and no others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::SpiffeId;
use muster_roll::{Concern, Roll};
use tokio::sync::Notify;

/// The streams that wait for news, by node.
#[derive(Default)]
pub(crate) struct Dispatch {
    watchers: Mutex<HashMap<SpiffeId, Vec<Arc<Notify>>>>,
    wakes: AtomicU64,
}

/// A stream's place among those that wait; given up when dropped.
pub(crate) struct Subscription {
    dispatch: Arc<Dispatch>,
    node: SpiffeId,
    news: Arc<Notify>,
}

impl Dispatch {
    /// From now on, every commit that may concern `node` is told. Look at the roll after this.
    pub(crate) fn subscribe(self: &Arc<Self>, node: SpiffeId) -> Subscription {
        let news = Arc::new(Notify::new());
        self.watchers()
            .entry(node.clone())
            .or_default()
            .push(Arc::clone(&news));
        Subscription {
            dispatch: Arc::clone(self),
            node,
            news,
        }
    }

    /// Wakes whom it concerns that the roll is now `after`. It must be published already.
    pub(crate) fn publish(&self, concern: &Concern, after: &Roll) {
        if concern.is_nobody() {
            return;
        }
        let watchers = self.watchers();
        let mut woken = 0;
        let mut wake = |streams: &Vec<Arc<Notify>>| {
            for news in streams {
                news.notify_one();
                woken += 1;
            }
        };
        if concern.is_everyone() {
            watchers.values().for_each(&mut wake);
        } else if concern.has_aliases() {
            for (id, streams) in watchers.iter() {
                // A node that is gone is concerned by name.
                let by_name = || concern.nodes().any(|node| node == id);
                if after
                    .node(id)
                    .map_or_else(by_name, |node| concern.includes(node))
                {
                    wake(streams);
                }
            }
        } else {
            concern
                .nodes()
                .filter_map(|node| watchers.get(node))
                .for_each(&mut wake);
        }
        self.wakes.fetch_add(woken, Ordering::Relaxed);
    }

    /// How often a stream was woken so far.
    #[cfg(test)]
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<SpiffeId, Vec<Arc<Notify>>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Resolves when something was published that may concern the node, also when that was since
    /// the last time and nobody waited.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watchers = self.dispatch.watchers();
        if let Some(streams) = watchers.get_mut(&self.node) {
            streams.retain(|news| !Arc::ptr_eq(news, &self.news));
            if streams.is_empty() {
                watchers.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::FutureExt as _;
    use muster_model::{
        Entry, EntryId, Node, NodeStanding, Revision, SelectorSet, SerialNumber, Timestamp,
        TrustDomain,
    };
    use muster_roll::Change;

    use super::*;

    fn id(path: &str) -> SpiffeId {
        TrustDomain::parse("td").unwrap().with_path(path).unwrap()
    }

    fn node(path: &str) -> Change {
        Change::PutNode(Arc::new(Node {
            id: id(path),
            attestation_type: "join_token".into(),
            standing: NodeStanding::Active {
                serial: SerialNumber::from_decimal("1").unwrap(),
                expires_at: Timestamp::from_unix_seconds(100),
                next: None,
            },
            can_reattest: false,
            selectors: SelectorSet::new(),
            agent_version: String::new(),
            joined: None,
            changed_at: Revision::default(),
        }))
    }

    fn entry(number: u64, parent: &SpiffeId) -> Change {
        Change::PutEntry(Arc::new(Entry {
            id: EntryId::parse(&format!("e{number}")).unwrap(),
            spiffe_id: id("/w"),
            parent_id: parent.clone(),
            selectors: ["unix:uid:0".parse().unwrap()].into(),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: BTreeSet::new(),
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: Vec::new(),
            store_svid: false,
            hint: String::new(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
            class: None,
            created_at: Timestamp::EPOCH,
            ordinal: number,
            revision_number: 0,
            changed_at: Revision::default(),
        }))
    }

    /// A thousand nodes, a hundred commits for one of them: a hundred wakes.
    #[test]
    fn a_commit_wakes_only_the_node_that_it_concerns() {
        let mut roll = Roll::empty(TrustDomain::parse("td").unwrap());
        let nodes: Vec<SpiffeId> = (0..1000)
            .map(|number| id(&format!("/spire/agent/{number}")))
            .collect();
        let rows: Vec<Change> = nodes.iter().map(|id| node(id.path())).collect();
        roll.apply(Revision(1), &rows);
        let dispatch = Arc::new(Dispatch::default());
        let streams: Vec<Subscription> = nodes
            .iter()
            .map(|id| dispatch.subscribe(id.clone()))
            .collect();
        for number in 1..=100 {
            let before = roll.clone();
            let change = [entry(number, &nodes[7])];
            roll.apply(before.head().next(), &change);
            dispatch.publish(&Concern::of(&before, &roll, &change), &roll);
        }
        assert_eq!(dispatch.wakes(), 100);
        for (number, stream) in streams.iter().enumerate() {
            assert_eq!(stream.news().now_or_never().is_some(), number == 7);
        }

        // Nobody is woken who has gone.
        drop(streams);
        dispatch.publish(&Concern::everyone(), &roll);
        assert_eq!(dispatch.wakes(), 100);
    }
}
