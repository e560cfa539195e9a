//! What identity rules make of the node's callers.
//!
//! A name that a rule gives is kept in the form of an entry ([`naming::entry`]), so that its SVIDs are
//! signed, renewed, told and withdrawn as those of entries are. It is there as long as a group of
//! callers has it, and a minute longer, for the process that calls again; those that nobody uses
//! are bounded like SVIDs, and what was used longest ago goes first. A process that is gone leaves
//! nothing behind.
//!
//! An entry wins over a rule that would give the same name, and nobody gets a name that is
//! withheld: groups that would have such a name are noted, for when it is free.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Entry, EntryId, Facts, ProcessMark, Rule, RuleName, SelectorSet, SpiffeId};
use muster_roll::naming;

use crate::event::{Action, Derivation, Who};
use crate::groups::GroupId;
use crate::index::RarestIndex;
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::roster::Roster;
use crate::time::{Alarm, When};
use crate::view::{Difference, View};

/// How long a name that nobody uses is kept.
const LINGER: Duration = Duration::from_mins(1);

/// A name that a rule gave.
#[derive(Debug)]
struct Name {
    entry: Arc<Entry>,
    rule: RuleName,
    /// Of a caller that has it, or had it last.
    facts: Arc<Facts>,
    /// Its turn to go, while nobody uses it.
    idle: Option<u64>,
}

/// What the rules of the view make of the node's callers.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    /// The node's own name; rules give none before it is known.
    node: Option<SpiffeId>,
    rules: RarestIndex<RuleName>,
    names: BTreeMap<EntryId, Name>,
    by_name: HashMap<SpiffeId, BTreeSet<EntryId>>,
    /// Groups that would have a name, were it free.
    passed_over: HashMap<SpiffeId, BTreeSet<GroupId>>,
    /// Names that nobody uses, by their turn to go.
    idle: BTreeSet<(u64, EntryId)>,
    idle_of: HashMap<ProcessMark, BTreeSet<EntryId>>,
    turns: u64,
}

impl Derived {
    pub(crate) fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.names.get(id).map(|name| &name.entry)
    }

    /// The node's own name.
    pub(crate) fn node(&self) -> Option<&SpiffeId> {
        self.node.as_ref()
    }

    /// How the server is told of a name; `None` of what an entry gives.
    pub(crate) fn derivation(&self, id: &EntryId) -> Option<Derivation> {
        let name = self.names.get(id)?;
        Some(Derivation {
            rule: name.rule.clone(),
            facts: name.facts.clone(),
        })
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The names, by ascending ID, in the form of entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.names.values().map(|name| &name.entry)
    }

    /// What each name was derived from, those that were used longest ago first.
    pub(crate) fn derivations(&self) -> Vec<Derivation> {
        let mut names: Vec<&Name> = self.names.values().collect();
        names.sort_by_key(|name| name.idle.unwrap_or(u64::MAX));
        let derivation = |name: &Name| Derivation {
            rule: name.rule.clone(),
            facts: name.facts.clone(),
        };
        names.into_iter().map(derivation).collect()
    }

    /// Notes that a name is in use. Returns whether it was not.
    fn wake(&mut self, id: &EntryId) -> bool {
        let Some(name) = self.names.get_mut(id) else {
            return false;
        };
        let Some(turn) = name.idle.take() else {
            return false;
        };
        self.idle.remove(&(turn, id.clone()));
        if let Some(process) = name.facts.process
            && let Some(names) = self.idle_of.get_mut(&process)
        {
            names.remove(id);
            if names.is_empty() {
                self.idle_of.remove(&process);
            }
        }
        true
    }

    /// Notes that nobody uses a name.
    fn rest(&mut self, id: &EntryId) {
        self.wake(id);
        if let Some(name) = self.names.get_mut(id) {
            self.turns += 1;
            name.idle = Some(self.turns);
            self.idle.insert((self.turns, id.clone()));
            if let Some(process) = name.facts.process {
                self.idle_of.entry(process).or_default().insert(id.clone());
            }
        }
    }

    fn pass_over(&mut self, group: GroupId, before: &[SpiffeId], after: &[SpiffeId]) {
        for name in before {
            if let Some(groups) = self.passed_over.get_mut(name) {
                groups.remove(&group);
                if groups.is_empty() {
                    self.passed_over.remove(name);
                }
            }
        }
        for name in after {
            let groups = self.passed_over.entry(name.clone()).or_default();
            groups.insert(group);
        }
    }
}

