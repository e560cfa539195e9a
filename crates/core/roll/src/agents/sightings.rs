//! What becomes of what nodes find: rows, their states, and what is worth a record.
//!
//! Start at [`settle`]: a node tells all that it sees, and what follows is written. A node that tells
//! the same again causes no write.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use muster_model::{
    Acknowledged, AgentClass, ClassName, Inherited, Note, Selector, SelectorSet, Sighted, Sighting,
    SightingId, SightingKey, SightingKind, SightingStanding, SightingState, SpiffeId, Timestamp,
    Word,
};
use muster_sighting::{is_product, standing};

use super::AgentChange;
use crate::matching;
use crate::roll::page;
use crate::{Change, Page, Roll};

/// How long what is told without news may go without being written.
const TOLD_AGAIN: Duration = Duration::from_mins(10);

/// The sightings of all nodes, as a value that is cheap to clone.
#[derive(Clone, Default)]
pub struct Sightings {
    rows: OrdMap<SightingId, Arc<Sighting>>,
    /// How many there are of each kind and state.
    counts: OrdMap<(SightingKind, SightingState), usize>,
    /// How many there are of each node.
    of_node: OrdMap<SpiffeId, usize>,
}

impl Sightings {
    pub(super) fn put(&mut self, sighting: Arc<Sighting>) {
        self.remove(&sighting.id());
        *self.counts.entry(place(&sighting)).or_insert(0) += 1;
        *self.of_node.entry(sighting.node.clone()).or_insert(0) += 1;
        self.rows.insert(sighting.id(), sighting);
    }

    pub(super) fn remove(&mut self, id: &SightingId) {
        let Some(old) = self.rows.remove(id) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&place(&old)) {
            *count = count.saturating_sub(1);
        }
        let left = self.of_node.get(&old.node).map_or(0, |count| count - 1);
        if left == 0 {
            self.of_node.remove(&old.node);
        } else {
            self.of_node.insert(old.node.clone(), left);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Sighting>> {
        self.rows.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many there are of each kind and state, those of which there were some once included.
    pub fn counts(&self) -> impl Iterator<Item = (SightingKind, SightingState, usize)> {
        self.counts
            .iter()
            .map(|((kind, state), count)| (*kind, *state, *count))
    }

    /// One of them.
    pub fn sighting(&self, id: &SightingId) -> Option<&Arc<Sighting>> {
        self.rows.get(id)
    }

    /// Those of a node, by ascending key.
    pub fn of<'a>(&'a self, node: &'a SpiffeId) -> impl Iterator<Item = &'a Arc<Sighting>> {
        let start = SightingId {
            node: node.clone(),
            key: first_key(),
        };
        self.rows
            .range::<_, SightingId>((Bound::Included(start), Bound::Unbounded))
            .map(|(_, sighting)| sighting)
            .take_while(move |sighting| sighting.node == *node)
    }

    /// One page of those that `filter` admits, by ascending node and key, after `after`. A `limit`
    /// of 0 is no limit.
    pub fn list(
        &self,
        filter: &SightingFilter,
        after: Option<&SightingId>,
        limit: usize,
    ) -> Page<Sighting, SightingId> {
        let start = match (after, &filter.node) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(node)) => Bound::Included(SightingId {
                node: node.clone(),
                key: first_key(),
            }),
            (None, None) => Bound::Unbounded,
        };
        let found = self
            .rows
            .range::<_, SightingId>((start, Bound::Unbounded))
            .map(|(_, sighting)| sighting)
            .take_while(|sighting| {
                filter
                    .node
                    .as_ref()
                    .is_none_or(|node| sighting.node == *node)
            })
            .filter(|sighting| filter.admits(sighting));
        page(found, limit, |sighting: &Sighting| sighting.id())
    }
}

/// The key that no other comes before.
fn first_key() -> SightingKey {
    SightingKey::first()
}

fn place(sighting: &Sighting) -> (SightingKind, SightingState) {
    (sighting.seen.kind, sighting.state())
}

