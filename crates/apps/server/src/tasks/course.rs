//! Tasks of the calling node: extended, spending, ended, listed.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_audit::Event;
use muster_model::{FieldError, SpiffeId, Task, TaskId, TextFault, Timestamp};
use muster_policy::{EndTasks, ExtendTask, ListNodeTasks, SpendTask};
use muster_proto::muster::agent::v1;
use muster_proto::muster::node::v1::{
    EndRequest, EndResponse, Ended, ExtendRequest, ListRequest, ListResponse, SpendRequest,
    SpendResponse,
};
use muster_roll::Roll;
use muster_roll::agents::lifecycle::TaskStep;
use muster_roll::agents::task::{self, End, Ends, TaskError};
use muster_wire::{agent as wire_agent, task as wire};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{ANSWER, Refused, ask, bounds_of, event_of, field, of_task, shown};
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// How many tasks one call may end, beside those that are part of them.
const MAX_BATCH: usize = 1000;

/// The task of that ID, if it is the node's. Of others' tasks a node learns nothing.
fn of_node<'a>(roll: &'a Roll, node: &SpiffeId, id: &str) -> Result<&'a Arc<Task>, TaskError> {
    TaskId::parse(id)
        .ok()
        .and_then(|id| roll.agents().task(id))
        .filter(|task| task.node == *node)
        .ok_or_else(|| TaskError::NotFound(shown(id)))
}

/// Moves a deadline.
pub(crate) async fn extend(
    server: &Arc<Server>,
    request: Request<ExtendRequest>,
) -> Result<Response<v1::Task>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ExtendTask>, message: ExtendRequest| {
            let node = op.caller_id()?.clone();
            let record = op
                .record(Event::TaskRefused, shown(&message.id))
                .with("task", shown(&message.id))
                .with("node", node.as_str());
            let done = try_extend(server, op, node, message).await;
            done.map_err(|refused| refused.note(server, record))
        },
    )
    .await
}

async fn try_extend(
    server: &Arc<Server>,
    op: Operation<ExtendTask>,
    node: SpiffeId,
    message: ExtendRequest,
) -> Result<v1::Task, Refused> {
    let now = op.now;
    let deadline = wire_agent::instant("deadline", message.deadline)?;
    let task = of_node(&op.roll, &node, &message.id)?;
    task::extend(op.roll.agents(), task, deadline, now)?;
    let permitted = ask::may_extend(&server.policies, &op.roll, task, deadline, now)?;
    let written = server.roll.write(move |roll, transaction| {
        let task = of_node(roll, &node, &message.id)?;
        let rows = task::extend(roll.agents(), task, deadline, now)?;
        let answer = rows.first().map(wire::write).unwrap_or_default();
        for row in rows {
            let record = op.record(Event::TaskExtended, row.id.to_string());
            let record = bounds_of(of_task(record, &row), &row);
            transaction.audit(match &permitted {
                Some(answer) => answer.onto(record),
                None => record,
            });
            transaction.put_task(&op.permit, row);
        }
        Ok(answer)
    });
    written.await.map_err(|error| errors::write(&error))?
}

/// Counts against budgets.
pub(crate) async fn spend(
    server: &Arc<Server>,
    request: Request<SpendRequest>,
) -> Result<Response<SpendResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<SpendTask>, message: SpendRequest| {
            let node = op.caller_id()?.clone();
            let record = op
                .record(Event::TaskRefused, shown(&message.id))
                .with("task", shown(&message.id))
                .with("node", node.as_str());
            let done = try_spend(server, op, node, message).await;
            done.map_err(|refused| refused.note(server, record))
        },
    )
    .await
}

async fn try_spend(
    server: &Arc<Server>,
    op: Operation<SpendTask>,
    node: SpiffeId,
    message: SpendRequest,
) -> Result<SpendResponse, Refused> {
    let written = server.roll.write(move |roll, transaction| {
        let task = of_node(roll, &node, &message.id)?;
        let id = task.id;
        let spending = task::spend(roll.agents(), task, message.amount, op.now)?;
        let mut answer = SpendResponse::default();
        for row in spending.rows {
            let record = |event| of_task(op.record(event, row.id.to_string()), &row);
            if row.id == id {
                let spent = record(Event::TaskSpent);
                transaction.audit(
                    spent
                        .with("amount", message.amount.to_string())
                        .with("spent", row.spent.to_string()),
                );
                answer.task = Some(wire::write(&row));
            }
            if spending.ended.contains(&row.id) {
                transaction.audit(record(event_of(&row)));
                answer.ended.push(wire::write(&row));
            }
            transaction.put_task(&op.permit, row);
        }
        Ok(answer)
    });
    written.await.map_err(|error| errors::write(&error))?
}

