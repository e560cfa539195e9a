//! What each open call is told, and when waiting ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{EntryId, SpiffeId};

use crate::calls::Kind;
use crate::event::{
    Action, CallId, JwtBundles, JwtIdentity, OnMiss, Refusal, RequestId, Scope, SignFault,
    WitBundles, X509Bundles, X509Update,
};
use crate::groups::{BundlesOutlook, GroupId, Outlook};
use crate::jwt::{JwtKey, Look, Outcome};
use crate::kinds::SvidKind;
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::roster::{Link, Roster};
use crate::time::{Alarm, When};

/// How long a call that matches waits, beyond the hold, for what it matches to be signed.
const SIGN_WAIT: Duration = Duration::from_secs(30);
/// How long a stream whose new answer is not complete keeps its old one, in the hope of sending
/// one change instead of two.
pub(crate) const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// How long a call for tokens waits for a fresh one while the one at hand is about to expire.
const LATE_WAIT: Duration = Duration::from_secs(2);

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    /// Tells a call what there is to tell, ends it, or sets the alarm for its next look.
    pub(crate) fn evaluate(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let group = call.group;
        match &call.kind {
            Kind::X509Svids(told) => {
                let (told, on_miss) = (told.clone(), call.on_miss);
                self.evaluate_x509(id, group, told, on_miss);
            }
            Kind::X509Bundles(told) => {
                let told = told.clone();
                self.evaluate_x509_bundles(id, group, told);
            }
            Kind::JwtBundles(told) => {
                let told = told.clone();
                self.evaluate_jwt_bundles(id, group, told);
            }
            Kind::Trust => self.evaluate_trust(id, group),
            Kind::JwtSvids(_) => self.evaluate_jwt(id, group),
            Kind::WitSvids { spiffe_id, told } => {
                let (lane, told) = (spiffe_id.clone(), told.clone());
                self.evaluate_wit(id, group, lane, told);
            }
            Kind::WitBundles(told) => {
                let told = told.clone();
                self.evaluate_wit_bundles(id, group, told);
            }
        }
    }

    fn evaluate_x509(
        &mut self,
        id: CallId,
        group: GroupId,
        told: Option<Arc<X509Update<X>>>,
        on_miss: OnMiss,
    ) {
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        let outlook = state.x509(&self.view, &self.holdings, self.now);
        // A view that has never been whole has nothing to say about what is not in it.
        let known = told.is_some() || self.link == Link::InStep;
        match (outlook, told) {
            (Outlook::Miss, told) if on_miss == OnMiss::TellEmpty && known => {
                if let Some(update) = state.nothing(&self.view) {
                    self.tell_x509(id, told.as_ref(), update);
                }
            }
            (Outlook::Miss, None) => self.miss(id, false),
            (Outlook::Miss, Some(_)) => self.refuse(id, Refusal::EntitlementLost),
            (Outlook::Full(update), told) => {
                state.settled = false;
                self.agenda.clear(&Alarm::Settle(SvidKind::X509, group));
                self.tell_x509(id, told.as_ref(), update);
            }
            // The first answer has every identity of the caller (WAPI-22).
            (Outlook::Partial(_), None) => self.wait_for_signature(id),
            (Outlook::Partial(part), Some(told)) => {
                let granted: BTreeSet<(&EntryId, &SpiffeId)> = state
                    .granted(&self.view)
                    .into_iter()
                    .map(|e| (&e.id, &e.spiffe_id))
                    .collect();
                let holds_too_much = told
                    .identities
                    .iter()
                    .any(|i| !granted.contains(&(&i.entry, &i.spiffe_id)));
                match part {
                    // What is no longer granted is taken back at once (WAPI-21).
                    Some(part) if holds_too_much || state.settled => {
                        self.tell_x509(id, Some(&told), part);
                    }
                    None if holds_too_much => self.refuse(id, Refusal::NotSignedYet),
                    // An old answer is better than none, and than half of one.
                    Some(_) | None => {
                        if !state.settled
                            && !self.agenda.is_set(&Alarm::Settle(SvidKind::X509, group))
                        {
                            let when = When::after(self.now, SETTLE_WAIT);
                            self.agenda.set(Alarm::Settle(SvidKind::X509, group), when);
                        }
                    }
                }
            }
        }
    }

    fn tell_x509(
        &mut self,
        id: CallId,
        told: Option<&Arc<X509Update<X>>>,
        update: Arc<X509Update<X>>,
    ) {
        self.agenda.clear(&Alarm::Call(id));
        // Nothing new, nothing said (WAPI-07).
        if told.is_some_and(|told| Arc::ptr_eq(told, &update) || **told == *update) {
            return;
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.kind = Kind::X509Svids(Some(update.clone()));
            self.fresh.push(Action::X509Svids(id, update));
        }
    }

    fn evaluate_x509_bundles(
        &mut self,
        id: CallId,
        group: GroupId,
        told: Option<Arc<X509Bundles>>,
    ) {
        let Some(outlook) = self.bundles_outlook(group) else {
            return;
        };
        if let Some(update) = self.next_bundles(id, outlook.x509, told)
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.kind = Kind::X509Bundles(Some(update.clone()));
            self.fresh.push(Action::X509Bundles(id, update));
        }
    }

    fn evaluate_jwt_bundles(&mut self, id: CallId, group: GroupId, told: Option<Arc<JwtBundles>>) {
        let Some(outlook) = self.bundles_outlook(group) else {
            return;
        };
        if let Some(update) = self.next_bundles(id, outlook.jwt, told)
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.kind = Kind::JwtBundles(Some(update.clone()));
            self.fresh.push(Action::JwtBundles(id, update));
        }
    }

    fn evaluate_wit_bundles(&mut self, id: CallId, group: GroupId, told: Option<Arc<WitBundles>>) {
        let Some(outlook) = self.bundles_outlook(group) else {
            return;
        };
        if let Some(update) = self.next_bundles(id, outlook.wit, told)
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.kind = Kind::WitBundles(Some(update.clone()));
            self.fresh.push(Action::WitBundles(id, update));
        }
    }

    fn bundles_outlook(&mut self, group: GroupId) -> Option<BundlesOutlook> {
        let group = self.groups.get_mut(&group)?;
        let unauthenticated =
            self.config.allow_unauthenticated_verifiers && group.scope == Scope::Own;
        Some(group.bundles(&self.view, &self.config.trust_domain, unauthenticated))
    }

    /// The next answer of a stream of bundles, if there is a new one.
    fn next_bundles<U: PartialEq>(
        &mut self,
        id: CallId,
        outlook: Outlook<U>,
        told: Option<Arc<U>>,
    ) -> Option<Arc<U>> {
        match (outlook, told) {
            (Outlook::Miss, None) => self.miss(id, false),
            (Outlook::Miss, Some(_)) => self.refuse(id, Refusal::EntitlementLost),
            (Outlook::Full(update), told) => {
                self.agenda.clear(&Alarm::Call(id));
                let news = told.is_none_or(|told| !Arc::ptr_eq(&told, &update) && *told != *update);
                return news.then_some(update);
            }
            (Outlook::Partial(_), None) => self.wait_for_signature(id),
            (Outlook::Partial(_), Some(_)) => {}
        }
        None
    }

    fn evaluate_trust(&mut self, id: CallId, group: GroupId) {
        let trust = self.trust(group);
        if trust.by_domain.contains_key(&self.config.trust_domain) {
            self.fresh.push(Action::JwtBundles(id, Arc::new(trust)));
            self.end(id);
        } else {
            self.miss(id, false);
        }
    }

    /// Nothing matches: the call is held, then refused.
    pub(crate) fn miss(&mut self, id: CallId, other_identities: bool) {
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let until = call.until(self.config.hold);
        if self.now.mono >= until {
            self.refuse(id, self.refusal_of_miss(call.group, other_identities));
        } else {
            self.agenda.set(Alarm::Call(id), When::at(until));
        }
    }

    /// Something matches and is being signed: the call waits for it, not without end.
    pub(crate) fn wait_for_signature(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let until = call.until(self.config.hold.saturating_add(SIGN_WAIT));
        if self.now.mono >= until {
            self.refuse(id, Refusal::NotSignedYet);
        } else {
            self.agenda.set(Alarm::Call(id), When::at(until));
        }
    }

    pub(crate) fn refuse(&mut self, id: CallId, refusal: Refusal) {
        self.fresh.push(Action::End(id, refusal));
        self.end(id);
    }

    /// Answers a call for tokens when all of them are there; has those signed that are not.
    fn evaluate_jwt(&mut self, id: CallId, group: GroupId) {
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let (arrived, Kind::JwtSvids(jwt)) = (call.arrived, &call.kind) else {
            return;
        };
        let Some(state) = self.groups.get(&group) else {
            return;
        };
        let granted = state.granted(&self.view);
        let wanted: Vec<_> = granted
            .iter()
            .filter(|e| jwt.spiffe_id.as_ref().is_none_or(|id| *id == e.spiffe_id))
            .map(|e| Arc::clone(e))
            .collect();
        if wanted.is_empty() {
            let others = !granted.is_empty();
            return self.miss(id, others);
        }

        let audience = jwt.audience.clone();
        let patient = self.now.mono < arrived.saturating_add(LATE_WAIT);
        let mut answer = Vec::with_capacity(wanted.len());
        let mut missing = false;
        for entry in wanted {
            let key = JwtKey {
                entry: entry.id.clone(),
                audience: audience.clone(),
            };
            let shared = !entry.jwt_svid_include_jti;
            let look = match self.signed_while_waiting(id, &entry.id) {
                Some(token) => Look::Good(token),
                None if shared => self.tokens.look(&key, self.now),
                None => Look::Nothing,
            };
            let (token, waiter) = match look {
                // Renewed behind the caller's back.
                Look::Due(token) => {
                    let request = self.requests.next();
                    let spiffe_id = entry.spiffe_id.clone();
                    // When too much is waiting, the renewal comes with a later call.
                    let _later = self
                        .tokens
                        .ask(request, key.clone(), spiffe_id, shared, None);
                    (Some(token), None)
                }
                Look::Late(token) if patient => (Some(token), Some(id)),
                Look::Good(token) | Look::Late(token) => (Some(token), None),
                Look::Nothing => (None, Some(id)),
            };
            if waiter.is_some() {
                missing = true;
                if !self.await_token(id, key, &entry.id, shared) {
                    return self.refuse(id, Refusal::Overloaded);
                }
            } else if let Some(token) = token {
                answer.push(JwtIdentity {
                    entry: entry.id.clone(),
                    spiffe_id: entry.spiffe_id.clone(),
                    hint: entry.hint.clone(),
                    token,
                });
            }
        }
        if !missing {
            self.fresh.push(Action::JwtSvids(id, answer));
            return self.end(id);
        }
        self.wait_for_token(id, patient);
    }

    fn signed_while_waiting(&self, id: CallId, entry: &EntryId) -> Option<Arc<J>> {
        match &self.calls.get(&id)?.kind {
            Kind::JwtSvids(jwt) => jwt
                .tokens
                .get(entry)
                .filter(|held| !held.schedule.expire.reached(self.now))
                .map(|held| held.token.clone()),
            Kind::X509Svids(_)
            | Kind::X509Bundles(_)
            | Kind::JwtBundles(_)
            | Kind::Trust
            | Kind::WitSvids { .. }
            | Kind::WitBundles(_) => None,
        }
    }

    /// Has a token signed for the call, unless that is under way. `false` when too many wait.
    fn await_token(&mut self, id: CallId, key: JwtKey, entry: &EntryId, shared: bool) -> bool {
        let Some(state) = self.view.entry(entry) else {
            return true;
        };
        let spiffe_id = state.spiffe_id.clone();
        let mut asked = false;
        self.with_jwt_call(id, |jwt| asked = jwt.asked.contains_key(entry));
        if asked {
            return true;
        }
        let name = self.requests.next();
        let Some(request) = self.tokens.ask(name, key, spiffe_id, shared, Some(id)) else {
            return false;
        };
        self.with_jwt_call(id, |jwt| {
            jwt.asked.insert(entry.clone(), request);
        });
        true
    }

    /// The call waits for tokens, unless the last failure says that there is no point.
    fn wait_for_token(&mut self, id: CallId, patient: bool) {
        let mut fault = None;
        self.with_jwt_call(id, |jwt| fault = jwt.fault.take());
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let held = call.until(self.config.hold);
        if let Some(fault) = fault {
            let again =
                fault == SignFault::Unavailable && self.link != Link::Down && self.now.mono < held;
            if !again {
                return self.refuse(id, Refusal::SigningFailed(fault));
            }
        }
        let until = call.until(if patient {
            LATE_WAIT
        } else {
            self.config.hold.saturating_add(SIGN_WAIT)
        });
        if self.now.mono >= until {
            self.refuse(id, Refusal::NotSignedYet);
        } else {
            self.agenda.set(Alarm::Call(id), When::at(until));
        }
    }

    /// A request for a token came to an end, or to a halt.
    pub(crate) fn on_token(&mut self, request: RequestId, outcome: &Outcome<J>) {
        for call in &outcome.waiters {
            let result = &outcome.result;
            self.with_jwt_call(*call, |jwt| match result {
                Ok(held) => {
                    jwt.asked.remove(&outcome.entry);
                    jwt.tokens.insert(outcome.entry.clone(), held.clone());
                }
                Err(fault) => jwt.fault = Some(*fault),
            });
            self.evaluate(*call);
        }
        self.tokens.try_again(request, self.now, &mut self.agenda);
    }
}
