//! The memory image.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use muster_model::{
    Bundle, Entry, EntryId, JoinToken, Node, Revision, Rule, Selector, SelectorSet, SpiffeId,
    Timestamp, TrustDomain,
};

use crate::agents::{Agents, membership};
use crate::index::{Index, in_packing_order};
use crate::naming::Rules;
use crate::{Change, EntryFilter, Loaded, NodeFilter, Page};

/// The whole roll of one trust domain as of one revision: a value that is cheap to clone.
///
/// The maps are persistent: a clone shares all of them, and a write to a clone copies only the few
/// tree nodes on its path. The writer clones the published roll, applies what it is about to
/// commit, and publishes the clone when the store has acknowledged; a reader's snapshot never
/// moves under it.
#[derive(Clone)]
pub struct Roll {
    trust_domain: TrustDomain,
    server_id: SpiffeId,
    head: Revision,
    next_ordinal: u64,
    /// Every entry in the order of creation. The indexes lead here.
    entries: OrdMap<u64, Arc<Entry>>,
    by_id: Index,
    by_parent: Index,
    by_spiffe_id: Index,
    /// Parent, SPIFFE ID and selectors: what makes two entries duplicates.
    by_identity: Index,
    /// Node aliases by the first of their selectors: a node that has all of an alias's selectors
    /// has the first.
    by_alias: Index,
    admins: Index,
    downstreams: Index,
    /// Entries by the agent classes that they may be of.
    by_agent_class: Index,
    /// Entries that expire, by the instant.
    expiries: Index,
    nodes: OrdMap<SpiffeId, Arc<Node>>,
    join_tokens: HashMap<String, JoinToken>,
    bundles: OrdMap<TrustDomain, Arc<Bundle>>,
    rules: Rules,
    agents: Agents,
    journals: OrdMap<String, Arc<[u8]>>,
    /// Keyed differently in each process, so that nobody can choose names that collide.
    hasher: RandomState,
}

impl Roll {
    /// The roll of `trust_domain` with nothing in it.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            server_id: trust_domain.server_id(),
            trust_domain,
            head: Revision::default(),
            next_ordinal: 1,
            entries: OrdMap::new(),
            by_id: Index::default(),
            by_parent: Index::default(),
            by_spiffe_id: Index::default(),
            by_identity: Index::default(),
            by_alias: Index::default(),
            admins: Index::default(),
            downstreams: Index::default(),
            by_agent_class: Index::default(),
            expiries: Index::default(),
            nodes: OrdMap::new(),
            join_tokens: HashMap::new(),
            bundles: OrdMap::new(),
            rules: Rules::default(),
            agents: Agents::default(),
            journals: OrdMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// The roll of `trust_domain` as a store held it.
    pub fn load(trust_domain: TrustDomain, loaded: Loaded) -> Self {
        let mut roll = Self::empty(trust_domain);
        roll.head = loaded.head;
        roll.next_ordinal = loaded.next_ordinal.max(1);
        roll.fill(loaded.entries);
        roll.nodes
            .extend(loaded.nodes.into_iter().map(|node| (node.id.clone(), node)));
        roll.join_tokens.extend(
            loaded
                .join_tokens
                .into_iter()
                .map(|token| (token.value.clone(), token)),
        );
        roll.bundles.extend(
            loaded
                .bundles
                .into_iter()
                .map(|bundle| (bundle.trust_domain.clone(), bundle)),
        );
        for rule in loaded.rules {
            roll.rules.insert(rule);
        }
        roll.agents = Agents::load(loaded.agents);
        roll.journals.extend(loaded.journals);
        roll
    }

    /// The trust domain that the roll is about.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// `spiffe://TD/spire/server`, the parent of node aliases.
    pub fn server_id(&self) -> &SpiffeId {
        &self.server_id
    }

    /// The revision that the roll stands at.
    pub fn head(&self) -> Revision {
        self.head
    }

