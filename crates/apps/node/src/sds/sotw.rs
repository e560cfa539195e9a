//! The state-of-the-world protocol (StreamSecrets), without I/O.
//!
//! [`Sotw::hear`] takes a request, [`Sotw::answer`] what the caller may see now; call the latter
//! after each change of either. Spurious calls do nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_proto::envoy::service::discovery::v3::DiscoveryRequest;

use super::machine::{
    Answer, Fault, Nonces, Note, Relation, Unknown, WILDCARD, check_names, check_type,
};
use super::names::{Everything, Item, Offer, Rules, Validator, version_of};
use super::withdrawn;

/// One stream.
#[derive(Debug)]
pub(crate) struct Sotw {
    rules: Arc<Rules>,
    validator: Validator,
    /// What is wanted, from the first request on; no names are all that there are.
    wanted: Option<BTreeSet<String>>,
    /// The names changed: an answer is due even if it says what the last one did.
    asked: bool,
    sent: BTreeMap<String, String>,
    nonces: Nonces,
    unknown: Unknown,
}

impl Sotw {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self {
            validator: rules.default_validator,
            rules,
            wanted: None,
            asked: false,
            sent: BTreeMap::new(),
            nonces: Nonces::default(),
            unknown: Unknown::default(),
        }
    }

    /// Takes a request: the first, an acknowledgement, a rejection, or a change of names.
    pub(crate) fn hear(&mut self, request: DiscoveryRequest) -> Result<Option<Note>, Fault> {
        check_type(&request.type_url)?;
        let note = match self.nonces.relation(&request.response_nonce) {
            // The proxy will say it again when it has read the last answer.
            Relation::Stale => return Ok(Some(Note::Stale)),
            Relation::Opening => None,
            Relation::Last => self.nonces.settle(request.error_detail.as_ref()),
        };
        if let Some(node) = &request.node {
            self.validator = self.rules.validator(node);
        }
        let names = check_names(request.resource_names)?;
        if self.wanted.as_ref() != Some(&names) {
            self.wanted = Some(names);
            self.asked = true;
        }
        Ok(note)
    }

    /// The answer that is due, if one is, and what is to be noted.
    pub(crate) fn answer(&mut self, offer: &Offer) -> (Option<Answer>, Option<Note>) {
        let Some(wanted) = &self.wanted else {
            return (None, None);
        };
        let items = find(&self.rules, wanted, offer, self.validator);
        let unknown = wanted
            .iter()
            .filter(|name| *name != WILDCARD && !items.contains_key(*name))
            .cloned()
            .collect();
        let note = self.unknown.note(unknown);
        let versions: BTreeMap<String, String> = items
            .iter()
            .map(|(name, item)| (name.clone(), item.version.clone()))
            .collect();
        if versions == self.sent && !self.asked {
            return (None, note);
        }
        let lost = self
            .sent
            .keys()
            .any(|name| is_for_all(wanted) || wanted.contains(name));
        self.asked = false;
        self.sent = versions;
        if items.is_empty() && !lost {
            // There is nothing, and the proxy knows of nothing: it waits, as the protocol has it.
            return (None, note);
        }
        let answer = Answer {
            version: version(&self.sent),
            nonce: self.nonces.next(),
            items: items.into_iter().collect(),
            removed: Vec::new(),
        };
        (Some(answer), note)
    }

    /// The last answer of a stream whose caller has lost what `offer` was: every name that the
    /// proxy was given, to be replaced. None if it was given nothing.
    pub(crate) fn withdraw(&mut self, offer: &Offer) -> Option<Answer> {
        let items = find(&self.rules, self.wanted.as_ref()?, offer, self.validator);
        let given = std::mem::take(&mut self.sent);
        replaced(items, &given, &mut self.nonces)
    }
}

/// An answer that says of each item that was given that it is withdrawn.
pub(super) fn replaced(
    items: BTreeMap<String, Item>,
    given: &BTreeMap<String, String>,
    nonces: &mut Nonces,
) -> Option<Answer> {
    let items: Vec<_> = items
        .into_iter()
        .filter(|(name, _)| given.contains_key(name))
        .map(|(name, item)| {
            let version = withdrawn::VERSION.to_owned();
            (name, Item { version, ..item })
        })
        .collect();
    (!items.is_empty()).then(|| Answer {
        version: withdrawn::VERSION.to_owned(),
        nonce: nonces.next(),
        items,
        removed: Vec::new(),
    })
}

/// The one answer to FetchSecrets, and the names that are not in it.
pub(crate) fn once(
    rules: &Rules,
    request: DiscoveryRequest,
    offer: &Offer,
) -> Result<(Answer, Option<Note>), Fault> {
    check_type(&request.type_url)?;
    let validator = match &request.node {
        Some(node) => rules.validator(node),
        None => rules.default_validator,
    };
    let wanted = check_names(request.resource_names)?;
    let items = find(rules, &wanted, offer, validator);
    let unknown = wanted
        .into_iter()
        .filter(|name| name != WILDCARD && !items.contains_key(name))
        .collect();
    let versions = items
        .iter()
        .map(|(name, item)| (name.clone(), item.version.clone()))
        .collect();
    let answer = Answer {
        version: version(&versions),
        nonce: String::new(),
        items: items.into_iter().collect(),
        removed: Vec::new(),
    };
    Ok((answer, Unknown::default().note(unknown)))
}

