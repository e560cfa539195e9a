//! The server's side: what it believes, what it sends and what it signs.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{
    Bundle, Entry, EntryId, JwtAuthority, Revision, Rule, SerialNumber, SpiffeId, Timestamp,
    WitAuthority, X509Authority,
};
use muster_roll::naming;
use muster_roster::{Event, NamingStep, SignFault, Step, ToSign, ViewDigest};

use crate::material::{Cert, Token, Wit};
use crate::world::{
    JWT_LIFE, Pending, SKEW, World, X509_LIFE, foreign, node, own, pick, selectors,
};

impl World {
    pub(crate) fn add_entry(&mut self, mask: u8, hint: u8, flags: u8) {
        let id = EntryId::parse(&format!("e{:03}", self.fresh() % 1000)).unwrap();
        self.server.revision += 1;
        let mask = if mask.is_multiple_of(16) {
            1
        } else {
            mask % 16
        };
        let entry = Entry {
            id: id.clone(),
            spiffe_id: own().with_path(&format!("/w{}", flags % 5)).unwrap(),
            parent_id: node(),
            selectors: selectors(mask),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: (flags & 8 != 0)
                .then(|| foreign(flags >> 4))
                .into_iter()
                .collect(),
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: vec![],
            store_svid: flags & 0xe0 == 0xe0,
            hint: if hint == 0 {
                String::new()
            } else {
                format!("h{hint}")
            },
            disable_x509_svid_prefetch: flags & 16 != 0,
            jwt_svid_include_jti: flags & 32 != 0,
            class: None,
            created_at: self.server_now().floor_to_second(),
            revision_number: 0,
            changed_at: Revision(self.server.revision),
            ordinal: self.server.revision,
        };
        self.server.entries.insert(id, entry);
    }

    pub(crate) fn update_entry(&mut self, which: u8, change: u8) {
        let Some(id) = pick(self.server.entries.keys().cloned(), which) else {
            return;
        };
        self.server.revision += 1;
        let entry = self.server.entries.get_mut(&id).unwrap();
        entry.revision_number += 1;
        match change % 7 {
            0 => entry.spiffe_id = own().with_path(&format!("/w{}", change % 5)).unwrap(),
            1 => entry.selectors = selectors((change / 7) % 15 + 1),
            2 => entry.hint = format!("h{}", change % 3),
            3 => entry.dns_names.push(format!("d{change}.test")),
            4 => entry.federates_with = [foreign(change)].into(),
            5 => entry.jwt_svid_ttl = Some(Duration::from_secs(change.into())),
            _ => entry.store_svid = !entry.store_svid,
        }
    }

    pub(crate) fn change_foreign(&mut self, which: u8) {
        self.server.revision += 1;
        let td = foreign(which);
        let sequence_number = self.fresh();
        let mut bundle = Bundle {
            sequence_number,
            ..Bundle::empty(td.clone())
        };
        match which % 3 {
            0 => {
                self.server.bundles.remove(&td);
                return;
            }
            // A domain with nothing usable in it.
            1 => {}
            _ => {
                bundle.x509_authorities.push(X509Authority {
                    der: sequence_number.to_be_bytes().into(),
                    expires_at: Timestamp::MAX,
                    tainted: false,
                });
                bundle.jwt_authorities.push(JwtAuthority {
                    key_id: sequence_number.to_string(),
                    public_key: Arc::new([]),
                    expires_at: None,
                    tainted: false,
                });
                bundle.wit_authorities.push(WitAuthority {
                    key_id: format!("wit{sequence_number}"),
                    public_key: sequence_number.to_be_bytes().into(),
                    expires_at: None,
                    tainted: false,
                });
            }
        }
        self.server.bundles.insert(td, bundle);
    }

