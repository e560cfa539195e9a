//! Classes, and the persons who answer for them.

use std::sync::Arc;

use muster_audit::{Decision, Event, Record};
use muster_model::{ClassName, ClassSpec, Lifecycle, PersonId, Purpose, Word};
use muster_policy::{
    Action, Classes, CreateClass, GetClass, ListClasses, ListPersonsGone, MarkPersonGone,
    MarkPersonReturned, ReviewClass, UpdateClass, Writes,
};
use muster_proto::muster::agent::v1;
use muster_roll::Roll;
use muster_roll::agents::lifecycle::ClassStep;
use muster_roll::agents::rules::{self, ClassError, Deed};
use muster_roll::agents::{Agents, ClassFilter, reconcile};
use muster_wire::agent;
use tonic::{Code, Request, Response, Status};

use super::{by, class_refusal, field, note, shown};
use crate::agents::{of_class, refusal, stood};
use crate::api::entry_list::page_limit;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// Proposes a class.
pub(super) async fn create(
    server: &Arc<Server>,
    request: Request<v1::CreateClassRequest>,
) -> Result<Response<v1::AgentClass>, Status> {
    operate(
        server,
        request,
        async |op: Operation<CreateClass>, message: v1::CreateClassRequest| {
            let name = agent::needed("name", &message.name, ClassName::parse)
                .map_err(|error| field(&error))?;
            let spec = read_spec(message.spec.as_ref())?;
            let why = note(&message.reason)?;
            write(
                server,
                op,
                (Event::ClassProposed, Vec::new()),
                message.name,
                move |agents, op| {
                    let deed = Deed {
                        by: &by(op.permit.principal()),
                        note: why,
                        now: op.now,
                    };
                    rules::propose(agents, name, spec, deed)
                },
            )
            .await
        },
    )
    .await
}

/// Changes what is written about a class.
pub(super) async fn update(
    server: &Arc<Server>,
    request: Request<v1::UpdateClassRequest>,
) -> Result<Response<v1::AgentClass>, Status> {
    operate(
        server,
        request,
        async |op: Operation<UpdateClass>, message: v1::UpdateClassRequest| {
            let new = message.spec.unwrap_or_default();
            let fields = message.mask.map(|mask| mask.paths).unwrap_or_default();
            for name in &fields {
                if !agent::SPEC_FIELDS.contains(&name.as_str()) {
                    return Err(refusal(
                        Code::InvalidArgument,
                        format!(
                            "invalid mask {:?}: a class has no such field; its fields are {}",
                            shown(name),
                            agent::SPEC_FIELDS.join(", ")
                        ),
                        "INVALID_FIELD",
                    ));
                }
            }
            let changed = vec![("fields", fields.join(" "))];
            let (name, version) = (message.name.clone(), message.version);
            write(
                server,
                op,
                (Event::ClassChanged, changed),
                message.name,
                move |agents, op| {
                    let existing = existing(agents, &name)?;
                    let mut merged = agent::write_spec(&existing.spec);
                    if fields.is_empty() {
                        merged = new;
                    } else {
                        for field in &fields {
                            agent::take_field(&mut merged, field, &new);
                        }
                    }
                    let spec = agent::read_spec(&merged)?;
                    rules::change(agents, existing, spec, version, op.now)
                },
            )
            .await
        },
    )
    .await
}

/// Takes a step in the life of a class.
pub(super) async fn step<A: Action + Writes<Classes> + Send + 'static>(
    server: &Arc<Server>,
    request: Request<v1::ClassStepRequest>,
    step: ClassStep,
) -> Result<Response<v1::AgentClass>, Status> {
    operate(
        server,
        request,
        async |op: Operation<A>, message: v1::ClassStepRequest| {
            let why = note(&message.reason)?;
            let event = match step {
                ClassStep::Approve => Event::ClassApproved,
                ClassStep::Reinstate => Event::ClassReinstated,
                ClassStep::Quarantine | ClassStep::LoseOwner | ClassStep::LoseSponsor => {
                    Event::ClassQuarantined
                }
                ClassStep::Retire => Event::ClassRetired,
                ClassStep::Suspend
                | ClassStep::ReviewOverdue
                | ClassStep::Expire
                | ClassStep::FallIdle => Event::ClassSuspended,
            };
            let (name, version) = (message.name.clone(), message.version);
            write(
                server,
                op,
                (event, Vec::new()),
                message.name,
                move |agents, op| {
                    let deed = Deed {
                        by: &by(op.permit.principal()),
                        note: why,
                        now: op.now,
                    };
                    rules::step(agents, existing(agents, &name)?, step, version, deed)
                },
            )
            .await
        },
    )
    .await
}

