//! Tasks of all nodes, for operators.

use std::sync::Arc;

use muster_model::{Cause, ClassName, FieldError, Note, SpiffeId, TaskId, TaskState, TextFault};
use muster_policy::{GetTask, ListTasks, RevokeTask};
use muster_proto::muster::agent::v1;
use muster_roll::agents::TaskFilter;
use muster_roll::agents::lifecycle::TaskStep;
use muster_roll::agents::task::{End, Ends, TaskError};
use muster_wire::{agent as wire_agent, task as wire};
use tonic::{Code, Request, Response, Status};

use super::course::page;
use super::{event_of, field, of_task, shown, status};
use crate::agents::refusal;
use crate::api::entry_list::page_limit;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// How many rows are looked for at once: more do not fit into an answer.
const ROWS: usize = 20_000;

/// Lists tasks.
pub(crate) async fn list(
    server: &Arc<Server>,
    request: Request<v1::ListLedgerRequest>,
) -> Result<Response<v1::ListLedgerResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ListTasks>, message: v1::ListLedgerRequest| {
            let filter = TaskFilter {
                agent: id("agent", &message.agent)?,
                node: id("node_id", &message.node_id)?,
                ..read_filter(&message).map_err(|error| field(&error))?
            };
            let after = wire_agent::optional("page_token", &message.page_token, TaskId::parse)
                .map_err(|error| field(&error))?;
            let limit = match page_limit(message.page_size)? {
                0 => ROWS,
                limit => limit.min(ROWS),
            };
            let found = op.roll.agents().list_tasks(&filter, after, limit);
            let (tasks, broken_off) = page(found.rows.iter(), limit);
            let next = found.next.map_or_else(String::new, |id| id.to_string());
            Ok(v1::ListLedgerResponse {
                tasks,
                next_page_token: if broken_off.is_empty() {
                    next
                } else {
                    broken_off
                },
            })
        },
    )
    .await
}

fn read_filter(message: &v1::ListLedgerRequest) -> Result<TaskFilter, FieldError> {
    let state = |word: &str| {
        TaskState::from_word(word).ok_or(TextFault::Choice {
            words: TaskState::WORDS,
        })
    };
    Ok(TaskFilter {
        agent: None,
        node: None,
        class: wire_agent::optional("class", &message.class, ClassName::parse)?,
        states: wire_agent::set("states", &message.states, state)?,
        root: wire_agent::optional("root", &message.root, TaskId::parse)?,
    })
}

fn id(name: &str, text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    SpiffeId::parse(text).map(Some).map_err(|why| {
        let message = format!("invalid {name} {:?}: a SPIFFE ID {why}", shown(text));
        refusal(Code::InvalidArgument, message, "INVALID_FIELD")
    })
}

/// Reads a task.
pub(crate) async fn show(
    server: &Arc<Server>,
    request: Request<v1::GetLedgerRequest>,
) -> Result<Response<v1::Task>, Status> {
    operate(
        server,
        request,
        async |op: Operation<GetTask>, message: v1::GetLedgerRequest| {
            let found = TaskId::parse(&message.id).ok();
            let found = found.and_then(|id| op.roll.agents().task(id));
            found
                .map(|task| wire::write(task))
                .ok_or_else(|| not_found(&message.id))
        },
    )
    .await
}

fn not_found(id: &str) -> Status {
    let message = format!(
        "there is no task {:?}; `muster task list` shows all that are remembered",
        shown(id)
    );
    let reason = TaskError::NotFound(String::new()).reason();
    refusal(Code::NotFound, message, reason)
}

/// Ends a task on an operator's word.
pub(crate) async fn revoke(
    server: &Arc<Server>,
    request: Request<v1::RevokeTaskRequest>,
) -> Result<Response<v1::RevokeTaskResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<RevokeTask>, message: v1::RevokeTaskRequest| {
            let why = wire_agent::one("reason", &message.reason, Note::parse)
                .map_err(|error| field(&error))?;
            if why.as_str().is_empty() {
                return Err(refusal(
                    Code::InvalidArgument,
                    "say why: a reason for the record is missing",
                    "REASON_MISSING",
                ));
            }
            let written = server.roll.write(move |roll, transaction| {
                let agents = roll.agents();
                let task = TaskId::parse(&message.id).ok();
                let task = task
                    .and_then(|id| agents.task(id))
                    .ok_or_else(|| not_found(&message.id))?;
                let mut ends = Ends::default();
                let end = End::by_server(TaskStep::Revoke, Cause::Operator, op.now);
                if !ends.end(task, &end) {
                    let (id, state) = (task.id, task.state);
                    return Err(status(&TaskError::NotOpen { id, state }));
                }
                ends.cascade(agents, op.now);
                let mut answer = v1::RevokeTaskResponse::default();
                for row in ends.into_rows() {
                    let record = op.record(event_of(&row), row.id.to_string());
                    transaction.audit(of_task(record, &row).with("reason", why.as_str()));
                    answer.ended.push(wire::write(&row));
                    transaction.put_task(&op.permit, row);
                }
                Ok(answer)
            });
            written.await.map_err(|error| errors::write(&error))?
        },
    )
    .await
}
