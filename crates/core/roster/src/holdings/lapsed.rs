//! What has expired and is still wanted: how long ago that was, and what comes back when it was the
//! civil clock that was wrong.
//!
//! A clock that jumps ahead by an hour ends everything at a stroke. Nothing that has expired by
//! either clock is served; but when the civil clock is set right again, and by the monotonic clock
//! the time is not over, the SVID is as good as it was, and in an outage there is no other.

use std::collections::BTreeMap;

use muster_model::{EntryId, Now, Timestamp};

use super::{Held, Holdings, Stage, clear_alarms};
use crate::kinds::{Deed, Kind};
use crate::time::{Agenda, Alarm};

/// SVIDs that have expired, by entry.
pub(super) struct Lapsed<K: Kind> {
    of: BTreeMap<EntryId, (Timestamp, Option<Held<K>>)>,
    /// Before this instant by the civil clock one of them may be good again.
    latest: Option<Timestamp>,
}

impl<K: Kind> Default for Lapsed<K> {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
            latest: None,
        }
    }
}

impl<K: Kind> Lapsed<K> {
    fn note(&mut self, id: &EntryId, held: Held<K>, now: Now) {
        let end = held.schedule.expire.wall();
        // Over by the monotonic clock, over for good.
        let held = (!held.schedule.expire.is_over_for_good(now)).then_some(held);
        if held.is_some() {
            self.latest = self.latest.max(Some(end));
        }
        self.of.insert(id.clone(), (end, held));
    }

    /// Another SVID has come, or none is wanted any more.
    pub(super) fn forget(&mut self, id: &EntryId) {
        self.of.remove(id);
        if self.of.is_empty() {
            self.latest = None;
        }
    }
}

impl<K: Kind> Holdings<K> {
    /// The earliest end of validity of what is held, or has expired and is still wanted.
    pub(crate) fn first_expiry(&self) -> Option<Timestamp> {
        let held = self.entries.values().filter_map(|h| h.current.as_ref());
        let held = held.map(|held| held.schedule.expire.wall());
        let is_granted = |id: &EntryId| self.entries.get(id).is_some_and(|h| h.denied.is_none());
        let lapsed = self.lapsed.of.iter().filter(|(id, _)| is_granted(id));
        held.chain(lapsed.map(|(_, (end, _))| *end)).min()
    }

    /// Whether something comes back if the civil clock is set back.
    pub(crate) fn hangs_on_the_clock(&self) -> bool {
        self.lapsed.latest.is_some()
    }

    /// An SVID has expired. Returns whether it was there to be served.
    pub(crate) fn expire(&mut self, id: &EntryId, now: Now, agenda: &mut Agenda) -> bool {
        let Some(mut holding) = self.take_out(id) else {
            return false;
        };
        clear_alarms::<K>(id, agenda);
        let expired = holding.current.take();
        if let Some(held) = &expired {
            self.deeds.push(Deed::Expired {
                entry: id.clone(),
                name: K::name(&held.svid),
            });
            // One that is only kept stays wanted as long as the entry may be prefetched.
            let kept_wanted = holding.prefetch;
            self.requeue_if_wanted(id, &mut holding, kept_wanted);
        }
        let is_wanted = holding.stage != Stage::Rest;
        self.put_back(id.clone(), holding);
        match expired {
            Some(held) => {
                if is_wanted {
                    self.lapsed.note(id, held, now);
                }
                true
            }
            None => false,
        }
    }

    /// Takes up what has expired and, by a civil clock that was set right, has not. What waits
    /// after failures is asked for again: they were the clock's. Returns the entries for which
    /// what can be served changed.
    pub(crate) fn clock_set_back(
        &mut self,
        authorities: &[K::Authority],
        now: Now,
        agenda: &mut Agenda,
    ) -> Vec<EntryId> {
        if self.lapsed.latest.is_none_or(|latest| now.wall >= latest) {
            return Vec::new();
        }
        let mut back = Vec::new();
        let mut rest = Lapsed::default();
        for (id, (end, held)) in std::mem::take(&mut self.lapsed.of) {
            match held {
                Some(held) if !held.schedule.expire.reached(now) => {
                    if self.take_up(&id, held, authorities, agenda) {
                        back.push(id);
                    }
                }
                Some(held) => rest.note(&id, held, now),
                None => {
                    rest.of.insert(id, (end, None));
                }
            }
        }
        self.lapsed = rest;
        let waiting = |h: &super::Holding<K>| h.stage == Stage::Waiting && h.parked.is_none();
        let waiting: Vec<EntryId> = self
            .entries
            .iter()
            .filter(|(_, holding)| waiting(holding) && holding.denied.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            agenda.clear(&Alarm::Retry(K::KIND, id.clone()));
            self.retry(&id);
        }
        back
    }

    /// Makes an SVID that had expired the current one again, unless its authority has gone.
    fn take_up(
        &mut self,
        id: &EntryId,
        mut held: Held<K>,
        authorities: &[K::Authority],
        agenda: &mut Agenda,
    ) -> bool {
        let root = K::verified_by(&held.svid, authorities).filter(|root| !K::tainted(root));
        let Some(root) = root else {
            return false;
        };
        let Some(mut holding) = self.take_out(id) else {
            return false;
        };
        held.root = K::mark(root).clone();
        agenda.set(Alarm::Renew(K::KIND, id.clone()), held.schedule.renew);
        agenda.set(Alarm::Expire(K::KIND, id.clone()), held.schedule.expire);
        self.unqueue(&mut holding);
        if holding.stage == Stage::Waiting && holding.parked.is_none() {
            agenda.clear(&Alarm::Retry(K::KIND, id.clone()));
            holding.stage = Stage::Rest;
            holding.failures = 0;
        }
        holding.current = Some(held);
        self.put_back(id.clone(), holding);
        true
    }
}
