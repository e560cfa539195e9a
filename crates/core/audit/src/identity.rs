//! Of which agent, class and task a record is: read from its words, which stay.
//!
//! An agent's identity is `spiffe://TD/agent/CLASS/...`, or that of an entry that names a class; a
//! task's is its agent's with `/t/` and the task's ULID (agent-identity 4.1).

use crate::Record;

/// The details under which records name tasks.
const TASKS: [&str; 5] = ["task", "task_id", "parent_task", "parent", "root"];

/// The task in a SPIFFE ID, if it is a task's.
pub fn task_of(spiffe_id: &str) -> Option<&str> {
    let (_, task) = spiffe_id.rsplit_once("/t/")?;
    is_task_id(task).then_some(task)
}

/// A SPIFFE ID without its task.
pub fn agent_of(spiffe_id: &str) -> &str {
    match spiffe_id.rsplit_once("/t/") {
        Some((agent, task)) if is_task_id(task) => agent,
        _ => spiffe_id,
    }
}

/// The class that the path of a SPIFFE ID names, if it is an agent's.
pub fn class_of(spiffe_id: &str) -> Option<&str> {
    let path = spiffe_id.strip_prefix("spiffe://")?.split_once('/')?.1;
    let class = path.strip_prefix("agent/")?.split('/').next()?;
    (!class.is_empty()).then_some(class)
}

/// Whether a text has the shape of a ULID.
pub fn is_task_id(text: &str) -> bool {
    text.len() == 26
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// The task that a record is about, if it is about one.
pub fn task(record: &Record) -> Option<&str> {
    let named = [record.said("task"), record.said("task_id"), &record.subject];
    let named = named.into_iter().find(|text| is_task_id(text));
    named
        .or_else(|| task_of(&record.subject))
        .or_else(|| task_of(record.said("spiffe_id")))
        .or_else(|| is_task_id(record.said("entry_id")).then(|| record.said("entry_id")))
}

/// The tasks that a record names beside the one that it is about, such as those above it.
pub(crate) fn tasks_named(record: &Record) -> impl Iterator<Item = &str> {
    TASKS
        .iter()
        .map(|name| record.said(name))
        .filter(|text| is_task_id(text))
}

/// The agent that a record is about, if it is about one: its identity without a task.
pub fn agent(record: &Record) -> Option<&str> {
    let said = [
        record.said("agent"),
        record.said("spiffe_id"),
        &record.subject,
    ];
    said.into_iter()
        .find(|id| id.starts_with("spiffe://") && class_of(id).is_some())
        .map(agent_of)
}

/// The class of the agent that a record is about.
pub fn class(record: &Record) -> Option<&str> {
    let named = record.said("class");
    if !named.is_empty() {
        return Some(named);
    }
    agent(record).and_then(class_of)
}

/// Whether a record has to do with an agent of this identity.
pub(crate) fn names_agent(record: &Record, id: &str) -> bool {
    let who = record.actor.spiffe_id.as_deref().unwrap_or_default();
    [
        record.subject.as_str(),
        record.said("agent"),
        record.said("spiffe_id"),
        who,
    ]
    .into_iter()
    .chain(words(record, "spiffe_ids"))
    .any(|one| agent_of(one) == id)
}

/// The values of a detail that has several.
fn words<'a>(record: &'a Record, name: &str) -> impl Iterator<Item = &'a str> {
    record.said(name).split_ascii_whitespace()
}

/// Whether a record has to do with an agent class.
pub(crate) fn names_class(record: &Record, class: &str) -> bool {
    let who = record.actor.spiffe_id.as_deref().unwrap_or_default();
    self::class(record) == Some(class)
        // A class is the subject of what is done to it.
        || record.subject == class
        || class_of(who) == Some(class)
        || words(record, "classes").any(|one| one == class)
        || words(record, "spiffe_ids").any(|id| class_of(id) == Some(class))
}

/// Whether a record has to do with a node: it is its subject, it called, or something is on it.
pub(crate) fn names_node(record: &Record, id: &str) -> bool {
    record.subject == id
        || record.actor.spiffe_id.as_deref() == Some(id)
        || record.said("node") == id
        || record.said("node_id") == id
        || record.said("parent_id") == id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of several identities is of each, and one for none in particular.
    #[test]
    fn a_record_may_name_several_agents() {
        let text = r#"{"at_ms":1,"event":"workload.attested","actor":{"class":"node"},"decision":"allowed","subject":"spiffe://td/spire/agent/x/1","detail":{"spiffe_ids":"spiffe://td/agent/reader/1 spiffe://td/w","classes":"reader writer"}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        for id in ["spiffe://td/agent/reader/1", "spiffe://td/w"] {
            assert!(names_agent(&record, id), "{id}");
        }
        assert!(!names_agent(&record, "spiffe://td/agent/reader/2"));
        for class in ["reader", "writer"] {
            assert!(names_class(&record, class), "{class}");
        }
        assert!(!names_class(&record, "read"));
        assert_eq!((agent(&record), class(&record)), (None, None));
    }

    #[test]
    fn identities_are_taken_apart() {
        let id = "spiffe://td/agent/reader/1/t/01JDQ8Z0000000000000000000";
        assert_eq!(task_of(id), Some("01JDQ8Z0000000000000000000"));
        assert_eq!(agent_of(id), "spiffe://td/agent/reader/1");
        assert_eq!(class_of(id), Some("reader"));
        for other in [
            "spiffe://td/agent",
            "spiffe://td/agents/x",
            "spiffe://td",
            "x",
        ] {
            assert_eq!(class_of(other), None, "{other}");
            assert_eq!(agent_of(other), other);
        }
        // A path that only looks like one.
        assert_eq!(task_of("spiffe://td/a/t/short"), None);
    }
}
