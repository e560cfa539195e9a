//! The X509-SVIDs that the node holds: whose to sign, in which order, and which to give up.
//!
//! Entries with a subscriber always hold one. What remains of the soft cap is filled with
//! entries that have none yet, so that a first call is answered at once; what was used longest
//! ago makes room (spire-behaviour 2.8).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Entry, EntryId, Now, SpiffeId, Timestamp, X509Authority};

use crate::event::{Action, Note, RequestId, SignFault, ToSign};
use crate::explain::{HeldSvid, Standing};
use crate::material::X509Material;
use crate::time::{Agenda, Alarm, Backoff, Schedule, When};

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

/// An SVID that may be served.
#[derive(Debug)]
struct Held<X> {
    svid: Arc<X>,
    /// DER of the authority that verifies it.
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

/// Order of the queue: who waits, then what expires first, then what nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct QueueKey {
    class: Class,
    expires: Timestamp,
    entry: EntryId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Awaited,
    Renewal,
    Prefetch,
}

#[derive(Debug)]
struct Holding<X> {
    spiffe_id: SpiffeId,
    prefetch: bool,
    /// Groups of callers that stream X509-SVIDs and match.
    subscribers: usize,
    current: Option<Held<X>>,
    /// Signed by an authority that is not in the bundle yet (bundle before SVID).
    parked: Option<Arc<X>>,
    stage: Stage,
    failures: u32,
    /// When it was last subscribed to, on a counter; only for entries in `kept`.
    touched: u64,
}

#[derive(Debug)]
struct Batch {
    entries: Vec<EntryId>,
    awaited: bool,
}

/// What the node holds and is having signed.
#[derive(Debug)]
pub(crate) struct Holdings<X> {
    soft_cap: usize,
    seed: u64,
    entries: BTreeMap<EntryId, Holding<X>>,
    /// Entries with subscribers.
    subscribed: usize,
    /// Entries without subscribers that hold an SVID, or are to, least recently used first.
    kept: BTreeSet<(u64, EntryId)>,
    /// Entries without subscribers that could be prefetched.
    candidates: BTreeSet<EntryId>,
    touches: u64,
    queue: BTreeSet<QueueKey>,
    batches: BTreeMap<RequestId, Batch>,
    batch_limit: usize,
    failures: u32,
    paused: bool,
    next_request: u64,
}

