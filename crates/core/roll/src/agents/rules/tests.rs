use std::time::Duration;

use super::*;
use crate::agents::AgentChange;
use crate::agents::world::{BEGIN, DAY, active, class, deed, name, person, spec};

fn with(departures: &[&str]) -> Agents {
    let mut agents = Agents::default();
    for who in departures {
        let row = departed(person(who), deed("left", BEGIN));
        agents.apply(
            Revision(1),
            &AgentChange::PutDeparture(std::sync::Arc::new(row)),
        );
    }
    agents
}

#[test]
fn what_may_be_proposed() {
    let check = |change: &dyn Fn(&mut ClassSpec), reason: &str| {
        let mut spec = spec();
        change(&mut spec);
        let error = propose(&with(&["gone"]), name("x"), spec, deed("", BEGIN)).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    };
    check(&|s| s.sponsor = s.owner.clone(), "OWNER_IS_SPONSOR");
    check(&|s| s.owner = person("gone"), "PERSON_GONE");
    check(&|s| s.sponsor = person("gone"), "PERSON_GONE");
    check(&|s| s.valid_until = BEGIN, "VALID_UNTIL_PASSED");
    check(&|s| s.review_by = BEGIN, "REVIEW_BY_PASSED");
    check(
        &|s| s.review_by = s.valid_until.plus(DAY),
        "REVIEW_AFTER_END",
    );
    check(
        &|s| s.task_defaults.ttl = s.task_defaults.max_ttl * 2,
        "TTL_OVER_MAXIMUM",
    );
    check(&|s| s.task_defaults.max_ttl = DAY * 31, "INVALID_FIELD");
    check(
        &|s| s.task_defaults.ttl = Duration::from_millis(1500),
        "INVALID_FIELD",
    );
    check(&|s| s.purposes.clear(), "INVALID_FIELD");
    check(&|s| s.delegation.max_depth = 17, "INVALID_FIELD");
    check(
        &|s| {
            let names = (0..65).map(|n| muster_model::Word::parse(&format!("m{n}")).unwrap());
            s.allowed_models = names.collect();
        },
        "INVALID_FIELD",
    );
    let first = class("x");
    assert_eq!(
        (first.version, first.standing.lifecycle),
        (1, Lifecycle::Proposed)
    );
    let mut agents = Agents::default();
    agents.apply(
        Revision(1),
        &AgentChange::PutClass(std::sync::Arc::new(first)),
    );
    let again = propose(&agents, name("x"), spec(), deed("", BEGIN)).unwrap_err();
    assert_eq!(again.reason(), "CLASS_EXISTS");
}

#[test]
fn two_writers_with_the_same_version() {
    let first = class("x");
    let agents = Agents::default();
    let second = change(&agents, &first, spec(), 1, BEGIN).unwrap();
    assert_eq!(second.version, 2);
    let error = change(&agents, &second, spec(), 1, BEGIN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "agent class x is at version 2, and version 1 was to be changed; look at it again and repeat \
         with version 2"
    );
    // Who must stop it need not look first.
    let running = active(second);
    let stopped = step(
        &agents,
        &running,
        ClassStep::Suspend,
        None,
        deed("odd", BEGIN),
    )
    .unwrap();
    assert_eq!(
        (stopped.version, stopped.standing.lifecycle),
        (3, Lifecycle::Suspended)
    );
    assert_eq!(stopped.standing.note.as_str(), "odd");
}

#[test]
fn a_step_needs_its_reason_and_its_place() {
    let agents = Agents::default();
    let refused = |class: &AgentClass, taken| {
        let error = step(&agents, class, taken, None, deed("", BEGIN)).unwrap_err();
        error.reason()
    };
    let proposed = class("x");
    let running = active(proposed.clone());
    assert_eq!(refused(&running, ClassStep::Suspend), "REASON_MISSING");
    assert_eq!(refused(&running, ClassStep::Approve), "STEP_NOT_POSSIBLE");
    assert_eq!(
        refused(&proposed, ClassStep::Reinstate),
        "STEP_NOT_POSSIBLE"
    );
    let mut retired = proposed.clone();
    retired.standing.lifecycle = Lifecycle::Retired;
    assert_eq!(refused(&retired, ClassStep::Reinstate), "CLASS_RETIRED");
    assert!(change(&agents, &retired, spec(), 1, BEGIN).is_err());
}

/// A class comes back only when what it was stopped for is put right.
#[test]
fn reinstating_asks_again_what_proposing_asked() {
    let mut paused = active(class("x"));
    paused.standing.lifecycle = Lifecycle::Suspended;
    let back = |agents: &Agents, class: &AgentClass, now| {
        step(agents, class, ClassStep::Reinstate, None, deed("", now))
    };
    let due = spec().review_by;
    assert_eq!(
        back(&with(&["sam"]), &paused, BEGIN).unwrap_err().reason(),
        "PERSON_GONE"
    );
    assert_eq!(
        back(&with(&[]), &paused, due).unwrap_err().reason(),
        "REVIEW_BY_PASSED"
    );
    let gone = review(
        &with(&["ida"]),
        &paused,
        person("ida"),
        due.plus(DAY),
        None,
        due,
    );
    assert_eq!(gone.unwrap_err().reason(), "PERSON_GONE");
    let reviewed = review(
        &with(&[]),
        &paused,
        person("ida"),
        due.plus(DAY * 90),
        None,
        due,
    )
    .unwrap();
    assert_eq!(reviewed.last_reviewed.as_ref().unwrap().by, person("ida"));
    let running = back(&with(&[]), &reviewed, due).unwrap();
    assert!(running.is_active());
}