/// Records a review.
pub(super) async fn review(
    server: &Arc<Server>,
    request: Request<v1::ReviewClassRequest>,
) -> Result<Response<v1::AgentClass>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ReviewClass>, message: v1::ReviewClassRequest| {
            let reviewer = agent::needed("reviewer", &message.reviewer, PersonId::parse)
                .map_err(|error| field(&error))?;
            let next =
                agent::instant("review_by", message.review_by).map_err(|error| field(&error))?;
            let why = note(&message.reason)?;
            let said = vec![
                ("reviewer", reviewer.to_string()),
                ("review_by", next.unix_seconds().to_string()),
                ("note", why.to_string()),
            ];
            let (name, version) = (message.name.clone(), message.version);
            write(
                server,
                op,
                (Event::AgentReviewed, said),
                message.name,
                move |agents, op| {
                    let class = existing(agents, &name)?;
                    rules::review(agents, class, reviewer, next, version, op.now)
                },
            )
            .await
        },
    )
    .await
}

/// Reads a class.
pub(super) async fn show(
    server: &Arc<Server>,
    request: Request<v1::GetClassRequest>,
) -> Result<Response<v1::AgentClass>, Status> {
    operate(
        server,
        request,
        async |op: Operation<GetClass>, message: v1::GetClassRequest| {
            let agents = op.roll.agents();
            let class = existing(agents, &message.name).map_err(|error| class_refusal(&error))?;
            let mut answer = agent::write_class(class);
            let known = agents.instances_of(&message.name).count();
            answer.instances = u64::try_from(known).unwrap_or(u64::MAX);
            Ok(answer)
        },
    )
    .await
}

/// Lists classes.
pub(super) async fn list(
    server: &Arc<Server>,
    request: Request<v1::ListClassesRequest>,
) -> Result<Response<v1::ListClassesResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ListClasses>, message: v1::ListClassesRequest| {
            let (filter, after) = read_filter(&message).map_err(|error| field(&error))?;
            let limit = page_limit(message.page_size)?;
            let page = op
                .roll
                .agents()
                .list_classes(&filter, after.as_ref(), limit);
            Ok(v1::ListClassesResponse {
                classes: page
                    .rows
                    .iter()
                    .map(|class| agent::write_class(class))
                    .collect(),
                next_page_token: page.next.map_or_else(String::new, |name| name.to_string()),
            })
        },
    )
    .await
}

fn read_filter(
    message: &v1::ListClassesRequest,
) -> Result<(ClassFilter, Option<ClassName>), muster_model::FieldError> {
    let lifecycle = |word: &str| {
        Lifecycle::from_word(word).ok_or(muster_model::TextFault::Choice {
            words: Lifecycle::WORDS,
        })
    };
    let filter = ClassFilter {
        lifecycles: agent::set("lifecycles", &message.lifecycles, lifecycle)?,
        person: agent::optional("person", &message.person, PersonId::parse)?,
        team: agent::optional("team", &message.team, Word::parse)?,
        purpose: agent::optional("purpose", &message.purpose, Purpose::parse)?,
        review_before: match message.review_before {
            Some(at) => Some(agent::instant("review_before", Some(at))?),
            None => None,
        },
    };
    let after = agent::optional("page_token", &message.page_token, ClassName::parse)?;
    Ok((filter, after))
}

/// Notes that a person is gone, and quarantines what nobody answers for from now on.
pub(super) async fn person_gone(
    server: &Arc<Server>,
    request: Request<v1::MarkPersonRequest>,
) -> Result<Response<v1::MarkPersonGoneResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<MarkPersonGone>, message: v1::MarkPersonRequest| {
            let person = agent::needed("person", &message.person, PersonId::parse)
                .map_err(|error| field(&error))?;
            let why = note(&message.reason)?;
            let written = server.roll.write(move |roll, transaction| {
                let principal = op.permit.principal();
                let mut working = roll.clone();
                if roll.agents().departure(&person).is_none() {
                    let deed = Deed {
                        by: &by(principal),
                        note: why,
                        now: op.now,
                    };
                    transaction.audit(op.record(Event::PersonGone, person.as_str()));
                    transaction.put_departure(&op.permit, rules::departed(person.clone(), deed));
                    working.apply(roll.head().next(), transaction.changes());
                }
                for class in reconcile::orphans(working.agents(), op.now) {
                    for record in stood(principal, &class, op.now) {
                        transaction.audit(record);
                    }
                    transaction.put_class(&op.permit, class);
                }
                quarantined(&after(roll, transaction), &person)
            });
            let quarantined = written.await.map_err(|error| errors::write(&error))?;
            Ok(v1::MarkPersonGoneResponse { quarantined })
        },
    )
    .await
}

