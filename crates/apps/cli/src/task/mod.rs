//! `muster task`: the tasks of the process that asks, at its node.
//!
//! Thin: what may be opened, and what becomes of it, the node and the server decide. Operators look
//! at the tasks of all with `muster agent task`.

mod open;
pub(crate) mod shape;
pub(crate) mod view;

use clap::{Args, Subcommand};
use muster_model::TaskId;
use muster_proto::muster::agent::v1::tasks_client::TasksClient;
use muster_proto::muster::agent::v1::{
    EndTaskRequest, ExtendTaskRequest, GetTaskRequest, ListTasksRequest, SpendTaskRequest, Task,
    TaskBinding, WatchTaskEventsRequest, task_binding,
};
use muster_rt::duration;
use serde_json::{Value, json};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub(crate) use self::open::Wishes;
use crate::failure::{Exit, Failure, exit_of};
use crate::output::{self, Output};
use crate::server_api::MAX_MESSAGE;
use crate::time::{When, now, parse_when};
use crate::workload::{Header, WorkloadArgs, security_header};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Open a task for a process that this one started; it ends when that process does
    Open(Box<Open>),
    /// Show a task: on a task's socket, that task
    Get(One),
    /// List the tasks that this process opened, or is bound to
    List(List),
    /// Move a task's deadline
    Extend(Extend),
    /// Count against a task's budget
    Spend(Spend),
    /// End a task: its work is done
    Complete(One),
    /// End a task: its work is not done
    Fail(One),
    /// Follow what happens to the tasks of this process
    Watch(Watch),
}