    /// The ordinal of the next new entry. Several new entries of one transaction count on from it.
    pub fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// Applies the changes of the transaction that is committed as `revision`, in their order.
    ///
    /// Every row that is written gets `revision` as its `changed_at`. A new entry must have the
    /// roll's [`Roll::next_ordinal`]; an entry that replaces another keeps the ordinal of that one.
    pub fn apply(&mut self, revision: Revision, changes: &[Change]) {
        self.head = revision;
        for change in changes {
            match change {
                Change::PutEntry(entry) => self.put_entry(revision, entry),
                Change::DeleteEntry(id) => self.delete_entry(id),
                Change::PutNode(node) => {
                    let mut node = Arc::clone(node);
                    if node.changed_at != revision {
                        Arc::make_mut(&mut node).changed_at = revision;
                    }
                    self.nodes.insert(node.id.clone(), node);
                }
                Change::DeleteNode(id) => {
                    self.nodes.remove(id);
                }
                Change::PutJoinToken(token) => {
                    self.join_tokens.insert(token.value.clone(), token.clone());
                }
                Change::DeleteJoinToken(value) => {
                    self.join_tokens.remove(value);
                }
                Change::PutBundle(bundle) => {
                    let mut bundle = Arc::clone(bundle);
                    if bundle.changed_at != revision {
                        Arc::make_mut(&mut bundle).changed_at = revision;
                    }
                    self.bundles.insert(bundle.trust_domain.clone(), bundle);
                }
                Change::DeleteBundle(name) => {
                    self.bundles.remove(name);
                }
                Change::PutRule(rule) => self.rules.put(revision, rule),
                Change::DeleteRule(name) => self.rules.remove(name),
                Change::Agent(change) => self.agents.apply(revision, change),
                Change::PutJournal { name, content } => {
                    self.journals.insert(name.clone(), Arc::clone(content));
                }
            }
        }
    }

    // ---- entries

