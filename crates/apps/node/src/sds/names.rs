//! From names to what they stand for.
//!
//! Pure: an [`Offer`] says what the caller may see, [`Rules`] say which names there are.

use std::collections::{BTreeMap, BTreeSet};

use muster_crypto::digest::{hex, sha256};
use muster_proto::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use prost_types::value::Kind;

/// The key in a proxy's metadata with which it chooses its validator.
const METADATA_KEY: &str = "disable_spiffe_cert_validation";

/// How trust is handed to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validator {
    /// Envoy's SPIFFE validator, with the authorities of each trust domain apart.
    Spiffe,
    /// One list of authorities.
    Plain,
}

/// Which names there are.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) svid: String,
    pub(crate) bundle: Option<String>,
    pub(crate) all_bundles: String,
    pub(crate) default_validator: Validator,
}

/// What a caller may see, without its substance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// SPIFFE ID and version, the default first.
    pub(crate) identities: Vec<(String, String)>,
    /// ID of the own trust domain.
    pub(crate) own: String,
    /// Version by ID of trust domain, the own among them.
    pub(crate) bundles: BTreeMap<String, String>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The identity of that place in the offer.
    Identity(usize),
    /// The bundle of the trust domain with that ID.
    Bundle(String),
    /// All bundles.
    AllBundles,
}

/// What stands behind a name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) what: What,
    pub(crate) validator: Validator,
    /// The same for the same content, on every stream and after a restart.
    pub(crate) version: String,
}

impl Rules {
    /// What `name` stands for; nothing if the caller may not see it, or if it is not there.
    pub(crate) fn find(&self, name: &str, offer: &Offer, validator: Validator) -> Option<Item> {
        let item = |what, version| Item {
            what,
            validator,
            version,
        };
        let identity = |n: usize| {
            let (_, version) = offer.identities.get(n)?;
            Some(item(What::Identity(n), version.clone()))
        };
        let bundle = |id: &str| {
            let version = bundle_version(validator, offer.bundles.get(id)?);
            Some(item(What::Bundle(id.to_owned()), version))
        };
        if name == self.svid {
            return identity(0);
        }
        if Some(name) == self.bundle.as_deref() {
            return bundle(&offer.own);
        }
        if name == self.all_bundles {
            // A plain list cannot say which authority is good for which trust domain: a foreign
            // authority could vouch for our own names. So the own bundle alone is listed there.
            return match validator {
                Validator::Plain => bundle(&offer.own),
                Validator::Spiffe if offer.bundles.is_empty() => None,
                Validator::Spiffe => {
                    let mut text = String::new();
                    for (id, version) in &offer.bundles {
                        text.extend([id, " ", version, "\n"]);
                    }
                    let version = bundle_version(validator, &version_of(text.as_bytes()));
                    Some(item(What::AllBundles, version))
                }
            };
        }
        // Of two entries with the same SPIFFE ID the first counts.
        match offer.identities.iter().position(|(id, _)| id == name) {
            Some(n) => identity(n),
            None => bundle(name),
        }
    }

    /// What stands behind each of `names` that is there, or behind all that there is.
    pub(crate) fn find_all(
        &self,
        names: &BTreeSet<String>,
        everything: Everything,
        offer: &Offer,
        validator: Validator,
    ) -> BTreeMap<String, Item> {
        let all = (everything == Everything::Wanted)
            .then(|| {
                let ids = offer.identities.iter().map(|(id, _)| id);
                ids.chain(offer.bundles.keys())
            })
            .into_iter()
            .flatten();
        names
            .iter()
            .chain(all)
            .filter_map(|name| Some((name.clone(), self.find(name, offer, validator)?)))
            .collect()
    }

    /// The validator for a proxy: its own word, its age, or the configuration.
    pub(crate) fn validator(&self, node: &Node) -> Validator {
        if is_before_1_18(node) {
            return Validator::Plain;
        }
        let said = node
            .metadata
            .as_ref()
            .and_then(|m| m.fields.get(METADATA_KEY))
            .and_then(|value| match &value.kind {
                Some(Kind::BoolValue(disabled)) => Some(*disabled),
                // The words that SPIRE takes.
                Some(Kind::StringValue(text)) => match text.as_str() {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
                    _ => None,
                },
                _ => None,
            });
        match said {
            Some(true) => Validator::Plain,
            Some(false) => Validator::Spiffe,
            None => self.default_validator,
        }
    }
}

/// Whether everything is wanted besides what is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Everything {
    Wanted,
    NotWanted,
}

