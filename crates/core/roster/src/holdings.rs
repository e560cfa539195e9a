//! The SVIDs of one kind that the node holds, X509-SVIDs or WIT-SVIDs: whose to sign, in which
//! order, and which to give up.
//!
//! Entries with a subscriber always hold one. What remains of the soft cap is filled with
//! entries that have none yet, so that a first call is answered at once; what was used longest
//! ago makes room (spire-behaviour 2.8).

mod lapsed;
mod queue;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Entry, EntryId, Now, SpiffeId, Timestamp};

use crate::event::{RequestId, SignFault, ToSign};
use crate::explain::Standing;
use crate::kinds::{Deed, Kind, Requests};
use crate::time::{Agenda, Alarm, Backoff, Schedule, When};

use lapsed::Lapsed;
use queue::{Class, QueueKey};

/// The most entries in one request to sign (the server's own limit).
const BATCH_MAX: usize = 500;
/// The most requests to sign under way at once.
const REQUESTS_MAX: usize = 4;
/// How long an SVID waits for its authority to appear in the bundle before another one is asked
/// for. The bundle travels on a stream of its own, and is a round trip late at the most.
const PARKED_MAX: Duration = Duration::from_secs(5);
/// After a request that failed as a whole: the server is away.
const REQUEST_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(250),
    most: Duration::from_secs(30),
};
/// After an entry that the server would not sign.
const ENTRY_BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    most: Duration::from_mins(1),
};

/// For each entry what was signed, or why it was not.
type Results<M> = Vec<(EntryId, Result<Arc<M>, SignFault>)>;

/// An SVID that may be served.
struct Held<K: Kind> {
    svid: Arc<K::Material>,
    /// The mark of the authority that verifies it.
    root: Arc<[u8]>,
    schedule: Schedule,
}

/// How far the next SVID of an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing to do.
    Rest,
    /// In the queue, under this key.
    Queued(QueueKey),
    /// Being signed.
    Asked(RequestId),
    /// Failed, or waiting for a bundle; an alarm is set.
    Waiting,
}

struct Holding<K: Kind> {
    spiffe_id: SpiffeId,
    prefetch: bool,
    /// Groups of callers that stream SVIDs of this kind and match.
    subscribers: usize,
    current: Option<Held<K>>,
    /// Signed by an authority that is not in the bundle yet (bundle before SVID).
    parked: Option<Arc<K::Material>>,
    stage: Stage,
    failures: u32,
    /// Why the last of them was one.
    fault: Option<SignFault>,
    /// Why the last word of the server was no, where that stands for a while.
    denied: Option<SignFault>,
    /// When it was last subscribed to, on a counter; only for entries in `kept`.
    touched: u64,
}

#[derive(Debug)]
struct Batch {
    entries: Vec<EntryId>,
    awaited: bool,
}

/// What the node holds and is having signed.
pub(crate) struct Holdings<K: Kind> {
    soft_cap: usize,
    seed: u64,
    entries: BTreeMap<EntryId, Holding<K>>,
    /// Entries with subscribers.
    subscribed: usize,
    /// Entries without subscribers that hold an SVID, or are to, least recently used first.
    kept: BTreeSet<(u64, EntryId)>,
    /// Entries without subscribers that could be prefetched.
    candidates: BTreeSet<EntryId>,
    touches: u64,
    queue: BTreeSet<QueueKey>,
    /// What has expired, while another one is wanted in its place.
    lapsed: Lapsed<K>,
    batches: BTreeMap<RequestId, Batch>,
    batch_limit: usize,
    failures: u32,
    paused: bool,
    /// What is to be done or said, until it is collected.
    deeds: Vec<Deed<K>>,
}

impl<K: Kind> Holdings<K> {
    pub(crate) fn new(soft_cap: usize, seed: u64) -> Self {
        Self {
            soft_cap,
            seed,
            entries: BTreeMap::new(),
            subscribed: 0,
            kept: BTreeSet::new(),
            candidates: BTreeSet::new(),
            touches: 0,
            queue: BTreeSet::new(),
            lapsed: Lapsed::default(),
            batches: BTreeMap::new(),
            batch_limit: BATCH_MAX,
            failures: 0,
            paused: false,
            deeds: Vec::new(),
        }
    }

