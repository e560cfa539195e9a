//! Which entries a node may see, and which of them fit a workload (spire-behaviour 2.11).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use muster_model::{
    AgentClass, ClassName, Entry, EntryId, Node, Rule, SelectorSet, SpiffeId, Task,
};

use crate::Roll;
use crate::agents::{membership, task};
use crate::naming::{self, Pattern};

/// Whether `entry` is for a caller that was attested as `attested`: all of the entry's selectors
/// are among the attested ones.
pub fn applies(entry: &Entry, attested: &SelectorSet) -> bool {
    entry.selectors.is_subset(attested)
}

/// Every entry that the node may see, by ascending ID: its aliases, and what stands under the node,
/// under an alias or under another entry of the list.
///
/// A node that is not attested, or is banned, sees nothing.
pub fn authorized_entries(roll: &Roll, node: &SpiffeId) -> Vec<Arc<Entry>> {
    let mut reach = Reach::default();
    if let Some(node) = seeing(roll, node) {
        reach.start(roll, &node.id, &node.selectors);
    }
    let mut found: Vec<Arc<Entry>> = reach.entries;
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

/// The entry `id`, if the node may see it: the same answer as looking into
/// [`authorized_entries`], found by climbing from the entry instead of descending from the node.
pub fn authorized_entry<'a>(
    roll: &'a Roll,
    node: &SpiffeId,
    id: &EntryId,
) -> Option<&'a Arc<Entry>> {
    climb(roll, node, id, is_granted)
}

/// The entry `id` if the node may see it but for an agent class that withholds it, or what it stands
/// under.
pub fn withheld_entry<'a>(roll: &'a Roll, node: &SpiffeId, id: &EntryId) -> Option<&'a Arc<Entry>> {
    match climb(roll, node, id, is_granted) {
        Some(_) => None,
        None => climb(roll, node, id, is_local),
    }
}

/// Whether what stands under `parent` is the node's, whatever agent classes withhold.
pub(crate) fn is_under(roll: &Roll, node: &SpiffeId, parent: &SpiffeId) -> bool {
    seeing(roll, node).is_some_and(|node| bears(roll, node, parent, is_local))
}

/// Whether `entry` is the node's, whatever agent classes withhold.
pub(crate) fn is_of_node(roll: &Roll, node: &SpiffeId, entry: &Entry) -> bool {
    climb(roll, node, &entry.id, is_local).is_some()
}

/// The task whose entry `id` is, if it is the node's; whether it is open still, `membership` says.
///
/// Tasks are not among the [`authorized_entries`]: those are what SPIRE's agents ask for, who know no
/// tasks. A [`NodeView`](crate::NodeView) has them.
pub fn task_of_node<'a>(roll: &'a Roll, node: &SpiffeId, id: &EntryId) -> Option<&'a Arc<Task>> {
    let node = seeing(roll, node)?;
    let task = roll.agents().task(task::id_of_entry(id)?)?;
    (task.node == node.id).then_some(task)
}

/// What a node has of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleOfNode<'a> {
    /// It names processes by it: the rule with what its classes ask for.
    InForce(Arc<Rule>),
    /// It would, but for this class.
    Withheld(&'a AgentClass),
}

/// The rule `name` as the node has it; `None` if it is not the node's.
pub fn rule_of_node<'a>(roll: &'a Roll, node: &SpiffeId, name: &str) -> Option<RuleOfNode<'a>> {
    let node = seeing(roll, node)?;
    let rule = roll.rule(name)?;
    if !bears(roll, node, &rule.spec.parent_id, is_granted) {
        return None;
    }
    if let Some(class) = naming::withheld(roll.agents(), rule) {
        return Some(RuleOfNode::Withheld(class));
    }
    naming::in_force(roll.agents(), rule).map(RuleOfNode::InForce)
}

/// The classes that entries and rules name for an identity that they give, or could give; that in its
/// path is not among them.
pub fn classes_named<'a>(roll: &'a Roll, id: &'a SpiffeId) -> impl Iterator<Item = &'a ClassName> {
    let by_entry = roll.named(id).filter_map(|entry| entry.class.as_ref());
    let by_rule = roll
        .rules()
        .filter(|rule| rule.spec.class.is_some() && Pattern::of(rule).fits(id))
        .filter_map(|rule| rule.spec.class.as_ref());
    by_entry.chain(by_rule)
}

