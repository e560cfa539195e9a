use std::collections::BTreeSet;

use muster_model::{Cause, ProcessMark, RuleName, TaskState, Timestamp};
use proptest::prelude::*;

use super::super::follow;
use super::*;
use crate::agents::world as agents;
use crate::world::{self, entry, entry_id, id, node, rule, selectors, step};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);

fn here() -> SpiffeId {
    id("/spire/agent/here")
}

fn put(entry: Entry) -> Change {
    Change::PutEntry(Arc::new(entry))
}

fn put_rule(rule: Rule) -> Change {
    Change::PutRule(Arc::new(rule))
}

fn put_class(class: muster_model::AgentClass) -> Change {
    Change::Agent(AgentChange::PutClass(Arc::new(class)))
}

/// A rule of class "reader" under the node.
fn of_class(name: &str, template: &str, given: &[&str]) -> Rule {
    let mut rule = rule(name, &here(), template, given);
    rule.spec.class = Some(agents::name("reader"));
    rule
}

const EACH: &str = "spiffe://{td}/agent/{class}/{instance}";
const BY_UNIT: &str = "spiffe://{td}/agent/{class}/u/{systemd:id}";

/// Who a rule says a process is.
fn called(rule: &Rule, facts: &[&str]) -> SpiffeId {
    let facts = muster_model::Facts {
        selectors: selectors(facts),
        process: Some(ProcessMark {
            boot: muster_model::BootId::parse("0f8fad5b-d9cb-469f-a165-70867728950e").unwrap(),
            pid: 7,
            start_time: 1,
        }),
    };
    naming::derive(rule, &world::td("td"), &here(), &facts).unwrap()
}

/// A node with an alias; agents by entry, below an entry and an alias, and by three rules; a task of
/// each.
fn roll() -> Roll {
    let mut roll = world::roll();
    let [each, other] = ["each", "other"].map(|name| of_class(name, EACH, &["unix:uid:7"]));
    let by_unit = of_class("by-unit", BY_UNIT, &["unix:uid:7"]);
    let tasks = [
        (1, id("/agent/reader/entry"), None),
        (2, id("/agent/reader/below"), None),
        (3, id("/agent/reader/alias"), None),
        (4, called(&each, &["unix:uid:7"]), Some("each")),
        (5, called(&other, &["unix:uid:7"]), Some("other")),
        (
            6,
            called(&by_unit, &["unix:uid:7", "systemd:id:a.service"]),
            Some("by-unit"),
        ),
        (7, id("/agent/reader/twice"), None),
    ];
    let tasks = tasks.into_iter().map(|(n, agent, by)| Task {
        rule: by.map(|name| RuleName::parse(name).unwrap()),
        ..agents::task(n, &agent, &here(), TaskState::Open)
    });
    let mut changes = vec![
        put_class(agents::active(agents::class("reader"))),
        Change::PutNode(Arc::new(node("/spire/agent/here", &["s:a", "s:b"]))),
        put(entry(
            "entry",
            &here(),
            &id("/agent/reader/entry"),
            &["unix:uid:1"],
        )),
        put(entry("above", &here(), &id("/above"), &["unix:uid:1"])),
        put(entry(
            "below",
            &id("/above"),
            &id("/agent/reader/below"),
            &["unix:uid:1"],
        )),
        put(entry(
            "alias",
            &id("/spire/server"),
            &id("/cluster"),
            &["s:b"],
        )),
        put(entry(
            "in-alias",
            &id("/cluster"),
            &id("/agent/reader/alias"),
            &["unix:uid:1"],
        )),
        put(entry(
            "one",
            &here(),
            &id("/agent/reader/twice"),
            &["unix:uid:1"],
        )),
        put(entry(
            "two",
            &here(),
            &id("/agent/reader/twice"),
            &["unix:uid:2"],
        )),
        put_rule(each),
        put_rule(other),
        put_rule(by_unit),
    ];
    changes.extend(tasks.map(|task| Change::Agent(AgentChange::PutTask(Arc::new(task)))));
    step(&mut roll, &changes);
    roll
}

/// The numbers of the tasks that changes end, all of them for the one reason.
fn ended(roll: &Roll, changes: &[Change]) -> Vec<u8> {
    let mut after = roll.clone();
    let changes = step(&mut after, changes);
    let rows = follow(roll, &changes, NOW);
    for row in &rows {
        assert_eq!(
            (row.state, row.cause.clone(), row.ended_at),
            (TaskState::Revoked, Some(Cause::NameGone.into()), Some(NOW))
        );
    }
    let number = |row: &Task| (1..=7).find(|n| row.id == TaskId::new(agents::BEGIN, [*n; 10]));
    rows.iter().map(|row| number(row).unwrap()).collect()
}

