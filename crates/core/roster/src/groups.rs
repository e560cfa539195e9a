//! Groups of calls whose callers were attested alike: they match the same entries and get the
//! same answers, which are made once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_model::{Entry, EntryId, Now, SpiffeId, TrustDomain};

use crate::event::{
    CallId, Encoded, JwtBundles, Scope, Who, WitBundles, X509Bundles, X509Identity, X509Update,
};
use crate::holdings::Holdings;
use crate::kinds::X509Kind;
use crate::material::X509Material;
use crate::view::View;
use crate::wit::WitLanes;

/// A group's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(pub(crate) u64);

/// What a group is to be told.
pub(crate) enum Outlook<U> {
    /// Nothing matches.
    Miss,
    /// Something matches, and not all of it is there. What is there, if anything.
    Partial(Option<Arc<U>>),
    /// Everything is there.
    Full(Arc<U>),
}

impl<U> Clone for Outlook<U> {
    fn clone(&self) -> Self {
        match self {
            Self::Miss => Self::Miss,
            Self::Partial(update) => Self::Partial(update.clone()),
            Self::Full(update) => Self::Full(update.clone()),
        }
    }
}

/// A group of calls.
pub(crate) struct Group<X, W> {
    /// What its callers have in common, and nobody else has.
    pub(crate) who: Who,
    /// Which entries count.
    pub(crate) scope: Scope,
    /// Entries that apply to the group's callers, and names that rules give them.
    pub(crate) matches: BTreeSet<EntryId>,
    /// Names that rules would give them, were they free.
    pub(crate) passed_over: Vec<SpiffeId>,
    pub(crate) calls: BTreeSet<CallId>,
    /// How many of the calls stream X509-SVIDs.
    pub(crate) x509_calls: usize,
    /// Whether the group waited long enough for its last missing SVID: it is told what is there.
    pub(crate) settled: bool,
    /// The outlooks, until something that they depend on changes.
    x509: Option<Outlook<X509Update<X>>>,
    /// The last full or partial update: an equal one is the same one, so that streams see by
    /// pointer that nothing is new.
    x509_last: Option<Arc<X509Update<X>>>,
    bundles: Option<BundlesOutlook>,
    x509_bundles_last: Option<Arc<X509Bundles>>,
    jwt_bundles_last: Option<Arc<JwtBundles>>,
    wit_bundles_last: Option<Arc<WitBundles>>,
    /// What streams of WIT-SVIDs are to be told.
    pub(crate) wits: WitLanes<W>,
}

/// What streams of bundles are to be told.
#[derive(Clone)]
pub(crate) struct BundlesOutlook {
    pub(crate) x509: Outlook<X509Bundles>,
    pub(crate) jwt: Outlook<JwtBundles>,
    pub(crate) wit: Outlook<WitBundles>,
}

impl<X: X509Material, W> Group<X, W> {
    pub(crate) fn new(who: Who, scope: Scope, matches: BTreeSet<EntryId>) -> Self {
        Self {
            who,
            scope,
            matches,
            passed_over: Vec::new(),
            calls: BTreeSet::new(),
            x509_calls: 0,
            settled: false,
            x509: None,
            x509_last: None,
            bundles: None,
            x509_bundles_last: None,
            jwt_bundles_last: None,
            wit_bundles_last: None,
            wits: WitLanes::default(),
        }
    }

    /// Something that the outlooks depend on has changed.
    pub(crate) fn stale(&mut self) {
        self.x509 = None;
        self.bundles = None;
        self.wits.stale();
    }

