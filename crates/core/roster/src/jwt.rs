//! The JWT-SVIDs that the node holds, by entry and audience, and those it is having signed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use muster_model::{EntryId, JwtAuthority, Now, SpiffeId, Timestamp};

use crate::event::{Action, CallId, RequestId, SignFault, ToSign};
use crate::lru::Lru;
use crate::material::JwtMaterial;
use crate::time::{Agenda, Alarm, Backoff, Schedule, When};

/// The most requests for tokens under way at once.
const IN_FLIGHT_MAX: usize = 64;
/// The most requests for tokens that wait for their turn.
const QUEUE_MAX: usize = 4096;
/// After a token that could not be signed.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    most: Duration::from_secs(30),
};

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JwtKey {
    pub(crate) entry: EntryId,
    /// Sorted, without repetition.
    pub(crate) audience: Arc<[String]>,
}

/// A token that may be served until its schedule says otherwise.
#[derive(Debug)]
pub(crate) struct HeldToken<J> {
    pub(crate) token: Arc<J>,
    pub(crate) schedule: Schedule,
    /// When the last tenth of its life begins.
    late: When,
    /// After a failed renewal: not before.
    not_before: Option<When>,
    failures: u32,
}

impl<J> Clone for HeldToken<J> {
    fn clone(&self) -> Self {
        Self {
            token: self.token.clone(),
            ..*self
        }
    }
}

/// What the cache has for a key.
pub(crate) enum Look<J> {
    /// Nothing that is good.
    Nothing,
    /// In the first half of its life, or a renewal has just failed: served as it is.
    Good(Arc<J>),
    /// Past half of its life: served, and renewed behind the caller's back.
    Due(Arc<J>),
    /// About to expire: a short wait for the next one is worth it.
    Late(Arc<J>),
}

#[derive(Debug)]
enum Stage<J> {
    Queued,
    Asked,
    /// Failed; an alarm is set.
    Waiting,
    /// Signed with a key that is not in the bundle yet (JWTI-14).
    Parked(Arc<J>),
}

#[derive(Debug)]
struct Request<J> {
    key: JwtKey,
    spiffe_id: SpiffeId,
    /// Whether others may share it: not with a `jti`, which is unique to its call.
    shared: bool,
    /// Callers that wait for it; without any it is a renewal behind the caller's back.
    waiters: BTreeSet<CallId>,
    stage: Stage<J>,
    failures: u32,
}

/// What became of a request.
pub(crate) struct Outcome<J> {
    pub(crate) entry: EntryId,
    pub(crate) waiters: BTreeSet<CallId>,
    pub(crate) result: Result<HeldToken<J>, SignFault>,
}

/// What the node holds and is having signed.
#[derive(Debug)]
pub(crate) struct Tokens<J> {
    seed: u64,
    cache: Lru<JwtKey, HeldToken<J>>,
    requests: BTreeMap<RequestId, Request<J>>,
    shared: HashMap<JwtKey, RequestId>,
    queue: VecDeque<RequestId>,
    in_flight: BTreeSet<RequestId>,
}