#[test]
fn an_entry_that_goes_or_changes_ends_the_tasks_of_whom_it_named() {
    let roll = roll();
    let check = |changes: &[Change], expected: &[u8]| assert_eq!(ended(&roll, changes), expected);
    let delete = |id: &str| Change::DeleteEntry(entry_id(id));
    let changed = |id: &str, change: &dyn Fn(&mut Entry)| {
        let mut entry = Entry::clone(roll.entry(&entry_id(id)).unwrap());
        change(&mut entry);
        put(entry)
    };
    check(&[delete("entry")], &[1]);
    check(
        &[changed("entry", &|e| e.spiffe_id = id("/agent/reader/x"))],
        &[1],
    );
    check(
        &[changed("entry", &|e| {
            e.parent_id = id("/spire/agent/there");
        })],
        &[1],
    );
    check(
        &[changed("entry", &|e| {
            e.selectors = selectors(&["unix:uid:9"]);
        })],
        &[1],
    );
    let two = selectors(&["unix:uid:1", "unix:gid:1"]);
    check(&[changed("entry", &|e| e.selectors = two.clone())], &[1]);
    // What says nothing about whom it names takes nothing.
    check(&[changed("entry", &|e| e.parent_id = id("/above"))], &[]);
    check(&[changed("entry", &|e| e.hint = "h".into())], &[]);
    // What stands under it.
    check(&[delete("below")], &[2]);
    check(&[delete("above")], &[2]);
    check(
        &[changed("above", &|e| {
            e.selectors = selectors(&["unix:uid:9"]);
        })],
        &[],
    );
    check(&[delete("alias")], &[3]);
    check(
        &[changed("alias", &|e| e.selectors = selectors(&["s:z"]))],
        &[3],
    );
    // Where another names it too, only with that one.
    check(&[delete("one")], &[]);
    check(&[delete("one"), delete("two")], &[7]);
    // In one step from an entry to another that gives the same.
    let again = entry("new", &here(), &id("/agent/reader/entry"), &["unix:uid:1"]);
    check(&[delete("entry"), put(again)], &[]);
    check(
        &[delete("entry"), delete("above"), delete("alias")],
        &[1, 2, 3],
    );
}

#[test]
fn a_rule_that_goes_or_changes_ends_the_tasks_of_whom_it_named() {
    let roll = roll();
    let check = |changes: &[Change], expected: &[u8]| assert_eq!(ended(&roll, changes), expected);
    let delete = |name: &str| Change::DeleteRule(RuleName::parse(name).unwrap());
    let changed = |name: &str, change: &dyn Fn(&mut Rule)| {
        let mut rule = Rule::clone(roll.rule(name).unwrap());
        change(&mut rule);
        rule.version += 1;
        put_rule(rule)
    };
    // Not those of another rule whose names look the same.
    check(&[delete("each")], &[4]);
    check(&[delete("by-unit")], &[6]);
    check(&[delete("each"), delete("by-unit")], &[4, 6]);
    let template = |text: &str| muster_model::Template::parse(text).unwrap();
    check(
        &[changed("each", &|r| {
            r.spec.template = template("spiffe://{td}/agent/{class}/v2/{instance}");
        })],
        &[4],
    );
    check(
        &[changed("each", &|r| {
            r.spec.class = Some(agents::name("other"));
        })],
        &[4],
    );
    check(
        &[changed("each", &|r| {
            r.spec.selectors = selectors(&["unix:uid:7", "unix:gid:1"]);
        })],
        &[4],
    );
    check(
        &[changed("each", &|r| r.spec.parent_id = id("/nowhere"))],
        &[4],
    );
    check(
        &[changed("each", &|r| r.spec.parent_id = id("/cluster"))],
        &[],
    );
    check(
        &[changed("by-unit", &|r| {
            r.spec
                .selectors
                .extend(["systemd:id:b.service".parse().unwrap()]);
        })],
        &[6],
    );
    // What else is in a rule says nothing about whom it names.
    check(
        &[changed("each", &|r| {
            r.spec.per_node = 1;
            r.spec.hint = "h".into();
            r.spec.x509_svid_ttl = Some(std::time::Duration::from_mins(1));
        })],
        &[],
    );
    // From a rule to an entry in one step.
    let same = entry(
        "new",
        &here(),
        &called(roll.rule("each").unwrap(), &["unix:uid:7"]),
        &["unix:uid:7"],
    );
    check(&[delete("each"), put(same)], &[]);
    // A class that asks for more asks it of all that its rules name.
    let mut class = agents::active(agents::class("reader"));
    class.spec.attestation = selectors(&["unix:group:readers"]);
    check(&[put_class(class)], &[4, 5, 6]);
}