/// The rules by which a node names processes, by ascending name: those under its own name, and under
/// the names that entries give it.
pub fn rules_of_node(roll: &Roll, node: &SpiffeId) -> Vec<Arc<Rule>> {
    roll.rules()
        .filter_map(|rule| match rule_of_node(roll, node, rule.name.as_str()) {
            Some(RuleOfNode::InForce(rule)) => Some(rule),
            Some(RuleOfNode::Withheld(_)) | None => None,
        })
        .collect()
}

/// The classes that there are of those that an identity is of: by its path, and by what gives it.
pub fn classes_of<'a>(roll: &'a Roll, id: &'a SpiffeId) -> BTreeMap<&'a ClassName, &'a AgentClass> {
    let agents = roll.agents();
    classes_named(roll, id)
        .flat_map(|class| membership::classes(agents, id, Some(class)))
        .chain(membership::classes(agents, id, None))
        .map(|class| (&class.name, class))
        .collect()
}

/// The names that processes of a node can have: by its entries, its rules and its tasks, those that an
/// agent class withholds included.
pub struct NamesOfNode<'r> {
    roll: &'r Roll,
    node: Option<&'r Arc<Node>>,
    rules: Vec<Pattern>,
}

impl<'r> NamesOfNode<'r> {
    /// Those of `node`; none if it is not attested, or is banned.
    pub fn of(roll: &'r Roll, node: &SpiffeId) -> Self {
        let node = seeing(roll, node);
        let is_own = |rule: &&Arc<Rule>| {
            node.is_some_and(|node| bears(roll, node, &rule.spec.parent_id, is_local))
        };
        let rules = roll.rules().filter(is_own);
        Self {
            roll,
            node,
            rules: rules.map(|rule| Pattern::of(rule)).collect(),
        }
    }

    /// Whether that is one of them.
    pub fn has(&self, name: &SpiffeId) -> bool {
        let Some(node) = self.node else { return false };
        let gives = |entry: &Arc<Entry>| {
            is_local(self.roll, entry)
                && (is_alias_of(self.roll, entry, &node.selectors)
                    || bears(self.roll, node, &entry.parent_id, is_local))
        };
        let task = self.roll.agents().task_named(name);
        name.trust_domain() == self.roll.trust_domain()
            && (self.roll.named(name).any(gives)
                || task.is_some_and(|task| task.node == node.id)
                || self.rules.iter().any(|rule| rule.fits(name)))
    }
}

/// Climbs from the entry to the node, through the entries that `is_open`.
fn climb<'a>(
    roll: &'a Roll,
    node: &SpiffeId,
    id: &EntryId,
    is_open: fn(&Roll, &Entry) -> bool,
) -> Option<&'a Arc<Entry>> {
    let node = seeing(roll, node)?;
    let wanted = roll.entry(id)?;
    if !is_open(roll, wanted) {
        return None;
    }
    let is_node_s =
        is_alias_of(roll, wanted, &node.selectors) || bears(roll, node, &wanted.parent_id, is_open);
    is_node_s.then_some(wanted)
}

/// Whether what stands under `name` is the node's: it is its own name, or one that an entry of the
/// node gives, through the entries that `is_open`.
fn bears(roll: &Roll, node: &Node, name: &SpiffeId, is_open: fn(&Roll, &Entry) -> bool) -> bool {
    let mut climbed: HashSet<&SpiffeId> = HashSet::new();
    let mut above = vec![name];
    while let Some(name) = above.pop() {
        if *name == node.id {
            return true;
        }
        if !climbed.insert(name) {
            continue;
        }
        for entry in roll.named(name).filter(|entry| is_open(roll, entry)) {
            if is_alias_of(roll, entry, &node.selectors) {
                return true;
            }
            above.push(&entry.parent_id);
        }
    }
    false
}

/// The node of that ID, if it may see anything at all.
pub(crate) fn seeing<'a>(roll: &'a Roll, node: &SpiffeId) -> Option<&'a Arc<Node>> {
    roll.node(node).filter(|node| !node.is_banned())
}

