//! What streams of WIT-SVIDs are told (WIT-17).
//!
//! They follow the rules of streams of X509-SVIDs: the first answer is complete, each answer is
//! full, what is no longer granted is taken back at once. A stream may be for one identity only;
//! streams of a group with the same wish form a lane and share their answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_model::{EntryId, Now, SpiffeId};

use crate::calls::Kind;
use crate::evaluate::SETTLE_WAIT;
use crate::event::{Action, CallId, Encoded, Refusal, WitIdentity, WitUpdate};
use crate::groups::{Group, GroupId, Outlook, same_if_equal};
use crate::holdings::Holdings;
use crate::kinds::{SvidKind, WitKind};
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::roster::Roster;
use crate::time::{Alarm, When};
use crate::view::View;

/// Which identities a stream is for: one, or all.
pub(crate) type Wish = Option<SpiffeId>;

/// Streams of a group that wish for the same.
struct Lane<W> {
    calls: usize,
    /// Until something that it depends on changes.
    outlook: Option<Outlook<WitUpdate<W>>>,
    /// The last update: an equal one is the same one.
    last: Option<Arc<WitUpdate<W>>>,
}

/// The streams of a group. A lane is there as long as a call is in it.
pub(crate) struct WitLanes<W> {
    lanes: BTreeMap<Wish, Lane<W>>,
    calls: usize,
    /// Whether the group waited long enough for its last missing SVID: it is told what is there.
    pub(crate) settled: bool,
}

impl<W> Default for WitLanes<W> {
    fn default() -> Self {
        Self {
            lanes: BTreeMap::new(),
            calls: 0,
            settled: false,
        }
    }
}

impl<W> WitLanes<W> {
    /// How many of the group's calls stream WIT-SVIDs.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// One call more; returns how many there are now.
    pub(crate) fn enter(&mut self, wish: Wish) -> usize {
        let lane = self.lanes.entry(wish).or_insert(Lane {
            calls: 0,
            outlook: None,
            last: None,
        });
        lane.calls += 1;
        self.calls += 1;
        self.calls
    }

    /// One call less; returns how many are left.
    pub(crate) fn leave(&mut self, wish: &Wish) -> usize {
        if let Some(lane) = self.lanes.get_mut(wish) {
            lane.calls -= 1;
            self.calls -= 1;
            if lane.calls == 0 {
                self.lanes.remove(wish);
            }
        }
        self.calls
    }

    /// Something that the outlooks depend on has changed.
    pub(crate) fn stale(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.outlook = None;
        }
    }
}

impl<X: X509Material, W: WitMaterial> Group<X, W> {
    /// The entries that give the group the identities of a wish, by ascending ID.
    fn granted_wits(&self, view: &View, wish: &Wish) -> Vec<(EntryId, SpiffeId, String)> {
        self.granted(view)
            .into_iter()
            .filter(|e| wish.as_ref().is_none_or(|id| *id == e.spiffe_id))
            .map(|e| (e.id.clone(), e.spiffe_id.clone(), e.hint.clone()))
            .collect()
    }

    fn wit_outlook(
        &mut self,
        wish: &Wish,
        view: &View,
        held: &Holdings<WitKind<W>>,
        now: Now,
    ) -> Outlook<WitUpdate<W>> {
        let known = self.wits.lanes.get(wish).and_then(|l| l.outlook.clone());
        if let Some(outlook) = known {
            return outlook;
        }
        let mut granted = self.granted_wits(view, wish);
        granted.retain(|(entry, _, _)| !held.denied(entry));
        let wanted = granted.len();
        let identities: Vec<WitIdentity<W>> = granted
            .into_iter()
            .filter_map(|(entry, spiffe_id, hint)| {
                let svid = held.servable(&entry, now)?.clone();
                Some(WitIdentity {
                    entry,
                    spiffe_id,
                    hint,
                    svid,
                })
            })
            .collect();
        let Some(lane) = self.wits.lanes.get_mut(wish) else {
            return Outlook::Miss;
        };
        let complete = identities.len() == wanted;
        let update = (!identities.is_empty()).then(|| {
            let encoded = Encoded::default();
            let update = WitUpdate {
                identities,
                encoded,
            };
            same_if_equal(&mut lane.last, update)
        });
        let outlook = match update {
            _ if wanted == 0 => Outlook::Miss,
            Some(update) if complete => Outlook::Full(update),
            update => Outlook::Partial(update),
        };
        lane.outlook = Some(outlook.clone());
        outlook
    }
}

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    pub(crate) fn evaluate_wit(
        &mut self,
        id: CallId,
        group: GroupId,
        wish: Wish,
        told: Option<Arc<WitUpdate<W>>>,
    ) {
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        let outlook = state.wit_outlook(&wish, &self.view, &self.wits, self.now);
        match (outlook, told) {
            (Outlook::Miss, None) => {
                // WIT-20: held, then denied.
                let others = !state.granted(&self.view).is_empty();
                self.miss(id, others);
            }
            (Outlook::Miss, Some(_)) => self.refuse(id, Refusal::EntitlementLost),
            (Outlook::Full(update), told) => {
                // Another lane of the group may still wait for its last one.
                if state.wits.lanes.len() == 1 {
                    state.wits.settled = false;
                    self.agenda.clear(&Alarm::Settle(SvidKind::Wit, group));
                }
                self.tell_wit(id, wish, told.as_ref(), update);
            }
            // The first answer has every identity that was asked for.
            (Outlook::Partial(_), None) => self.wait_for_signature(id),
            (Outlook::Partial(part), Some(told)) => {
                let granted = state.granted_wits(&self.view, &wish);
                let holds_too_much = told.identities.iter().any(|i| {
                    let same = |(entry, spiffe_id, _): &(EntryId, SpiffeId, String)| {
                        *entry == i.entry && *spiffe_id == i.spiffe_id
                    };
                    !granted.iter().any(same)
                });
                match part {
                    // What is no longer granted is taken back at once.
                    Some(part) if holds_too_much || state.wits.settled => {
                        self.tell_wit(id, wish, Some(&told), part);
                    }
                    None if holds_too_much => self.refuse(id, Refusal::NotSignedYet),
                    // An old answer is better than none, and than half of one.
                    Some(_) | None => {
                        let alarm = Alarm::Settle(SvidKind::Wit, group);
                        if !state.wits.settled && !self.agenda.is_set(&alarm) {
                            self.agenda.set(alarm, When::after(self.now, SETTLE_WAIT));
                        }
                    }
                }
            }
        }
    }

    fn tell_wit(
        &mut self,
        id: CallId,
        wish: Wish,
        told: Option<&Arc<WitUpdate<W>>>,
        update: Arc<WitUpdate<W>>,
    ) {
        self.agenda.clear(&Alarm::Call(id));
        // Nothing new, nothing said (WAPI-07).
        if told.is_some_and(|told| Arc::ptr_eq(told, &update) || **told == *update) {
            return;
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.kind = Kind::WitSvids {
                spiffe_id: wish,
                told: Some(update.clone()),
            };
            self.fresh.push(Action::WitSvids(id, update));
        }
    }
}
