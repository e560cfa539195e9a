//! `muster agent task`: the tasks of all agents on all nodes, for operators.

use clap::{Args, Subcommand};
use muster_model::{ClassName, SpiffeId, TaskId};
use muster_proto::muster::agent::v1::task_ledger_client::TaskLedgerClient;
use muster_proto::muster::agent::v1::{
    GetLedgerRequest, ListLedgerRequest, RevokeTaskRequest, Task,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::output::{Output, counted};
use crate::server_api::{MAX_MESSAGE, PAGE, ServerArgs};
use crate::task::{refused, shape, task_id, view};
use crate::time::now;

/// The states in which a task has not ended.
pub(super) const LIVE: [&str; 2] = ["open", "suspended"];

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List tasks; without --state, those that have not ended
    List(List),
    /// Show one task
    Show(One),
    /// End a task, and all that are part of it
    Revoke(Revoke),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only tasks of this agent
    #[arg(long, value_name = "SPIFFE-ID")]
    agent: Option<SpiffeId>,
    /// Only tasks of agents of this class
    #[arg(long, value_name = "CLASS")]
    class: Option<ClassName>,
    /// Only tasks on this node
    #[arg(long, value_name = "SPIFFE-ID")]
    node: Option<SpiffeId>,
    /// Only tasks that are part of this one
    #[arg(long, value_name = "ULID", value_parser = task_id)]
    root: Option<TaskId>,
    /// Only tasks in this state: open, suspended, completed, failed, expired, revoked,
    /// process_exited, or any; repeatable
    #[arg(long, value_name = "STATE", value_parser = [
        "any", "open", "suspended", "completed", "failed", "expired", "revoked", "process_exited",
    ])]
    state: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct One {
    /// Which
    #[arg(value_name = "ULID", value_parser = task_id)]
    id: TaskId,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// Which
    #[arg(value_name = "ULID", value_parser = task_id)]
    id: TaskId,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    server: ServerArgs,
}

type Client = TaskLedgerClient<Channel>;

pub(super) fn client(channel: Channel) -> Client {
    TaskLedgerClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::List(list) => self::list(&list, output).await,
        Command::Show(one) => {
            let mut client = client(one.server.connect().await?);
            let task = find(&mut client, &one.server, one.id).await?;
            output.answer(|| shape::task(&task), || view::task(&task, output, now()))
        }
        Command::Revoke(revoke) => self::revoke(&revoke, output).await,
    }
}

pub(super) async fn find(
    client: &mut Client,
    server: &ServerArgs,
    id: TaskId,
) -> Result<Task, Failure> {
    let request = GetLedgerRequest { id: id.to_string() };
    let answer = client.get_task(server.request(request)).await;
    Ok(answer
        .map_err(|status| refused(&format!("find the task {id}"), &status))?
        .into_inner())
}

/// All pages of a list.
pub(super) async fn all(
    client: &mut Client,
    server: &ServerArgs,
    mut request: ListLedgerRequest,
) -> Result<Vec<Task>, Failure> {
    let mut tasks = Vec::new();
    request.page_size = PAGE;
    loop {
        let page = client
            .list_tasks(server.request(request.clone()))
            .await
            .map_err(|status| refused("list the tasks", &status))?
            .into_inner();
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() {
            return Ok(tasks);
        }
        request.page_token = page.next_page_token;
    }
}

async fn list(list: &List, output: Output) -> Result<(), Failure> {
    let text = |value: Option<String>| value.unwrap_or_default();
    let states = if list.state.iter().any(|state| state == "any") {
        Vec::new()
    } else if list.state.is_empty() {
        LIVE.map(str::to_owned).to_vec()
    } else {
        list.state.clone()
    };
    let request = ListLedgerRequest {
        agent: text(list.agent.as_ref().map(ToString::to_string)),
        class: text(list.class.as_ref().map(ToString::to_string)),
        node_id: text(list.node.as_ref().map(ToString::to_string)),
        root: text(list.root.map(|id| id.to_string())),
        states,
        ..ListLedgerRequest::default()
    };
    let mut client = client(list.server.connect().await?);
    let tasks = all(&mut client, &list.server, request).await?;
    output.answer(
        || json!({ "tasks": tasks.iter().map(shape::task).collect::<Value>() }),
        || view::tasks(&tasks, output, now()),
    )
}

async fn revoke(revoke: &Revoke, output: Output) -> Result<(), Failure> {
    let request = RevokeTaskRequest {
        id: revoke.id.to_string(),
        reason: revoke.reason.clone(),
    };
    let ended = client(revoke.server.connect().await?)
        .revoke_task(revoke.server.request(request))
        .await
        .map_err(|status| refused(&format!("revoke the task {}", revoke.id), &status))?
        .into_inner()
        .ended;
    output.answer(
        || json!({ "ended": ended.iter().map(shape::task).collect::<Value>() }),
        || match ended.len() {
            0 => "It had ended already.\n".to_owned(),
            count => {
                let ids: Vec<&str> = ended.iter().map(|task| task.id.as_str()).collect();
                let tasks = counted(count, "task was", "tasks were");
                format!("{tasks} ended: {}\n", ids.join(" "))
            }
        },
    )
}