    /// The step from what the node has to what the server has, as the server would send it.
    pub(crate) fn step(&self) -> Step {
        let (from, to) = (&self.node, &self.server);
        // Every third revision the server no longer knows the difference.
        let asked = self.roster.standing().0.0;
        let replace = asked == 0 || to.revision % 3 == 0;
        let has = |id| !replace && from.entries.get(id) == to.entries.get(id);
        let knows = |td| !replace && from.bundles.get(td) == to.bundles.get(td);
        let rules = to.rules.values();
        let new = |r: &&Rule| replace || from.rules.get(&r.name) != Some(*r);
        Step {
            revision: Revision(to.revision),
            replace,
            entries: to
                .entries
                .values()
                .filter(|e| !has(&e.id))
                .cloned()
                .collect(),
            removed_entries: from
                .entries
                .keys()
                .filter(|id| !to.entries.contains_key(*id))
                .cloned()
                .collect(),
            bundles: to
                .bundles
                .values()
                .filter(|b| !knows(&b.trust_domain))
                .cloned()
                .collect(),
            removed_bundles: from
                .bundles
                .keys()
                .filter(|td| !to.bundles.contains_key(*td))
                .cloned()
                .collect(),
            naming: NamingStep {
                rules: rules.filter(new).cloned().collect(),
                removed_rules: from
                    .rules
                    .keys()
                    .filter(|name| !to.rules.contains_key(*name))
                    .cloned()
                    .collect(),
                withheld: to
                    .withheld
                    .iter()
                    .filter(|name| replace || !from.withheld.contains(*name))
                    .cloned()
                    .collect(),
                released: from.withheld.difference(&to.withheld).cloned().collect(),
            },
            digest: to.digest(),
        }
    }

    /// The identity that the server signs: an entry's, or one that a rule comes to once more.
    fn identity_of(&mut self, asked: &ToSign) -> Result<SpiffeId, SignFault> {
        let Some(derived) = &asked.derived else {
            let entry = self.server.entries.get(&asked.entry);
            return Ok(entry.ok_or(SignFault::Refused)?.spiffe_id.clone());
        };
        let rule = self.server.rules.get(&derived.rule);
        let rule = rule.ok_or(SignFault::Refused)?;
        let name = naming::derive(rule, &own(), &node(), &derived.facts)
            .map_err(|_no_name| SignFault::Refused)?;
        let taken = self.server.entries.values().any(|e| e.spiffe_id == name);
        if name != asked.spiffe_id || taken || self.server.withheld.contains(&name) {
            return Err(SignFault::Refused);
        }
        let is_new = !self.given.contains(&name);
        if is_new && self.bound.is_some_and(|bound| self.given.len() >= bound) {
            return Err(SignFault::BoundReached);
        }
        self.given.insert(name.clone());
        Ok(name)
    }

    pub(crate) fn deliver(&mut self) {
        if self.up {
            let step = self.step();
            self.node = self.server.clone();
            self.forget_withdrawn();
            self.in_step = true;
            self.hear(Event::Step(step));
        }
    }

    /// A server that lies: its step must change nothing.
    pub(crate) fn garble(&mut self, how: u8) {
        if !self.up {
            return;
        }
        let mut step = self.step();
        match how % 4 {
            0 => step.digest = ViewDigest::from_bytes(&[how; 32]).unwrap(),
            1 if self.roster.standing().0.0 > 0 => step.revision = Revision(self.node.revision - 1),
            2 => step.bundles.push(Bundle::empty(own())),
            _ => {
                let Some(entry) = self.server.entries.values().next() else {
                    return;
                };
                step.entries.push(Entry {
                    spiffe_id: foreign(0).with_path("/w").unwrap(),
                    ..entry.clone()
                });
            }
        }
        self.in_step = false;
        self.up = false;
        self.hear(Event::Step(step));
        self.hear(Event::LinkDown);
    }

