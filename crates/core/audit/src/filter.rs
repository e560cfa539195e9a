//! Which records somebody asks for.

use std::collections::BTreeSet;

use crate::{Decision, Event, Record, identity};

/// Tasks that belong together: one, and all that are part of it.
///
/// Grows as it sees tasks opened, so that what is followed live stays whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtree {
    tasks: BTreeSet<String>,
}

impl Subtree {
    /// How many tasks one holds at the most: a bound on memory that a hostile caller could want.
    pub const MOST: usize = 100_000;

    /// A task, with those of its descendants that are known.
    pub fn new(task: impl Into<String>, descendants: impl IntoIterator<Item = String>) -> Self {
        let mut tasks = BTreeSet::from([task.into()]);
        tasks.extend(descendants.into_iter().take(Self::MOST));
        Self { tasks }
    }

    fn takes(&mut self, record: &Record) -> bool {
        let about = identity::task(record);
        if about.is_some_and(|id| self.tasks.contains(id)) {
            return true;
        }
        if !identity::tasks_named(record).any(|id| self.tasks.contains(id)) {
            return false;
        }
        if let Some(id) = about
            && self.tasks.len() < Self::MOST
        {
            self.tasks.insert(id.to_owned());
        }
        true
    }
}

/// What a record must have to be told; what is not set asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// A SPIFFE ID, or the name of an agent class.
    pub agent: Option<String>,
    /// A task, with all that are part of it.
    pub task: Option<Subtree>,
    /// Whether it was done.
    pub decision: Option<Decision>,
    /// The name of an event, or its first words: `svid` is all that begin with `svid.`.
    pub event: Option<String>,
    /// The SPIFFE ID of a node.
    pub node: Option<String>,
    /// Nothing from before, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
}

impl Filter {
    /// Whether a record is one of those. Takes records in any order; those of a task that is opened
    /// while it looks are known as part of another from then on.
    pub fn takes(&mut self, record: &Record) -> bool {
        self.since_ms.is_none_or(|since| record.at_ms >= since)
            && self
                .decision
                .is_none_or(|decision| record.decision == decision)
            && self
                .event
                .as_deref()
                .is_none_or(|wanted| is_named(record.event, wanted))
            && self.agent.as_deref().is_none_or(|agent| {
                if agent.starts_with("spiffe://") {
                    identity::names_agent(record, agent)
                } else {
                    identity::names_class(record, agent)
                }
            })
            && self
                .node
                .as_deref()
                .is_none_or(|node| identity::names_node(record, node))
            && self.task.as_mut().is_none_or(|tasks| tasks.takes(record))
    }
}

/// Whether an event has this name, or begins with these words.
fn is_named(event: Event, wanted: &str) -> bool {
    let name = event.to_string();
    let wanted = wanted.strip_suffix('.').unwrap_or(wanted);
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Actor;

    const TASK: &str = "01JDQ8Z0000000000000000000";
    const CHILD: &str = "01JDQ8Z0000000000000000001";
    const GRANDCHILD: &str = "01JDQ8Z0000000000000000002";

    fn record(event: Event, subject: &str) -> Record {
        Record {
            at_ms: 1000,
            event,
            actor: Actor {
                class: "node".into(),
                spiffe_id: Some("spiffe://td/spire/agent/join_token/n".into()),
                ..Actor::default()
            },
            decision: Decision::Allowed,
            subject: subject.into(),
            detail: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn check(filter: &Filter, record: &Record, expected: bool) {
        assert_eq!(
            filter.clone().takes(record),
            expected,
            "{filter:?} {record:?}"
        );
    }

    #[test]
    fn each_part_asks_for_itself() {
        let one = record(
            Event::SvidIssued,
            &format!("spiffe://td/agent/reader/1/t/{TASK}"),
        );
        let plain = record(Event::EntryCreated, "e-1");
        let class = record(Event::ClassSuspended, "reader");
        let filter = Filter::default();
        check(&filter, &one, true);

        let with = |event: &str| Filter {
            event: Some(event.into()),
            ..Filter::default()
        };
        for (event, expected) in [
            ("svid", true),
            ("svid.", true),
            ("svid.issued", true),
            ("svid.issue", false),
            ("svid.issued.x509", false),
            ("sv", false),
            ("entry", false),
        ] {
            check(&with(event), &one, expected);
        }

        let of = |agent: &str| Filter {
            agent: Some(agent.into()),
            ..Filter::default()
        };
        check(&of("spiffe://td/agent/reader/1"), &one, true);
        check(&of("spiffe://td/agent/reader"), &one, false);
        check(&of("reader"), &one, true);
        check(&of("reader"), &class, true);
        check(&of("writer"), &one, false);
        check(&of("reader"), &plain.clone().with("class", "reader"), true);
        check(&of("reader"), &plain, false);

        let on = |node: &str| Filter {
            node: Some(node.into()),
            ..Filter::default()
        };
        check(&on("spiffe://td/spire/agent/join_token/n"), &one, true);
        check(&on("spiffe://td/spire/agent/join_token/m"), &one, false);

        let refused = Filter {
            decision: Some(Decision::Refused),
            ..Filter::default()
        };
        check(&refused, &one, false);
        check(&refused, &one.clone().refused("because"), true);

        let since = |since| Filter {
            since_ms: Some(since),
            ..Filter::default()
        };
        check(&since(1000), &one, true);
        check(&since(1001), &one, false);
    }

    #[test]
    fn a_task_comes_with_all_that_are_part_of_it() {
        let mut filter = Filter {
            task: Some(Subtree::new(TASK, [])),
            ..Filter::default()
        };
        let opened = |id: &str, parent: &str| record(Event::SvidIssued, id).with("parent", parent);
        assert!(!filter.takes(&record(Event::SvidIssued, CHILD)));
        assert!(filter.takes(&opened(CHILD, TASK)));
        assert!(filter.takes(&opened(GRANDCHILD, CHILD)));
        assert!(filter.takes(&record(
            Event::SvidIssued,
            &format!("spiffe://td/agent/reader/1/t/{GRANDCHILD}")
        )));
        assert!(!filter.takes(&opened("01JDQ8Z0000000000000000009", "")));
        // What was known before.
        let mut filter = Filter {
            task: Some(Subtree::new(TASK, [CHILD.to_owned()])),
            ..Filter::default()
        };
        assert!(filter.takes(&record(Event::SvidIssued, CHILD)));
    }
}
