//! What must never happen, and what must happen at last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Entry, EntryId, Facts, SelectorSet, TrustDomain};
use muster_roll::naming;
use muster_roster::{
    Action, CallId, Event, JwtIdentity, Refusal, Want, Who, WitUpdate, X509Update,
};

use crate::material::{Cert, Token, Wit};
use crate::ops::Op;
use crate::world::{HOLD, Pending, World, X509_LIFE, node, own};

impl World {
    pub(crate) fn hear(&mut self, event: Event<Cert, Token, Wit>) {
        self.roster.handle(event, self.now);
        let mut count = 0;
        while let Some(action) = self.roster.poll_action() {
            count += 1;
            self.act(action);
        }
        assert!(
            count <= 4 * (self.callers.len() + self.node.entries.len() + self.names() + 8),
            "{count} actions for one event"
        );
        self.check_all();
    }

    pub(crate) fn act(&mut self, action: Action<Cert, Token, Wit>) {
        match action {
            Action::SignX509 { request, entries } => {
                assert!(!entries.is_empty() && entries.len() <= 500);
                self.asked += entries.len();
                for entry in &entries {
                    *self.asked_per_entry.entry(entry.entry.clone()).or_default() += 1;
                }
                self.pending.push(Pending::X509(request, entries));
            }
            Action::SignJwt {
                request,
                entry,
                audience,
            } => {
                self.pending.push(Pending::Jwt(request, entry, audience));
            }
            Action::SignWit { request, entries } => {
                assert!(!entries.is_empty() && entries.len() <= 500);
                self.wits_asked += entries.len();
                self.pending.push(Pending::Wit(request, entries));
            }
            Action::WitSvids(call, update) => self.told_wit(call, update),
            Action::WitBundles(call, update) => {
                let caller = self.callers.get_mut(&call).unwrap();
                assert!(caller.open);
                assert!(update.by_domain.contains_key(&own()), "WIT-19");
                assert!(update.by_domain.values().all(|keys| !keys.is_empty()));
                assert!(
                    caller.wit_bundles.as_ref().is_none_or(|b| **b != *update),
                    "WAPI-07"
                );
                caller.wit_bundles = Some(update);
                caller.told += 1;
            }
            Action::X509Svids(call, update) => self.told_x509(call, update),
            Action::X509Bundles(call, update) => {
                let caller = self.callers.get_mut(&call).unwrap();
                assert!(caller.open);
                assert!(update.by_domain.contains_key(&own()), "WAPI-36");
                assert!(
                    update.by_domain.values().all(|der| !der.is_empty()),
                    "WAPI-17"
                );
                assert!(
                    caller.x509_bundles.as_ref().is_none_or(|b| **b != *update),
                    "WAPI-07"
                );
                caller.x509_bundles = Some(update);
                caller.told += 1;
            }
            Action::JwtBundles(call, update) => {
                let caller = self.callers.get_mut(&call).unwrap();
                assert!(caller.open);
                assert!(update.by_domain.contains_key(&own()), "WAPI-43");
                assert!(
                    caller.jwt_bundles.as_ref().is_none_or(|b| **b != *update),
                    "WAPI-07"
                );
                caller.jwt_bundles = Some(update);
                caller.told += 1;
                caller.open = caller.want != Want::Trust;
            }
            Action::JwtSvids(call, tokens) => self.told_jwt(call, tokens),
            Action::End(call, refusal) => self.ended(call, refusal),
            Action::Resync(_) => {
                self.in_step = false;
                self.up = false;
            }
            // Processes go when the world says so.
            Action::AwaitExit(_) | Action::Note(_) => {}
        }
    }

