use muster_model::{Cause, InstanceState};

use super::*;
use crate::Change;
use crate::agents::AgentChange;
use crate::agents::world::{self, BEGIN, DAY, active, class, deed, id, person, spec};
use crate::world::{node, roll, step};

fn put(roll: &mut Roll, changes: Vec<AgentChange>) {
    step(
        roll,
        &changes.into_iter().map(Change::Agent).collect::<Vec<_>>(),
    );
}

/// Does what is due, as the server does, and says it in words.
fn settle(roll: &mut Roll, now: Timestamp) -> Vec<String> {
    let settings = Settings::default();
    let mut words = Vec::new();
    let mut changes = Vec::new();
    for due in due(roll, &settings, now, 100) {
        match due {
            Due::Warning(class) => {
                words.push(format!("{} warned", class.name));
                changes.push(AgentChange::PutClass(Arc::new(class)));
            }
            Due::Class(class) => {
                let standing = &class.standing;
                words.push(format!(
                    "{} {} {}",
                    class.name, standing.lifecycle, standing.cause
                ));
                changes.push(AgentChange::PutClass(Arc::new(class)));
            }
            Due::Lost(instance) => {
                words.push(format!("{} {}", instance.id.path(), instance.cause));
                changes.push(AgentChange::PutInstance(Arc::new(instance)));
            }
            Due::Forgotten(instance) => {
                words.push(format!("{} forgotten", instance.id.path()));
                changes.push(AgentChange::DeleteInstance(instance.id.clone()));
            }
        }
    }
    put(roll, changes);
    assert_eq!(
        super::due(roll, &settings, now, 100),
        [],
        "what was done is due again"
    );
    words
}

#[test]
fn a_review_is_warned_of_once_and_suspends_at_the_date() {
    let mut roll = roll();
    put(
        &mut roll,
        vec![AgentChange::PutClass(Arc::new(active(class("x"))))],
    );
    let date = spec().review_by;
    // Something is seen all the time, so that it does not fall idle.
    let mut seen = world::instance(&id("/agent/x/1"), InstanceState::Active);
    seen.last_seen = date;
    put(&mut roll, vec![AgentChange::PutInstance(Arc::new(seen))]);
    let second = Duration::from_secs(1);
    assert!(settle(&mut roll, date.minus(DAY * 14 + second)).is_empty());
    assert_eq!(settle(&mut roll, date.minus(DAY * 14)), ["x warned"]);
    assert!(settle(&mut roll, date.minus(second)).is_empty());
    assert_eq!(settle(&mut roll, date), ["x suspended review_overdue"]);
    let stopped = roll.agents().class("x").unwrap();
    assert_eq!(
        (stopped.standing.since, stopped.standing.by.as_str()),
        (date, SERVER)
    );
}

#[test]
fn a_class_ends_at_its_date() {
    let mut roll = roll();
    let mut ending = active(class("x"));
    ending.spec.valid_until = ending.spec.review_by;
    let date = ending.spec.valid_until;
    put(&mut roll, vec![AgentChange::PutClass(Arc::new(ending))]);
    assert_eq!(settle(&mut roll, date), ["x suspended expired"]);
}

#[test]
fn a_class_that_nobody_answers_for_is_quarantined() {
    let mut roll = roll();
    let mut paused = active(class("paused"));
    paused.standing.lifecycle = Lifecycle::Suspended;
    put(
        &mut roll,
        vec![
            AgentChange::PutClass(Arc::new(active(class("running")))),
            AgentChange::PutClass(Arc::new(paused)),
            // Nothing is lost while it has no identity: approving it is refused.
            AgentChange::PutClass(Arc::new(class("proposed"))),
        ],
    );
    assert!(settle(&mut roll, BEGIN).is_empty());
    let gone = rules::departed(person("sam"), deed("left", BEGIN));
    put(&mut roll, vec![AgentChange::PutDeparture(Arc::new(gone))]);
    assert_eq!(orphans(roll.agents(), BEGIN).len(), 2);
    assert_eq!(
        settle(&mut roll, BEGIN),
        [
            "paused quarantined sponsor_gone",
            "running quarantined sponsor_gone"
        ]
    );
    put(&mut roll, vec![AgentChange::DeleteDeparture(person("sam"))]);
    assert!(
        settle(&mut roll, BEGIN).is_empty(),
        "only an operator lifts a quarantine"
    );
}

#[test]
fn an_idle_class_is_suspended() {
    let mut roll = roll();
    let mut long = active(class("x"));
    long.spec.review_by = BEGIN.plus(DAY * 364);
    let mut seen = world::instance(&id("/agent/x/1"), InstanceState::Retired);
    seen.last_seen = BEGIN.plus(DAY * 10);
    put(
        &mut roll,
        vec![
            AgentChange::PutClass(Arc::new(long)),
            AgentChange::PutInstance(Arc::new(seen)),
        ],
    );
    assert!(settle(&mut roll, BEGIN.plus(DAY * 91)).is_empty());
    assert_eq!(
        settle(&mut roll, BEGIN.plus(DAY * 100)),
        ["x suspended idle"]
    );
}

#[test]
fn instances_are_lost_found_and_forgotten() {
    let mut roll = roll();
    step(
        &mut roll,
        &[Change::PutNode(Arc::new(node("/spire/agent/n", &[])))],
    );
    let on = |path: &str, node: &str| {
        let mut instance = world::instance(&id(path), InstanceState::Active);
        instance.node = Some(id(node));
        AgentChange::PutInstance(Arc::new(instance))
    };
    put(
        &mut roll,
        vec![
            on("/agent/x/1", "/spire/agent/n"),
            on("/agent/x/2", "/spire/agent/gone"),
        ],
    );
    assert_eq!(settle(&mut roll, BEGIN), ["/agent/x/2 node_gone"]);
    assert!(settle(&mut roll, BEGIN.plus(DAY)).is_empty());
    let later = BEGIN.plus(DAY + Duration::from_secs(1));
    assert_eq!(settle(&mut roll, later), ["/agent/x/1 not_seen"]);
    // Seen again.
    let sight = instance::Sight {
        id: id("/agent/x/1"),
        class: world::name("x"),
        node: id("/spire/agent/n"),
    };
    let known = roll.agents().instance(&sight.id).cloned();
    let back = instance::seen(known.as_deref(), &sight, later).unwrap();
    assert_eq!(
        (back.state, back.cause),
        (InstanceState::Active, Cause::Seen)
    );
    assert_eq!(
        instance::seen(Some(&back), &sight, later.plus(Duration::from_secs(59))),
        None
    );
    assert!(instance::seen(Some(&back), &sight, later.plus(instance::FRESH)).is_some());
    put(&mut roll, vec![AgentChange::PutInstance(Arc::new(back))]);
    let much_later = BEGIN.plus(DAY * 90 + Duration::from_secs(1));
    assert_eq!(
        settle(&mut roll, much_later),
        ["/agent/x/1 not_seen", "/agent/x/2 forgotten"]
    );
}

#[test]
fn no_more_is_done_at_once_than_is_asked() {
    let mut roll = roll();
    let rows = (0..20).map(|n| {
        let instance = world::instance(&id(&format!("/agent/x/{n}")), InstanceState::Active);
        AgentChange::PutInstance(Arc::new(instance))
    });
    put(&mut roll, rows.collect());
    assert_eq!(
        due(&roll, &Settings::default(), BEGIN.plus(DAY * 2), 7).len(),
        7
    );
}