impl View {
    /// The rules that ask for no more than these selectors, by ascending name.
    fn rules_for(&self, selectors: &SelectorSet) -> Vec<Arc<Rule>> {
        let asks = |name: &RuleName| self.rules.get(name).map(|rule| &rule.spec.selectors);
        let names: BTreeSet<&RuleName> = self.derived.rules.matching(selectors, asks).collect();
        let rules = names.into_iter().filter_map(|name| self.rules.get(name));
        rules.cloned().collect()
    }

    /// The part of a caller that its identities depend on: callers that agree in it are one group.
    pub(crate) fn told_apart_by(&self, mut who: Who) -> Who {
        let each = |rule: &Arc<Rule>| rule.spec.template.names_each_process();
        if who.process.is_some() && !self.rules_for(&who.selectors).iter().any(each) {
            who.process = None;
        }
        who
    }

    /// What the rules would call a caller, each name once, whether or not it is free.
    fn given(&self, who: &Who) -> Vec<(Arc<Rule>, SpiffeId)> {
        let rules = self.rules_for(&who.selectors);
        let Some(node) = self.derived.node.as_ref().filter(|_| !rules.is_empty()) else {
            return Vec::new();
        };
        let facts = who.facts();
        let mut names = BTreeSet::new();
        let name = |rule: Arc<Rule>| {
            let name = naming::derive(&rule, &self.trust_domain, node, &facts).ok()?;
            names.insert(name.clone()).then_some((rule, name))
        };
        rules.into_iter().filter_map(name).collect()
    }

    /// The identities that rules give a caller, whether anybody asked for them or not.
    pub(crate) fn names_of<'v>(&'v self, who: &Who) -> impl Iterator<Item = SpiffeId> + use<'v> {
        let given = self.given(who).into_iter().map(|(_, name)| name);
        given.filter(|name| self.is_free(name))
    }
}