    /// How many entries there are.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// The entry of that ID.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.find(&self.by_id, id, |entry| entry.id == *id)
    }

    /// The entries with an ordinal greater than `ordinal`, in the order of creation; 0 is all.
    pub fn entries_after(&self, ordinal: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries
            .range(ordinal.saturating_add(1)..)
            .map(|(_, entry)| entry)
    }

    /// The entries under `parent`, in the order of creation.
    pub fn children<'a>(&'a self, parent: &'a SpiffeId) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.resolve(self.by_parent.at(self.hasher.hash_one(parent)))
            .filter(move |entry| entry.parent_id == *parent)
    }

    /// The entries that give `spiffe_id`, in the order of creation.
    pub fn named<'a>(&'a self, spiffe_id: &'a SpiffeId) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.resolve(self.by_spiffe_id.at(self.hasher.hash_one(spiffe_id)))
            .filter(move |entry| entry.spiffe_id == *spiffe_id)
    }

    /// The entry with the same parent, SPIFFE ID and set of selectors, the oldest if there are
    /// several.
    pub fn duplicate(
        &self,
        parent_id: &SpiffeId,
        spiffe_id: &SpiffeId,
        selectors: &SelectorSet,
    ) -> Option<&Arc<Entry>> {
        self.find(
            &self.by_identity,
            &(parent_id, spiffe_id, selectors),
            |entry| {
                entry.parent_id == *parent_id
                    && entry.spiffe_id == *spiffe_id
                    && entry.selectors == *selectors
            },
        )
    }

    /// One page of the entries that `filter` admits, in the order of creation, after the entry with
    /// the ordinal `after` (0 is from the start). A `limit` of 0 is no limit.
    pub fn list_entries(&self, filter: &EntryFilter, after: u64, limit: usize) -> Page<Entry, u64> {
        let admitted = |entry: &&Arc<Entry>| filter.admits(entry);
        // The narrowest index goes first: a SPIFFE ID has few entries, a parent may have many.
        if let Some(id) = &filter.spiffe_id {
            let key = self.hasher.hash_one(id);
            let found = self.resolve(self.by_spiffe_id.after(key, after));
            page(found.filter(admitted), limit, |entry| entry.ordinal)
        } else if let Some(id) = &filter.parent_id {
            let key = self.hasher.hash_one(id);
            let found = self.resolve(self.by_parent.after(key, after));
            page(found.filter(admitted), limit, |entry| entry.ordinal)
        } else {
            let found = self.entries_after(after);
            page(found.filter(admitted), limit, |entry| entry.ordinal)
        }
    }

    /// How many entries `filter` admits.
    pub fn count_entries(&self, filter: &EntryFilter) -> usize {
        if *filter == EntryFilter::default() {
            return self.entry_count();
        }
        self.list_entries(filter, 0, 0).rows.len()
    }

    /// The entries whose `expires_at` is not after `now`, those that expired first at the front.
    pub fn expired_entries(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Entry>> {
        self.resolve(self.expiries.up_to(instant_key(now)))
    }

    /// Whether an admin entry gives `id`, and no agent class withholds it.
    pub fn is_admin(&self, id: &SpiffeId) -> bool {
        self.find(&self.admins, id, |entry| {
            entry.spiffe_id == *id && membership::is_granted(&self.agents, entry)
        })
        .is_some()
    }

    /// The entries whose path or class names the agent class `class`, in the order of creation.
    pub fn entries_of_class<'a>(&'a self, class: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.resolve(self.by_agent_class.at(self.hasher.hash_one(class)))
            .filter(move |entry| {
                membership::named(&entry.spiffe_id, entry.class.as_ref()).any(|name| name == class)
            })
    }

    /// Whether a downstream entry gives `id`, and no agent class withholds it.
    pub fn is_downstream(&self, id: &SpiffeId) -> bool {
        self.find(&self.downstreams, id, |entry| {
            entry.spiffe_id == *id && membership::is_granted(&self.agents, entry)
        })
        .is_some()
    }

    /// The node aliases that may fit a node with `selectors`: all that do, and some that do not.
    pub(crate) fn alias_candidates<'a>(
        &'a self,
        selectors: &'a SelectorSet,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        selectors
            .iter()
            .flat_map(|selector| self.resolve(self.by_alias.at(self.hasher.hash_one(selector))))
    }

    // ---- nodes

    /// How many nodes are attested.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node of that ID.
    pub fn node(&self, id: &SpiffeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// Every node, by ascending ID.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// One page of the nodes that `filter` admits, by ascending ID, after the node `after`.
    /// A `limit` of 0 is no limit.
    pub fn list_nodes(
        &self,
        filter: &NodeFilter,
        after: Option<&SpiffeId>,
        limit: usize,
    ) -> Page<Node, SpiffeId> {
        use std::ops::Bound;

        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self
            .nodes
            .range::<(Bound<&SpiffeId>, Bound<&SpiffeId>), SpiffeId>((start, Bound::Unbounded))
            .map(|(_, node)| node)
            .filter(|node| filter.admits(node));
        page(found, limit, |node| node.id.clone())
    }

    // ---- the rest

    /// The join token of that text.
    pub fn join_token(&self, value: &str) -> Option<&JoinToken> {
        self.join_tokens.get(value)
    }

    /// Every join token that was not used yet, in no order.
    pub fn join_tokens(&self) -> impl Iterator<Item = &JoinToken> {
        self.join_tokens.values()
    }

    /// The bundle of a trust domain.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.bundles.get(trust_domain)
    }

    /// The bundle of the roll's own trust domain.
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundle(&self.trust_domain)
    }

    /// Every bundle, by ascending name.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    // ---- identity rules

    /// How many identity rules there are.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The identity rule of that name.
    pub fn rule(&self, name: &str) -> Option<&Arc<Rule>> {
        self.rules.get(name)
    }

    /// Every identity rule, by ascending name.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.all()
    }

    /// The identity rules under `parent`, by ascending name.
    pub fn rules_under(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.under(parent)
    }

    /// The identity rules whose names may be of the agent class `class`, by ascending name.
    pub fn rules_of_class(&self, class: &str) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.of_class(class)
    }

    // ---- agents, and the authorities' journals

    /// What the roll knows about agents.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The journal of a signing authority.
    pub fn journal(&self, name: &str) -> Option<&Arc<[u8]>> {
        self.journals.get(name)
    }

    /// Every journal with its name, by ascending name.
    pub fn journals(&self) -> impl Iterator<Item = (&str, &Arc<[u8]>)> {
        self.journals
            .iter()
            .map(|(name, content)| (name.as_str(), content))
    }

    // ---- inside

    fn resolve<'a>(
        &'a self,
        ordinals: impl Iterator<Item = u64> + 'a,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        ordinals.filter_map(|ordinal| self.entries.get(&ordinal))
    }

    fn find(
        &self,
        index: &Index,
        key: &impl Hash,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Option<&Arc<Entry>> {
        index
            .at(self.hasher.hash_one(key))
            .filter_map(|ordinal| self.entries.get(&ordinal))
            .find(|entry| is_it(entry))
    }

    fn put_entry(&mut self, revision: Revision, entry: &Arc<Entry>) {
        let mut entry = Arc::clone(entry);
        if entry.changed_at != revision {
            Arc::make_mut(&mut entry).changed_at = revision;
        }
        let old = self.entry(&entry.id).cloned();
        if let Some(old) = &old {
            self.unlink(old);
        }
        self.next_ordinal = self.next_ordinal.max(entry.ordinal.saturating_add(1));
        for (index, key) in self.keys(&entry) {
            self.index(index).insert(key, entry.ordinal);
        }
        self.entries.insert(entry.ordinal, entry);
    }

    fn delete_entry(&mut self, id: &EntryId) {
        if let Some(entry) = self.entry(id).cloned() {
            self.unlink(&entry);
        }
    }

    fn unlink(&mut self, entry: &Entry) {
        self.entries.remove(&entry.ordinal);
        for (index, key) in self.keys(entry) {
            self.index(index).remove(key, entry.ordinal);
        }
    }

    /// Loads many entries into a roll that has none.
    fn fill(&mut self, mut entries: Vec<Arc<Entry>>) {
        entries.sort_by_key(|entry| entry.ordinal);
        let mut pairs: [Vec<(u64, u64)>; Which::ALL.len()] = Default::default();
        for entry in &entries {
            for (index, key) in self.keys(entry) {
                if let Some(list) = pairs.get_mut(index as usize) {
                    list.push((key, entry.ordinal));
                }
            }
        }
        for (which, list) in Which::ALL.into_iter().zip(pairs) {
            self.index(which).fill(list);
        }
        if let Some(last) = entries.last() {
            self.next_ordinal = self.next_ordinal.max(last.ordinal.saturating_add(1));
        }
        self.entries
            .extend(in_packing_order(entries).map(|entry| (entry.ordinal, entry)));
    }

    /// Under which keys an entry stands in which indexes.
    fn keys(&self, entry: &Entry) -> impl Iterator<Item = (Which, u64)> + use<> {
        let first_selector: Option<&Selector> = entry.selectors.first();
        let hash = &self.hasher;
        let spiffe_id = hash.hash_one(&entry.spiffe_id);
        let identity = (&entry.parent_id, &entry.spiffe_id, &entry.selectors);
        let mut classes = membership::named(&entry.spiffe_id, entry.class.as_ref())
            .map(|name| (Which::AgentClass, hash.hash_one(name)));
        let alias = first_selector.filter(|_| entry.parent_id == self.server_id);
        [
            Some((Which::Id, hash.hash_one(&entry.id))),
            Some((Which::Parent, hash.hash_one(&entry.parent_id))),
            Some((Which::SpiffeId, spiffe_id)),
            Some((Which::Identity, hash.hash_one(identity))),
            alias.map(|selector| (Which::Alias, hash.hash_one(selector))),
            entry.admin.then_some((Which::Admin, spiffe_id)),
            entry.downstream.then_some((Which::Downstream, spiffe_id)),
            entry.expires_at.map(|at| (Which::Expiry, instant_key(at))),
            classes.next(),
            classes.next(),
        ]
        .into_iter()
        .flatten()
    }

    fn index(&mut self, which: Which) -> &mut Index {
        match which {
            Which::Id => &mut self.by_id,
            Which::Parent => &mut self.by_parent,
            Which::SpiffeId => &mut self.by_spiffe_id,
            Which::Identity => &mut self.by_identity,
            Which::Alias => &mut self.by_alias,
            Which::Admin => &mut self.admins,
            Which::Downstream => &mut self.downstreams,
            Which::AgentClass => &mut self.by_agent_class,
            Which::Expiry => &mut self.expiries,
        }
    }
}