impl<J: JwtMaterial> Tokens<J> {
    pub(crate) fn new(cap: usize, seed: u64) -> Self {
        Self {
            seed,
            cache: Lru::new(cap),
            requests: BTreeMap::new(),
            shared: HashMap::new(),
            queue: VecDeque::new(),
            in_flight: BTreeSet::new(),
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.cache.len()
    }

    /// The tokens that may be served now.
    pub(crate) fn all(&self, now: Now) -> Vec<(EntryId, Arc<[String]>, Arc<J>)> {
        self.cache
            .iter()
            .filter(|(_, held)| !held.schedule.expire.reached(now))
            .map(|(key, held)| (key.entry.clone(), key.audience.clone(), held.token.clone()))
            .collect()
    }

    /// Takes up a token of an earlier machine. Returns whether it may be served.
    pub(crate) fn remember(
        &mut self,
        entry: EntryId,
        audience: Arc<[String]>,
        token: Arc<J>,
        authorities: &[JwtAuthority],
        now: Now,
    ) -> bool {
        match accept(token, authorities, now) {
            Ok(Accepted::Held(held)) if held.token.covers(&audience) => {
                self.cache.insert(JwtKey { entry, audience }, held);
                true
            }
            Ok(Accepted::Held(_) | Accepted::Parked(_)) | Err(_) => false,
        }
    }

    /// When the first of the tokens held that are still good expires.
    pub(crate) fn first_expiry(&self, now: Now) -> Option<Timestamp> {
        self.cache
            .values()
            .filter(|held| !held.schedule.expire.reached(now))
            .map(|held| held.schedule.expire.wall())
            .min()
    }

    /// What there is for `key`, which counts as used.
    pub(crate) fn look(&mut self, key: &JwtKey, now: Now) -> Look<J> {
        let Some(held) = self.cache.touch(key) else {
            return Look::Nothing;
        };
        if held.schedule.expire.reached(now) {
            self.cache.remove(key);
            return Look::Nothing;
        }
        let token = held.token.clone();
        if held.not_before.is_some_and(|at| !at.reached(now)) {
            Look::Good(token)
        } else if held.late.reached(now) {
            Look::Late(token)
        } else if held.schedule.renew.reached(now) {
            Look::Due(token)
        } else {
            Look::Good(token)
        }
    }

    /// Has a token signed for `waiter`, or for the cache. Returns `None` when too many wait.
    pub(crate) fn ask(
        &mut self,
        name: RequestId,
        key: JwtKey,
        spiffe_id: SpiffeId,
        shared: bool,
        waiter: Option<CallId>,
    ) -> Option<RequestId> {
        if shared && let Some(known) = self.shared.get(&key) {
            if let Some(request) = self.requests.get_mut(known) {
                request.waiters.extend(waiter);
            }
            return Some(*known);
        }
        if self.queue.len() >= QUEUE_MAX {
            return None;
        }
        if shared {
            self.shared.insert(key.clone(), name);
        }
        self.requests.insert(
            name,
            Request {
                key,
                spiffe_id,
                shared,
                waiters: waiter.into_iter().collect(),
                stage: Stage::Queued,
                failures: 0,
            },
        );
        self.queue.push_back(name);
        Some(name)
    }

    /// Sends what is at the head of the queue, as far as requests may be under way.
    pub(crate) fn pump<X, W>(&mut self, actions: &mut Vec<Action<X, J, W>>) {
        while self.in_flight.len() < IN_FLIGHT_MAX
            && let Some(name) = self.queue.pop_front()
        {
            let Some(request) = self.requests.get_mut(&name) else {
                continue;
            };
            request.stage = Stage::Asked;
            self.in_flight.insert(name);
            actions.push(Action::SignJwt {
                request: name,
                entry: ToSign {
                    entry: request.key.entry.clone(),
                    spiffe_id: request.spiffe_id.clone(),
                    expires_at: None,
                    derived: None,
                },
                audience: request.key.audience.clone(),
            });
        }
    }

    /// A request was answered. `None` when nothing follows from it yet.
    pub(crate) fn signed(
        &mut self,
        name: RequestId,
        result: Result<Arc<J>, SignFault>,
        authorities: &[JwtAuthority],
        now: Now,
    ) -> Option<Outcome<J>> {
        // Also an answer that nobody waits for any more frees its place.
        if !self.in_flight.remove(&name) {
            return None;
        }
        let request = self.requests.get_mut(&name)?;
        let checked = result.and_then(|token| {
            let asked =
                *token.spiffe_id() == request.spiffe_id && token.covers(&request.key.audience);
            if asked {
                accept(token, authorities, now)
            } else {
                Err(SignFault::NotWhatWasAsked)
            }
        });
        match checked {
            Ok(Accepted::Held(held)) => self.succeeded(name, held),
            Ok(Accepted::Parked(token)) => {
                request.stage = Stage::Parked(token);
                None
            }
            Err(fault) => self.failed(name, fault, now),
        }
    }

    /// A request that failed is not given up: it is due again after a wait.
    pub(crate) fn try_again(&mut self, name: RequestId, now: Now, agenda: &mut Agenda) {
        if let Some(request) = self.requests.get_mut(&name) {
            let wait = BACKOFF.wait(request.failures, (self.seed, &request.key));
            agenda.set(Alarm::RetryJwt(name), When::after(now, wait));
        }
    }

    /// The wait is over.
    pub(crate) fn retry(&mut self, name: RequestId) {
        if let Some(request) = self.requests.get_mut(&name)
            && matches!(request.stage, Stage::Waiting)
        {
            request.stage = Stage::Queued;
            self.queue.push_back(name);
        }
    }

    /// A request is given up.
    pub(crate) fn give_up(&mut self, name: RequestId, agenda: &mut Agenda) {
        agenda.clear(&Alarm::RetryJwt(name));
        if let Some(request) = self.requests.get(&name) {
            // What is under way comes back and frees its place then.
            if matches!(request.stage, Stage::Queued) {
                self.queue.retain(|queued| *queued != name);
            }
        }
        self.take(name);
    }

    /// A caller no longer waits. Requests that nobody waits for are given up, unless they are
    /// under way: their token will be kept.
    pub(crate) fn leave(&mut self, name: RequestId, call: CallId, agenda: &mut Agenda) {
        if let Some(request) = self.requests.get_mut(&name) {
            request.waiters.remove(&call);
            let kept = request.shared && matches!(request.stage, Stage::Asked);
            if request.waiters.is_empty() && !kept {
                self.give_up(name, agenda);
            }
        }
    }

    /// An entry is gone or gives tokens of another kind: nothing signed for it is good. Returns
    /// the callers that waited.
    pub(crate) fn forget(&mut self, entry: &EntryId, agenda: &mut Agenda) -> BTreeSet<CallId> {
        self.cache.retain(|key, _| key.entry != *entry);
        let names: Vec<RequestId> = self
            .requests
            .iter()
            .filter(|(_, r)| r.key.entry == *entry)
            .map(|(name, _)| *name)
            .collect();
        let mut waiters = BTreeSet::new();
        for name in names {
            if let Some(request) = self.requests.get_mut(&name) {
                waiters.append(&mut request.waiters);
            }
            self.give_up(name, agenda);
        }
        waiters
    }

    /// The own trust domain's keys changed: tokens of keys that are gone or tainted are dropped,
    /// parked ones whose key has come are taken up.
    pub(crate) fn keys_changed(
        &mut self,
        authorities: &[JwtAuthority],
        now: Now,
    ) -> Vec<(RequestId, Outcome<J>)> {
        self.cache.retain(|_, held| {
            held.token
                .verified_by(authorities)
                .is_some_and(|key| !key.tainted)
        });
        let parked: Vec<(RequestId, Arc<J>)> = self
            .requests
            .iter()
            .filter_map(|(name, request)| match &request.stage {
                Stage::Parked(token) => Some((*name, token.clone())),
                Stage::Queued | Stage::Asked | Stage::Waiting => None,
            })
            .collect();
        parked
            .into_iter()
            .filter_map(|(name, token)| {
                let outcome = match accept(token, authorities, now) {
                    Ok(Accepted::Held(held)) => self.succeeded(name, held),
                    Ok(Accepted::Parked(_)) => None,
                    Err(fault) => self.failed(name, fault, now),
                };
                outcome.map(|outcome| (name, outcome))
            })
            .collect()
    }

    fn succeeded(&mut self, name: RequestId, held: HeldToken<J>) -> Option<Outcome<J>> {
        let request = self.take(name)?;
        if request.shared {
            self.cache.insert(request.key.clone(), held.clone());
        }
        Some(Outcome {
            entry: request.key.entry,
            waiters: request.waiters,
            result: Ok(held),
        })
    }

    /// A failed renewal leaves the token in the cache and is not tried again for a while. What
    /// callers wait for stays on the books: they decide whether to try again or give up.
    fn failed(&mut self, name: RequestId, fault: SignFault, now: Now) -> Option<Outcome<J>> {
        let request = self.requests.get_mut(&name)?;
        request.failures = request.failures.saturating_add(1);
        request.stage = Stage::Waiting;
        let (key, waiters) = (request.key.clone(), request.waiters.clone());
        if let Some(held) = self.cache.touch(&key) {
            held.failures = held.failures.saturating_add(1);
            let wait = BACKOFF.wait(held.failures, (self.seed, &key));
            held.not_before = Some(When::after(now, wait));
        }
        if waiters.is_empty() {
            self.take(name);
            return None;
        }
        Some(Outcome {
            entry: key.entry,
            waiters,
            result: Err(fault),
        })
    }

    fn take(&mut self, name: RequestId) -> Option<Request<J>> {
        let request = self.requests.remove(&name)?;
        if request.shared {
            self.shared.remove(&request.key);
        }
        Some(request)
    }
}

enum Accepted<J> {
    Held(HeldToken<J>),
    Parked(Arc<J>),
}

fn accept<J: JwtMaterial>(
    token: Arc<J>,
    authorities: &[JwtAuthority],
    now: Now,
) -> Result<Accepted<J>, SignFault> {
    let Some(key) = token.verified_by(authorities) else {
        return Ok(Accepted::Parked(token));
    };
    if key.tainted {
        return Err(SignFault::TaintedAuthority);
    }
    // Nothing outlives the key that verifies it (JWTI-15).
    let end = key
        .expires_at
        .map_or(token.expires_at(), |end| end.min(token.expires_at()));
    if end <= now.wall {
        return Err(SignFault::ExpiredOnArrival);
    }
    let schedule = Schedule::new(token.issued_at(), end, token.renew_at(), now);
    let tenth = end.since(token.issued_at()) / 10;
    let late = Schedule::new(token.issued_at(), end, end.minus(tenth), now).renew;
    Ok(Accepted::Held(HeldToken {
        token,
        schedule,
        late,
        not_before: None,
        failures: 0,
    }))
}