#[derive(Args, Debug)]
pub(crate) struct Open {
    /// Whose task it is: a process that lives, and that the caller started
    #[arg(long, value_name = "PID", group = "binding", required = true)]
    pid: Option<u32>,
    /// Whose task it is: every process of this control group, by its path below the root
    #[arg(long, value_name = "PATH", group = "binding")]
    cgroup: Option<String>,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    node: WorkloadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct One {
    /// Which; on a task's socket, that socket's
    #[arg(value_name = "ULID", value_parser = task_id)]
    id: Option<TaskId>,
    #[command(flatten)]
    node: WorkloadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Also those that ended a short while ago
    #[arg(long)]
    ended: bool,
    #[command(flatten)]
    node: WorkloadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Extend {
    /// Which
    #[arg(value_name = "ULID", value_parser = task_id)]
    id: TaskId,
    /// When it ends: a duration from now, RFC 3339, or seconds since 1970
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    until: When,
    #[command(flatten)]
    node: WorkloadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Spend {
    /// Which
    #[arg(value_name = "ULID", value_parser = task_id)]
    id: TaskId,
    /// How much, in the units of its class
    #[arg(value_name = "AMOUNT")]
    amount: u64,
    #[command(flatten)]
    node: WorkloadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    #[command(flatten)]
    node: WorkloadArgs,
}

pub(crate) fn task_id(text: &str) -> Result<TaskId, String> {
    TaskId::parse(text).map_err(|_| "a task is a ULID: 26 digits in upper case".to_owned())
}

/// A client that sends the security header with each call.
pub(crate) type Client = TasksClient<InterceptedService<Channel, Header>>;

pub(crate) async fn client(node: &WorkloadArgs) -> Result<Client, Failure> {
    let header: Header = security_header;
    let client = TasksClient::with_interceptor(node.channel().await?, header);
    Ok(client.max_decoding_message_size(MAX_MESSAGE))
}

/// A request that ends with an error when the answer does not come in time.
pub(crate) fn request<M>(node: &WorkloadArgs, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(node.timeout());
    request
}

/// A refusal, with the word that stays for its reason.
pub(crate) fn refused(what: &str, status: &Status) -> Failure {
    use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
    let failure = Failure::of_call(what, status);
    match reason_of(MUSTER_DOMAIN, status) {
        Some(reason) => Failure::new(exit_of(status.code()), format!("{failure} [{reason}]")),
        None => failure,
    }
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Open(open) => self::open(&open, output).await,
        Command::Get(one) => {
            let message = GetTaskRequest { id: one.id() };
            let answer = client(&one.node)
                .await?
                .get(request(&one.node, message))
                .await;
            show(answer, "show the task", output)
        }
        Command::List(list) => self::list(&list, output).await,
        Command::Extend(extend) => {
            let mut message = ExtendTaskRequest {
                id: extend.id.to_string(),
                ..ExtendTaskRequest::default()
            };
            match extend.until {
                When::At(_) => message.deadline = Some(extend.until.from(now())),
                When::In(ttl) => message.ttl = prost_types::Duration::try_from(ttl).ok(),
            }
            let mut client = client(&extend.node).await?;
            let answer = client.extend(request(&extend.node, message)).await;
            show(answer, "extend the task", output)
        }
        Command::Spend(spend) => {
            let message = SpendTaskRequest {
                id: spend.id.to_string(),
                amount: spend.amount,
            };
            let mut client = client(&spend.node).await?;
            let answer = client.spend(request(&spend.node, message)).await;
            show(answer, "spend that", output)
        }
        Command::Complete(one) => {
            let message = EndTaskRequest { id: one.id() };
            let mut client = client(&one.node).await?;
            let answer = client.complete(request(&one.node, message)).await;
            show(answer, "complete the task", output)
        }
        Command::Fail(one) => {
            let message = EndTaskRequest { id: one.id() };
            let answer = client(&one.node)
                .await?
                .fail(request(&one.node, message))
                .await;
            show(answer, "fail the task", output)
        }
        Command::Watch(watch) => self::watch(&watch, output).await,
    }
}

impl One {
    fn id(&self) -> String {
        self.id.map(|id| id.to_string()).unwrap_or_default()
    }
}

fn show(answer: Result<Response<Task>, Status>, what: &str, output: Output) -> Result<(), Failure> {
    let task = answer
        .map_err(|status| refused(what, &status))?
        .into_inner();
    output.answer(|| shape::task(&task), || view::task(&task, output, now()))
}

async fn open(open: &Open, output: Output) -> Result<(), Failure> {
    let to = match (open.pid, &open.cgroup) {
        (Some(pid), _) => task_binding::To::ChildPid(pid),
        (None, Some(path)) => task_binding::To::Cgroup(path.clone()),
        (None, None) => return Err(Failure::usage("name whose task it is: --pid or --cgroup")),
    };
    let message = open.wishes.request(TaskBinding { to: Some(to) })?;
    let mut client = client(&open.node).await?;
    let answer = client.open(request(&open.node, message)).await;
    show(answer, "open a task", output)
}

async fn list(list: &List, output: Output) -> Result<(), Failure> {
    let message = ListTasksRequest { ended: list.ended };
    let tasks = client(&list.node)
        .await?
        .list(request(&list.node, message))
        .await
        .map_err(|status| refused("list the tasks", &status))?
        .into_inner()
        .tasks;
    output.answer(
        || json!({ "tasks": tasks.iter().map(shape::task).collect::<Value>() }),
        || view::tasks(&tasks, output, now()),
    )
}

async fn watch(watch: &Watch, output: Output) -> Result<(), Failure> {
    let mut client = client(&watch.node).await?;
    let mut events = client
        .watch_events(WatchTaskEventsRequest {})
        .await
        .map_err(|status| refused("follow the tasks", &status))?
        .into_inner();
    loop {
        match events.message().await {
            Ok(Some(event)) => {
                let task = event.task.unwrap_or_default();
                let at = event.at.map_or(0, |at| at.seconds);
                output.answer(
                    || json!({ "at": at, "what": event.what, "task": shape::task(&task) }),
                    || view::event(at, &event.what, &task),
                )?;
            }
            Ok(None) => {
                output::note("muster: the node closed the stream");
                return Err(Failure::told(Exit::Unavailable));
            }
            Err(status) => return Err(refused("follow the tasks", &status)),
        }
    }
}

/// Parses a lifetime.
pub(crate) fn lifetime(text: &str) -> Result<std::time::Duration, String> {
    duration::parse(text)
        .map_err(|error| format!("{error}; write a duration such as \"90s\", \"10m\" or \"1h30m\""))
}