impl<X: X509Material> Holdings<X> {
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
            batches: BTreeMap::new(),
            batch_limit: BATCH_MAX,
            failures: 0,
            paused: false,
            next_request: 0,
        }
    }

    /// A name for a request of this or another kind.
    pub(crate) fn next_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// The SVID of an entry, if it may be served now.
    pub(crate) fn servable(&self, entry: &EntryId, now: Now) -> Option<&Arc<X>> {
        let held = self.entries.get(entry)?.current.as_ref()?;
        (!held.schedule.expire.reached(now)).then_some(&held.svid)
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

    /// The earliest end of validity of what is held.
    pub(crate) fn first_expiry(&self) -> Option<Timestamp> {
        let held = self.entries.values().filter_map(|h| h.current.as_ref());
        held.map(|held| held.svid.not_after()).min()
    }

    /// How an entry stands, what it holds, and how many groups of callers stream it.
    pub(crate) fn standing(&self, id: &EntryId) -> Option<(Standing, Option<HeldSvid>, usize)> {
        let holding = self.entries.get(id)?;
        let held = holding.current.as_ref().map(|held| HeldSvid {
            serial: held.svid.serial().clone(),
            not_after: held.svid.not_after(),
            renew_at: held.svid.renew_at(),
        });
        let standing = match (&held, &holding.stage) {
            (Some(_), _) => Standing::Held,
            (None, Stage::Waiting) => Standing::Failed(holding.failures),
            (None, Stage::Queued(_) | Stage::Asked(_)) => Standing::BeingSigned,
            (None, Stage::Rest) => Standing::NotWanted,
        };
        Some((standing, held, holding.subscribers))
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
                    prefetch: !after.disable_x509_svid_prefetch,
                    subscribers: 0,
                    current: None,
                    parked: None,
                    stage: Stage::Rest,
                    failures: 0,
                    touched: 0,
                },
            );
            return false;
        };
        holding.prefetch = !after.disable_x509_svid_prefetch;
        let identity_changed = holding.spiffe_id != after.spiffe_id;
        let shape_changed = before.is_none_or(|b| {
            b.dns_names != after.dns_names || b.x509_svid_ttl != after.x509_svid_ttl
        });
        if identity_changed || shape_changed {
            // What is under way may be of the old shape; its answer will find no one asking.
            self.unqueue(&mut holding);
            holding.stage = Stage::Rest;
            holding.parked = None;
            holding.failures = 0;
            agenda.clear(&Alarm::Retry(after.id.clone()));
            holding.spiffe_id = after.spiffe_id.clone();
            if identity_changed {
                holding.current = None;
                clear_alarms(&after.id, agenda);
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
            clear_alarms(id, agenda);
            agenda.clear(&Alarm::Retry(id.clone()));
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
                clear_alarms(&id, agenda);
                agenda.clear(&Alarm::Retry(id.clone()));
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
    pub(crate) fn pump<J>(&mut self, actions: &mut Vec<Action<X, J>>) {
        while !self.paused && self.batches.len() < REQUESTS_MAX {
            let Some(first) = self.queue.first() else {
                return;
            };
            let awaited = first.class == Class::Awaited;
            // One lane for what nobody waits for: the others stay free for those who do.
            if !awaited && self.batches.values().any(|b| !b.awaited) {
                return;
            }
            let keys: Vec<QueueKey> = self
                .queue
                .iter()
                .take_while(|key| (key.class == Class::Awaited) == awaited)
                .take(self.batch_limit)
                .cloned()
                .collect();
            let request = self.next_request();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                self.queue.remove(&key);
                if let Some(holding) = self.entries.get_mut(&key.entry) {
                    holding.stage = Stage::Asked(request);
                    entries.push(ToSign {
                        entry: key.entry,
                        spiffe_id: holding.spiffe_id.clone(),
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
            actions.push(Action::SignX509 { request, entries });
        }
    }

    /// A request was answered. Returns the entries for which something new can be served.
    pub(crate) fn signed<J>(
        &mut self,
        request: RequestId,
        results: Vec<(EntryId, Result<Arc<X>, SignFault>)>,
        authorities: &[X509Authority],
        now: Now,
        agenda: &mut Agenda,
        actions: &mut Vec<Action<X, J>>,
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
                if *svid.spiffe_id() != holding.spiffe_id {
                    return Err(SignFault::NotWhatWasAsked);
                }
                install(&id, &mut holding, svid, authorities, now, agenda, actions)
            });
            match outcome {
                Ok(Installed::Servable) => fresh.push(id.clone()),
                Ok(Installed::Parked) => {
                    holding.stage = Stage::Waiting;
                    let wait = ENTRY_BACKOFF.wait(holding.failures.max(1), (self.seed, &id));
                    let when = When::after(now, wait.max(PARKED_MAX));
                    agenda.set(Alarm::Retry(id.clone()), when);
                }
                Err(fault) => self.entry_failed(&id, &mut holding, fault, now, agenda, actions),
            }
            self.put_back(id, holding);
        }
        // An answer that leaves out an entry is a failure of that entry.
        for id in batch.entries {
            if let Some(mut holding) = self.asked_by(&id, request) {
                let fault = SignFault::NotWhatWasAsked;
                self.entry_failed(&id, &mut holding, fault, now, agenda, actions);
                self.put_back(id, holding);
            }
        }
        fresh
    }

    /// A request failed as a whole: ask for less, later.
    pub(crate) fn sign_failed<J>(
        &mut self,
        request: RequestId,
        fault: SignFault,
        now: Now,
        agenda: &mut Agenda,
        actions: &mut Vec<Action<X, J>>,
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
        actions.push(Action::Note(Note::RequestFailed {
            entries,
            fault,
            failures: self.failures,
            again_in: wait,
        }));
        agenda.set(Alarm::Resume, When::after(now, wait));
    }

    /// The pause after a failure is over, or the server is there again.
    pub(crate) fn resume(&mut self, agenda: &mut Agenda) {
        self.paused = false;
        agenda.clear(&Alarm::Resume);
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
        agenda.clear(&Alarm::Renew(id.clone()));
        self.put_back(id.clone(), holding);
    }

    /// An entry that failed, or waited for its bundle, is due again.
    pub(crate) fn retry<J>(&mut self, id: &EntryId, actions: &mut Vec<Action<X, J>>) {
        let Some(mut holding) = self.take_out(id) else {
            return;
        };
        if holding.stage == Stage::Waiting {
            holding.stage = Stage::Rest;
            // The parked one stays, should its authority come after all.
            if holding.parked.is_some() {
                holding.failures = holding.failures.saturating_add(1);
                actions.push(Action::Note(Note::NotSigned {
                    entry: id.clone(),
                    fault: SignFault::UnknownAuthority,
                    failures: holding.failures,
                }));
            }
            self.enqueue(id, &mut holding);
        }
        self.put_back(id.clone(), holding);
    }

    /// An SVID has expired. Returns whether it was there to be served.
    pub(crate) fn expire<J>(
        &mut self,
        id: &EntryId,
        agenda: &mut Agenda,
        actions: &mut Vec<Action<X, J>>,
    ) -> bool {
        let Some(mut holding) = self.take_out(id) else {
            return false;
        };
        clear_alarms(id, agenda);
        let expired = holding.current.take();
        if let Some(held) = &expired {
            actions.push(Action::Note(Note::Expired {
                entry: id.clone(),
                serial: held.svid.serial().clone(),
            }));
            // One that is only kept stays wanted as long as the entry may be prefetched.
            let kept_wanted = holding.prefetch;
            self.requeue_if_wanted(id, &mut holding, kept_wanted);
        }
        self.put_back(id.clone(), holding);
        expired.is_some()
    }

    /// The own trust domain's bundle changed. SVIDs whose authority is no longer in it, or is
    /// tainted, are dropped and signed anew; parked ones whose authority has come are taken up.
    /// Returns the entries for which what can be served changed.
    pub(crate) fn bundle_changed<J>(
        &mut self,
        authorities: &[X509Authority],
        now: Now,
        agenda: &mut Agenda,
        actions: &mut Vec<Action<X, J>>,
    ) -> Vec<EntryId> {
        let good: HashSet<&[u8]> = authorities
            .iter()
            .filter(|a| !a.tainted)
            .map(|a| &*a.der)
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
                .take_if(|svid| svid.verified_by(authorities).is_some())
            {
                self.unqueue(&mut holding);
                agenda.clear(&Alarm::Retry(id.clone()));
                match install(&id, &mut holding, svid, authorities, now, agenda, actions) {
                    Ok(Installed::Servable) => changed.push(id.clone()),
                    // It verifies: it is not parked again.
                    Ok(Installed::Parked) => {}
                    Err(fault) => {
                        self.entry_failed(&id, &mut holding, fault, now, agenda, actions);
                    }
                }
            }
            if let Some(mut held) = holding.current.take() {
                let root = held.svid.verified_by(authorities).filter(|a| !a.tainted);
                if good.contains(&*held.root) {
                    holding.current = Some(held);
                } else if let Some(root) = root {
                    held.root = root.der.clone();
                    holding.current = Some(held);
                } else {
                    clear_alarms(&id, agenda);
                    actions.push(Action::Note(Note::AuthorityGone {
                        entry: id.clone(),
                        serial: held.svid.serial().clone(),
                    }));
                    self.unqueue(&mut holding);
                    self.requeue_if_wanted(&id, &mut holding, true);
                    changed.push(id.clone());
                }
            }
            self.put_back(id, holding);
        }
        changed
    }

    fn entry_failed<J>(
        &mut self,
        id: &EntryId,
        holding: &mut Holding<X>,
        fault: SignFault,
        now: Now,
        agenda: &mut Agenda,
        actions: &mut Vec<Action<X, J>>,
    ) {
        holding.failures = holding.failures.saturating_add(1);
        holding.stage = Stage::Waiting;
        let wait = ENTRY_BACKOFF.wait(holding.failures, (self.seed, id));
        agenda.set(Alarm::Retry(id.clone()), When::after(now, wait));
        actions.push(Action::Note(Note::NotSigned {
            entry: id.clone(),
            fault,
            failures: holding.failures,
        }));
    }

    /// Takes the holding out for a change if it waits for this request.
    fn asked_by(&mut self, id: &EntryId, request: RequestId) -> Option<Holding<X>> {
        let asked = self.entries.get(id)?.stage == Stage::Asked(request);
        let mut holding = asked.then(|| self.take_out(id)).flatten()?;
        holding.stage = Stage::Rest;
        Some(holding)
    }

    fn change(&mut self, id: &EntryId, change: impl FnOnce(&mut Holding<X>)) {
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

    fn requeue_if_wanted(&mut self, id: &EntryId, holding: &mut Holding<X>, kept: bool) {
        if matches!(holding.stage, Stage::Rest | Stage::Queued(_))
            && (holding.subscribers > 0 || kept)
        {
            self.unqueue(holding);
            self.enqueue(id, holding);
        } else if holding.subscribers == 0 && !kept {
            self.unqueue(holding);
        }
    }

    fn enqueue(&mut self, id: &EntryId, holding: &mut Holding<X>) {
        if holding.stage != Stage::Rest {
            return;
        }
        let key = match &holding.current {
            Some(held) => QueueKey {
                class: Class::Renewal,
                expires: held.svid.not_after(),
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

    fn unqueue(&mut self, holding: &mut Holding<X>) {
        if let Stage::Queued(key) = &holding.stage {
            self.queue.remove(key);
            holding.stage = Stage::Rest;
        }
    }

    /// Takes an entry's holding out of all books that depend on its state.
    fn take_out(&mut self, id: &EntryId) -> Option<Holding<X>> {
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
    fn put_back(&mut self, id: EntryId, holding: Holding<X>) {
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
fn install<X: X509Material, J>(
    id: &EntryId,
    holding: &mut Holding<X>,
    svid: Arc<X>,
    authorities: &[X509Authority],
    now: Now,
    agenda: &mut Agenda,
    actions: &mut Vec<Action<X, J>>,
) -> Result<Installed, SignFault> {
    let Some(root) = svid.verified_by(authorities) else {
        holding.parked = Some(svid);
        return Ok(Installed::Parked);
    };
    if root.tainted {
        return Err(SignFault::TaintedAuthority);
    }
    // Nothing outlives the authority that verifies it.
    let not_after = svid.not_after().min(root.expires_at);
    if not_after <= now.wall {
        return Err(SignFault::ExpiredOnArrival);
    }
    let schedule = Schedule::new(svid.not_before(), not_after, svid.renew_at(), now);
    agenda.set(Alarm::Renew(id.clone()), schedule.renew);
    agenda.set(Alarm::Expire(id.clone()), schedule.expire);
    actions.push(Action::Note(Note::Issued {
        entry: id.clone(),
        spiffe_id: holding.spiffe_id.clone(),
        serial: svid.serial().clone(),
        not_before: svid.not_before(),
        not_after: svid.not_after(),
        authority_id: svid.authority_id().to_owned(),
        renew_at: svid.renew_at(),
        previous: holding.current.as_ref().map(|h| h.svid.serial().clone()),
    }));
    holding.parked = None;
    holding.current = Some(Held {
        svid,
        root: root.der.clone(),
        schedule,
    });
    holding.stage = Stage::Rest;
    holding.failures = 0;
    Ok(Installed::Servable)
}

fn clear_alarms(id: &EntryId, agenda: &mut Agenda) {
    agenda.clear(&Alarm::Renew(id.clone()));
    agenda.clear(&Alarm::Expire(id.clone()));
}
