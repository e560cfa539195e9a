//! What the node may answer to, as its server says: entries, rules and bundles at a revision; and what
//! the rules make of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_model::{
    Bundle, Entry, EntryId, JwtAuthority, Revision, Rule, RuleName, SpiffeId, TrustDomain,
    WitAuthority,
};

use crate::ViewDigest;
use crate::derived::Derived;

/// A complete step of the view: what changed between two revisions, or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The revision that the view stands at afterwards.
    pub revision: Revision,
    /// Whether the step replaces the view: what it does not list is gone.
    pub replace: bool,
    /// Entries to add or to replace.
    pub entries: Vec<Entry>,
    /// Entries that are no longer the node's.
    pub removed_entries: Vec<EntryId>,
    /// Bundles to add or to replace.
    pub bundles: Vec<Bundle>,
    /// Bundles that are no longer the node's.
    pub removed_bundles: Vec<TrustDomain>,
    /// What it says of identity rules.
    pub naming: NamingStep,
    /// The digest of the view afterwards, by the server's reckoning.
    pub digest: ViewDigest,
}

/// What a step says of identity rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamingStep {
    /// Rules to add or to replace.
    pub rules: Vec<Rule>,
    /// Rules that are no longer the node's.
    pub removed_rules: Vec<RuleName>,
    /// Names that rules could give and that nobody gets.
    pub withheld: Vec<SpiffeId>,
    /// Names that are withheld no longer.
    pub released: Vec<SpiffeId>,
}

/// Why a step was not believed. The view stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepFault {
    /// The revision is lower than the one that the view stands at.
    #[error("the server's revision went back from {from} to {to}")]
    RevisionWentBack {
        /// Where the view stands.
        from: Revision,
        /// What the step says.
        to: Revision,
    },
    /// An entry gives an identity of a foreign trust domain.
    #[error("entry {0} gives an identity of a foreign trust domain")]
    ForeignEntry(EntryId),
    /// An entry has no selectors and would match every caller.
    #[error("entry {0} has no selectors and would match every caller")]
    EntryWithoutSelectors(EntryId),
    /// A rule has no selectors and would name every caller.
    #[error("rule {0} has no selectors and would name every caller")]
    RuleWithoutSelectors(RuleName),
    /// The trust domain's own bundle would be gone or have no X.509 authority.
    #[error("the step would empty the bundle of the node's own trust domain")]
    OwnBundleEmptied,
    /// The digests differ: node and server do not mean the same view.
    #[error("the view's digest is not the one that the server computed")]
    DigestMismatch,
}

/// A bundle and the forms in which it leaves the node, shared by all who receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldBundle {
    pub(crate) bundle: Bundle,
    /// The X.509 authorities, DER, one after the other; empty when there are none.
    pub(crate) x509: Arc<[u8]>,
    pub(crate) jwt: Arc<[JwtAuthority]>,
    pub(crate) wit: Arc<[WitAuthority]>,
}

impl HeldBundle {
    /// Keeps the forms of `before` where they did not change, so that equality of what is sent
    /// can be seen by pointer.
    fn new(bundle: Bundle, before: Option<&HeldBundle>) -> Self {
        let x509: Arc<[u8]> = bundle.x509_concatenated().into();
        let x509 = before
            .filter(|b| b.x509 == x509)
            .map_or(x509, |b| b.x509.clone());
        let jwt = before
            .filter(|b| *b.jwt == *bundle.jwt_authorities)
            .map_or_else(|| bundle.jwt_authorities.clone().into(), |b| b.jwt.clone());
        let wit = before
            .filter(|b| *b.wit == *bundle.wit_authorities)
            .map_or_else(|| bundle.wit_authorities.clone().into(), |b| b.wit.clone());
        Self {
            bundle,
            x509,
            jwt,
            wit,
        }
    }
}

/// The node's view.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) revision: Revision,
    digest: ViewDigest,
    /// A step was not believed: the view stays in use, and only a full one is taken up.
    doubted: bool,
    pub(crate) entries: BTreeMap<EntryId, Arc<Entry>>,
    pub(crate) bundles: BTreeMap<TrustDomain, Arc<HeldBundle>>,
    pub(crate) rules: BTreeMap<RuleName, Arc<Rule>>,
    pub(crate) withheld: BTreeSet<SpiffeId>,
    /// How many entries give each identity: what an entry gives, no rule does.
    named: HashMap<SpiffeId, usize>,
    /// What the rules make of the node's callers.
    pub(crate) derived: Derived,
}

/// A changed entry, or a changed rule: what it was and what it is.
#[derive(Debug)]
pub(crate) struct Changed<T = Entry> {
    pub(crate) before: Option<Arc<T>>,
    pub(crate) after: Option<Arc<T>>,
}