/// The roll with the transaction in it.
fn after(roll: &Roll, transaction: &muster_store::Transaction) -> Roll {
    let mut after = roll.clone();
    after.apply(roll.head().next(), transaction.changes());
    after
}

fn quarantined(roll: &Roll, person: &PersonId) -> Vec<v1::AgentClass> {
    roll.agents()
        .answered_for_by(person)
        .filter(|class| class.standing.lifecycle == Lifecycle::Quarantined)
        .map(|class| agent::write_class(class))
        .collect()
}

/// Notes that a person is back.
pub(super) async fn person_returned(
    server: &Arc<Server>,
    request: Request<v1::MarkPersonRequest>,
) -> Result<Response<v1::MarkPersonReturnedResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<MarkPersonReturned>, message: v1::MarkPersonRequest| {
            let person = agent::needed("person", &message.person, PersonId::parse)
                .map_err(|error| field(&error))?;
            note(&message.reason)?;
            let written = server.roll.write(move |roll, transaction| {
                if roll.agents().departure(&person).is_none() {
                    return Err(refusal(
                        Code::NotFound,
                        format!("{person} is not known to be gone"),
                        "PERSON_NOT_GONE",
                    ));
                }
                transaction.audit(op.record(Event::PersonReturned, person.as_str()));
                transaction.delete_departure(&op.permit, person);
                Ok(v1::MarkPersonReturnedResponse {})
            });
            written.await.map_err(|error| errors::write(&error))?
        },
    )
    .await
}

/// Lists who is gone.
pub(super) async fn persons_gone(
    server: &Arc<Server>,
    request: Request<v1::ListPersonsGoneRequest>,
) -> Result<Response<v1::ListPersonsGoneResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ListPersonsGone>, _: v1::ListPersonsGoneRequest| {
            let gone = op.roll.agents().departures();
            Ok(v1::ListPersonsGoneResponse {
                persons: gone
                    .map(|departure| agent::write_departure(departure))
                    .collect(),
            })
        },
    )
    .await
}

fn read_spec(message: Option<&v1::ClassSpec>) -> Result<ClassSpec, Status> {
    agent::read_spec(&message.cloned().unwrap_or_default()).map_err(|error| field(&error))
}

fn existing<'a>(
    agents: &'a Agents,
    name: &str,
) -> Result<&'a muster_model::AgentClass, ClassError> {
    agents
        .class(name)
        .map(AsRef::as_ref)
        .ok_or_else(|| ClassError::NotFound(shown(name)))
}

/// Writes the class that `decide` makes of the roll, with its record; a refusal is on the record as
/// well.
async fn write<A: Action + Writes<Classes> + Send + 'static>(
    server: &Arc<Server>,
    op: Operation<A>,
    (event, details): (Event, Vec<(&'static str, String)>),
    name: String,
    decide: impl FnOnce(&Agents, &Operation<A>) -> Result<muster_model::AgentClass, ClassError>
    + Send
    + 'static,
) -> Result<v1::AgentClass, Status> {
    let written = server
        .roll
        .write(move |roll, transaction| match decide(roll.agents(), &op) {
            Ok(class) => {
                let mut record = of_class(op.permit.principal(), &class, event, op.now)
                    .with("trace_id", op.trace.to_string());
                for (name, value) in details {
                    record = record.with(name, value);
                }
                transaction.audit(record);
                let answer = agent::write_class(&class);
                transaction.put_class(&op.permit, class);
                Ok(answer)
            }
            Err(error) => {
                transaction.audit(refused(&op, event, &name, &error));
                Err(class_refusal(&error))
            }
        });
    written.await.map_err(|error| errors::write(&error))?
}

fn refused<A>(op: &Operation<A>, event: Event, name: &str, error: &ClassError) -> Record {
    let mut record = op.record(event, shown(name)).with("reason", error.reason());
    record.decision = Decision::Refused;
    record
}
