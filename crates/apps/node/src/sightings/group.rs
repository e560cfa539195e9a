//! From processes to rows: the same program of the same user in the same unit is one.

use std::collections::BTreeMap;

use muster_crypto::digest;
use muster_model::{
    ClassName, Inherited, SelectorSet, Shown, Sighted, SightingKey, SightingStanding, SpiffeId,
    Timestamp,
};
use muster_plugin::workload::Fact;
use muster_sighting::is_product;

use super::sweep::Found;

/// The most rows that are told.
const MOST: usize = 1000;
/// Ticks of the clock that start times are in; the same on every processor that Muster runs on.
const TICKS: u64 = 100;

/// A process that was found, and who it is.
pub(super) struct Joined {
    found: Found,
    facts: SelectorSet,
    user: Shown,
    identities: Vec<SpiffeId>,
}

impl Joined {
    /// It was attested.
    pub(super) fn known(found: Found, facts: &[Fact], identities: Vec<SpiffeId>) -> Self {
        let name = facts
            .iter()
            .find_map(|fact| fact.selector.as_str().strip_prefix("unix:user:"));
        Self {
            user: Shown::of(name.unwrap_or_default()),
            facts: facts
                .iter()
                .take(Sighted::MOST_FACTS)
                .map(|fact| fact.selector.clone())
                .collect(),
            identities,
            found,
        }
    }

    /// It could not be: it is traced, or has ended meanwhile.
    pub(super) fn unknown(found: Found) -> Self {
        Self {
            found,
            facts: SelectorSet::new(),
            user: Shown::empty(),
            identities: Vec::new(),
        }
    }
}

/// The rows of a sweep.
#[derive(Default)]
pub(super) struct Group {
    /// By ascending key.
    pub(super) rows: Vec<Sighted>,
    /// How many are too much.
    pub(super) left_out: usize,
}

impl Group {
    /// The rows of what was found on `node`.
    pub(super) fn all(node: Option<&SpiffeId>, mut joined: Vec<Joined>, boot_time: i64) -> Self {
        joined.sort_by_key(|one| (one.found.start_time, one.found.pid));
        let mut rows: BTreeMap<SightingKey, Sighted> = BTreeMap::new();
        let mut left_out = 0;
        for one in joined {
            let Some(key) = key(node, &one.found) else {
                continue;
            };
            if let Some(row) = rows.get_mut(&key) {
                add(row, one);
            } else if rows.len() < MOST {
                let row = first(key.clone(), one, boot_time);
                rows.insert(key, row);
            } else {
                left_out += 1;
            }
        }
        let rows = rows.into_values().collect();
        Self { rows, left_out }
    }
}

/// The key of what a process is one of.
fn key(node: Option<&SpiffeId>, found: &Found) -> Option<SightingKey> {
    let (place, uid) = (&found.place, found.place.uid.to_string());
    let parts = [
        node.map_or("", SpiffeId::as_str),
        found.finding.first.product.as_str(),
        place.executable.as_str(),
        &uid,
        place.unit.as_str(),
    ];
    let hash = digest::sha256(parts.join("\0").as_bytes());
    SightingKey::parse(&digest::hex(hash.get(..16)?)).ok()
}

fn first(key: SightingKey, one: Joined, boot_time: i64) -> Sighted {
    let (found, place) = (one.found.finding, one.found.place);
    let seconds = i64::try_from(one.found.start_time / TICKS).unwrap_or(0);
    Sighted {
        key,
        product: found.first.product.clone(),
        kind: found.first.kind,
        confidence: found.first.confidence,
        also: found
            .also
            .iter()
            .take(Sighted::MOST)
            .map(|also| also.product.clone())
            .collect(),
        evidence: found
            .first
            .evidence
            .iter()
            .take(Sighted::MOST)
            .cloned()
            .collect(),
        executable: place.executable.clone(),
        shape: Shown::of(&found.shape),
        uid: place.uid,
        user: one.user,
        unit: place.unit.clone(),
        started_by: place.started_by.clone(),
        ports: place.ports.clone(),
        count: 1,
        pids: vec![one.found.pid],
        started: Timestamp::from_unix_seconds(boot_time.saturating_add(seconds).max(1)),
        providers: place
            .providers
            .iter()
            .take(Sighted::MOST)
            .cloned()
            .collect(),
        facts: one.facts,
        identities: one.identities.into_iter().take(Sighted::MOST).collect(),
        inherited: Inherited::sum(&one.found.inherited, &[]),
    }
}

/// Another process of the kind.
fn add(row: &mut Sighted, one: Joined) {
    row.count = row.count.saturating_add(1);
    if row.pids.len() < Sighted::MOST {
        row.pids.push(one.found.pid);
    }
    for port in &one.found.place.ports {
        if row.ports.len() < Sighted::MOST && !row.ports.contains(port) {
            row.ports.push(*port);
        }
    }
    row.ports.sort_unstable();
    for provider in &one.found.place.providers {
        if row.providers.len() < Sighted::MOST && !row.providers.contains(provider) {
            row.providers.push(provider.clone());
        }
    }
    row.providers.sort_unstable();
    row.inherited = Inherited::sum(&row.inherited, &one.found.inherited);
    if row.facts.is_empty() {
        row.facts = one.facts;
    }
    if row.user.is_empty() {
        row.user = one.user;
    }
    for id in one.identities {
        if row.identities.len() < Sighted::MOST && !row.identities.contains(&id) {
            row.identities.push(id);
        }
    }
}

/// How a row stands as far as a node knows: it does not know the classes, but their names in paths.
pub(super) fn standing(seen: &Sighted) -> SightingStanding {
    if seen.identities.is_empty() {
        return SightingStanding::Unregistered;
    }
    let fits = |name: &str| {
        let mut products = std::iter::once(&seen.product).chain(&seen.also);
        !is_product(name) || products.any(|product| product.as_str() == name)
    };
    let mut classes = seen.identities.iter().filter_map(ClassName::in_path);
    if classes.any(fits) {
        SightingStanding::Registered
    } else {
        SightingStanding::WrongClass
    }
}