    /// The entries that give the group its identities, by ascending ID (WAPI-35). Of entries with
    /// the same hint the oldest counts; of equally old ones the one with the smallest ID (WAPI-32).
    pub(crate) fn granted<'v>(&self, view: &'v View) -> Vec<&'v Arc<Entry>> {
        let matching = || self.matches.iter().filter_map(|id| view.entry(id));
        let mut oldest: BTreeMap<&str, &Arc<Entry>> = BTreeMap::new();
        for entry in matching().filter(|e| !e.hint.is_empty()) {
            let best = oldest.entry(&entry.hint).or_insert(entry);
            // Ascending IDs: a later one wins only by being older.
            if entry.created_at < best.created_at {
                *best = entry;
            }
        }
        matching()
            .filter(|e| {
                oldest
                    .get(e.hint.as_str())
                    .is_none_or(|best| best.id == e.id)
            })
            .collect()
    }

    /// What streams of X509-SVIDs are to be told.
    pub(crate) fn x509(
        &mut self,
        view: &View,
        holdings: &Holdings<X509Kind<X>>,
        now: Now,
    ) -> Outlook<X509Update<X>> {
        if let Some(outlook) = &self.x509 {
            return outlook.clone();
        }
        let mut granted = self.granted(view);
        granted.retain(|entry| !holdings.denied(&entry.id));
        let outlook = if granted.is_empty() {
            Outlook::Miss
        } else {
            let identities: Vec<X509Identity<X>> = granted
                .iter()
                .filter_map(|entry| {
                    holdings.servable(&entry.id, now).map(|svid| X509Identity {
                        entry: entry.id.clone(),
                        spiffe_id: entry.spiffe_id.clone(),
                        hint: entry.hint.clone(),
                        svid: svid.clone(),
                    })
                })
                .collect();
            let bundle = view.own_bundle().map(|b| b.x509.clone());
            let all = identities.len() == granted.len();
            let update = bundle
                .filter(|_| !identities.is_empty())
                .map(|bundle| X509Update {
                    identities,
                    bundle,
                    federated: x509_of(view, self.foreign_domains(view)),
                    encoded: Encoded::default(),
                });
            let update = update.map(|update| same_if_equal(&mut self.x509_last, update));
            match update {
                Some(update) if all => Outlook::Full(update),
                update => Outlook::Partial(update),
            }
        };
        self.x509 = Some(outlook.clone());
        outlook
    }

    /// What streams that bear it are told while nothing matches.
    pub(crate) fn nothing(&mut self, view: &View) -> Option<Arc<X509Update<X>>> {
        let update = X509Update {
            identities: Vec::new(),
            bundle: view.own_bundle()?.x509.clone(),
            federated: BTreeMap::new(),
            encoded: Encoded::default(),
        };
        Some(same_if_equal(&mut self.x509_last, update))
    }

    /// What streams of bundles are to be told. Callers without identity get the own trust
    /// domain's bundles if `unauthenticated` says so (WAPI-37).
    pub(crate) fn bundles(
        &mut self,
        view: &View,
        own: &TrustDomain,
        unauthenticated: bool,
    ) -> BundlesOutlook {
        if let Some(outlooks) = &self.bundles {
            return outlooks.clone();
        }
        let outlooks = if self.matches.is_empty() && !unauthenticated {
            BundlesOutlook {
                x509: Outlook::Miss,
                jwt: Outlook::Miss,
                wit: Outlook::Miss,
            }
        } else {
            let mut domains = self.foreign_domains(view);
            domains.insert(own);
            let x509 = X509Bundles {
                by_domain: x509_of(view, domains),
                encoded: Encoded::default(),
            };
            let jwt = JwtBundles {
                by_domain: self.jwt_bundles(view, own),
                encoded: Encoded::default(),
            };
            let x509 = if x509.by_domain.contains_key(own) {
                Outlook::Full(same_if_equal(&mut self.x509_bundles_last, x509))
            } else {
                Outlook::Partial(None)
            };
            let jwt = if jwt.by_domain.contains_key(own) {
                Outlook::Full(same_if_equal(&mut self.jwt_bundles_last, jwt))
            } else {
                Outlook::Partial(None)
            };
            let wit = WitBundles {
                by_domain: self.wit_bundles(view, own),
                encoded: Encoded::default(),
            };
            let wit = if wit.by_domain.contains_key(own) {
                Outlook::Full(same_if_equal(&mut self.wit_bundles_last, wit))
            } else {
                Outlook::Partial(None)
            };
            BundlesOutlook { x509, jwt, wit }
        };
        self.bundles = Some(outlooks.clone());
        outlooks
    }

    /// JWT keys: the own domain's even when there are none, foreign ones only when there are
    /// (WAPI-43, WAPI-45).
    pub(crate) fn jwt_bundles(
        &self,
        view: &View,
        own: &TrustDomain,
    ) -> BTreeMap<TrustDomain, Arc<[muster_model::JwtAuthority]>> {
        let mut domains = self.foreign_domains(view);
        domains.insert(own);
        domains
            .into_iter()
            .filter_map(|td| view.bundles.get(td).map(|b| (td, b)))
            .filter(|(td, b)| *td == own || !b.jwt.is_empty())
            .map(|(td, b)| (td.clone(), b.jwt.clone()))
            .collect()
    }

    /// WIT keys, of the own domain and of those that the entries name, where there are any
    /// (WIT-19): a set without a key verifies nothing, and who waits for the own one is told when
    /// the server has made it.
    fn wit_bundles(
        &self,
        view: &View,
        own: &TrustDomain,
    ) -> BTreeMap<TrustDomain, Arc<[muster_model::WitAuthority]>> {
        let mut domains = self.foreign_domains(view);
        domains.insert(own);
        domains
            .into_iter()
            .filter_map(|td| view.bundles.get(td).map(|b| (td, b)))
            .filter(|(_, b)| !b.wit.is_empty())
            .map(|(td, b)| (td.clone(), b.wit.clone()))
            .collect()
    }

    /// The foreign trust domains that the group's entries name (WAPI-31). The own one is not
    /// foreign, whatever an entry says (WAPI-28).
    fn foreign_domains<'v>(&self, view: &'v View) -> BTreeSet<&'v TrustDomain> {
        self.granted(view)
            .into_iter()
            .flat_map(|e| {
                e.federates_with
                    .iter()
                    .filter(|td| *td != e.spiffe_id.trust_domain())
            })
            .collect()
    }
}

fn x509_of(view: &View, domains: BTreeSet<&TrustDomain>) -> BTreeMap<TrustDomain, Arc<[u8]>> {
    domains
        .into_iter()
        .filter_map(|td| view.bundles.get(td).map(|b| (td, b)))
        // An empty value is fatal to some clients (WAPI-17).
        .filter(|(_, b)| !b.x509.is_empty())
        .map(|(td, b)| (td.clone(), b.x509.clone()))
        .collect()
}

pub(crate) fn same_if_equal<U: PartialEq>(last: &mut Option<Arc<U>>, update: U) -> Arc<U> {
    match last {
        Some(last) if **last == update => last.clone(),
        _ => {
            let update = Arc::new(update);
            *last = Some(update.clone());
            update
        }
    }
}