impl fmt::Debug for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roll")
            .field("trust_domain", &self.trust_domain)
            .field("head", &self.head)
            .field("entries", &self.entries.len())
            .field("nodes", &self.nodes.len())
            .field("join_tokens", &self.join_tokens.len())
            .field("bundles", &self.bundles.len())
            .field("rules", &self.rules.len())
            .field("agents", &self.agents)
            .field("journals", &self.journals.len())
            .finish_non_exhaustive()
    }
}

/// The indexes of entries.
#[derive(Clone, Copy)]
enum Which {
    Id,
    Parent,
    SpiffeId,
    Identity,
    Alias,
    Admin,
    Downstream,
    AgentClass,
    Expiry,
}

impl Which {
    /// In the order of their declaration, which is their number.
    const ALL: [Self; 9] = [
        Self::Id,
        Self::Parent,
        Self::SpiffeId,
        Self::Identity,
        Self::Alias,
        Self::Admin,
        Self::Downstream,
        Self::AgentClass,
        Self::Expiry,
    ];
}

/// An instant as a key that sorts like the instant.
fn instant_key(at: Timestamp) -> u64 {
    at.unix_millis().cast_unsigned() ^ (1 << 63)
}

pub(crate) fn page<'a, T: 'a, Token>(
    mut rows: impl Iterator<Item = &'a Arc<T>>,
    limit: usize,
    token: impl Fn(&T) -> Token,
) -> Page<T, Token> {
    if limit == 0 {
        return Page {
            rows: rows.cloned().collect(),
            next: None,
        };
    }
    let filled: Vec<Arc<T>> = rows.by_ref().take(limit).cloned().collect();
    // A token only when there is more: SPIRE's clients ask until it is empty.
    let next = rows
        .next()
        .and_then(|_| filled.last())
        .map(|last| token(last));
    Page { rows: filled, next }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::world::{self, entry, entry_id, id, roll, step};

    /// Every question that an index answers, asked of the plain list of entries.
    fn agrees_with_the_list(roll: &Roll) {
        let all: Vec<&Arc<Entry>> = roll.entries_after(0).collect();
        assert_eq!(all.len(), roll.entry_count());
        assert!(all.is_sorted_by_key(|entry| entry.ordinal));
        let listed = |given: &dyn Fn(&Entry) -> bool| -> Vec<&Arc<Entry>> {
            all.iter().copied().filter(|entry| given(entry)).collect()
        };
        let granted = |entry: &Entry| membership::is_granted(roll.agents(), entry);
        for class in ["c0", "c1"] {
            assert_eq!(
                roll.entries_of_class(class).collect::<Vec<_>>(),
                listed(&|e| {
                    e.class.as_ref().is_some_and(|name| name.as_str() == class)
                        || e.spiffe_id.path().starts_with(&format!("/agent/{class}/"))
                })
            );
        }
        for entry in &all {
            assert!(entry.ordinal < roll.next_ordinal() && entry.changed_at <= roll.head());
            assert_eq!(roll.entry(&entry.id), Some(*entry));
            let name = &entry.spiffe_id;
            assert_eq!(
                roll.children(name).collect::<Vec<_>>(),
                listed(&|e| e.parent_id == *name)
            );
            assert_eq!(
                roll.named(name).collect::<Vec<_>>(),
                listed(&|e| e.spiffe_id == *name)
            );
            assert_eq!(
                roll.is_admin(name),
                !listed(&|e| e.spiffe_id == *name && e.admin && granted(e)).is_empty()
            );
            assert_eq!(
                roll.is_downstream(name),
                !listed(&|e| e.spiffe_id == *name && e.downstream && granted(e)).is_empty()
            );
            let same = |e: &Entry| {
                (&e.parent_id, &e.spiffe_id, &e.selectors)
                    == (&entry.parent_id, &entry.spiffe_id, &entry.selectors)
            };
            assert_eq!(
                roll.duplicate(&entry.parent_id, &entry.spiffe_id, &entry.selectors),
                listed(&same).first().copied()
            );
        }
        for seconds in 0..4 {
            let now = Timestamp::from_unix_seconds(seconds);
            let mut expired: Vec<_> = roll.expired_entries(now).map(|e| e.id.clone()).collect();
            expired.sort();
            let mut expected: Vec<_> = listed(&|e| e.expires_at.is_some_and(|at| at <= now))
                .iter()
                .map(|e| e.id.clone())
                .collect();
            expected.sort();
            assert_eq!(expired, expected);
        }
    }

    /// What the roll would load if it were saved now.
    fn saved(roll: &Roll) -> Loaded {
        Loaded {
            head: roll.head(),
            next_ordinal: roll.next_ordinal(),
            entries: roll.entries_after(0).cloned().collect(),
            nodes: roll.nodes().cloned().collect(),
            join_tokens: roll.join_tokens().cloned().collect(),
            bundles: roll.bundles().cloned().collect(),
            rules: roll.rules().cloned().collect(),
            agents: roll.agents().saved(),
            journals: roll
                .journals()
                .map(|(name, content)| (name.to_owned(), Arc::clone(content)))
                .collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn indexes_agree_with_the_list_and_snapshots_stand_still(history in world::history()) {
            let mut roll = roll();
            let mut model: BTreeMap<EntryId, Entry> = BTreeMap::new();
            for changes in &history {
                let snapshot = roll.clone();
                let before = saved(&snapshot);
                for change in step(&mut roll, changes) {
                    match change {
                        Change::PutEntry(entry) => {
                            let entry = Entry { changed_at: roll.head(), ..(*entry).clone() };
                            model.insert(entry.id.clone(), entry);
                        }
                        Change::DeleteEntry(id) => drop(model.remove(&id)),
                        Change::PutNode(_) | Change::DeleteNode(_) | Change::PutJoinToken(_) | Change::DeleteJoinToken(_)
                        | Change::PutBundle(_) | Change::DeleteBundle(_) | Change::PutRule(_) | Change::DeleteRule(_)
                        | Change::Agent(_) | Change::PutJournal { .. } => {}
                    }
                }
                prop_assert_eq!(saved(&snapshot), before);
            }
            agrees_with_the_list(&roll);
            let held: BTreeMap<_, _> = roll.entries_after(0).map(|e| (e.id.clone(), (**e).clone())).collect();
            prop_assert_eq!(held, model);
            let again = Roll::load(roll.trust_domain().clone(), saved(&roll));
            agrees_with_the_list(&again);
            prop_assert_eq!(saved(&again), saved(&roll));
        }
    }

    fn put(entry: Entry) -> Change {
        Change::PutEntry(Arc::new(entry))
    }

    #[test]
    fn pages() {
        let parent = id("/p");
        let mut roll = roll();
        for n in 0..5 {
            let child = entry(
                &format!("e{n}"),
                &parent,
                &id(&format!("/w/{}", n % 2)),
                &["s:a"],
            );
            step(&mut roll, &[put(child)]);
        }
        step(&mut roll, &[Change::DeleteEntry(entry_id("e1"))]);
        let check = |filter: &EntryFilter, limit, expected: &[&[&str]]| {
            let (mut after, mut pages) = (0, Vec::new());
            loop {
                let page = roll.list_entries(filter, after, limit);
                let ids: Vec<String> = page.rows.iter().map(|e| e.id.to_string()).collect();
                pages.push(ids);
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
            assert_eq!(pages, expected);
        };
        let all = EntryFilter::default();
        let under = EntryFilter {
            parent_id: Some(parent.clone()),
            ..EntryFilter::default()
        };
        let named = EntryFilter {
            spiffe_id: Some(id("/w/0")),
            ..EntryFilter::default()
        };
        for filter in [&all, &under] {
            check(filter, 0, &[&["e0", "e2", "e3", "e4"]]);
            check(filter, 2, &[&["e0", "e2"], &["e3", "e4"]]);
            check(filter, 3, &[&["e0", "e2", "e3"], &["e4"]]);
        }
        check(&named, 1, &[&["e0"], &["e2"], &["e4"]]);
        assert_eq!(roll.count_entries(&named), 3);
        assert_eq!(roll.count_entries(&all), 4);
    }

    #[test]
    fn nodes_in_pages() {
        let mut roll = roll();
        for n in 0..3 {
            let node = world::node(&format!("/spire/agent/{n}"), &["s:a"]);
            step(&mut roll, &[Change::PutNode(Arc::new(node))]);
        }
        let all = NodeFilter::default();
        let first = roll.list_nodes(&all, None, 2);
        assert_eq!((first.rows.len(), first.next.is_some()), (2, true));
        let second = roll.list_nodes(&all, first.next.as_ref(), 2);
        assert_eq!((second.rows.len(), second.next), (1, None));
    }

    /// A page token names an ordinal, so that one must never be given twice.
    #[test]
    fn ordinals_are_not_given_again() {
        let mut roll = roll();
        step(
            &mut roll,
            &[put(entry("a", &id("/p"), &id("/w"), &["s:a"]))],
        );
        step(&mut roll, &[Change::DeleteEntry(entry_id("a"))]);
        assert_eq!(roll.next_ordinal(), 2);
        let again = Roll::load(roll.trust_domain().clone(), saved(&roll));
        assert_eq!(again.next_ordinal(), 2);
    }
}
