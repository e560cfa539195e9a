//! Policies are asked before a task is opened or extended.
//!
//! Once for each class that the agent is of, as each has a say. A task that is part of another is
//! also started by that one's agent, and is asked about as such (`agent.spawn`).

use muster_cedar::facts::{Binding, Requested};
use muster_cedar::{Action, PrincipalFacts, ResourceFacts};
use muster_model::{AgentClass, BindingKind, SelectorSet, Task, Timestamp};
use muster_proto::muster::agent::v1::{TaskBinding, task_binding};
use muster_roll::Roll;
use muster_roll::agents::membership;
use muster_roll::agents::task::Admitted;

use super::Refused;
use crate::policies::{Answer, Policies, Question, facts};

/// Asks whether a task may be opened. The answer is that about the task, which permits it.
pub(super) fn may_open(
    policies: &Policies,
    roll: &Roll,
    admitted: &Admitted,
    attested: &facts::Attested<'_>,
    now: Timestamp,
) -> Result<Option<Answer>, Refused> {
    let task = &admitted.task;
    let asked = facts::wants(task, task.deadline, now);
    let mut permitted = None;
    for class in &admitted.classes {
        if let Some((above, its_class)) = &admitted.parent {
            let spawn = Question {
                action: Action::AgentSpawn,
                resource: ResourceFacts::AgentClass(Box::new(facts::class(roll, class))),
                ..question(roll, (its_class, above), asked.clone(), attested, now)
            };
            allowed(policies.decide(&spawn, now), above)?;
        }
        let open = question(roll, (class, task), asked.clone(), attested, now);
        permitted = Some(allowed(policies.decide(&open, now), task)?);
    }
    Ok(permitted)
}

/// Asks whether a task may have another deadline.
pub(super) fn may_extend(
    policies: &Policies,
    roll: &Roll,
    task: &Task,
    deadline: Timestamp,
    now: Timestamp,
) -> Result<Option<Answer>, Refused> {
    // No more of the budget than it has already.
    let asked = Requested {
        budget: 0,
        ..facts::wants(task, deadline, now)
    };
    let nothing = SelectorSet::new();
    let attested = facts::Attested {
        selectors: &nothing,
        level: task.level,
        age: now.since(task.opened_at),
        binding: binding_of(task.bound_to.kind),
    };
    let mut permitted = None;
    for class in membership::classes(roll.agents(), &task.instance, Some(&task.class)) {
        let extend = Question {
            action: Action::TaskExtend,
            ..question(roll, (class, task), asked.clone(), &attested, now)
        };
        permitted = Some(allowed(policies.decide(&extend, now), task)?);
    }
    Ok(permitted)
}

fn allowed(answer: Answer, task: &Task) -> Result<Answer, Refused> {
    if answer.allows() {
        return Ok(answer);
    }
    Err(Refused {
        status: answer.refusal(&task.instance),
        by: Some(answer),
    })
}

/// What is asked about a task by its agent.
fn question(
    roll: &Roll,
    (class, task): (&AgentClass, &Task),
    asked: Requested,
    attested: &facts::Attested<'_>,
    now: Timestamp,
) -> Question {
    let node = facts::node_named(roll, &task.node);
    let agent = facts::agent(roll, &task.instance, class, node);
    Question {
        principal: PrincipalFacts::Agent(Box::new(agent)),
        action: Action::TaskOpen,
        resource: ResourceFacts::TaskKind(task.kind.as_str().to_owned()),
        situation: facts::in_task(roll, (class, task), asked, attested.facts(), now),
    }
}

/// What a task is to be bound to, as its caller put it.
pub(super) fn binding(asked: Option<&TaskBinding>, seen: BindingKind) -> Binding {
    match asked.and_then(|binding| binding.to.as_ref()) {
        Some(task_binding::To::ChildPid(_)) => Binding::Child,
        Some(task_binding::To::Caller(_)) => Binding::Process,
        Some(task_binding::To::Cgroup(_)) => Binding::Cgroup,
        Some(task_binding::To::Lease(_)) => Binding::Lease,
        None => binding_of(seen),
    }
}

fn binding_of(kind: BindingKind) -> Binding {
    match kind {
        BindingKind::Process => Binding::Process,
        BindingKind::Cgroup => Binding::Cgroup,
        BindingKind::Lease => Binding::Lease,
    }
}
