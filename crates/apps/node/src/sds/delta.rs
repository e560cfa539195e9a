//! The incremental protocol (DeltaSecrets), without I/O.
//!
//! [`Delta::hear`] takes a request, [`Delta::answer`] what the caller may see now; call the latter
//! after each change of either. Spurious calls do nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::machine::{
    Answer, Fault, NAMES_MAX, Nonces, Note, Relation, Unknown, WILDCARD, check_names, check_type,
};
use super::names::{Everything, Offer, Rules, Validator};
use super::sotw::{replaced, version};

/// One stream.
#[derive(Debug)]
pub(crate) struct Delta {
    rules: Arc<Rules>,
    validator: Validator,
    opened: bool,
    everything: Everything,
    names: BTreeSet<String>,
    /// What the proxy has, by name: version.
    known: BTreeMap<String, String>,
    /// Names that the proxy was told are not there.
    told_absent: BTreeSet<String>,
    nonces: Nonces,
    unknown: Unknown,
}

impl Delta {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self {
            validator: rules.default_validator,
            rules,
            opened: false,
            everything: Everything::NotWanted,
            names: BTreeSet::new(),
            known: BTreeMap::new(),
            told_absent: BTreeSet::new(),
            nonces: Nonces::default(),
            unknown: Unknown::default(),
        }
    }

    /// Takes a request. Changes of names count whatever the nonce says: they are changes, not
    /// states, and are said only once.
    pub(crate) fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<Note>, Fault> {
        check_type(&request.type_url)?;
        let note = match self.nonces.relation(&request.response_nonce) {
            Relation::Last => self.nonces.settle(request.error_detail.as_ref()),
            // A change of names on its own has no nonce.
            Relation::Stale if !request.response_nonce.is_empty() => Some(Note::Stale),
            Relation::Stale | Relation::Opening => None,
        };
        if let Some(node) = &request.node {
            self.validator = self.rules.validator(node);
        }
        let subscribe = check_names(request.resource_names_subscribe)?;
        if self.opened {
            // Who subscribes again wants it again.
            for name in &subscribe {
                self.forget(name);
            }
        } else {
            self.opened = true;
            if subscribe.is_empty() {
                self.everything = Everything::Wanted;
            }
            if request.initial_resource_versions.len() > NAMES_MAX {
                return Err(Fault::TooManyNames);
            }
            self.known = request.initial_resource_versions.into_iter().collect();
        }
        for name in subscribe {
            if name == WILDCARD {
                self.everything = Everything::Wanted;
            } else {
                self.names.insert(name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.everything = Everything::NotWanted;
                let names = &self.names;
                self.known.retain(|known, _| names.contains(known));
            } else {
                self.names.remove(&name);
                self.forget(&name);
            }
        }
        if self.names.len() > NAMES_MAX {
            return Err(Fault::TooManyNames);
        }
        Ok(note)
    }

    fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.told_absent.remove(name);
    }

    /// The answer that is due, if one is, and what is to be noted.
    pub(crate) fn answer(&mut self, offer: &Offer) -> (Option<Answer>, Option<Note>) {
        if !self.opened {
            return (None, None);
        }
        let there = self
            .rules
            .find_all(&self.names, self.everything, offer, self.validator);
        let absent: BTreeSet<String> = self
            .names
            .iter()
            .filter(|name| !there.contains_key(*name))
            .cloned()
            .collect();
        let gone = self.known.keys().filter(|name| !there.contains_key(*name));
        let removed: BTreeSet<String> = gone
            .chain(absent.difference(&self.told_absent))
            .cloned()
            .collect();
        let versions: BTreeMap<String, String> = there
            .iter()
            .map(|(name, item)| (name.clone(), item.version.clone()))
            .collect();
        let items: Vec<_> = there
            .into_iter()
            .filter(|(name, item)| self.known.get(name) != Some(&item.version))
            .collect();
        self.known = versions;
        self.told_absent.clone_from(&absent);
        let note = self.unknown.note(absent);
        if items.is_empty() && removed.is_empty() {
            return (None, note);
        }
        let answer = Answer {
            version: version(&self.known),
            nonce: self.nonces.next(),
            items,
            removed: removed.into_iter().collect(),
        };
        (Some(answer), note)
    }

    /// The last answer of a stream whose caller has lost what `offer` was: every name that the
    /// proxy has, to be replaced. None if it has nothing.
    pub(crate) fn withdraw(&mut self, offer: &Offer) -> Option<Answer> {
        let items = self
            .rules
            .find_all(&self.names, self.everything, offer, self.validator);
        let given = std::mem::take(&mut self.known);
        replaced(items, &given, &mut self.nonces)
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::envoy::service::discovery::v3::DiscoveryRequest;
    use muster_proto::google::rpc::Status;
    use proptest::prelude::*;

    use super::super::names::tests::{offer, rules};
    use super::super::sotw::Sotw;
    use super::*;

    fn request(add: &[&str], remove: &[&str]) -> DeltaDiscoveryRequest {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        DeltaDiscoveryRequest {
            resource_names_subscribe: own(add),
            resource_names_unsubscribe: own(remove),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn said(answer: (Option<Answer>, Option<Note>)) -> (Vec<String>, Vec<String>) {
        let answer = answer.0.expect("an answer");
        let names = answer.items.into_iter().map(|(name, _)| name).collect();
        (names, answer.removed)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn only_what_differs_is_sent_and_what_is_gone_is_removed() {
        let poor = offer(&[("spiffe://a/x", "1")], &[("spiffe://a", "1")]);
        let rich = offer(
            &[("spiffe://a/x", "1")],
            &[("spiffe://a", "1"), ("spiffe://b", "1")],
        );
        let mut stream = Delta::new(Arc::new(rules()));
        stream
            .hear(request(&["default", "spiffe://b", "ALL"], &[]))
            .unwrap();
        assert_eq!(
            said(stream.answer(&poor)),
            (words(&["ALL", "default"]), words(&["spiffe://b"]))
        );
        assert_eq!(stream.answer(&poor).0, None);
        assert_eq!(
            said(stream.answer(&rich)),
            (words(&["ALL", "spiffe://b"]), vec![])
        );
        assert_eq!(
            said(stream.answer(&poor)),
            (words(&["ALL"]), words(&["spiffe://b"]))
        );
        // Subscribed again: sent again.
        stream.hear(request(&["default"], &["ALL"])).unwrap();
        assert_eq!(said(stream.answer(&rich)).0, ["default", "spiffe://b"]);
    }

    #[test]
    fn a_reconnect_sends_only_what_differs() {
        let now = offer(&[("spiffe://a/x", "2")], &[("spiffe://a", "1")]);
        let mut stream = Delta::new(Arc::new(rules()));
        let versions = [("default", "1"), ("ROOTCA", "s1"), ("spiffe://b", "s1")];
        stream
            .hear(DeltaDiscoveryRequest {
                initial_resource_versions: versions
                    .map(|(name, version)| (name.to_owned(), version.to_owned()))
                    .into(),
                ..request(&["default", "ROOTCA", "spiffe://b"], &[])
            })
            .unwrap();
        assert_eq!(
            said(stream.answer(&now)),
            (words(&["default"]), words(&["spiffe://b"]))
        );
    }

    #[test]
    fn a_rejection_is_noted_once_and_nothing_is_sent_again() {
        let now = offer(&[("spiffe://a/x", "1")], &[("spiffe://a", "1")]);
        let mut stream = Delta::new(Arc::new(rules()));
        stream.hear(request(&[], &[])).unwrap();
        assert_eq!(said(stream.answer(&now)).0, ["spiffe://a", "spiffe://a/x"]);
        let rejection = DeltaDiscoveryRequest {
            response_nonce: "1".into(),
            error_detail: Some(Status {
                code: 3,
                message: "bad".into(),
            }),
            ..request(&[], &[])
        };
        let noted = stream.hear(rejection.clone()).unwrap();
        assert_eq!(noted, Some(Note::Rejected("bad".into())));
        assert_eq!(stream.hear(rejection).unwrap(), None);
        assert_eq!(stream.answer(&now), (None, None));
    }

    const NAMES: [&str; 8] = [
        "default",
        "ROOTCA",
        "ALL",
        "spiffe://a",
        "spiffe://b",
        "spiffe://a/x",
        "nobody",
        "*",
    ];

    #[derive(Clone, Debug)]
    enum Step {
        Ask(Vec<usize>, Vec<usize>, u64, bool),
        Offer(u8, u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let some = || prop::collection::vec(0..NAMES.len(), 0..4);
        let ask = (some(), some(), 0..6_u64, any::<bool>())
            .prop_map(|(add, remove, nonce, bad)| Step::Ask(add, remove, nonce, bad));
        let offer = (0..3_u8, 0..3_u8).prop_map(|(x, b)| Step::Offer(x, b));
        prop::collection::vec(prop_oneof![ask, offer], 1..40)
    }

    fn offer_of(x: u8, b: u8) -> Offer {
        let (x, b) = (x.to_string(), b.to_string());
        let mut bundles = vec![("spiffe://a", "1")];
        if b != "0" {
            bundles.push(("spiffe://b", &b));
        }
        offer(&[("spiffe://a/x", &x)], &bundles)
    }

    fn pick(places: &[usize]) -> Vec<String> {
        places.iter().map(|n| NAMES[*n].to_owned()).collect()
    }

    proptest! {
        /// Whatever is asked, a proxy that does as it is told ends with exactly what it
        /// subscribed to and may see, and nothing is sent twice.
        #[test]
        fn a_proxy_has_what_it_may_see(steps in steps()) {
            let mut stream = Delta::new(Arc::new(rules()));
            let mut has: BTreeMap<String, String> = BTreeMap::new();
            let mut now = offer_of(1, 0);
            for step in steps {
                match step {
                    Step::Offer(x, b) => now = offer_of(x, b),
                    Step::Ask(add, remove, nonce, bad) => {
                        let request = DeltaDiscoveryRequest {
                            resource_names_subscribe: pick(&add),
                            resource_names_unsubscribe: pick(&remove),
                            response_nonce: nonce.to_string(),
                            error_detail: bad.then(Status::default),
                            ..DeltaDiscoveryRequest::default()
                        };
                        prop_assert!(stream.hear(request).is_ok());
                    }
                }
                if let Some(answer) = stream.answer(&now).0 {
                    for (name, item) in answer.items {
                        has.insert(name, item.version);
                    }
                    for name in answer.removed {
                        has.remove(&name);
                    }
                }
                prop_assert_eq!(stream.answer(&now).0, None);
                // Who unsubscribes forgets by itself.
                let everything = stream.everything == Everything::Wanted;
                has.retain(|name, _| stream.names.contains(name) || (everything && name.starts_with("spiffe://")));
                let expected: BTreeMap<String, String> = rules()
                    .find_all(&stream.names, stream.everything, &now, Validator::Spiffe)
                    .into_iter()
                    .map(|(name, item)| (name, item.version))
                    .collect();
                if stream.opened {
                    prop_assert_eq!(&has, &expected);
                }
            }
        }

        /// The same for the state of the world.
        #[test]
        fn the_state_of_the_world_is_the_last_answer(steps in steps()) {
            let mut stream = Sotw::new(Arc::new(rules()));
            let mut now = offer_of(1, 0);
            let mut nonce = String::new();
            let mut wanted = None;
            let mut has = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Offer(x, b) => now = offer_of(x, b),
                    Step::Ask(names, _, stale, bad) => {
                        let names = pick(&names);
                        // Some requests answer to an answer that is not the last.
                        let is_stale = stale == 0 && !nonce.is_empty();
                        let request = DiscoveryRequest {
                            resource_names: names.clone(),
                            response_nonce: if is_stale { "old".into() } else { nonce.clone() },
                            error_detail: bad.then(Status::default),
                            ..DiscoveryRequest::default()
                        };
                        let note = stream.hear(request).unwrap();
                        prop_assert_eq!(note == Some(Note::Stale), is_stale);
                        if !is_stale {
                            wanted = Some(names.into_iter().collect::<BTreeSet<_>>());
                        }
                    }
                }
                if let Some(answer) = stream.answer(&now).0 {
                    nonce = answer.nonce;
                    has = answer.items.into_iter().map(|(name, item)| (name, item.version)).collect();
                }
                prop_assert_eq!(stream.answer(&now).0, None);
                if let Some(names) = &wanted {
                    let is_for_all = names.is_empty() || names.contains(WILDCARD);
                    let everything = if is_for_all { Everything::Wanted } else { Everything::NotWanted };
                    let expected: BTreeMap<String, String> = rules()
                        .find_all(names, everything, &now, Validator::Spiffe)
                        .into_iter()
                        .map(|(name, item)| (name, item.version))
                        .collect();
                    if !expected.is_empty() {
                        prop_assert_eq!(&has, &expected);
                    }
                }
            }
        }
    }
}