    /// What the node's view grants to a caller: what entries give, and what rules give that no entry
    /// does, once for each name; of those with one hint the oldest (WAPI-32).
    pub(crate) fn granted(&self, who: &Who) -> Vec<Entry> {
        let mut matching: Vec<Entry> = self
            .node
            .entries
            .values()
            .filter(|e| !e.store_svid && e.selectors.is_subset(&who.selectors))
            // What a policy refuses counts for nothing.
            .filter(|e| !self.denied.contains(&e.id))
            .cloned()
            .collect();
        let facts = Facts {
            selectors: SelectorSet::clone(&who.selectors),
            process: who.process,
        };
        let mut names = BTreeSet::new();
        for rule in self.node.rules.values() {
            let Ok(name) = naming::derive(rule, &own(), &node(), &facts) else {
                continue;
            };
            let taken = self.node.entries.values().any(|e| e.spiffe_id == name);
            if names.insert(name.clone()) && !taken && !self.node.withheld.contains(&name) {
                matching.extend(naming::entry(rule, name));
            }
        }
        let mut granted: Vec<Entry> = matching
            .iter()
            .filter(|e| {
                e.hint.is_empty()
                    || matching
                        .iter()
                        .all(|o| o.hint != e.hint || (o.created_at, &o.id) >= (e.created_at, &e.id))
            })
            .cloned()
            .collect();
        granted.sort_by(|a, b| a.id.cmp(&b.id));
        granted
    }

    pub(crate) fn told_x509(&mut self, call: CallId, update: Arc<X509Update<Cert>>) {
        let caller = &self.callers[&call];
        assert!(caller.open, "told after the end");
        let granted = self.granted(&caller.who);
        let bundle = &self.node.bundles[&own()];
        assert!(!update.identities.is_empty(), "WAPI-22");
        assert!(
            update.identities.is_sorted_by_key(|i| i.entry.clone()),
            "WAPI-35"
        );
        if caller.x509.is_none() {
            assert_eq!(
                granted.len(),
                update.identities.len(),
                "the first answer is complete"
            );
        }
        for identity in &update.identities {
            let entry = granted
                .iter()
                .find(|e| e.id == identity.entry)
                .expect("granted");
            assert_eq!(entry.spiffe_id, identity.spiffe_id);
            assert_eq!(entry.spiffe_id, identity.svid.id, "WAPI-24");
            assert_eq!(entry.hint, identity.hint);
            assert!(identity.svid.not_after > self.now.wall, "expired when told");
            let root = bundle
                .x509_authorities
                .iter()
                .find(|a| a.der == identity.svid.root);
            assert!(
                root.is_some_and(|a| !a.tainted),
                "told without its authority"
            );
        }
        assert_eq!(*update.bundle, *bundle.x509_concatenated(), "WAPI-27");
        let federated: BTreeSet<&TrustDomain> = granted
            .iter()
            .flat_map(|e| &e.federates_with)
            .filter(|td| {
                self.node
                    .bundles
                    .get(*td)
                    .is_some_and(|b| !b.x509_authorities.is_empty())
            })
            .collect();
        assert_eq!(
            federated,
            update.federated.keys().collect(),
            "WAPI-31, WAPI-17"
        );
        assert!(
            caller.x509.as_ref().is_none_or(|last| **last != *update),
            "WAPI-07"
        );
        let caller = self.callers.get_mut(&call).unwrap();
        caller.x509 = Some(update);
        caller.told += 1;
    }

