//! Policies are asked before an identity of an agent is signed.
//!
//! Once for each class that the identity is of, as each has a say; an identity of none is not asked
//! about. What is asked about a task's identity is what its task may do.

use std::time::Duration;

use muster_audit::{Record, SvidKind};
use muster_cedar::facts::{Binding, NodeFacts, Situation};
use muster_cedar::{Action, PrincipalFacts, ResourceFacts};
use muster_model::{AgentClass, ClassName, Entry, SelectorSet, SpiffeId, Task, Timestamp};
use muster_roll::agents::membership;
use muster_roll::{Roll, matching};
use tonic::Status;

use super::{Answer, Question, facts};
use crate::agents::given_by;
use crate::operation::Operation;
use crate::server::Server;

/// Identities that policies let pass: what is to be written about them.
#[must_use = "the names of the policies belong on the record"]
pub(crate) struct Permitted(Option<Answer>);

impl Permitted {
    /// The record of what is issued, with the policies that permit it where any were asked.
    pub(crate) fn onto(&self, record: Record) -> Record {
        match &self.0 {
            Some(answer) => answer.onto(record),
            None => record,
        }
    }
}

/// Something that is to be signed.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    id: &'a SpiffeId,
    /// What a process must be attested as to receive it.
    selectors: &'a SelectorSet,
    lifetime: Duration,
    now: Timestamp,
}

/// Asks whether an identity may be issued for an entry of a node; a refusal is on the record.
pub(crate) fn may_issue<A>(
    server: &Server,
    op: &Operation<A>,
    kind: SvidKind,
    (entry, node): (&Entry, &SpiffeId),
    lifetime: Duration,
) -> Result<Permitted, Status> {
    let wanted = Wanted {
        id: &entry.spiffe_id,
        selectors: &entry.selectors,
        lifetime,
        now: op.now,
    };
    let classes = classes_of(&op.roll, wanted.id, [entry.class.as_ref()]);
    if classes.is_empty() {
        return Ok(Permitted(None));
    }
    let node = facts::node_named(&op.roll, node);
    let detail = given_by(entry);
    ask(server, op, (kind, Some(detail)), (&classes, &node), wanted)
}

/// Asks whether an operator may have an identity issued that no node asked for.
pub(crate) fn may_mint<A>(
    server: &Server,
    op: &Operation<A>,
    kind: SvidKind,
    id: &SpiffeId,
    lifetime: Duration,
) -> Result<Permitted, Status> {
    let named = matching::classes_named(&op.roll, id).map(Some);
    let classes = classes_of(&op.roll, id, std::iter::once(None).chain(named));
    if classes.is_empty() {
        return Ok(Permitted(None));
    }
    let node = facts::node_named(&op.roll, op.roll.server_id());
    let wanted = Wanted {
        id,
        selectors: &SelectorSet::new(),
        lifetime,
        now: op.now,
    };
    ask(server, op, (kind, None), (&classes, &node), wanted)
}

/// The classes that an identity is of, each once, by ascending name.
fn classes_of<'r>(
    roll: &'r Roll,
    id: &SpiffeId,
    named: impl IntoIterator<Item = Option<&'r ClassName>>,
) -> Vec<&'r AgentClass> {
    let agents = roll.agents();
    let of_task = task_of(roll, id).map(|task| task.class.as_str());
    let mut classes: Vec<&AgentClass> = named
        .into_iter()
        .flat_map(|class| membership::named(id, class))
        .chain(of_task)
        .filter_map(|name| agents.class(name).map(AsRef::as_ref))
        .collect();
    classes.sort_by(|one, other| one.name.cmp(&other.name));
    classes.dedup_by(|one, other| one.name == other.name);
    classes
}

/// The task whose identity it is.
fn task_of<'r>(roll: &'r Roll, id: &SpiffeId) -> Option<&'r Task> {
    roll.agents().task_named(id).map(AsRef::as_ref)
}

fn ask<A>(
    server: &Server,
    op: &Operation<A>,
    (kind, detail): (SvidKind, Option<(&str, &str)>),
    (classes, node): (&[&AgentClass], &NodeFacts),
    wanted: Wanted<'_>,
) -> Result<Permitted, Status> {
    let mut permitted = None;
    for class in classes {
        let question = question(&op.roll, class, node, wanted);
        let answer = server.policies.decide(&question, wanted.now);
        if !answer.allows() {
            if !answer.repeated {
                let mut record = op.svid_record(kind, wanted.id.as_str());
                if let Some((name, value)) = detail {
                    record = record.with(name, value);
                }
                server.refusals.note(answer.onto(record));
            }
            return Err(answer.refusal(wanted.id));
        }
        permitted = Some(answer);
    }
    Ok(Permitted(permitted))
}

/// What is asked about an identity, for one of the classes that it is of.
fn question(roll: &Roll, class: &AgentClass, node: &NodeFacts, wanted: Wanted<'_>) -> Question {
    let task = task_of(roll, wanted.id);
    let agent = task.map_or(wanted.id, |task| &task.instance);
    // Of a task the server knows how its caller was attested; of an agent, what its node is.
    let proof = match task {
        Some(task) => facts::Attested {
            selectors: wanted.selectors,
            level: task.level,
            age: wanted.now.since(task.opened_at),
            binding: facts::binding(task.bound_to.kind),
        },
        None => facts::Attested {
            selectors: wanted.selectors,
            level: node.level,
            age: Duration::ZERO,
            binding: Binding::None,
        },
    };
    let asked = facts::identity(task, wanted.lifetime);
    let proof = proof.facts();
    let (resource, situation): (ResourceFacts, Situation) = match task {
        Some(task) => (
            ResourceFacts::TaskKind(task.kind.as_str().to_owned()),
            facts::in_task(roll, (class, task), asked, proof, wanted.now),
        ),
        None => (
            ResourceFacts::AgentClass(Box::new(facts::class(roll, class))),
            facts::outside(class, asked, proof),
        ),
    };
    Question {
        principal: PrincipalFacts::Agent(Box::new(facts::agent(roll, agent, class, node.clone()))),
        action: Action::SvidIssue,
        resource,
        situation,
    }
}