    pub(crate) fn answer_with(&mut self, pending: Pending, bad: u8) {
        match pending {
            Pending::X509(request, _) if !self.up || bad % 7 == 1 => {
                let fault = SignFault::Unavailable;
                self.hear(Event::X509SignFailed { request, fault });
            }
            Pending::X509(request, entries) => {
                let results = entries
                    .iter()
                    .enumerate()
                    // One answer leaves out an entry.
                    .filter(|(n, _)| bad % 7 != 2 || *n > 0)
                    .map(|(_, e)| (e.entry.clone(), self.sign_x509(e, bad)))
                    .collect();
                self.hear(Event::X509Signed { request, results });
            }
            Pending::Wit(request, _) if !self.up || bad % 7 == 1 => {
                let fault = SignFault::Unavailable;
                self.hear(Event::WitSignFailed { request, fault });
            }
            Pending::Wit(request, entries) => {
                let results = entries
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| bad % 7 != 2 || *n > 0)
                    .map(|(_, e)| (e.entry.clone(), self.sign_wit(e, bad)))
                    .collect();
                self.hear(Event::WitSigned { request, results });
            }
            Pending::Jwt(request, _, _) if !self.up || bad % 7 == 1 => {
                let result = Err(SignFault::Unavailable);
                self.hear(Event::JwtSigned { request, result });
            }
            Pending::Jwt(request, entry, audience) => {
                let result = self.sign_jwt(&entry, &audience, bad);
                self.hear(Event::JwtSigned { request, result });
            }
        }
    }

    fn sign_x509(&mut self, asked: &ToSign, bad: u8) -> Result<Arc<Cert>, SignFault> {
        let mut id = self.identity_of(asked)?;
        if self.denied.contains(&asked.entry) {
            return Err(SignFault::Denied);
        }
        let roots = &self.server.bundles[&own()].x509_authorities;
        let mut root = roots.iter().rfind(|a| !a.tainted).unwrap().der.clone();
        let mut life = X509_LIFE;
        match bad % 7 {
            3 => return Err(SignFault::Refused),
            4 => id = own().with_path("/someone-else").unwrap(),
            5 => root = Arc::new([0xff; 8]),
            6 => life = Duration::ZERO,
            _ => {}
        }
        let not_before = self.server_now().minus(SKEW);
        Ok(Arc::new(Cert {
            id,
            serial: SerialNumber::from_be_bytes(&self.fresh().to_be_bytes()),
            not_before,
            not_after: not_before.plus(life),
            root,
        }))
    }

    fn sign_wit(&mut self, asked: &ToSign, bad: u8) -> Result<Arc<Wit>, SignFault> {
        let mut id = self.identity_of(asked)?;
        let keys = &self.server.bundles[&own()].wit_authorities;
        let mut key_id = keys.iter().rfind(|a| !a.tainted).unwrap().key_id.clone();
        let mut life = X509_LIFE;
        match bad % 7 {
            3 => return Err(SignFault::Refused),
            4 => id = own().with_path("/someone-else").unwrap(),
            5 => key_id = "unknown".into(),
            6 => life = Duration::ZERO,
            _ => {}
        }
        let issued_at = self.server_now();
        Ok(Arc::new(Wit {
            id,
            token_id: self.fresh().to_string(),
            issued_at,
            expires_at: issued_at.plus(life),
            key_id,
        }))
    }

    fn sign_jwt(
        &mut self,
        asked: &ToSign,
        audience: &[String],
        bad: u8,
    ) -> Result<Arc<Token>, SignFault> {
        let id = self.identity_of(asked)?;
        let keys = &self.server.bundles[&own()].jwt_authorities;
        let mut token = Token {
            id,
            audience: audience.to_vec(),
            issued_at: self.server_now(),
            expires_at: self.server_now().plus(JWT_LIFE),
            key_id: keys.last().unwrap().key_id.clone(),
        };
        match bad % 7 {
            2 => token.audience.clear(),
            3 => return Err(SignFault::Refused),
            4 => token.id = own().with_path("/someone-else").unwrap(),
            5 => token.key_id = "unknown".into(),
            6 => token.expires_at = token.issued_at,
            _ => {}
        }
        Ok(Arc::new(token))
    }
}