    /// WIT-17: at least one, all that were asked for at first, nothing that is not granted.
    pub(crate) fn told_wit(&mut self, call: CallId, update: Arc<WitUpdate<Wit>>) {
        let caller = &self.callers[&call];
        assert!(caller.open, "told after the end");
        let Want::WitSvids { spiffe_id } = &caller.want else {
            panic!("WIT-SVIDs for another call");
        };
        let granted: Vec<Entry> = self
            .granted(&caller.who)
            .into_iter()
            .filter(|e| spiffe_id.as_ref().is_none_or(|id| *id == e.spiffe_id))
            .collect();
        assert!(!update.identities.is_empty());
        assert!(update.identities.is_sorted_by_key(|i| i.entry.clone()));
        if caller.wits.is_none() {
            assert_eq!(granted.len(), update.identities.len());
        }
        let keys = &self.node.bundles[&own()].wit_authorities;
        let mut hints = BTreeSet::new();
        for identity in &update.identities {
            let entry = granted.iter().find(|e| e.id == identity.entry);
            let entry = entry.expect("granted");
            assert_eq!(entry.spiffe_id, identity.spiffe_id);
            assert_eq!(entry.spiffe_id, identity.svid.id);
            assert_eq!(entry.hint, identity.hint);
            assert!(entry.hint.is_empty() || hints.insert(&entry.hint));
            assert!(
                identity.svid.expires_at > self.now.wall,
                "expired when told"
            );
            let key = keys.iter().find(|k| k.key_id == identity.svid.key_id);
            assert!(key.is_some_and(|k| !k.tainted), "told without its key");
        }
        assert!(
            caller.wits.as_ref().is_none_or(|last| **last != *update),
            "WAPI-07"
        );
        let caller = self.callers.get_mut(&call).unwrap();
        caller.wits = Some(update);
        caller.told += 1;
    }

    pub(crate) fn told_jwt(&mut self, call: CallId, tokens: Vec<JwtIdentity<Token>>) {
        let caller = &self.callers[&call];
        assert!(caller.open, "told after the end");
        let Want::JwtSvids {
            audience,
            spiffe_id,
        } = &caller.want
        else {
            panic!("tokens for another call");
        };
        let granted: Vec<Entry> = self
            .granted(&caller.who)
            .into_iter()
            .filter(|e| spiffe_id.as_ref().is_none_or(|id| *id == e.spiffe_id))
            .collect();
        assert!(!tokens.is_empty());
        assert_eq!(granted.len(), tokens.len(), "WAPI-38");
        let keys = &self.node.bundles[&own()].jwt_authorities;
        for (entry, identity) in granted.iter().zip(&tokens) {
            assert_eq!(entry.id, identity.entry);
            assert_eq!(entry.spiffe_id, identity.token.id, "WAPI-41");
            assert!(
                audience.iter().all(|a| identity.token.audience.contains(a)),
                "JWTI-08"
            );
            assert!(
                identity.token.expires_at > self.now.wall,
                "expired when told"
            );
            assert!(
                keys.iter().any(|k| k.key_id == identity.token.key_id),
                "JWTI-14"
            );
        }
        let caller = self.callers.get_mut(&call).unwrap();
        caller.tokens = Some(tokens);
        caller.told += 1;
        caller.open = false;
    }

    pub(crate) fn ended(&mut self, call: CallId, refusal: Refusal) {
        let caller = &self.callers[&call];
        assert!(caller.open, "ended twice");
        let granted = self.granted(&caller.who);
        if refusal.is_denial() {
            match (refusal, &caller.want) {
                (
                    Refusal::IdentityNotGranted | Refusal::EntitlementLost,
                    Want::JwtSvids { spiffe_id, .. } | Want::WitSvids { spiffe_id },
                ) => {
                    assert!(
                        granted
                            .iter()
                            .all(|e| spiffe_id.as_ref().is_some_and(|id| e.spiffe_id != *id))
                    );
                }
                _ => assert!(granted.is_empty(), "denied although granted"),
            }
            let streaming = caller.told > 0;
            assert!(
                streaming || self.in_step,
                "a server that is away turned into a denial"
            );
            assert!(
                streaming || self.now.mono >= caller.called_at + caller.waits(),
                "denied before the hold was over"
            );
        }
        let caller = self.callers.get_mut(&call).unwrap();
        caller.ended = Some(refusal);
        caller.open = false;
    }