/// A version of content: part of its digest. The content is public: certificates, never keys.
pub(crate) fn version_of(content: &[u8]) -> String {
    let mut text = hex(&sha256(content));
    text.truncate(32);
    text
}

fn bundle_version(validator: Validator, version: &str) -> String {
    match validator {
        Validator::Spiffe => format!("s{version}"),
        Validator::Plain => format!("p{version}"),
    }
}

/// Envoy has its SPIFFE validator since 1.18.
fn is_before_1_18(node: &Node) -> bool {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .is_some_and(|v| (v.major_number, v.minor_number) < (1, 18)),
        Some(UserAgentVersionType::UserAgentVersion(_)) | None => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use muster_proto::envoy::config::core::v3::{BuildVersion, build_version::SemanticVersion};
    use prost_types::{Struct, Value};

    use super::*;

    pub(crate) fn rules() -> Rules {
        Rules {
            svid: "default".into(),
            bundle: Some("ROOTCA".into()),
            all_bundles: "ALL".into(),
            default_validator: Validator::Spiffe,
        }
    }

    pub(crate) fn offer(identities: &[(&str, &str)], bundles: &[(&str, &str)]) -> Offer {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
            pairs.iter().map(pair).collect()
        };
        Offer {
            identities: own(identities),
            own: "spiffe://a".into(),
            bundles: own(bundles).into_iter().collect(),
        }
    }

    #[test]
    fn any_mix_of_names_is_found() {
        let offer = offer(
            &[
                ("spiffe://a/x", "1"),
                ("spiffe://a/y", "2"),
                ("spiffe://a/x", "3"),
            ],
            &[("spiffe://a", "4"), ("spiffe://b", "5")],
        );
        let find = |name: &str, validator| {
            rules()
                .find(name, &offer, validator)
                .map(|item| (item.what, item.version))
        };
        let check = |name: &str, what: Option<(What, &str)>| {
            let what = what.map(|(what, version)| (what, version.to_owned()));
            assert_eq!(find(name, Validator::Spiffe), what, "{name}");
        };
        check("default", Some((What::Identity(0), "1")));
        check("spiffe://a/x", Some((What::Identity(0), "1")));
        check("spiffe://a/y", Some((What::Identity(1), "2")));
        check("ROOTCA", Some((What::Bundle("spiffe://a".into()), "s4")));
        check(
            "spiffe://b",
            Some((What::Bundle("spiffe://b".into()), "s5")),
        );
        for unknown in ["", "all", "a", "spiffe://c", "spiffe://a/z", "file-root:/x"] {
            check(unknown, None);
        }
        assert_eq!(find("ALL", Validator::Spiffe).unwrap().0, What::AllBundles);
        // A foreign authority must not vouch for our own names.
        assert_eq!(
            find("ALL", Validator::Plain).unwrap().0,
            What::Bundle("spiffe://a".into())
        );
    }

    #[test]
    fn the_version_of_all_follows_what_it_is_made_of() {
        let version = |bundles: &[(&str, &str)]| {
            let offer = offer(&[], bundles);
            rules()
                .find("ALL", &offer, Validator::Spiffe)
                .unwrap()
                .version
        };
        let one = version(&[("spiffe://a", "1")]);
        let two = version(&[("spiffe://a", "1"), ("spiffe://b", "1")]);
        assert_ne!(one, two);
        assert_eq!(one, version(&[("spiffe://a", "1")]));
    }

    #[test]
    fn the_validator_is_chosen_per_proxy() {
        let check = |version: Option<(u32, u32)>, said: Option<Kind>, expected| {
            let node = Node {
                metadata: said.clone().map(|kind| Struct {
                    fields: [(METADATA_KEY.to_owned(), Value { kind: Some(kind) })].into(),
                }),
                user_agent_version_type: version.map(|(major_number, minor_number)| {
                    UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
                        version: Some(SemanticVersion {
                            major_number,
                            minor_number,
                            patch: 0,
                        }),
                    })
                }),
                ..Node::default()
            };
            assert_eq!(rules().validator(&node), expected, "{version:?} {said:?}");
        };
        check(None, None, Validator::Spiffe);
        check(Some((1, 17)), None, Validator::Plain);
        check(Some((1, 18)), None, Validator::Spiffe);
        check(Some((2, 0)), None, Validator::Spiffe);
        check(None, Some(Kind::BoolValue(true)), Validator::Plain);
        check(
            None,
            Some(Kind::StringValue("true".into())),
            Validator::Plain,
        );
        check(
            None,
            Some(Kind::StringValue("yes".into())),
            Validator::Spiffe,
        );
        check(None, Some(Kind::NumberValue(1.0)), Validator::Spiffe);
    }
}