/// Which sightings a list has: those for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SightingFilter {
    /// Only those that are not registered.
    pub unregistered: bool,
    /// The node.
    pub node: Option<SpiffeId>,
    /// What they look like; empty is anything.
    pub kinds: BTreeSet<SightingKind>,
    /// Where they stand; empty is anywhere but gone.
    pub states: BTreeSet<SightingState>,
    /// First seen then or later.
    pub since: Option<Timestamp>,
}

impl SightingFilter {
    fn admits(&self, sighting: &Sighting) -> bool {
        let state = sighting.state();
        let stands = if self.states.is_empty() {
            state != SightingState::Gone
        } else {
            self.states.contains(&state)
        };
        stands
            && (!self.unregistered || sighting.standing != SightingStanding::Registered)
            && (self.kinds.is_empty() || self.kinds.contains(&sighting.seen.kind))
            && self.since.is_none_or(|since| sighting.first_seen >= since)
    }
}

/// What is worth a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It was not there before.
    New,
    /// It was gone, and is back.
    Back,
    /// It stands to the roll in another way.
    Standing,
    /// Nothing runs any longer that looks so.
    Gone,
    /// Only what is told of it.
    Nothing,
}

/// A row that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// As it will be.
    pub row: Sighting,
    /// What is new about it.
    pub news: News,
    /// Whether it hands down more secrets, or to more processes, than it ever did since it was gone.
    pub hands_down_more: bool,
}

/// What follows from a report.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// The rows that change, and what is new about each.
    pub changed: Vec<Changed>,
    /// Rows that make room for others: those longest gone.
    pub forgotten: Vec<SightingId>,
    /// How many of what was told are kept.
    pub kept: usize,
    /// How many are not, as there is no room.
    pub dropped: usize,
}

/// What follows from what a node sees now, all of it, of which at most `most` are kept.
///
/// Those that are known stay; there is room for new ones only as long as there is, and where there
/// is none, what has been gone longest is forgotten.
pub fn settle(
    roll: &Roll,
    node: &SpiffeId,
    told: Vec<Sighted>,
    most: usize,
    now: Timestamp,
) -> Settled {
    let sightings = roll.agents().sightings();
    let mut before: BTreeMap<&SightingKey, &Arc<Sighting>> =
        sightings.of(node).map(|row| (&row.seen.key, row)).collect();
    let mut room = most.saturating_sub(before.len());
    let mut gone: Vec<&Arc<Sighting>> = {
        let still: BTreeSet<&SightingKey> = told.iter().map(|seen| &seen.key).collect();
        let gone = before.values().filter(|row| row.gone_at.is_some());
        gone.filter(|row| !still.contains(&row.seen.key))
            .copied()
            .collect()
    };
    gone.sort_by_key(|row| std::cmp::Reverse(row.gone_at));
    let classes = MeantBy::of(roll);
    let mut settled = Settled::default();
    for seen in told {
        let old = before.remove(&seen.key);
        if old.is_none() {
            if room > 0 {
                room -= 1;
            } else if let Some(oldest) = gone.pop() {
                before.remove(&oldest.seen.key);
                settled.forgotten.push(oldest.id());
            } else {
                settled.dropped += 1;
                continue;
            }
        }
        settled.kept += 1;
        let new = classes.join(roll, node, seen, now);
        settled
            .changed
            .extend(step(old.map(AsRef::as_ref), new, now));
    }
    let left = before.into_values().filter(|row| row.gone_at.is_none());
    settled.changed.extend(left.map(|row| Changed {
        row: gone_by(row, now),
        news: News::Gone,
        hands_down_more: false,
    }));
    settled
}

/// A row of which nothing runs any longer. What an operator knew of it is forgotten, and what it handed
/// down: should it come back, that is news.
pub fn gone_by(row: &Sighting, now: Timestamp) -> Sighting {
    let mut row = row.clone();
    row.gone_at = Some(now);
    row.last_seen = now;
    row.seen.count = 0;
    row.seen.pids.clear();
    row.seen.inherited.clear();
    row.acknowledged = None;
    row
}