/// What a step changed.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) entries: Vec<Changed>,
    /// The trust domains whose bundle changed, came or went.
    pub(crate) bundles: Vec<TrustDomain>,
    pub(crate) rules: Vec<Changed<Rule>>,
    /// Names that rules may give now and could not before, or the other way round.
    pub(crate) names: BTreeSet<SpiffeId>,
}

/// What a step changes of rules and barred names.
struct NamingChanges {
    rules: BTreeMap<RuleName, Option<Arc<Rule>>>,
    /// Those whose bar is not as it was.
    withheld: BTreeMap<SpiffeId, Bar>,
}

/// Whether a name is barred.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bar {
    Set,
    Lifted,
}

impl View {
    pub(crate) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            revision: Revision::default(),
            digest: ViewDigest::default(),
            doubted: false,
            entries: BTreeMap::new(),
            bundles: BTreeMap::new(),
            rules: BTreeMap::new(),
            withheld: BTreeSet::new(),
            named: HashMap::new(),
            derived: Derived::default(),
        }
    }

    /// What gives an identity: an entry, or a rule in the form of one.
    pub(crate) fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id).or_else(|| self.derived.entry(id))
    }

    /// Whether a rule may give that name: no entry does, and nobody barred it.
    pub(crate) fn is_free(&self, name: &SpiffeId) -> bool {
        !self.named.contains_key(name) && !self.withheld.contains(name)
    }

    /// The bundle of the node's own trust domain.
    pub(crate) fn own_bundle(&self) -> Option<&Arc<HeldBundle>> {
        self.bundles.get(&self.trust_domain)
    }

    /// The revision and digest with which to ask for what comes next.
    pub(crate) fn standing(&self) -> (Revision, ViewDigest) {
        if self.doubted {
            (Revision::default(), ViewDigest::default())
        } else {
            (self.revision, self.digest)
        }
    }

    /// The whole view, as a step that replaces another.
    pub(crate) fn as_step(&self) -> Step {
        Step {
            revision: self.revision,
            replace: true,
            entries: self.entries.values().map(|e| Entry::clone(e)).collect(),
            removed_entries: Vec::new(),
            bundles: self.bundles.values().map(|b| b.bundle.clone()).collect(),
            removed_bundles: Vec::new(),
            naming: NamingStep {
                rules: self.rules.values().map(|r| Rule::clone(r)).collect(),
                removed_rules: Vec::new(),
                withheld: self.withheld.iter().cloned().collect(),
                released: Vec::new(),
            },
            digest: self.digest,
        }
    }

    /// Applies a step as a whole, or refuses it as a whole.
    ///
    /// After a refusal the node starts over, as one that has no view. Then a full view is taken
    /// whatever its revision: a server that was restored from a backup has gone back for good.
    pub(crate) fn apply(&mut self, step: Step) -> Result<Difference, StepFault> {
        let difference = self.try_apply(step);
        self.doubted = difference.is_err();
        difference
    }

    fn try_apply(&mut self, step: Step) -> Result<Difference, StepFault> {
        let starts_over = self.doubted && step.replace;
        if step.revision < self.revision && !starts_over {
            return Err(StepFault::RevisionWentBack {
                from: self.revision,
                to: step.revision,
            });
        }
        for entry in &step.entries {
            if *entry.spiffe_id.trust_domain() != self.trust_domain {
                return Err(StepFault::ForeignEntry(entry.id.clone()));
            }
            if entry.selectors.is_empty() {
                return Err(StepFault::EntryWithoutSelectors(entry.id.clone()));
            }
        }
        if let Some(rule) = step
            .naming
            .rules
            .iter()
            .find(|r| r.spec.selectors.is_empty())
        {
            return Err(StepFault::RuleWithoutSelectors(rule.name.clone()));
        }

        let mut entries: BTreeMap<EntryId, Option<Arc<Entry>>> = BTreeMap::new();
        let mut bundles: BTreeMap<TrustDomain, Option<Arc<HeldBundle>>> = BTreeMap::new();
        if step.replace {
            entries.extend(self.entries.keys().map(|id| (id.clone(), None)));
            bundles.extend(self.bundles.keys().map(|td| (td.clone(), None)));
        }
        let naming = self.changes_of(step.naming, step.replace);
        entries.extend(step.removed_entries.into_iter().map(|id| (id, None)));
        entries.extend(
            step.entries
                .into_iter()
                .map(|e| (e.id.clone(), Some(Arc::new(e)))),
        );
        bundles.extend(step.removed_bundles.into_iter().map(|td| (td, None)));
        for bundle in step.bundles {
            let td = bundle.trust_domain.clone();
            let held = HeldBundle::new(bundle, self.bundles.get(&td).map(AsRef::as_ref));
            bundles.insert(td, Some(Arc::new(held)));
        }

        let own = bundles
            .get(&self.trust_domain)
            .map_or_else(|| self.own_bundle(), Option::as_ref);
        if own.is_none_or(|b| b.x509.is_empty()) {
            return Err(StepFault::OwnBundleEmptied);
        }
        let mut digest = self.digest;
        for (id, after) in &entries {
            if let Some(before) = self.entries.get(id) {
                digest.remove_entry(before);
            }
            if let Some(after) = after {
                digest.add_entry(after);
            }
        }
        for (td, after) in &bundles {
            if let Some(before) = self.bundles.get(td) {
                digest.remove_bundle(&before.bundle);
            }
            if let Some(after) = after {
                digest.add_bundle(&after.bundle);
            }
        }
        self.count(&naming, &mut digest);
        if digest != step.digest {
            return Err(StepFault::DigestMismatch);
        }

        self.revision = step.revision;
        self.digest = digest;
        let mut difference = Difference::default();
        for (id, after) in entries {
            let before = match after.clone() {
                Some(entry) => self.entries.insert(id, entry),
                None => self.entries.remove(&id),
            };
            if before != after {
                self.count_names(before.as_deref(), after.as_deref(), &mut difference.names);
                difference.entries.push(Changed { before, after });
            }
        }
        for (td, after) in bundles {
            let before = match after.clone() {
                Some(bundle) => self.bundles.insert(td.clone(), bundle),
                None => self.bundles.remove(&td),
            };
            if before != after {
                difference.bundles.push(td);
            }
        }
        self.take(naming, &mut difference);
        Ok(difference)
    }

    /// What a step, which replaces the view or not, changes of rules and barred names.
    fn changes_of(&self, step: NamingStep, replaces: bool) -> NamingChanges {
        let mut rules: BTreeMap<RuleName, Option<Arc<Rule>>> = BTreeMap::new();
        let mut withheld: BTreeMap<SpiffeId, Bar> = BTreeMap::new();
        if replaces {
            rules.extend(self.rules.keys().map(|name| (name.clone(), None)));
            withheld.extend(self.withheld.iter().map(|name| (name.clone(), Bar::Lifted)));
        }
        rules.extend(step.removed_rules.into_iter().map(|name| (name, None)));
        let there = |rule: Rule| (rule.name.clone(), Some(Arc::new(rule)));
        rules.extend(step.rules.into_iter().map(there));
        withheld.extend(step.released.into_iter().map(|name| (name, Bar::Lifted)));
        withheld.extend(step.withheld.into_iter().map(|name| (name, Bar::Set)));
        withheld.retain(|name, after| self.withheld.contains(name) != (*after == Bar::Set));
        NamingChanges { rules, withheld }
    }

    fn count(&self, changes: &NamingChanges, digest: &mut ViewDigest) {
        for (name, after) in &changes.rules {
            if let Some(before) = self.rules.get(name) {
                digest.remove_rule(before);
            }
            if let Some(after) = after {
                digest.add_rule(after);
            }
        }
        for (name, after) in &changes.withheld {
            match after {
                Bar::Set => digest.add_withheld(name),
                Bar::Lifted => digest.remove_withheld(name),
            }
        }
    }

    fn take(&mut self, changes: NamingChanges, difference: &mut Difference) {
        for (name, after) in changes.rules {
            let before = match after.clone() {
                Some(rule) => self.rules.insert(name, rule),
                None => self.rules.remove(&name),
            };
            if before != after {
                difference.rules.push(Changed { before, after });
            }
        }
        for (name, after) in changes.withheld {
            match after {
                Bar::Set => self.withheld.insert(name.clone()),
                Bar::Lifted => self.withheld.remove(&name),
            };
            difference.names.insert(name);
        }
    }

    /// Counts who gives which identity, and notes the names that come or go so.
    fn count_names(
        &mut self,
        before: Option<&Entry>,
        after: Option<&Entry>,
        changed: &mut BTreeSet<SpiffeId>,
    ) {
        let (before, after) = (before.map(|e| &e.spiffe_id), after.map(|e| &e.spiffe_id));
        if before == after {
            return;
        }
        if let Some(name) = before
            && let Some(count) = self.named.get_mut(name)
        {
            *count -= 1;
            if *count == 0 {
                self.named.remove(name);
                changed.insert(name.clone());
            }
        }
        if let Some(name) = after {
            let count = self.named.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                changed.insert(name.clone());
            }
        }
    }
}