    /// What must hold after every event.
    pub(crate) fn check_all(&self) {
        for caller in self.callers.values().filter(|c| c.open) {
            if let Some(update) = &caller.x509 {
                let granted = self.granted(&caller.who);
                for identity in &update.identities {
                    assert!(
                        granted
                            .iter()
                            .any(|e| e.id == identity.entry && e.spiffe_id == identity.spiffe_id),
                        "a workload holds an identity that the view does not give it"
                    );
                }
            }
            if let Some(update) = &caller.wits {
                let granted = self.granted(&caller.who);
                for identity in &update.identities {
                    let same =
                        |e: &Entry| e.id == identity.entry && e.spiffe_id == identity.spiffe_id;
                    assert!(granted.iter().any(same), "a WIT-SVID that is not granted");
                }
            }
            let waited = self.now.mono.saturating_sub(caller.called_at);
            assert!(
                caller.told > 0 || waited <= HOLD + Duration::from_secs(31),
                "a waiter was forgotten"
            );
        }
    }

    /// The server is there, the clocks agree, and everything is answered promptly. Then every
    /// caller has what it is entitled to, and it is renewed in time.
    pub(crate) fn come_to_rest(&mut self) {
        if self.skew != 0 {
            self.perform(Op::StepClock(self.skew < 0));
        }
        self.perform(Op::ServerUp);
        self.deliver();
        // Longer than every wait, back-off and lifetime.
        self.advance(Duration::from_mins(3), true);
        for caller in self.callers.values() {
            let waiting = caller.open && caller.told == 0;
            assert!(!waiting, "a waiter was never answered: {:?}", caller.want);
            if !caller.open {
                continue;
            }
            let granted = self.granted(&caller.who);
            if let Some(update) = &caller.x509 {
                assert_eq!(
                    granted.iter().map(|e| &e.id).collect::<Vec<_>>(),
                    update
                        .identities
                        .iter()
                        .map(|i| &i.entry)
                        .collect::<Vec<_>>()
                );
            }
        }
        for caller in self.callers.values().filter(|c| c.open) {
            let Some(update) = &caller.wits else { continue };
            let Want::WitSvids { spiffe_id } = &caller.want else {
                continue;
            };
            let granted: Vec<EntryId> = self
                .granted(&caller.who)
                .into_iter()
                .filter(|e| spiffe_id.as_ref().is_none_or(|id| *id == e.spiffe_id))
                .map(|e| e.id)
                .collect();
            let told: Vec<EntryId> = update.identities.iter().map(|i| i.entry.clone()).collect();
            assert_eq!(granted, told);
        }
        let (asked, wits_asked) = (self.asked, self.wits_asked);
        for _ in 0..120 {
            self.advance(Duration::from_secs(1), true);
            for caller in self.callers.values().filter(|c| c.open) {
                for identity in caller.wits.iter().flat_map(|u| &u.identities) {
                    let age = self.now.wall.since(identity.svid.issued_at);
                    assert!(age < X509_LIFE * 2 / 3, "not renewed in time: {age:?}");
                }
                for identity in caller.x509.iter().flat_map(|u| &u.identities) {
                    let age = self.now.wall.since(identity.svid.not_before);
                    assert!(age < X509_LIFE * 2 / 3, "not renewed in time: {age:?}");
                }
            }
        }
        // 120 s are less than six renewal periods of 60 s lives (half, minus skew and spread).
        let most = 7 * (self.node.entries.len() + self.names());
        assert!(
            self.asked - asked <= most,
            "{} > {most}",
            self.asked - asked
        );
        assert!(
            self.wits_asked - wits_asked <= most,
            "{} > {most} WIT-SVIDs",
            self.wits_asked - wits_asked
        );
        self.all_hang_up();
        self.advance(Duration::from_secs(61), true);
        assert_eq!(self.names(), 0, "names of callers that are gone are kept");
    }

    fn names(&self) -> usize {
        self.roster.stats().names
    }

    pub(crate) fn all_hang_up(&mut self) {
        let open = self.callers.iter().filter(|(_, caller)| caller.open);
        let open: Vec<CallId> = open.map(|(id, _)| *id).collect();
        for id in open {
            self.callers.get_mut(&id).unwrap().open = false;
            self.hear(Event::CallEnded(id));
        }
    }
}