/// What a rule read of a caller: which process it is only where the rule asks.
fn facts_for(rule: &Rule, who: &Who) -> Facts {
    let mut facts = who.facts();
    facts.process = facts
        .process
        .filter(|_| rule.spec.template.names_each_process());
    facts
}

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    /// The node is attested, as that.
    pub(crate) fn on_node(&mut self, node: SpiffeId) {
        if self.view.derived.node.as_ref() == Some(&node) {
            return;
        }
        self.view.derived.node = Some(node);
        for id in self.idle_names(|_| true) {
            self.remove_name(&id);
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.name_group(group);
        }
    }

    /// Rules came, changed or went; names became free or were taken.
    pub(crate) fn on_naming(&mut self, difference: &Difference) {
        if difference.rules.is_empty() && difference.names.is_empty() {
            return;
        }
        let mut groups = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for change in &difference.rules {
            for rule in change.before.iter().chain(&change.after) {
                groups.extend(self.group_index.matching(&rule.spec.selectors));
                changed.insert(&rule.name);
                self.view.derived.rules.remove(&rule.name);
            }
            if let Some(rule) = &change.after {
                let rules = &mut self.view.derived.rules;
                rules.add(&rule.name, &rule.spec.selectors);
            }
        }
        // Callers that were told apart by nothing so far may now be told apart by their processes.
        for rule in difference.rules.iter().filter_map(|c| c.after.as_ref()) {
            if rule.spec.template.names_each_process() {
                for group in self.group_index.matching(&rule.spec.selectors) {
                    self.split(group);
                }
            }
        }
        let derived = &self.view.derived;
        for name in &difference.names {
            groups.extend(derived.passed_over.get(name).into_iter().flatten());
            for id in derived.by_name.get(name).into_iter().flatten() {
                groups.extend(self.groups_of.get(id).into_iter().flatten());
            }
        }
        for group in groups {
            self.name_group(group);
        }
        let concerned = |name: &Name| {
            changed.contains(&name.rule) || difference.names.contains(&name.entry.spiffe_id)
        };
        for id in self.idle_names(concerned) {
            self.derive_again(&id);
        }
    }

    /// A process is gone.
    pub(crate) fn on_process_gone(&mut self, process: ProcessMark) {
        let names = self.view.derived.idle_of.get(&process).cloned();
        for id in names.into_iter().flatten() {
            self.remove_name(&id);
        }
    }

    fn idle_names(&self, which: impl Fn(&Name) -> bool) -> Vec<EntryId> {
        let derived = &self.view.derived;
        let name = |id: &EntryId| derived.names.get(id).is_some_and(&which);
        let ids = derived.idle.iter().map(|(_, id)| id);
        ids.filter(|id| name(id)).cloned().collect()
    }

    /// Brings a group's names in line with what the rules give it now.
    pub(crate) fn name_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let who = group.who.clone();
        let derived = &self.view.derived;
        let is_name = |entry: &&EntryId| derived.names.contains_key(*entry);
        let before: BTreeSet<EntryId> = group.matches.iter().filter(is_name).cloned().collect();
        let (free, taken): (Vec<_>, Vec<_>) = self
            .view
            .given(&who)
            .into_iter()
            .partition(|(_, name)| self.view.is_free(name));
        let taken: Vec<SpiffeId> = taken.into_iter().map(|(_, name)| name).collect();
        if free.is_empty() && before.is_empty() && taken == group.passed_over {
            return;
        }
        self.pass_over(id, taken);
        let mut after = BTreeSet::new();
        for (rule, name) in free {
            let facts = facts_for(&rule, &who);
            after.extend(self.put_name(&rule, name, facts));
        }
        for entry in before.difference(&after) {
            self.detach(entry, id);
            if !self.groups_of.contains_key(entry) {
                self.remove_name(entry);
            }
        }
        for entry in after.difference(&before) {
            if self.view.derived.wake(entry) {
                self.agenda.clear(&Alarm::Forget(entry.clone()));
            }
            self.attach(entry, id);
        }
        self.stale_groups.insert(id);
    }

    /// Names that a group would have, were they free.
    pub(crate) fn pass_over(&mut self, id: GroupId, names: Vec<SpiffeId>) {
        if let Some(group) = self.groups.get_mut(&id) {
            let before = std::mem::replace(&mut group.passed_over, names);
            let derived = &mut self.view.derived;
            derived.pass_over(id, &before, &group.passed_over);
        }
    }

    /// Writes down a name that a rule gives, or what has changed of it.
    fn put_name(&mut self, rule: &Rule, name: SpiffeId, facts: Facts) -> Option<EntryId> {
        let mut entry = naming::entry(rule, name)?;
        // Signed when somebody asks: a process may never.
        entry.disable_x509_svid_prefetch = true;
        let id = entry.id.clone();
        let known = self.view.derived.names.get(&id);
        let (before, idle) = known.map_or((None, None), |n| (Some(n.entry.clone()), n.idle));
        if before.as_deref() == Some(&entry) {
            return Some(id);
        }
        self.holdings
            .entry_changed(before.as_deref(), &entry, &mut self.agenda);
        if self.config.wit_cache_max.is_some() {
            self.wits
                .entry_changed(before.as_deref(), &entry, &mut self.agenda);
        }
        if before.is_some_and(|before| before.jwt_svid_ttl != entry.jwt_svid_ttl) {
            self.forget_tokens(&id);
        }
        let derived = &mut self.view.derived;
        let names = derived.by_name.entry(entry.spiffe_id.clone()).or_default();
        names.insert(id.clone());
        let name = Name {
            entry: Arc::new(entry),
            rule: rule.name.clone(),
            facts: Arc::new(facts),
            idle,
        };
        derived.names.insert(id.clone(), name);
        self.entry_stale(&id);
        Some(id)
    }

    /// A group that had a name is gone, with the last of its calls.
    pub(crate) fn rest_name(&mut self, id: &EntryId) {
        let Some(name) = self.view.derived.names.get_mut(id) else {
            return;
        };
        // From then on the name stands on the facts of one that still has it.
        let left = self.groups_of.get(id).and_then(BTreeSet::first);
        if let Some(group) = left.and_then(|left| self.groups.get(left)) {
            if let Some(rule) = self.view.rules.get(&name.rule) {
                name.facts = Arc::new(facts_for(rule, &group.who));
            }
            return;
        }
        self.linger(id);
    }

    fn linger(&mut self, id: &EntryId) {
        self.view.derived.rest(id);
        let name = self.view.derived.names.get(id);
        if let Some(process) = name.and_then(|name| name.facts.process) {
            self.fresh.push(Action::AwaitExit(process));
        }
        let alarm = Alarm::Forget(id.clone());
        self.agenda.set(alarm, When::after(self.now, LINGER));
        while self.view.derived.idle.len() > self.config.x509_cache_max
            && let Some((_, oldest)) = self.view.derived.idle.first().cloned()
        {
            self.remove_name(&oldest);
        }
    }

    /// Whether what a name stands on still gives it, by the rules as they are.
    fn derive_again(&mut self, id: &EntryId) {
        let Some(name) = self.view.derived.names.get(id) else {
            return;
        };
        let (facts, spiffe_id) = (name.facts.clone(), name.entry.spiffe_id.clone());
        let rule = self.view.rules.get(&name.rule).cloned();
        let same = rule.filter(|rule| {
            let node = self.view.derived.node.as_ref();
            let domain = &self.config.trust_domain;
            let given = node.and_then(|node| naming::derive(rule, domain, node, &facts).ok());
            given.as_ref() == Some(&spiffe_id) && self.view.is_free(&spiffe_id)
        });
        match same {
            Some(rule) => {
                self.put_name(&rule, spiffe_id, Facts::clone(&facts));
            }
            None => self.remove_name(id),
        }
    }

    /// A name that nobody has any more: all that was signed for it goes with it.
    pub(crate) fn remove_name(&mut self, id: &EntryId) {
        self.view.derived.wake(id);
        self.agenda.clear(&Alarm::Forget(id.clone()));
        let Some(name) = self.view.derived.names.remove(id) else {
            return;
        };
        let by_name = &mut self.view.derived.by_name;
        if let Some(names) = by_name.get_mut(&name.entry.spiffe_id) {
            names.remove(id);
            if names.is_empty() {
                by_name.remove(&name.entry.spiffe_id);
            }
        }
        self.holdings.entry_removed(id, &mut self.agenda);
        self.wits.entry_removed(id, &mut self.agenda);
        self.forget_tokens(id);
    }

    /// Takes up a name of an earlier machine, which nobody uses yet.
    pub(crate) fn remember_name(&mut self, derivation: Derivation) {
        let Some(rule) = self.view.rules.get(&derivation.rule).cloned() else {
            return;
        };
        let Some(node) = self.view.derived.node.clone() else {
            return;
        };
        let facts = derivation.facts;
        let given = naming::derive(&rule, &self.config.trust_domain, &node, &facts);
        if let Ok(name) = given
            && self.view.is_free(&name)
            && let Some(id) = self.put_name(&rule, name, Facts::clone(&facts))
        {
            self.linger(&id);
        }
    }
}
