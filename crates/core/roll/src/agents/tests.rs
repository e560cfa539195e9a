use super::*;
use crate::agents::world::{self, class, deed, id, name, person};
use crate::world::{roll, step};
use crate::{Change, Roll};

fn put(roll: &mut Roll, changes: &[AgentChange]) {
    let changes: Vec<Change> = changes.iter().cloned().map(Change::Agent).collect();
    step(roll, &changes);
}

#[test]
fn rows_come_and_go_and_the_indexes_follow() {
    let mut roll = roll();
    let one = world::instance(&id("/agent/reader/1"), InstanceState::Active);
    let gone = rules::departed(person("olga"), deed("left", world::BEGIN));
    put(
        &mut roll,
        &[
            AgentChange::PutClass(Arc::new(class("reader"))),
            AgentChange::PutInstance(Arc::new(one.clone())),
            AgentChange::PutDeparture(Arc::new(gone)),
        ],
    );
    let agents = roll.agents();
    assert_eq!(agents.class("reader").unwrap().changed_at, roll.head());
    assert_eq!(agents.answered_for_by(&person("olga")).count(), 1);
    assert_eq!(agents.instances_of("reader").count(), 1);
    assert!(agents.departure(&person("olga")).is_some());
    // Another owner, another class of the instance, a person who is back.
    let mut other = class("reader");
    other.spec.owner = person("ida");
    let moved = AgentInstance {
        class: name("writer"),
        ..one
    };
    put(
        &mut roll,
        &[
            AgentChange::PutClass(Arc::new(other)),
            AgentChange::PutInstance(Arc::new(moved)),
            AgentChange::DeleteDeparture(person("olga")),
        ],
    );
    let agents = roll.agents();
    assert_eq!(agents.answered_for_by(&person("olga")).count(), 0);
    assert_eq!(agents.answered_for_by(&person("ida")).count(), 1);
    assert_eq!(
        (
            agents.instances_of("reader").count(),
            agents.instances_of("writer").count()
        ),
        (0, 1)
    );
    let again = Agents::load(agents.saved());
    assert_eq!(again.saved(), agents.saved());
    put(
        &mut roll,
        &[AgentChange::DeleteInstance(id("/agent/reader/1"))],
    );
    assert_eq!(roll.agents().instance_count(), 0);
    assert_eq!(roll.agents().instances_of("writer").count(), 0);
}

#[test]
fn lists_in_pages() {
    let mut roll = roll();
    let mut changes = Vec::new();
    for n in 0..5 {
        let mut class = class(&format!("c{n}"));
        if n % 2 == 0 {
            class = world::active(class);
        }
        changes.push(AgentChange::PutClass(Arc::new(class)));
        let instance = world::instance(&id(&format!("/agent/c0/{n}")), InstanceState::Active);
        changes.push(AgentChange::PutInstance(Arc::new(instance)));
    }
    put(&mut roll, &changes);
    let agents = roll.agents();
    let active = ClassFilter {
        lifecycles: [muster_model::Lifecycle::Active].into(),
        ..ClassFilter::default()
    };
    let first = agents.list_classes(&active, None, 2);
    let names: Vec<&str> = first.rows.iter().map(|class| class.name.as_str()).collect();
    assert_eq!(
        (names, first.next.clone()),
        (vec!["c0", "c2"], Some(name("c2")))
    );
    let second = agents.list_classes(&active, first.next.as_ref(), 2);
    assert_eq!((second.rows.len(), second.next), (1, None));
    let of_class = InstanceFilter {
        class: Some(name("c0")),
        ..InstanceFilter::default()
    };
    for filter in [of_class, InstanceFilter::default()] {
        let first = agents.list_instances(&filter, None, 3);
        let second = agents.list_instances(&filter, first.next.as_ref(), 3);
        assert_eq!(
            (first.rows.len(), second.rows.len(), second.next),
            (3, 2, None)
        );
    }
    assert_eq!(
        agents
            .list_classes(
                &ClassFilter {
                    person: Some(person("nobody")),
                    ..ClassFilter::default()
                },
                None,
                0
            )
            .rows
            .len(),
        0
    );
}

#[test]
fn an_identity_is_withheld_by_every_class_that_it_names() {
    let mut roll = roll();
    let writer = class("writer");
    put(
        &mut roll,
        &[
            AgentChange::PutClass(Arc::new(world::active(class("reader")))),
            AgentChange::PutClass(Arc::new(writer.clone())),
            AgentChange::PutInstance(Arc::new(world::instance(
                &id("/agent/reader/2"),
                InstanceState::Quarantined,
            ))),
        ],
    );
    let check = |path: &str, class: Option<&str>, reason: Option<&str>| {
        let (id, class) = (id(path), class.map(name));
        let found = membership::withheld(roll.agents(), &id, class.as_ref());
        assert_eq!(found.map(|why| why.reason()), reason, "{path} {class:?}");
    };
    check("/web", None, None);
    check("/agent/unheard-of/1", None, None);
    check("/agent/reader/1", None, None);
    check("/agent/reader/2", None, Some("AGENT_QUARANTINED"));
    check("/agent/writer/1", None, Some("CLASS_PROPOSED"));
    check("/web", Some("writer"), Some("CLASS_PROPOSED"));
    // Naming a class that is active does not take an identity out of reach of the one in its path.
    check("/agent/writer/1", Some("reader"), Some("CLASS_PROPOSED"));
    check("/agent/reader/1", Some("writer"), Some("CLASS_PROPOSED"));
    let at = |now| {
        membership::withheld_at(roll.agents(), &id("/agent/reader/1"), None, now)
            .map(|why| why.reason())
    };
    let end = world::spec().valid_until;
    assert_eq!(at(end.minus(world::DAY)), None);
    assert_eq!(at(end), Some("CLASS_EXPIRED"));
    assert_eq!(
        membership::ends_at(roll.agents(), &id("/agent/reader/1"), None),
        Some(end)
    );
    assert_eq!(membership::ends_at(roll.agents(), &id("/web"), None), None);
}

/// A hundred thousand instances cost little: a snapshot shares them all, and a write to one copies
/// a few tree nodes.
#[test]
fn many_instances_are_no_burden() {
    let mut agents = Agents::default();
    for n in 0..100_000_u32 {
        let id = id(&format!("/agent/reader/{n}"));
        agents.put_instance(Arc::new(world::instance(&id, InstanceState::Active)));
    }
    let snapshots: Vec<Agents> = (0..10_000).map(|_| agents.clone()).collect();
    assert_eq!(snapshots.len(), 10_000);
    let page = agents.list_instances(&InstanceFilter::default(), None, 10);
    assert_eq!(page.rows.len(), 10);
}
