//! What an operator asks: why a caller has what it has, and what the node holds.
//!
//! Reads only; nothing here decides anything.

use std::collections::BTreeMap;

use muster_model::{
    EntryId, Revision, Rule, RuleName, Selector, SelectorSet, SerialNumber, SpiffeId, Timestamp,
    TrustDomain,
};
use muster_roll::naming::{self, NoName};

use crate::event::{SignFault, Who};
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::roster::{Link, Roster};

/// How an entry's X509-SVID stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Held, and served to whoever matches.
    Held,
    /// In the queue, or with the server.
    BeingSigned,
    /// The last attempt failed, for this reason, if it is known; the next one is set.
    Failed {
        /// So many in a row.
        failures: u32,
        /// Why the last one did.
        fault: Option<SignFault>,
    },
    /// Nobody asked for it, and the cache has no room or the entry is not to be fetched ahead.
    NotWanted,
    /// For an external store, not for the Workload API.
    StoredOutside,
}

/// What is known of the X509-SVID that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSvid {
    /// The leaf's serial number.
    pub serial: SerialNumber,
    /// End of validity.
    pub not_after: Timestamp,
    /// When it is renewed.
    pub renew_at: Timestamp,
}

/// An entry of the view, and how its X509-SVID stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The entry.
    pub entry: EntryId,
    /// The identity that it gives.
    pub spiffe_id: SpiffeId,
    /// Its hint, or empty.
    pub hint: String,
    /// What it asks of a caller.
    pub selectors: SelectorSet,
    /// How its SVID stands.
    pub standing: Standing,
    /// What is held.
    pub held: Option<HeldSvid>,
    /// Groups of callers that stream it.
    pub subscribers: usize,
}

/// A selector that an entry wants and a caller lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What is wanted.
    pub wanted: Selector,
    /// What the caller has under the same name: the same text up to the last colon.
    pub has: Vec<Selector>,
}

/// An entry that does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The entry.
    pub entry: EntryId,
    /// The identity that it would give.
    pub spiffe_id: SpiffeId,
    /// What the caller lacks; never empty.
    pub lacks: Vec<Lack>,
}

/// Why a rule gives a caller no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNamed {
    /// It comes to no name.
    #[error(transparent)]
    NoName(#[from] NoName),
    /// It comes to a name that an entry gives.
    #[error("the name would be {0}, which an entry gives")]
    OfAnEntry(SpiffeId),
    /// It comes to a name that an operator barred.
    #[error("the name would be {0}, which an operator barred")]
    Withheld(SpiffeId),
    /// The node has not been attested yet, and names depend on it.
    #[error("the node does not know its own name yet")]
    NodeUnknown,
}

impl NotNamed {
    /// The name that it comes to all the same.
    pub const fn name(&self) -> Option<&SpiffeId> {
        match self {
            Self::OfAnEntry(name) | Self::Withheld(name) => Some(name),
            Self::NoName(_) | Self::NodeUnknown => None,
        }
    }

    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoName(why) => why.reason(),
            Self::OfAnEntry(_) => "NAME_OF_ENTRY",
            Self::Withheld(_) => "NAME_WITHHELD",
            Self::NodeUnknown => "NODE_UNKNOWN",
        }
    }
}

/// A rule that gives a caller no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMiss {
    /// The rule.
    pub rule: RuleName,
    /// What the caller lacks of what it asks for; may be empty.
    pub lacks: Vec<Lack>,
    /// Why it gives none.
    pub why: NotNamed,
}

/// Why a caller has the identities it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Entries that match, by ascending ID, those for an external store included; then the names that
    /// rules give.
    pub matching: Vec<Identity>,
    /// Of those that match, entries whose hint an older entry has: they give nothing (WAPI-32).
    pub hint_taken: Vec<EntryId>,
    /// Entries that do not match, those that lack least first.
    pub nearest: Vec<Miss>,
    /// Rules that give nothing, those that lack least first.
    pub nearest_rules: Vec<RuleMiss>,
    /// Calls of callers with the same selectors that wait for their first answer.
    pub waiting: usize,
    /// Whether the stream from the server is open.
    pub connected: bool,
    /// Whether the view is what the server means.
    pub in_step: bool,
    /// The revision of the view.
    pub revision: Revision,
}