/// A row that an operator knows of.
pub fn acknowledged(row: &Sighting, by: String, note: Note, at: Timestamp) -> Sighting {
    let mut row = row.clone();
    row.acknowledged = Some(Acknowledged { at, by, note });
    row
}

/// What is to be written of a row that is told again, or for the first time.
fn step(old: Option<&Sighting>, mut new: Sighting, now: Timestamp) -> Option<Changed> {
    let before = old.map_or(&[][..], |old| &old.seen.inherited);
    let hands_down_more = Inherited::grows(before, &new.seen.inherited);
    let most = Inherited::most(before, &new.seen.inherited);
    let changed = |mut row: Sighting, news| {
        row.seen.inherited.clone_from(&most);
        Changed {
            row,
            news,
            hands_down_more,
        }
    };
    let Some(old) = old else {
        return Some(changed(new, News::New));
    };
    new.first_seen = old.first_seen;
    if old.gone_at.is_some() {
        return Some(changed(new, News::Back));
    }
    new.acknowledged.clone_from(&old.acknowledged);
    if new.standing != old.standing {
        return Some(changed(new, News::Standing));
    }
    let same = new.seen.tells_the_same(&old.seen)
        && new.classes == old.classes
        && new.expected == old.expected;
    // How many processes run changes all the time, and that it was seen again is no news.
    (!same || now.since(old.last_seen) >= TOLD_AGAIN).then(|| changed(new, News::Nothing))
}

/// The active classes that say what their agents are attested as.
struct MeantBy<'r>(Vec<&'r Arc<AgentClass>>);

impl<'r> MeantBy<'r> {
    fn of(roll: &'r Roll) -> Self {
        let classes = roll.agents().classes();
        Self(classes.filter(|class| class.is_active()).collect())
    }

    fn join(&self, roll: &Roll, node: &SpiffeId, seen: Sighted, now: Timestamp) -> Sighting {
        let mut classes: BTreeMap<&ClassName, &AgentClass> = BTreeMap::new();
        for id in &seen.identities {
            classes.extend(matching::classes_of(roll, id));
        }
        let meant: Vec<&ClassName> = self
            .0
            .iter()
            .filter(|class| !class.spec.attestation.is_empty())
            .filter(|class| class.spec.attestation.is_subset(&seen.facts))
            .map(|class| &class.name)
            .collect();
        let called = || {
            let mut names = std::iter::once(&seen.product).chain(&seen.also);
            names.find_map(|name| {
                self.0
                    .iter()
                    .find(|class| class.name.as_str() == name.as_str())
            })
        };
        let expected = meant
            .first()
            .copied()
            .or_else(|| called().map(|class| &class.name))
            .cloned();
        let all: Vec<&AgentClass> = classes.values().copied().collect();
        let standing = standing(&seen, &all, &meant, is_product);
        let classes = classes.into_keys().cloned().collect();
        Sighting {
            node: node.clone(),
            seen,
            standing,
            classes,
            expected,
            first_seen: now,
            last_seen: now,
            gone_at: None,
            acknowledged: None,
            changed_at: muster_model::Revision::default(),
        }
    }
}

/// The rows that stand otherwise because classes are about to change in `roll`: what is meant by them,
/// whom they allow what. They are written in the transaction of those changes, as nodes tell nothing
/// that they told before.
pub fn follow(roll: &Roll, changes: &[Change], now: Timestamp) -> Vec<Changed> {
    let of_class = |change: &Change| matches!(change, Change::Agent(AgentChange::PutClass(_)));
    if !changes.iter().any(of_class) || roll.agents().sightings().all().next().is_none() {
        return Vec::new();
    }
    let mut after = roll.clone();
    after.apply(roll.head().next(), changes);
    let classes = MeantBy::of(&after);
    let rows = after.agents().sightings().all();
    let rows = rows.filter(|row| row.gone_at.is_none());
    rows.filter_map(|row| {
        let new = Sighting {
            last_seen: row.last_seen,
            ..classes.join(&after, &row.node, row.seen.clone(), now)
        };
        let same = new.standing == row.standing
            && new.classes == row.classes
            && new.expected == row.expected;
        if same {
            None
        } else {
            step(Some(row), new, now)
        }
    })
    .collect()
}