/// Whether all that there is is wanted: no name is named, or the one that stands for all.
fn is_for_all(wanted: &BTreeSet<String>) -> bool {
    wanted.is_empty() || wanted.contains(WILDCARD)
}

fn find(
    rules: &Rules,
    wanted: &BTreeSet<String>,
    offer: &Offer,
    validator: Validator,
) -> BTreeMap<String, Item> {
    let everything = if is_for_all(wanted) {
        Everything::Wanted
    } else {
        Everything::NotWanted
    };
    rules.find_all(wanted, everything, offer, validator)
}

/// The version of a whole answer.
pub(crate) fn version(versions: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, version) in versions {
        text.extend([name, " ", version, "\n"]);
    }
    version_of(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use muster_proto::google::rpc::Status;

    use super::super::names::tests::{offer, rules};
    use super::*;

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    fn names(answer: &(Option<Answer>, Option<Note>)) -> Vec<&str> {
        let answer = answer.0.as_ref().expect("an answer");
        answer.items.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_rejection_is_noted_once_and_nothing_is_sent_again() {
        let mut stream = Sotw::new(Arc::new(rules()));
        let first = offer(&[("spiffe://a/x", "1")], &[("spiffe://a", "1")]);
        assert_eq!(stream.answer(&first), (None, None));
        stream.hear(request(&["default"], "")).unwrap();
        assert_eq!(names(&stream.answer(&first)), ["default"]);
        let rejection = DiscoveryRequest {
            error_detail: Some(Status {
                code: 3,
                message: "bad".into(),
            }),
            ..request(&["default"], "1")
        };
        let noted = stream.hear(rejection.clone()).unwrap();
        assert_eq!(noted, Some(Note::Rejected("bad".into())));
        assert_eq!(stream.answer(&first), (None, None));
        assert_eq!(stream.hear(rejection).unwrap(), None);
        let second = offer(&[("spiffe://a/x", "2")], &[("spiffe://a", "1")]);
        assert_eq!(names(&stream.answer(&second)), ["default"]);
        // Stale: it answers to the first, and its names count for nothing.
        assert_eq!(
            stream.hear(request(&["ROOTCA"], "1")).unwrap(),
            Some(Note::Stale)
        );
        assert_eq!(stream.answer(&second), (None, None));
        stream.hear(request(&["ROOTCA", "default"], "2")).unwrap();
        assert_eq!(names(&stream.answer(&second)), ["ROOTCA", "default"]);
    }

    #[test]
    fn an_unknown_name_is_answered_alone() {
        let mut stream = Sotw::new(Arc::new(rules()));
        let poor = offer(&[("spiffe://a/x", "1")], &[("spiffe://a", "1")]);
        let rich = offer(
            &[("spiffe://a/x", "1")],
            &[("spiffe://a", "1"), ("spiffe://b", "1")],
        );
        stream
            .hear(request(&["default", "spiffe://b"], ""))
            .unwrap();
        let answer = stream.answer(&poor);
        assert_eq!(names(&answer), ["default"]);
        assert_eq!(answer.1, Some(Note::Unknown(vec!["spiffe://b".into()])));
        assert_eq!(names(&stream.answer(&rich)), ["default", "spiffe://b"]);
        assert_eq!(names(&stream.answer(&poor)), ["default"]);
    }

    #[test]
    fn a_star_is_all_that_there_is_beside_what_is_named() {
        let mut stream = Sotw::new(Arc::new(rules()));
        let now = offer(&[("spiffe://a/x", "1")], &[("spiffe://a", "1")]);
        stream.hear(request(&["*", "default"], "")).unwrap();
        let answer = stream.answer(&now);
        assert_eq!(names(&answer), ["default", "spiffe://a", "spiffe://a/x"]);
        assert_eq!(answer.1, None);
        let (once, note) = once(&rules(), request(&["*"], ""), &now).unwrap();
        assert_eq!((once.items.len(), note), (2, None));
    }

    #[test]
    fn nothing_is_not_sent_to_who_has_nothing_and_is_to_who_had_something() {
        let mut stream = Sotw::new(Arc::new(rules()));
        let poor = offer(&[], &[("spiffe://a", "1")]);
        let rich = offer(&[], &[("spiffe://a", "1"), ("spiffe://b", "1")]);
        stream.hear(request(&["spiffe://b"], "")).unwrap();
        assert_eq!(stream.answer(&poor).0, None);
        assert_eq!(names(&stream.answer(&rich)), ["spiffe://b"]);
        assert!(names(&stream.answer(&poor)).is_empty());
        assert_eq!(stream.answer(&poor).0, None);
    }

    #[test]
    fn what_no_stream_takes() {
        let fresh = || Sotw::new(Arc::new(rules()));
        let foreign = DiscoveryRequest {
            type_url: "type.googleapis.com/x".into(),
            ..DiscoveryRequest::default()
        };
        assert!(matches!(fresh().hear(foreign), Err(Fault::ForeignType(_))));
        let many: Vec<String> = (0..1025).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(fresh().hear(request(&many, "")), Err(Fault::TooManyNames));
        let long = "x".repeat(2049);
        assert_eq!(
            fresh().hear(request(&[&long], "")),
            Err(Fault::LongName(2049))
        );
    }
}