/// A bundle of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleStanding {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// Its sequence number.
    pub sequence_number: u64,
    /// How many X.509 authorities it has.
    pub x509_authorities: usize,
    /// How many JWT authorities it has.
    pub jwt_authorities: usize,
    /// How many of both are tainted.
    pub tainted: usize,
}

/// A cache and its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStanding {
    /// SVIDs held.
    pub held: usize,
    /// The bound.
    pub cap: usize,
    /// Entries that somebody streams.
    pub subscribed: usize,
}

/// What the node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The first entries, by ascending ID, and the first names that rules give.
    pub identities: Vec<Identity>,
    /// How many entries there are.
    pub entries: usize,
    /// How many rules there are.
    pub rules: usize,
    /// How many names they give now, those that were used a moment ago included.
    pub names: usize,
    /// The bundles, by trust domain.
    pub bundles: Vec<BundleStanding>,
    /// X509-SVIDs.
    pub x509: CacheStanding,
    /// JWT-SVIDs; nobody streams them.
    pub jwt: CacheStanding,
    /// WIT-SVIDs; none where the profile is off.
    pub wit: CacheStanding,
    /// The earliest end of validity of the SVIDs that are held.
    pub first_expiry: Option<Timestamp>,
}

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    /// Why a caller has what it has; lists at most `nearest` entries, and as many rules, that do not
    /// match.
    pub fn explain(&self, who: &Who, nearest: usize) -> Explanation {
        let selectors = &*who.selectors;
        let mut matching = Vec::new();
        let mut misses: Vec<(usize, &EntryId)> = Vec::new();
        for (id, entry) in &self.view.entries {
            let lacking = entry.selectors.iter().filter(|s| !selectors.contains(s));
            match lacking.count() {
                0 => matching.push(entry),
                lacking => misses.push((lacking, id)),
            }
        }
        misses.sort_unstable();
        let (named, nearest_rules) = self.explain_rules(who, nearest);
        let nearest = misses
            .iter()
            .take(nearest)
            .filter_map(|(_, id)| self.view.entries.get(*id))
            .map(|entry| Miss {
                entry: entry.id.clone(),
                spiffe_id: entry.spiffe_id.clone(),
                lacks: lacks(&entry.selectors, selectors),
            })
            .collect();

        // As the group of such callers decides it (WAPI-32).
        let mut oldest: BTreeMap<&str, (Timestamp, &EntryId)> = BTreeMap::new();
        let hinted = || {
            matching
                .iter()
                .filter(|e| !e.store_svid && !e.hint.is_empty())
        };
        for entry in hinted() {
            let best = oldest
                .entry(&entry.hint)
                .or_insert((entry.created_at, &entry.id));
            *best = (*best).min((entry.created_at, &entry.id));
        }
        let hint_taken = hinted()
            .filter(|e| oldest.get(e.hint.as_str()).is_some_and(|b| *b.1 != e.id))
            .map(|e| e.id.clone())
            .collect();
        Explanation {
            hint_taken,
            matching: matching
                .iter()
                .map(|e| self.identity(e))
                .chain(named)
                .collect(),
            nearest,
            nearest_rules,
            waiting: self.waiting_like(who),
            connected: self.link != Link::Down,
            in_step: self.link == Link::InStep,
            revision: self.view.revision,
        }
    }

    /// The names that rules give a caller, whether or not they are held, and the rules that give none.
    fn explain_rules(&self, who: &Who, nearest: usize) -> (Vec<Identity>, Vec<RuleMiss>) {
        let mut named = Vec::new();
        let mut misses = Vec::new();
        for rule in self.view.rules.values() {
            match self.try_rule(rule, who) {
                Ok(spiffe_id) => {
                    let entry = naming::entry(rule, spiffe_id);
                    named.extend(entry.map(|entry| self.identity(&entry)));
                }
                Err(why) => misses.push(RuleMiss {
                    rule: rule.name.clone(),
                    lacks: lacks(&rule.spec.selectors, &who.selectors),
                    why,
                }),
            }
        }
        misses.sort_by_key(|miss| miss.lacks.len());
        misses.truncate(nearest);
        (named, misses)
    }

    /// The identity that a rule, of the view or not, gives such a caller on this node now.
    pub fn try_rule(&self, rule: &Rule, who: &Who) -> Result<SpiffeId, NotNamed> {
        let node = self.view.derived.node().ok_or(NotNamed::NodeUnknown)?;
        let name = naming::derive(rule, &self.config.trust_domain, node, &who.facts())?;
        if self.view.withheld.contains(&name) {
            return Err(NotNamed::Withheld(name));
        }
        if !self.view.is_free(&name) {
            return Err(NotNamed::OfAnEntry(name));
        }
        Ok(name)
    }

    /// A rule of the view.
    pub fn rule(&self, name: &RuleName) -> Option<&Rule> {
        self.view.rules.get(name).map(AsRef::as_ref)
    }

    /// What the node holds; lists at most `limit` entries.
    pub fn inventory(&self, limit: usize) -> Inventory {
        Inventory {
            identities: self
                .view
                .entries
                .values()
                .chain(self.view.derived.entries())
                .take(limit)
                .map(|e| self.identity(e))
                .collect(),
            entries: self.view.entries.len(),
            rules: self.view.rules.len(),
            names: self.view.derived.len(),
            bundles: self
                .view
                .bundles
                .iter()
                .map(|(trust_domain, held)| {
                    let bundle = &held.bundle;
                    let x509 = bundle.x509_authorities.iter().filter(|a| a.tainted);
                    let jwt = bundle.jwt_authorities.iter().filter(|a| a.tainted);
                    BundleStanding {
                        trust_domain: trust_domain.clone(),
                        sequence_number: bundle.sequence_number,
                        x509_authorities: bundle.x509_authorities.len(),
                        jwt_authorities: bundle.jwt_authorities.len(),
                        tainted: x509.count() + jwt.count(),
                    }
                })
                .collect(),
            x509: CacheStanding {
                held: self.holdings.held(),
                cap: self.config.x509_cache_max,
                subscribed: self.holdings.subscribed(),
            },
            jwt: CacheStanding {
                held: self.tokens.held(),
                cap: self.config.jwt_cache_max,
                subscribed: 0,
            },
            wit: CacheStanding {
                held: self.wits.held(),
                cap: self.config.wit_cache_max.unwrap_or(0),
                subscribed: self.wits.subscribed(),
            },
            first_expiry: self
                .holdings
                .first_expiry()
                .into_iter()
                .chain(self.wits.first_expiry())
                .min(),
        }
    }

    fn identity(&self, entry: &muster_model::Entry) -> Identity {
        let (standing, held, subscribers) =
            self.holdings
                .standing(&entry.id)
                .unwrap_or(if entry.store_svid {
                    (Standing::StoredOutside, None, 0)
                } else {
                    (Standing::NotWanted, None, 0)
                });
        let held = held.map(|svid| HeldSvid {
            serial: svid.serial().clone(),
            not_after: svid.not_after(),
            renew_at: svid.renew_at(),
        });
        Identity {
            entry: entry.id.clone(),
            spiffe_id: entry.spiffe_id.clone(),
            hint: entry.hint.clone(),
            selectors: entry.selectors.clone(),
            standing,
            held,
            subscribers,
        }
    }
}

/// What is wanted and not there.
fn lacks(wanted: &SelectorSet, has: &SelectorSet) -> Vec<Lack> {
    let missing = wanted.iter().filter(|wanted| !has.contains(wanted));
    missing
        .map(|wanted| Lack {
            wanted: wanted.clone(),
            has: has
                .iter()
                .filter(|s| same_name(s, wanted))
                .cloned()
                .collect(),
        })
        .collect()
}

/// Whether two selectors are about the same thing: `unix:uid:0` and `unix:uid:1000` are.
fn same_name(a: &Selector, b: &Selector) -> bool {
    let name = |selector: &Selector| {
        let value = selector.value();
        value
            .split_once(':')
            .map_or(String::new(), |(name, _)| name.to_owned())
    };
    a.kind() == b.kind() && name(a) == name(b)
}