    /// What is to be done or said since the last time, in order.
    pub(crate) fn deeds(&mut self) -> impl Iterator<Item = Deed<K>> + '_ {
        self.deeds.drain(..)
    }

    /// The SVID of an entry, if it may be served now.
    pub(crate) fn servable(&self, entry: &EntryId, now: Now) -> Option<&Arc<K::Material>> {
        let held = self.entries.get(entry)?.current.as_ref()?;
        (!held.schedule.expire.reached(now)).then_some(&held.svid)
    }

    /// Whether there is none because the server refuses it for a while: nobody waits for it, and it
    /// takes nothing from the caller's other identities. It is asked for again all the same.
    pub(crate) fn denied(&self, entry: &EntryId) -> bool {
        self.denial(entry).is_some()
    }

    /// Why there is none, where the server refuses it for a while.
    pub(crate) fn denial(&self, entry: &EntryId) -> Option<SignFault> {
        let holding = self.entries.get(entry)?;
        holding.denied.filter(|_| holding.current.is_none())
    }

    /// How many SVIDs are held.
    pub(crate) fn held(&self) -> usize {
        self.entries
            .values()
            .filter(|h| h.current.is_some())
            .count()
    }

    /// How many entries somebody streams.
    pub(crate) fn subscribed(&self) -> usize {
        self.subscribed
    }

    /// How many are wanted of which none is held.
    pub(crate) fn missing(&self) -> usize {
        let missing = |h: &&Holding<K>| h.current.is_none() && h.stage != Stage::Rest;
        self.entries.values().filter(missing).count()
    }

    /// How an entry stands, what it holds, and how many groups of callers stream it.
    pub(crate) fn standing(&self, id: &EntryId) -> Option<(Standing, Option<&K::Material>, usize)> {
        let holding = self.entries.get(id)?;
        let held = holding.current.as_ref().map(|held| &*held.svid);
        let standing = match (held, &holding.stage) {
            (Some(_), _) => Standing::Held,
            (None, Stage::Waiting) => Standing::Failed {
                failures: holding.failures,
                fault: holding.fault,
            },
            (None, Stage::Queued(_) | Stage::Asked(_)) => Standing::BeingSigned,
            (None, Stage::Rest) => Standing::NotWanted,
        };
        Some((standing, held, holding.subscribers))
    }

    /// The SVIDs that may be served now.
    pub(crate) fn all(&self, now: Now) -> Vec<(EntryId, Arc<K::Material>)> {
        let good = |held: &&Held<K>| !held.schedule.expire.reached(now);
        self.entries
            .iter()
            .filter_map(|(id, holding)| {
                let held = holding.current.as_ref().filter(good)?;
                Some((id.clone(), held.svid.clone()))
            })
            .collect()
    }

    /// Takes up an SVID of an earlier machine. Returns whether it may be served.
    pub(crate) fn remember(
        &mut self,
        id: &EntryId,
        svid: Arc<K::Material>,
        authorities: &[K::Authority],
        now: Now,
        agenda: &mut Agenda,
    ) -> bool {
        let Some(mut holding) = self.take_out(id) else {
            return false;
        };
        // It was issued long ago: that is no news, and neither is that it is not good any more.
        let mut no_news = Vec::new();
        let good = *K::spiffe_id(&svid) == holding.spiffe_id
            && K::verified_by(&svid, authorities).is_some()
            && install(
                id,
                &mut holding,
                svid,
                authorities,
                now,
                agenda,
                &mut no_news,
            )
            .is_ok();
        self.put_back(id.clone(), holding);
        good
    }

    /// An entry is new or has changed. Returns whether what can be served for it changed.
    pub(crate) fn entry_changed(
        &mut self,
        before: Option<&Entry>,
        after: &Entry,
        agenda: &mut Agenda,
    ) -> bool {
        let Some(mut holding) = self.take_out(&after.id) else {
            self.put_back(
                after.id.clone(),
                Holding {
                    spiffe_id: after.spiffe_id.clone(),
                    prefetch: K::prefetched(after),
                    subscribers: 0,
                    current: None,
                    parked: None,
                    stage: Stage::Rest,
                    failures: 0,
                    fault: None,
                    denied: None,
                    touched: 0,
                },
            );
            return false;
        };
        holding.prefetch = K::prefetched(after);
        let identity_changed = holding.spiffe_id != after.spiffe_id;
        let shape_changed = before.is_none_or(|b| K::reshaped(b, after));
        if identity_changed || shape_changed {
            // What is under way may be of the old shape; its answer will find no one asking.
            self.unqueue(&mut holding);
            holding.stage = Stage::Rest;
            holding.parked = None;
            holding.failures = 0;
            holding.denied = None;
            agenda.clear(&Alarm::Retry(K::KIND, after.id.clone()));
            holding.spiffe_id = after.spiffe_id.clone();
            self.lapsed.forget(&after.id);
            if identity_changed {
                holding.current = None;
                clear_alarms::<K>(&after.id, agenda);
            }
            if holding.current.is_some() || holding.subscribers > 0 {
                self.enqueue(&after.id, &mut holding);
            }
        }
        self.put_back(after.id.clone(), holding);
        identity_changed
    }

    /// An entry is gone.
    pub(crate) fn entry_removed(&mut self, id: &EntryId, agenda: &mut Agenda) {
        if let Some(mut holding) = self.take_out(id) {
            self.unqueue(&mut holding);
            clear_alarms::<K>(id, agenda);
            agenda.clear(&Alarm::Retry(K::KIND, id.clone()));
            self.lapsed.forget(id);
        }
    }

    /// One more group of callers streams this entry's SVID.
    pub(crate) fn subscribe(&mut self, id: &EntryId) {
        self.change(id, |holding| holding.subscribers += 1);
    }

    /// One group less streams this entry's SVID.
    pub(crate) fn unsubscribe(&mut self, id: &EntryId) {
        self.touches += 1;
        let touched = self.touches;
        self.change(id, |holding| {
            holding.subscribers = holding.subscribers.saturating_sub(1);
            holding.touched = touched;
        });
    }

    /// Brings what is held and wanted in line with subscribers and cap. Returns entries whose
    /// SVIDs were given up.
    pub(crate) fn balance(&mut self, agenda: &mut Agenda) {
        let room = self.soft_cap.saturating_sub(self.subscribed);
        while self.kept.len() > room
            && let Some((_, id)) = self.kept.first().cloned()
        {
            if let Some(mut holding) = self.take_out(&id) {
                self.unqueue(&mut holding);
                holding.stage = Stage::Rest;
                holding.current = None;
                holding.parked = None;
                clear_alarms::<K>(&id, agenda);
                agenda.clear(&Alarm::Retry(K::KIND, id.clone()));
                self.put_back(id, holding);
            }
        }
        while self.kept.len() < room
            && let Some(id) = self.candidates.first().cloned()
        {
            let Some(mut holding) = self.take_out(&id) else {
                self.candidates.remove(&id);
                continue;
            };
            self.enqueue(&id, &mut holding);
            self.put_back(id, holding);
        }
    }

    /// Asks for what is at the head of the queue, as far as requests may be under way.
    pub(crate) fn pump(&mut self, requests: &mut Requests) {
        while !self.paused && self.batches.len() < REQUESTS_MAX {
            let Some(first) = self.queue.first() else {
                return;
            };
            let class = first.class;
            let awaited = class == Class::Awaited;
            // One lane for what nobody waits for: the others stay free for those who do.
            if !awaited && self.batches.values().any(|b| !b.awaited) {
                return;
            }
            // Renewals go by themselves: so the server can say on the record what they are.
            let keys: Vec<QueueKey> = self
                .queue
                .iter()
                .take_while(|key| key.class == class)
                .take(self.batch_limit)
                .cloned()
                .collect();
            let request = requests.next();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                self.queue.remove(&key);
                if let Some(holding) = self.entries.get_mut(&key.entry) {
                    holding.stage = Stage::Asked(request);
                    entries.push(ToSign {
                        entry: key.entry,
                        spiffe_id: holding.spiffe_id.clone(),
                        expires_at: holding
                            .current
                            .as_ref()
                            .map(|held| K::validity(&held.svid).1),
                        derived: None,
                    });
                }
            }
            self.batches.insert(
                request,
                Batch {
                    entries: entries.iter().map(|e| e.entry.clone()).collect(),
                    awaited,
                },
            );
            self.deeds.push(Deed::Sign { request, entries });
        }
    }

    /// A request was answered. Returns the entries for which something new can be served.
    pub(crate) fn signed(
        &mut self,
        request: RequestId,
        results: Results<K::Material>,
        authorities: &[K::Authority],
        now: Now,
        agenda: &mut Agenda,
    ) -> Vec<EntryId> {
        let Some(batch) = self.batches.remove(&request) else {
            return Vec::new();
        };
        self.failures = 0;
        self.batch_limit = (self.batch_limit * 2).min(BATCH_MAX);
        let mut fresh = Vec::new();
        for (id, result) in results {
            let Some(mut holding) = self.asked_by(&id, request) else {
                continue;
            };
            let outcome = result.and_then(|svid| {
                if *K::spiffe_id(&svid) != holding.spiffe_id {
                    return Err(SignFault::NotWhatWasAsked);
                }
                install(
                    &id,
                    &mut holding,
                    svid,
                    authorities,
                    now,
                    agenda,
                    &mut self.deeds,
                )
            });
            match outcome {
                Ok(Installed::Servable) => fresh.push(id.clone()),
                Ok(Installed::Parked) => {
                    holding.fault = Some(SignFault::UnknownAuthority);
                    holding.stage = Stage::Waiting;
                    let wait = ENTRY_BACKOFF.wait(holding.failures.max(1), (self.seed, &id));
                    let when = When::after(now, wait.max(PARKED_MAX));
                    agenda.set(Alarm::Retry(K::KIND, id.clone()), when);
                }
                Err(fault) => {
                    if self.entry_failed(&id, &mut holding, fault, now, agenda) {
                        fresh.push(id.clone());
                    }
                }
            }
            self.put_back(id, holding);
        }
        // An answer that leaves out an entry is a failure of that entry.
        for id in batch.entries {
            if let Some(mut holding) = self.asked_by(&id, request) {
                let fault = SignFault::NotWhatWasAsked;
                self.entry_failed(&id, &mut holding, fault, now, agenda);
                self.put_back(id, holding);
            }
        }
        fresh
    }

    /// A request failed as a whole: ask for less, later.
    pub(crate) fn sign_failed(
        &mut self,
        request: RequestId,
        fault: SignFault,
        now: Now,
        agenda: &mut Agenda,
    ) {
        let Some(batch) = self.batches.remove(&request) else {
            return;
        };
        let entries = batch.entries.len();
        for id in batch.entries {
            let Some(mut holding) = self.asked_by(&id, request) else {
                continue;
            };
            self.enqueue(&id, &mut holding);
            self.put_back(id, holding);
        }
        self.batch_limit = (self.batch_limit / 2).max(1);
        self.failures = self.failures.saturating_add(1);
        self.paused = true;
        let wait = REQUEST_BACKOFF.wait(self.failures, self.seed);
        self.deeds.push(Deed::RequestFailed {
            entries,
            fault,
            failures: self.failures,
            again_in: wait,
        });
        agenda.set(Alarm::Resume(K::KIND), When::after(now, wait));
    }

    /// The pause after a failure is over, or the server is there again.
    pub(crate) fn resume(&mut self, agenda: &mut Agenda) {
        self.paused = false;
        agenda.clear(&Alarm::Resume(K::KIND));
    }

    /// An SVID is due for renewal.
    pub(crate) fn renew(&mut self, id: &EntryId, agenda: &mut Agenda) {
        let Some(mut holding) = self.take_out(id) else {
            return;
        };
        // One that is only kept, of an entry that is not to be prefetched, is let go at its end.
        if holding.current.is_some()
            && holding.stage == Stage::Rest
            && (holding.subscribers > 0 || holding.prefetch)
        {
            self.enqueue(id, &mut holding);
        }
        agenda.clear(&Alarm::Renew(K::KIND, id.clone()));
        self.put_back(id.clone(), holding);
    }

    /// An entry that failed, or waited for its bundle, is due again.
    pub(crate) fn retry(&mut self, id: &EntryId) {
        let Some(mut holding) = self.take_out(id) else {
            return;
        };
        if holding.stage == Stage::Waiting {
            holding.stage = Stage::Rest;
            // The parked one stays, should its authority come after all.
            if holding.parked.is_some() {
                holding.failures = holding.failures.saturating_add(1);
                holding.fault = Some(SignFault::UnknownAuthority);
                self.deeds.push(Deed::NotSigned {
                    entry: id.clone(),
                    fault: SignFault::UnknownAuthority,
                    failures: holding.failures,
                });
            }
            self.enqueue(id, &mut holding);
        }
        self.put_back(id.clone(), holding);
    }

    /// The own trust domain's bundle changed. SVIDs whose authority is no longer in it, or is
    /// tainted, are dropped and signed anew; parked ones whose authority has come are taken up.
    /// Returns the entries for which what can be served changed.
    pub(crate) fn bundle_changed(
        &mut self,
        authorities: &[K::Authority],
        now: Now,
        agenda: &mut Agenda,
    ) -> Vec<EntryId> {
        let good: HashSet<&[u8]> = authorities
            .iter()
            .filter(|a| !K::tainted(a))
            .map(|a| &**K::mark(a))
            .collect();
        let concerned: Vec<EntryId> = self
            .entries
            .iter()
            .filter(|(_, h)| {
                h.parked.is_some() || h.current.as_ref().is_some_and(|c| !good.contains(&*c.root))
            })
            .map(|(id, _)| id.clone())
            .collect();
        let mut changed = Vec::new();
        for id in concerned {
            let Some(mut holding) = self.take_out(&id) else {
                continue;
            };
            if let Some(svid) = holding
                .parked
                .take_if(|svid| K::verified_by(svid, authorities).is_some())
            {
                self.unqueue(&mut holding);
                agenda.clear(&Alarm::Retry(K::KIND, id.clone()));
                match install(
                    &id,
                    &mut holding,
                    svid,
                    authorities,
                    now,
                    agenda,
                    &mut self.deeds,
                ) {
                    Ok(Installed::Servable) => changed.push(id.clone()),
                    // It verifies: it is not parked again.
                    Ok(Installed::Parked) => {}
                    Err(fault) => {
                        self.entry_failed(&id, &mut holding, fault, now, agenda);
                    }
                }
            }
            if let Some(mut held) = holding.current.take() {
                let root = K::verified_by(&held.svid, authorities).filter(|a| !K::tainted(a));
                if good.contains(&*held.root) {
                    holding.current = Some(held);
                } else if let Some(root) = root {
                    held.root = K::mark(root).clone();
                    holding.current = Some(held);
                } else {
                    clear_alarms::<K>(&id, agenda);
                    self.deeds.push(Deed::AuthorityGone {
                        entry: id.clone(),
                        name: K::name(&held.svid),
                    });
                    self.unqueue(&mut holding);
                    self.requeue_if_wanted(&id, &mut holding, true);
                    changed.push(id.clone());
                }
            }
            self.put_back(id, holding);
        }
        changed
    }

    /// Returns whether that changes who is told what: the server has begun to refuse it, or refuses it
    /// no longer.
    fn entry_failed(
        &mut self,
        id: &EntryId,
        holding: &mut Holding<K>,
        fault: SignFault,
        now: Now,
        agenda: &mut Agenda,
    ) -> bool {
        holding.failures = holding.failures.saturating_add(1);
        holding.fault = Some(fault);
        holding.stage = Stage::Waiting;
        let denied = Some(fault).filter(|fault| fault.stands());
        let was = std::mem::replace(&mut holding.denied, denied);
        let wait = ENTRY_BACKOFF.wait(holding.failures, (self.seed, id));
        agenda.set(Alarm::Retry(K::KIND, id.clone()), When::after(now, wait));
        self.deeds.push(Deed::NotSigned {
            entry: id.clone(),
            fault,
            failures: holding.failures,
        });
        was != holding.denied
    }

    /// Takes the holding out for a change if it waits for this request.
    fn asked_by(&mut self, id: &EntryId, request: RequestId) -> Option<Holding<K>> {
        let asked = self.entries.get(id)?.stage == Stage::Asked(request);
        let mut holding = asked.then(|| self.take_out(id)).flatten()?;
        holding.stage = Stage::Rest;
        Some(holding)
    }

    fn change(&mut self, id: &EntryId, change: impl FnOnce(&mut Holding<K>)) {
        if let Some(mut holding) = self.take_out(id) {
            change(&mut holding);
            if holding.subscribers > 0 && holding.current.is_none() {
                let idle = matches!(holding.stage, Stage::Rest | Stage::Queued(_));
                if idle && holding.parked.is_none() {
                    self.unqueue(&mut holding);
                    self.enqueue(id, &mut holding);
                }
            } else if holding.subscribers == 0 && holding.current.is_none() && !holding.prefetch {
                self.unqueue(&mut holding);
            }
            self.put_back(id.clone(), holding);
        }
    }

    fn requeue_if_wanted(&mut self, id: &EntryId, holding: &mut Holding<K>, kept: bool) {
        if matches!(holding.stage, Stage::Rest | Stage::Queued(_))
            && (holding.subscribers > 0 || kept)
        {
            self.unqueue(holding);
            self.enqueue(id, holding);
        } else if holding.subscribers == 0 && !kept {
            self.unqueue(holding);
        }
    }

    fn enqueue(&mut self, id: &EntryId, holding: &mut Holding<K>) {
        if holding.stage != Stage::Rest {
            return;
        }
        let key = match &holding.current {
            Some(held) => QueueKey {
                class: Class::Renewal,
                expires: K::validity(&held.svid).1,
                entry: id.clone(),
            },
            None => QueueKey {
                class: if holding.subscribers > 0 {
                    Class::Awaited
                } else {
                    Class::Prefetch
                },
                expires: Timestamp::EPOCH,
                entry: id.clone(),
            },
        };
        self.queue.insert(key.clone());
        holding.stage = Stage::Queued(key);
    }

    fn unqueue(&mut self, holding: &mut Holding<K>) {
        if let Stage::Queued(key) = &holding.stage {
            self.queue.remove(key);
            holding.stage = Stage::Rest;
        }
    }

    /// Takes an entry's holding out of all books that depend on its state.
    fn take_out(&mut self, id: &EntryId) -> Option<Holding<K>> {
        let holding = self.entries.remove(id)?;
        if holding.subscribers > 0 {
            self.subscribed -= 1;
        } else {
            self.kept.remove(&(holding.touched, id.clone()));
            self.candidates.remove(id);
        }
        Some(holding)
    }

    /// Writes it back into the books it now belongs in.
    fn put_back(&mut self, id: EntryId, holding: Holding<K>) {
        if holding.current.is_some() || holding.stage == Stage::Rest {
            self.lapsed.forget(&id);
        }
        if holding.subscribers > 0 {
            self.subscribed += 1;
        } else if holding.current.is_some()
            || holding.parked.is_some()
            || holding.stage != Stage::Rest
        {
            self.kept.insert((holding.touched, id.clone()));
        } else if holding.prefetch {
            self.candidates.insert(id.clone());
        }
        self.entries.insert(id, holding);
    }
}