/// Whether both names of the entry are in the roll's trust domain; others are passed over.
pub(crate) fn is_local(roll: &Roll, entry: &Entry) -> bool {
    entry.parent_id.trust_domain() == roll.trust_domain()
        && entry.spiffe_id.trust_domain() == roll.trust_domain()
}

/// Whether nodes may see the entry, and what stands under it, at all: it is local, and no agent class
/// withholds it.
pub(crate) fn is_granted(roll: &Roll, entry: &Entry) -> bool {
    is_local(roll, entry) && membership::is_granted(roll.agents(), entry)
}

/// Whether the entry gives a further name to nodes with `selectors`.
pub(crate) fn is_alias_of(roll: &Roll, entry: &Entry, selectors: &SelectorSet) -> bool {
    entry.parent_id == *roll.server_id() && entry.selectors.is_subset(selectors)
}

/// A descent through the roll: what was found, and from which names it went down.
#[derive(Default)]
pub(crate) struct Reach {
    /// The entries found, in the order of finding.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The names whose children were taken: the node's, and the SPIFFE IDs of the entries.
    pub(crate) names: HashSet<SpiffeId>,
    seen: BTreeSet<u64>,
}

impl Reach {
    /// Finds everything that a node with this ID and these selectors may see.
    pub(crate) fn start(&mut self, roll: &Roll, node: &SpiffeId, selectors: &SelectorSet) {
        self.descend(roll, node.clone());
        for alias in roll.alias_candidates(selectors) {
            if is_granted(roll, alias) && is_alias_of(roll, alias, selectors) {
                self.take(alias);
                self.descend(roll, alias.spiffe_id.clone());
            }
        }
    }

    /// Takes the children of `name`, their children, and so on; cycles end at names seen before.
    fn descend(&mut self, roll: &Roll, name: SpiffeId) {
        let mut below = vec![name];
        while let Some(name) = below.pop() {
            if self.names.contains(&name) {
                continue;
            }
            for entry in roll.children(&name).filter(|entry| is_granted(roll, entry)) {
                self.take(entry);
                below.push(entry.spiffe_id.clone());
            }
            self.names.insert(name);
        }
    }

