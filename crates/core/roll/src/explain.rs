//! Why a workload has, or has not, an identity on a node, as the roll has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_model::{Entry, EntryId, Selector, SelectorSet, SpiffeId};

use crate::Roll;
use crate::agents::membership;
use crate::matching::{applies, authorized_entries, withheld_entry};

/// What the roll says about a node and a workload's selectors.
#[derive(Clone, Debug, Default)]
pub struct NodeExplanation {
    /// How many entries the node may see.
    pub authorized: usize,
    /// Entries that the node may see and that fit, by ascending ID.
    pub matching: Vec<Arc<Entry>>,
    /// Entries that fit and that the node may not see, by ascending ID.
    pub not_authorized: Vec<Arc<Entry>>,
    /// Entries that fit and that the node would see, but for an agent class that withholds them, by
    /// order of creation; and why.
    pub withheld: Vec<(Arc<Entry>, String)>,
    /// When nothing fits: entries that the node may see, those that lack fewest selectors first,
    /// with what is lacking.
    pub nearest: Vec<(Arc<Entry>, Vec<Selector>)>,
}

/// Explains what a workload that was attested as `selectors` is entitled to on `node`; at most
/// `limit` entries of each kind.
///
/// Without selectors no entry fits, and only the node itself is explained.
pub fn explain(
    roll: &Roll,
    node: &SpiffeId,
    selectors: &SelectorSet,
    limit: usize,
) -> NodeExplanation {
    let authorized = authorized_entries(roll, node);
    let mut answer = NodeExplanation {
        authorized: authorized.len(),
        ..NodeExplanation::default()
    };
    if selectors.is_empty() {
        return answer;
    }
    let seen: BTreeSet<&EntryId> = authorized.iter().map(|entry| &entry.id).collect();
    let mut misses: Vec<(usize, &Arc<Entry>)> = Vec::new();
    for entry in &authorized {
        if applies(entry, selectors) {
            if answer.matching.len() < limit {
                answer.matching.push(Arc::clone(entry));
            }
        } else {
            let lacking = entry.selectors.iter().filter(|s| !selectors.contains(s));
            misses.push((lacking.count(), entry));
        }
    }
    let others = roll
        .entries_after(0)
        .filter(|entry| applies(entry, selectors) && !seen.contains(&entry.id));
    for entry in others {
        let list = &mut answer.not_authorized;
        if withheld_entry(roll, node, &entry.id).is_some() {
            if answer.withheld.len() < limit {
                answer.withheld.push((Arc::clone(entry), why(roll, entry)));
            }
        } else if list.len() < limit {
            list.push(Arc::clone(entry));
        } else if answer.withheld.len() >= limit {
            break;
        }
    }
    if answer.matching.is_empty() {
        misses.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
        answer.nearest = misses
            .into_iter()
            .take(limit)
            .map(|(_, entry)| {
                let lacking = entry.selectors.iter().filter(|s| !selectors.contains(s));
                (Arc::clone(entry), lacking.cloned().collect())
            })
            .collect();
    }
    answer
}

fn why(roll: &Roll, entry: &Entry) -> String {
    membership::withheld(roll.agents(), &entry.spiffe_id, entry.class.as_ref()).map_or_else(
        || "an agent class withholds what it stands under".to_owned(),
        |why| why.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;
    use crate::world::{self, entry, id, roll, selectors, step};

    #[test]
    fn each_entry_stands_where_it_belongs() {
        let mut roll = roll();
        let mine = id("/spire/agent/mine");
        let put = |name: &str, parent: &SpiffeId, of: &[&str]| {
            Change::PutEntry(Arc::new(entry(name, parent, &id(&format!("/{name}")), of)))
        };
        let other = id("/spire/agent/other");
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/mine", &["s:a"]))),
                Change::PutNode(Arc::new(world::node("/spire/agent/other", &["s:b"]))),
                put("elsewhere", &other, &["u:1"]),
                put("one-off", &mine, &["u:1", "g:9"]),
                put("two-off", &mine, &["u:7", "g:9"]),
            ],
        );
        let attested = selectors(&["u:1", "g:1"]);
        let answer = explain(&roll, &mine, &attested, 10);
        let names = |entries: &[Arc<Entry>]| -> Vec<String> {
            entries.iter().map(|e| e.id.as_str().to_owned()).collect()
        };
        assert_eq!(answer.authorized, 2);
        assert!(answer.matching.is_empty());
        assert_eq!(names(&answer.not_authorized), ["elsewhere"]);
        let nearest: Vec<_> = answer
            .nearest
            .iter()
            .map(|(e, l)| (e.id.as_str(), l.len()))
            .collect();
        assert_eq!(nearest, [("one-off", 1), ("two-off", 2)]);

        step(&mut roll, &[put("fits", &mine, &["g:1"])]);
        let answer = explain(&roll, &mine, &attested, 10);
        assert_eq!(names(&answer.matching), ["fits"]);
        assert!(answer.nearest.is_empty());
        let node_only = explain(&roll, &mine, &SelectorSet::default(), 10);
        assert_eq!(
            (node_only.authorized, node_only.not_authorized.len()),
            (3, 0)
        );
    }

    #[test]
    fn an_entry_that_its_class_withholds_is_told_apart() {
        let mut roll = roll();
        let mine = id("/spire/agent/mine");
        let agent = entry("e", &mine, &id("/agent/reader/1"), &["unix:uid:1"]);
        let below = entry("f", &agent.spiffe_id, &id("/below"), &["unix:uid:1"]);
        let class = crate::agents::world::class("reader");
        step(
            &mut roll,
            &[
                Change::PutNode(Arc::new(world::node("/spire/agent/mine", &[]))),
                Change::PutEntry(Arc::new(agent)),
                Change::PutEntry(Arc::new(below)),
                Change::Agent(crate::agents::AgentChange::PutClass(Arc::new(class))),
            ],
        );
        let answer = explain(&roll, &mine, &selectors(&["unix:uid:1"]), 9);
        assert_eq!((answer.authorized, answer.not_authorized.len()), (0, 0));
        let told: Vec<&str> = answer
            .withheld
            .iter()
            .map(|(_, why)| why.as_str())
            .collect();
        let expected = [
            "agent class reader is proposed (operator)",
            "an agent class withholds what it stands under",
        ];
        assert_eq!(told, expected);
    }
}
