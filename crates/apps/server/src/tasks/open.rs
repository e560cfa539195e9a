//! A task is opened.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Event, Record};
use muster_crypto::random;
use muster_model::{Facts, SelectorSet, SpiffeId, TaskId, TextFault, Timestamp};
use muster_policy::OpenTask;
use muster_proto::muster::node::v1::{OpenRequest, OpenResponse};
use muster_roll::agents::task::{self, Asked, TaskRequest};
use muster_wire::{entry as wire_entry, rule as wire_rule, selector, task as wire};
use tonic::{Request, Response, Status};

use super::ask;
use super::{Refused, bounds_of, of_task, shown};
use crate::agents;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::policies::facts::Attested;
use crate::server::Server;

/// How many facts a caller may have: a few dozen are usual.
const FACTS: usize = 512;
/// The surest attestation of a caller.
const SUREST: u32 = 3;

/// Opens a task, or says why not.
pub(crate) async fn open(
    server: &Arc<Server>,
    request: Request<OpenRequest>,
) -> Result<Response<OpenResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<OpenTask>, message: OpenRequest| {
            let node = op.caller_id()?.clone();
            let record = refusal_record(&op, &node, &message);
            let opened = try_open(server, op, node, &message).await;
            opened.map_err(|refused| refused.note(server, record))
        },
    )
    .await
}

/// What is written if it is refused: who wanted what, as far as it can be read.
fn refusal_record(op: &Operation<OpenTask>, node: &SpiffeId, message: &OpenRequest) -> Record {
    let agent = shown(&message.agent);
    let record = op
        .record(Event::TaskRefused, agent.as_str())
        .with("agent", agent.as_str())
        .with("node", node.as_str());
    let Some(task) = &message.task else {
        return record;
    };
    let record = record.with("kind", shown(&task.kind));
    if task.parent.is_empty() {
        record
    } else {
        record.with("parent", shown(&task.parent))
    }
}

/// What the node says about the caller, read.
struct Read {
    asked: Asked,
    level: u8,
    age: Duration,
}

async fn try_open(
    server: &Arc<Server>,
    op: Operation<OpenTask>,
    node: SpiffeId,
    message: &OpenRequest,
) -> Result<OpenResponse, Refused> {
    let now = op.now;
    let Read { asked, level, age } = read(message, &node, now)?;
    let bounds = server.tasks.bounds;
    let admitted = task::admit(&op.roll, asked.clone(), &bounds, now)?;
    let binding = message.task.as_ref().and_then(|task| task.binding.as_ref());
    let attested = Attested {
        selectors: &asked.facts.selectors,
        level,
        age,
        binding: ask::binding(binding, asked.request.bound_to.kind),
    };
    let permitted = ask::may_open(&server.policies, &op.roll, &admitted, &attested, now)?;
    let written = server.roll.write(move |roll, transaction| {
        // Once more, on the roll that it becomes part of.
        let admitted = task::admit(roll, asked, &bounds, now)?;
        let task = admitted.task;
        let Some(entry) = task::entry(&task) else {
            return Err(Refused::from(Status::internal("a task without an entry")));
        };
        let event = match task.parent {
            Some(_) => Event::TaskSpawned,
            None => Event::TaskOpened,
        };
        let record = op.record(event, task.id.to_string());
        let record = bounds_of(of_task(record, &task), &task);
        transaction.audit(match &permitted {
            Some(answer) => answer.onto(record),
            None => record,
        });
        let class = Some(&task.class);
        agents::see(
            roll,
            transaction,
            &op.permit,
            (&task.instance, class),
            &node,
            now,
        );
        let answer = OpenResponse {
            task: Some(wire::write(&task)),
            entry: Some(wire_entry::write(&entry, None)),
            revision: roll.head().next().0,
        };
        transaction.put_task(&op.permit, task);
        Ok(answer)
    });
    written.await.map_err(|error| errors::write(&error))?
}

fn read(message: &OpenRequest, node: &SpiffeId, now: Timestamp) -> Result<Read, Refused> {
    let agent = SpiffeId::parse(&message.agent).map_err(|why| {
        let agent = shown(&message.agent);
        let text = format!("invalid agent {agent:?}: a SPIFFE ID {why}");
        crate::agents::refusal(tonic::Code::InvalidArgument, text, "INVALID_FIELD")
    })?;
    let task = message
        .task
        .as_ref()
        .ok_or_else(|| TextFault::Missing.at("task", ""))?;
    let wanted = wire::read_wanted(task, now)?;
    let level = u8::try_from(message.level)
        .ok()
        .filter(|_| message.level <= SUREST)
        .ok_or_else(|| TextFault::Level.at("level", &message.level.to_string()))?;
    let caller = message
        .caller
        .as_ref()
        .map(wire_rule::read_mark)
        .transpose()?;
    let age = wire::read_age(message.age.unwrap_or_default()).unwrap_or_default();
    Ok(Read {
        asked: Asked {
            request: TaskRequest {
                id: TaskId::new(now, random::bytes()),
                instance: agent,
                kind: wanted.kind,
                purpose: wanted.purpose,
                permissions: wanted.permissions,
                data_class: wanted.data_class,
                budget: wanted.budget,
                deadline: wanted.deadline,
                node: node.clone(),
                bound_to: wire::read_bound_to(message.bound_to.as_ref())?,
                level,
            },
            facts: Facts {
                selectors: facts(message)?,
                process: caller,
            },
            parent: wanted.parent,
        },
        level,
        age,
    })
}

fn facts(message: &OpenRequest) -> Result<SelectorSet, Refused> {
    if message.facts.len() > FACTS {
        let fault = TextFault::TooMany { most: FACTS };
        return Err(fault.at("facts", &message.facts.len().to_string()).into());
    }
    let facts = selector::read_set(&message.facts);
    facts.map_err(|_| TextFault::Selector.at("facts", "").into())
}