    fn take(&mut self, entry: &Arc<Entry>) {
        if self.seen.insert(entry.ordinal) {
            self.entries.push(Arc::clone(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Change;
    use crate::world::{self, entry, id, roll, selectors, step};

    fn put(entry: Entry) -> Change {
        Change::PutEntry(Arc::new(entry))
    }

    fn names(entries: &[Arc<Entry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    #[test]
    fn aliases_nesting_and_cycles() {
        let server = id("/spire/server");
        let mut roll = roll();
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/n", &["s:a", "s:b"]))),
                Change::PutNode(Arc::new(world::node("/spire/agent/other", &["s:z"]))),
                // The node's own child, and a chain below it that runs in a circle.
                put(entry("child", &id("/spire/agent/n"), &id("/c"), &["u:1"])),
                put(entry("grandchild", &id("/c"), &id("/g"), &["u:1"])),
                put(entry("circle", &id("/g"), &id("/c"), &["u:1"])),
                // Two aliases that fit, one that wants more than the node has.
                put(entry("alias", &server, &id("/cluster"), &["s:a"])),
                put(entry("alias2", &server, &id("/zone"), &["s:a", "s:b"])),
                put(entry("alias3", &server, &id("/vault"), &["s:a", "s:c"])),
                put(entry("in-cluster", &id("/cluster"), &id("/w"), &["u:1"])),
                put(entry("in-vault", &id("/vault"), &id("/v"), &["u:1"])),
                put(entry(
                    "elsewhere",
                    &id("/spire/agent/other"),
                    &id("/e"),
                    &["u:1"],
                )),
            ],
        );
        let expected = [
            "alias",
            "alias2",
            "child",
            "circle",
            "grandchild",
            "in-cluster",
        ];
        let found = authorized_entries(&roll, &id("/spire/agent/n"));
        assert_eq!(names(&found), expected);
        assert_eq!(
            names(&authorized_entries(&roll, &id("/spire/agent/other"))),
            ["elsewhere"]
        );
        assert!(authorized_entries(&roll, &id("/spire/agent/never-attested")).is_empty());
    }

    #[test]
    fn names_are_a_node_s_by_entry_rule_and_alias() {
        let server = id("/spire/server");
        let (here, there) = (id("/spire/agent/n"), id("/spire/agent/other"));
        let mut roll = roll();
        let mut foreign = entry("foreign", &here, &id("/f"), &["u:1"]);
        foreign.spiffe_id = SpiffeId::parse("spiffe://elsewhere/f").unwrap();
        let rule = world::rule("r", &id("/c"), "spiffe://{td}/user/{unix:uid}", &["u:1"]);
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/n", &["s:a"]))),
                Change::PutNode(Arc::new(world::node("/spire/agent/other", &["s:z"]))),
                put(entry("child", &here, &id("/c"), &["u:1"])),
                put(entry("grandchild", &id("/c"), &id("/g"), &["u:1"])),
                put(entry("alias", &server, &id("/cluster"), &["s:a"])),
                put(entry("in-cluster", &id("/cluster"), &id("/w"), &["u:1"])),
                put(entry("elsewhere", &there, &id("/e"), &["u:1"])),
                put(foreign),
                Change::PutRule(Arc::new(rule)),
            ],
        );
        let check = |node: &SpiffeId, name: &str, expected: bool| {
            let names = NamesOfNode::of(&roll, node);
            let name = SpiffeId::parse(name).unwrap();
            assert_eq!(names.has(&name), expected, "{node} {name}");
        };
        for path in ["/c", "/g", "/cluster", "/w", "/user/1000"] {
            check(&here, &format!("spiffe://td{path}"), true);
            check(&there, &format!("spiffe://td{path}"), false);
        }
        check(&here, "spiffe://td/e", false);
        check(&there, "spiffe://td/e", true);
        check(&here, "spiffe://elsewhere/f", false);
        check(&id("/spire/agent/never-attested"), "spiffe://td/c", false);
    }

    #[test]
    fn a_workload_needs_every_selector_of_the_entry() {
        let entry = entry("e", &id("/p"), &id("/w"), &["unix:uid:1", "unix:gid:1"]);
        let check = |attested: &[&str], expected| {
            assert_eq!(applies(&entry, &selectors(attested)), expected);
        };
        check(&["unix:uid:1", "unix:gid:1", "unix:user:x"], true);
        check(&["unix:uid:1", "unix:gid:1"], true);
        check(&["unix:uid:1"], false);
        check(&[], false);
    }

    /// The rule as 2.11 says it, without any index: repeat until nothing more is found.
    fn by_the_book(roll: &Roll, node: &SpiffeId) -> BTreeSet<EntryId> {
        let mut found = BTreeSet::new();
        let Some(node) = roll.node(node).filter(|node| !node.is_banned()) else {
            return found;
        };
        let mut names = BTreeSet::from([node.id.clone()]);
        loop {
            let before = found.len();
            for entry in roll.entries_after(0) {
                let granted = crate::agents::membership::is_granted(roll.agents(), entry);
                let local = [&entry.parent_id, &entry.spiffe_id]
                    .iter()
                    .all(|id| id.trust_domain() == roll.trust_domain());
                let alias = entry.parent_id == id("/spire/server")
                    && entry.selectors.is_subset(&node.selectors);
                if local && granted && (alias || names.contains(&entry.parent_id)) {
                    found.insert(entry.id.clone());
                    names.insert(entry.spiffe_id.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    proptest! {
        #[test]
        fn descending_and_climbing_agree_with_the_book(history in world::history()) {
            let mut roll = roll();
            for changes in &history {
                step(&mut roll, changes);
            }
            for n in 0..2 {
                let node = id(&format!("/spire/agent/{n}"));
                let expected = by_the_book(&roll, &node);
                let found: Vec<_> = authorized_entries(&roll, &node).iter().map(|e| e.id.clone()).collect();
                prop_assert_eq!(&found, &expected.iter().cloned().collect::<Vec<_>>());
                for entry in roll.entries_after(0) {
                    prop_assert_eq!(
                        authorized_entry(&roll, &node, &entry.id).is_some(),
                        expected.contains(&entry.id)
                    );
                }
            }
        }
    }
}
