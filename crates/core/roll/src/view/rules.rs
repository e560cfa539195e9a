//! The identity rules of a view, and the names that nobody gets by them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_model::{Rule, RuleName, SpiffeId};

use super::{Before, Delta, NodeView};
use crate::agents::{AgentChange, membership};
use crate::naming::{self, Pattern};
use crate::{Change, Roll};

impl NodeView {
    /// The rules by which the node names processes, by ascending name.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }

    /// The rule of that name, if the node names processes by it.
    pub fn rule(&self, name: &RuleName) -> Option<&Arc<Rule>> {
        self.rules.get(name)
    }

    /// The names that these rules could give and that are withheld, ascending.
    pub fn withheld(&self) -> impl Iterator<Item = &SpiffeId> {
        self.withheld.iter()
    }

    /// Follows changes to rules, to the names under which they stand, and to what agents they name.
    pub(super) fn follow_rules(&mut self, roll: &Roll, changes: &[Change], before: &mut Before) {
        let mut touched: BTreeSet<RuleName> = BTreeSet::new();
        let mut barred = false;
        for change in changes {
            match change {
                Change::PutRule(rule) => drop(touched.insert(rule.name.clone())),
                Change::DeleteRule(name) => drop(touched.insert(name.clone())),
                Change::Agent(AgentChange::PutClass(class)) => {
                    let rules = roll.rules_of_class(class.name.as_str());
                    touched.extend(rules.map(|rule| rule.name.clone()));
                    // A name of no class yet was nobody's agent, and nothing barred it.
                    barred |= roll.agents().barred().next().is_some();
                }
                Change::Agent(AgentChange::PutInstance(instance)) => {
                    barred |= instance.is_barred() != self.withheld.contains(&instance.id);
                }
                Change::Agent(AgentChange::DeleteInstance(id)) => {
                    barred |= self.withheld.contains(id);
                }
                Change::PutEntry(_)
                | Change::DeleteEntry(_)
                | Change::PutNode(_)
                | Change::DeleteNode(_)
                | Change::PutJoinToken(_)
                | Change::DeleteJoinToken(_)
                | Change::PutBundle(_)
                | Change::DeleteBundle(_)
                | Change::PutJournal { .. }
                | Change::Agent(
                    AgentChange::PutTask(_)
                    | AgentChange::DeleteTask(_)
                    | AgentChange::PutDeparture(_)
                    | AgentChange::DeleteDeparture(_)
                    | AgentChange::PutPolicies { .. }
                    | AgentChange::DeletePolicies(_)
                    | AgentChange::PutSighting(_)
                    | AgentChange::DeleteSighting(_),
                ) => {}
            }
        }
        // Names that came or went, and with them the rules that stand under them.
        for (id, old) in &before.entries {
            for entry in [old.as_ref(), self.entries.get(id)].into_iter().flatten() {
                let below = roll.rules_under(&entry.spiffe_id);
                touched.extend(below.map(|rule| rule.name.clone()));
            }
        }
        for name in &touched {
            self.settle_rule(roll, name, before);
        }
        let anew = before
            .rules
            .iter()
            .any(|(name, old)| old.as_ref() != self.rules.get(name));
        if anew || barred {
            self.settle_withheld(roll, before);
        }
    }

    /// Takes a rule in or out, as the roll now has it.
    pub(super) fn settle_rule(&mut self, roll: &Roll, name: &RuleName, before: &mut Before) {
        let new = roll
            .rule(name.as_str())
            .filter(|rule| self.names.contains_key(&rule.spec.parent_id))
            .and_then(|rule| naming::in_force(roll.agents(), rule));
        let old = self.rules.get(name).cloned();
        if old == new {
            return;
        }
        before
            .rules
            .entry(name.clone())
            .or_insert_with(|| old.clone());
        if let Some(old) = &old {
            self.digest.remove_rule(old);
            self.part(&old.spec.federates_with);
            self.rules.remove(name);
        }
        if let Some(new) = new {
            self.digest.add_rule(&new);
            self.federate(&new.spec.federates_with);
            self.rules.insert(name.clone(), new);
        }
    }

    /// Looks anew which names are withheld.
    pub(super) fn settle_withheld(&mut self, roll: &Roll, before: &mut Before) {
        let rules: Vec<(Pattern, &Rule)> = self
            .rules
            .values()
            .map(|rule| (Pattern::of(rule), &**rule))
            .collect();
        let withheld: BTreeSet<SpiffeId> = if rules.is_empty() {
            BTreeSet::new()
        } else {
            let could_have = |id: &&SpiffeId| {
                rules.iter().any(|(pattern, rule)| {
                    pattern.fits(id)
                        && membership::withheld(roll.agents(), id, rule.spec.class.as_ref())
                            .is_some()
                })
            };
            roll.agents().barred().filter(could_have).cloned().collect()
        };
        for name in self.withheld.difference(&withheld) {
            self.digest.remove_withheld(name);
        }
        for name in withheld.difference(&self.withheld) {
            self.digest.add_withheld(name);
        }
        let old = std::mem::replace(&mut self.withheld, withheld);
        before.withheld.get_or_insert(old);
    }

    /// What the rules and names that were touched have become.
    pub(super) fn rules_of_delta(
        &self,
        before: BTreeMap<RuleName, Option<Arc<Rule>>>,
        withheld: Option<BTreeSet<SpiffeId>>,
        delta: &mut Delta,
    ) {
        for (name, old) in before {
            match (old, self.rules.get(&name)) {
                (Some(old), Some(new)) if old == *new => {}
                (_, Some(new)) => delta.rules.push(Arc::clone(new)),
                (Some(_), None) => delta.removed_rules.push(name),
                (None, None) => {}
            }
        }
        if let Some(old) = withheld {
            delta.withheld = self.withheld.difference(&old).cloned().collect();
            delta.released = old.difference(&self.withheld).cloned().collect();
        }
    }
}