#[test]
fn a_node_that_loses_an_alias_loses_what_stands_under_it() {
    let roll = roll();
    let with = |given: &[&str]| Change::PutNode(Arc::new(node("/spire/agent/here", given)));
    assert_eq!(ended(&roll, &[with(&["s:a"])]), [3]);
    assert_eq!(ended(&roll, &[with(&["s:b"])]), [0_u8; 0]);
}

/// From entries to a rule as the documents say: the rule first, then the entries go.
#[test]
fn who_moves_from_an_entry_to_a_rule_keeps_its_tasks() {
    let mut roll = roll();
    let by_user = of_class(
        "by-user",
        "spiffe://{td}/agent/{class}/{unix:user}",
        &["unix:uid:1"],
    );
    step(&mut roll, &[put_rule(by_user.clone())]);
    let delete = [Change::DeleteEntry(entry_id("entry"))];
    assert_eq!(ended(&roll, &delete), [0_u8; 0]);
    step(&mut roll, &delete);
    // And loses them with the rule.
    assert_eq!(ended(&roll, &[Change::DeleteRule(by_user.name)]), [1]);
}

/// The names of a node and whether something gives a task's agent there, as the definition has it,
/// without any index.
fn by_the_book(roll: &Roll, task: &Task) -> bool {
    let Some(node) = roll.node(&task.node).filter(|node| !node.is_banned()) else {
        return false;
    };
    let mut names = BTreeSet::from([node.id.clone()]);
    let mut given = BTreeSet::new();
    loop {
        let before = given.len();
        for entry in roll.entries_after(0) {
            let local = entry.spiffe_id.trust_domain() == roll.trust_domain()
                && entry.parent_id.trust_domain() == roll.trust_domain();
            let alias =
                entry.parent_id == *roll.server_id() && entry.selectors.is_subset(&node.selectors);
            if local && (alias || names.contains(&entry.parent_id)) {
                given.insert(entry.id.clone());
                names.insert(entry.spiffe_id.clone());
            }
        }
        if given.len() == before {
            break;
        }
    }
    names.remove(&node.id);
    let by_rule = roll.rules().any(|rule| {
        let parent = &rule.spec.parent_id;
        (*parent == node.id || names.contains(parent)) && Pattern::of(rule).fits(&task.instance)
    });
    names.contains(&task.instance) || by_rule
}

/// What histories begin with: agents of the small world below a name and below an alias of a node, each
/// with a task there.
fn beginning() -> Roll {
    let (node_id, mut roll) = (id("/spire/agent/0"), world::roll());
    let task = |n: u8, agent: &str| agents::task(n, &id(agent), &node_id, TaskState::Open);
    let put_task = |task| Change::Agent(AgentChange::PutTask(Arc::new(task)));
    let given = &["s:a"];
    step(
        &mut roll,
        &[
            put_class(agents::active(agents::class("c0"))),
            Change::PutNode(Arc::new(node("/spire/agent/0", given))),
            put(entry("e0", &node_id, &id("/w/0"), given)),
            put(entry("e1", &id("/w/0"), &id("/agent/c0/0"), given)),
            put(entry("e2", &id("/spire/server"), &id("/w/1"), given)),
            put(entry("e3", &id("/w/1"), &id("/agent/c0/1"), given)),
            put_task(task(0, "/agent/c0/0")),
            put_task(task(4, "/agent/c0/1")),
        ],
    );
    roll
}

proptest! {
    /// Whatever is written: no task goes on whose agent had a name there and has it no longer, and
    /// none ends for that reason whose giver did not change.
    #[test]
    fn no_task_outlives_the_name_of_its_agent(history in world::history()) {
        let mut roll = beginning();
        for changes in &history {
            let mut after = roll.clone();
            let changes = step(&mut after, changes);
            let rows = follow(&roll, &changes, NOW);
            let ended: Vec<Change> = rows
                .iter()
                .map(|row| Change::Agent(AgentChange::PutTask(Arc::new(row.clone()))))
                .collect();
            for task in roll.agents().saved().tasks.iter().filter(|task| task.is_live()) {
                let lost = by_the_book(&roll, task) && !by_the_book(&after, task);
                let row = rows.iter().find(|row| row.id == task.id);
                prop_assert!(!lost || row.is_some(), "{task:?} goes on");
                let quiet = !changes.iter().any(|change| matches!(
                    change,
                    Change::PutEntry(_) | Change::DeleteEntry(_) | Change::PutRule(_)
                        | Change::DeleteRule(_) | Change::PutNode(_)
                        | Change::Agent(AgentChange::PutClass(_))
                ));
                let for_its_name = row.is_some_and(|row| row.cause == Some(Cause::NameGone.into()));
                prop_assert!(!(quiet && for_its_name), "{task:?} ends for nothing");
            }
            step(&mut after, &ended);
            roll = after;
        }
    }
}