/// Ends tasks, and all that are part of them, in one transaction.
pub(crate) async fn end(
    server: &Arc<Server>,
    request: Request<EndRequest>,
) -> Result<Response<EndResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<EndTasks>, message: EndRequest| {
            let node = op.caller_id()?.clone();
            // All of it is read before any of it is done.
            let ends = read_ends(&message, op.now).map_err(|error| field(&error))?;
            let written = server.roll.write(move |roll, transaction| {
                let agents = roll.agents();
                let named = ends.iter().filter_map(|(id, end)| {
                    let task = agents.task(*id).filter(|task| task.node == node)?;
                    Some((task, end))
                });
                let mut answer = BTreeMap::new();
                let mut done = Ends::default();
                for (task, end) in named {
                    answer.insert(task.id, wire::write(task));
                    done.end(task, end);
                }
                done.cascade(agents, op.now);
                for row in done.into_rows() {
                    answer.insert(row.id, wire::write(&row));
                    let record = op.record(event_of(&row), row.id.to_string());
                    transaction.audit(of_task(record, &row));
                    transaction.put_task(&op.permit, row);
                }
                EndResponse {
                    tasks: answer.into_values().collect(),
                }
            });
            written.await.map_err(|error| errors::write(&error))
        },
    )
    .await
}

fn read_ends(message: &EndRequest, now: Timestamp) -> Result<Vec<(TaskId, End)>, FieldError> {
    if message.ended.len() > MAX_BATCH {
        let fault = TextFault::TooMany { most: MAX_BATCH };
        return Err(fault.at("ended", &message.ended.len().to_string()));
    }
    message
        .ended
        .iter()
        .map(|ended| read_end(ended, now))
        .collect()
}

fn read_end(message: &Ended, now: Timestamp) -> Result<(TaskId, End), FieldError> {
    const WORDS: &str = "completed, failed, expired, revoked, process_exited";
    let step = match message.state.as_str() {
        "completed" => TaskStep::Complete,
        "failed" => TaskStep::Fail,
        "expired" => TaskStep::PassDeadline,
        "revoked" => TaskStep::LoseParent,
        "process_exited" => TaskStep::Exit,
        other => return Err(TextFault::Choice { words: WORDS }.at("state", other)),
    };
    let at = match message.ended_at {
        Some(at) => wire_agent::instant("ended_at", Some(at))?.min(now),
        None => now,
    };
    let end = End {
        step,
        cause: wire::read_cause(&message.cause)?,
        at,
        exit_status: message.exit_status,
    };
    Ok((wire::read_id(&message.id)?, end))
}

/// Lists tasks of the calling node.
pub(crate) async fn list(
    server: &Arc<Server>,
    request: Request<ListRequest>,
) -> Result<Response<ListResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ListNodeTasks>, message: ListRequest| {
            let node = op.caller_id()?;
            if !message.ids.is_empty() {
                if message.ids.len() > MAX_BATCH {
                    let fault = TextFault::TooMany { most: MAX_BATCH };
                    return Err(field(&fault.at("ids", &message.ids.len().to_string())));
                }
                let named = message.ids.iter();
                let tasks = named.filter_map(|id| of_node(&op.roll, node, id).ok());
                return Ok(ListResponse {
                    tasks: tasks.map(|task| wire::write(task)).collect(),
                    next_page_token: String::new(),
                });
            }
            let after = wire_agent::optional("page_token", &message.page_token, TaskId::parse)
                .map_err(|error| field(&error))?;
            let live = op.roll.agents().live_tasks_on(node);
            let rows = live.filter(|task| after.is_none_or(|after| task.id > after));
            let (tasks, next_page_token) = page(rows, usize::MAX);
            Ok(ListResponse {
                tasks,
                next_page_token,
            })
        },
    )
    .await
}

/// As many rows as fit into an answer, and where to go on.
pub(super) fn page<'a>(
    rows: impl Iterator<Item = &'a Arc<Task>>,
    most: usize,
) -> (Vec<v1::Task>, String) {
    let (mut tasks, mut bytes): (Vec<v1::Task>, usize) = (Vec::new(), 0);
    for row in rows {
        let task = wire::write(row);
        // With the field's number and length before it.
        bytes = bytes.saturating_add(task.encoded_len().saturating_add(8));
        if tasks.len() >= most || (bytes > ANSWER && !tasks.is_empty()) {
            let last = tasks.last().map(|task| task.id.clone());
            return (tasks, last.unwrap_or_default());
        }
        tasks.push(task);
    }
    (tasks, String::new())
}