/// What is due without anybody's telling: rows that are gone for `forget_after`, and rows of nodes
/// that are no more; at most `limit` of each.
pub fn due(
    roll: &Roll,
    forget_after: Duration,
    now: Timestamp,
    limit: usize,
) -> (Vec<SightingId>, Vec<Sighting>) {
    let sightings = roll.agents().sightings();
    let old = |row: &&Arc<Sighting>| row.gone_at.is_some_and(|at| now.since(at) >= forget_after);
    let forgotten = sightings.all().filter(old).take(limit).map(|row| row.id());
    let orphaned = sightings
        .of_node
        .keys()
        .filter(|node| roll.node(node).is_none())
        .flat_map(|node| sightings.of(node))
        .filter(|row| row.gone_at.is_none())
        .take(limit)
        .map(|row| gone_by(row, now));
    (forgotten.collect(), orphaned.collect())
}

/// The providers for which a sighting was started and that a class of it does not allow, ascending.
pub fn not_allowed(roll: &Roll, row: &Sighting) -> BTreeSet<Word> {
    if row.standing != SightingStanding::ProviderNotAllowed {
        return BTreeSet::new();
    }
    let classes = row.classes.iter();
    classes
        .filter_map(|name| roll.agents().class(name.as_str()))
        .flat_map(|class| muster_sighting::not_allowed(&row.seen, class))
        .cloned()
        .collect()
}

/// An entry that would give a sighting an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The identity.
    pub id: SpiffeId,
    /// What it is given by.
    pub selectors: SelectorSet,
    /// The class of which it would be, if there is one.
    pub class: Option<ClassName>,
    /// What else the selectors fit, or what is missing.
    pub caution: &'static str,
}

/// The selectors that tell one program of one user in one unit from the others, by the beginning of
/// their text.
const TELLING: [&str; 4] = ["unix:uid:", "unix:path:", "systemd:id:", "docker:image_id:"];
/// Of those, the ones that say more than the user.
const SPECIFIC: [&str; 3] = ["unix:path:", "systemd:id:", "docker:image_id:"];

/// The entry that would give a sighting an identity of the class that is expected; `None` where it
/// has one of a class that is meant for it, is gone, or could not be attested.
pub fn proposal(roll: &Roll, row: &Sighting) -> Option<Proposal> {
    if row.standing == SightingStanding::ProviderNotAllowed {
        return None;
    }
    if !matches!(
        row.state(),
        SightingState::New | SightingState::Acknowledged
    ) {
        return None;
    }
    let facts = &row.seen.facts;
    let begins = |selector: &&Selector, with: &[&str]| {
        with.iter().any(|text| selector.as_str().starts_with(text))
    };
    let selectors: SelectorSet = facts
        .iter()
        .filter(|selector| begins(selector, &TELLING))
        .cloned()
        .collect();
    if selectors.is_empty() {
        return None;
    }
    let class = row.expected.clone();
    let name = class
        .as_ref()
        .map_or(row.seen.product.as_str(), ClassName::as_str);
    let segment: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let path = format!("/agent/{segment}/{}", row.seen.key.short());
    let caution = if !selectors
        .iter()
        .any(|selector| begins(&selector, &SPECIFIC))
    {
        "the selectors fit every process of this user; set attest.unix.discover_path = true on the \
         node to tell programs apart"
    } else if class.is_none() {
        "no active class fits; create one, or the identity is of no class"
    } else {
        ""
    };
    Some(Proposal {
        id: roll.trust_domain().with_path(&path).ok()?,
        selectors,
        class,
        caution,
    })
}

#[cfg(test)]
mod tests;