enum Installed {
    Servable,
    Parked,
}

/// Takes up a new SVID, or parks it until its authority is in the bundle.
fn install<K: Kind>(
    id: &EntryId,
    holding: &mut Holding<K>,
    svid: Arc<K::Material>,
    authorities: &[K::Authority],
    now: Now,
    agenda: &mut Agenda,
    deeds: &mut Vec<Deed<K>>,
) -> Result<Installed, SignFault> {
    holding.denied = None;
    let Some(root) = K::verified_by(&svid, authorities) else {
        holding.parked = Some(svid);
        return Ok(Installed::Parked);
    };
    if K::tainted(root) {
        return Err(SignFault::TaintedAuthority);
    }
    let (not_before, expires) = K::validity(&svid);
    // Nothing outlives the authority that verifies it.
    let not_after = expires.min(K::ends(root));
    if not_after <= now.wall {
        return Err(SignFault::ExpiredOnArrival);
    }
    let renew_at = K::renew_at(&svid);
    let schedule = Schedule::new(not_before, not_after, renew_at, now);
    agenda.set(Alarm::Renew(K::KIND, id.clone()), schedule.renew);
    agenda.set(Alarm::Expire(K::KIND, id.clone()), schedule.expire);
    deeds.push(Deed::Issued {
        entry: id.clone(),
        spiffe_id: holding.spiffe_id.clone(),
        name: K::name(&svid),
        not_before,
        not_after: expires,
        authority_id: K::authority_id(&svid).to_owned(),
        renew_at,
        previous: holding.current.as_ref().map(|h| K::name(&h.svid)),
    });
    holding.parked = None;
    holding.current = Some(Held {
        svid,
        root: K::mark(root).clone(),
        schedule,
    });
    holding.stage = Stage::Rest;
    holding.failures = 0;
    Ok(Installed::Servable)
}

fn clear_alarms<K: Kind>(id: &EntryId, agenda: &mut Agenda) {
    agenda.clear(&Alarm::Renew(K::KIND, id.clone()));
    agenda.clear(&Alarm::Expire(K::KIND, id.clone()));
}
