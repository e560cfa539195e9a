//! The demonstration agent: a real process that does a piece of work under an identity of its own,
//! and shows by whom that identity cannot be had.
//!
//! `examples/agent-python` and `examples/agent-rust` do the same with clients that others wrote.

mod shell;

use std::ffi::OsString;
use std::future::Future;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use muster_model::{ClassName, SpiffeId};
use muster_proto::muster::agent::v1::{
    EndTaskRequest, GetTaskRequest, OpenTaskRequest, Permissions, Task,
};
use muster_rt::endpoint::{ENVIRONMENT_VARIABLE, Endpoint};
use muster_rt::{Clock, SystemClock};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::shell::ask_by_shell;
use super::demo::check;
use crate::daemon;
use crate::failure::{Exit, Failure, described};
use crate::output;
use crate::task::{Client, client, refused, request};
use crate::workload::WorkloadArgs;
use crate::workload::stream::{self, Then};
use crate::workload::view::{X509Identity, X509Update};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the task may ask for, and the part of it that is left to the sub-task.
const SCOPES: [&str; 2] = ["repo.read", "repo.comment"];
const FEWER: [&str; 1] = ["repo.read"];
/// What the class allows, and the task does not have.
const MORE: [&str; 1] = ["repo.merge"];
/// How long the task and the sub-task live at most, in seconds.
const TTL: i64 = 60;
const SHORTER: i64 = 30;

/// Does a piece of work as an agent, and reports each step on a line.
#[derive(Args, Debug)]
pub(crate) struct Agent {
    /// Address of the Workload API
    #[arg(long)]
    socket: Endpoint,
    /// The class that it is an agent of
    #[arg(long)]
    class: ClassName,
    /// End when this process, which must be our parent, ends
    #[arg(long)]
    die_with: i32,
}

/// Becomes an agent.
#[derive(Args, Debug)]
pub(crate) struct Become {
    /// Address of the Workload API
    #[arg(long)]
    socket: Endpoint,
    /// End when this process, which must be our parent, ends
    #[arg(long)]
    die_with: i32,
    /// The agent's command
    #[arg(last = true, required = true)]
    words: Vec<OsString>,
}

/// What the agent tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(super) enum Step {
    /// It has an identity.
    Identified { pid: u32, spiffe_id: String },
    /// A task is open, and its SVID in hand.
    Opened(Opened),
    /// A shell that it started, this process, asked for an identity and was told nothing.
    Asked { way: Way, pid: u32 },
    /// It asked for more than its task has.
    Refused {
        wish: String,
        reason: String,
        message: String,
    },
    /// A task is over, and what is left of it.
    Ended(Ended),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) task: String,
    /// The task that it is part of.
    pub(super) parent: Option<String>,
    pub(super) spiffe_id: String,
    pub(super) kind: String,
    pub(super) scopes: Vec<String>,
    /// How long it lives at most, in seconds.
    pub(super) ttl: i64,
    pub(super) serial_number: String,
    /// Whether chain, key and bundle prove the identity; else why not.
    pub(super) verified: Result<(), String>,
    /// From asking for the task to its SVID, in milliseconds.
    pub(super) after_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) task: String,
    pub(super) state: String,
    pub(super) cause: String,
    /// By what the stream of its SVIDs ended.
    pub(super) stream: String,
    /// From saying that the work is done to the end of the stream, in milliseconds.
    pub(super) after_ms: u64,
}

/// How a shell asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// On a connection of the agent to the node, which it inherited.
    NodeInherited,
    /// On a connection of the agent to the task's socket, which it inherited.
    TaskInherited,
    /// On a connection of its own to the task's socket.
    TaskOwn,
}

pub(crate) async fn run(agent: Agent) -> Result<(), Failure> {
    if !daemon::die_with(agent.die_with) {
        return Err(Failure::failed("the parent process is gone"));
    }
    work(&WorkloadArgs::at(agent.socket), &agent.class).await
}

/// The kernel remembers with whom the process is to end when it becomes another program.
pub(crate) fn exec(this: &Become) -> Result<(), Failure> {
    if !daemon::die_with(this.die_with) {
        return Err(Failure::failed("the parent process is gone"));
    }
    let (program, arguments) = this
        .words
        .split_first()
        .ok_or_else(|| Failure::usage("no command to run: write it after `--`"))?;
    let error = Command::new(program)
        .args(arguments)
        .env(ENVIRONMENT_VARIABLE, this.socket.to_string())
        .exec();
    Err(Failure::failed(format!(
        "cannot run {}: {error}; where the file system is mounted noexec, pass a --dir on another",
        program.display()
    )))
}

/// The whole of it. What should be refused and is not is an error.
async fn work(node: &WorkloadArgs, class: &ClassName) -> Result<(), Failure> {
    let spiffe_id = identity(node, class).await?;
    let pid = std::process::id();
    say(&Step::Identified { pid, spiffe_id })?;

    let mut tasks = client(node).await?;
    let task = Held::open(&mut tasks, node, "code.review", &SCOPES, TTL).await?;
    for (way, socket) in [
        (Way::NodeInherited, &node.socket),
        (Way::TaskInherited, &task.socket.socket),
        (Way::TaskOwn, &task.socket.socket),
    ] {
        say(&in_time(ask_by_shell(way, socket)).await?)?;
    }

    let mut inside = client(&task.socket).await?;
    say(&too_much(&mut inside, "with repo.merge", &MORE, SHORTER).await?)?;
    say(&too_much(&mut inside, "that outlives the task", &FEWER, 2 * TTL).await?)?;
    let part = Held::open(&mut inside, &task.socket, "code.read", &FEWER, SHORTER).await?;

    // The node is told; the task's own socket will be gone.
    let clock = SystemClock::new();
    let done = EndTaskRequest {
        id: task.id.clone(),
    };
    tasks
        .complete(request(node, done))
        .await
        .map_err(|status| refused("complete the task", &status))?;
    for held in [task, part] {
        say(&Step::Ended(held.ended(&mut tasks, node, &clock).await?))?;
    }
    Ok(())
}

/// The agent's own identity: among those of this process, the one of the class. Its entry may still
/// be on its way.
async fn identity(node: &WorkloadArgs, class: &ClassName) -> Result<String, Failure> {
    let below = format!("/agent/{class}/");
    let mut found = None;
    let watched = stream::watch(
        node,
        |update| {
            let update = X509Update::read(&update)?;
            let ids = update.svids.iter().map(|held| &held.svid.spiffe_id);
            found = ids
                .clone()
                .find(|id| id.path().starts_with(&below))
                .map(SpiffeId::to_string);
            Ok(found.as_ref().map_or(Then::Continue, |_| Then::Stop))
        },
        |_, _| {},
    );
    in_time(watched).await?;
    found.ok_or_else(|| Failure::failed("the agent got no identity"))
}

/// A task that is open, with the stream of its SVIDs.
struct Held {
    id: String,
    /// Where its identity is.
    socket: WorkloadArgs,
    /// Ends when the task does, and says how.
    stream: JoinHandle<Result<(), Failure>>,
}

impl Held {
    /// Opens a task for this process, waits for its first SVID, and reports both.
    async fn open(
        client: &mut Client,
        at: &WorkloadArgs,
        kind: &str,
        scopes: &[&str],
        ttl: i64,
    ) -> Result<Self, Failure> {
        let clock = SystemClock::new();
        let asked = clock.now().mono;
        let task = client
            .open(request(at, wish(kind, scopes, ttl)))
            .await
            .map_err(|status| refused("open a task", &status))?
            .into_inner();
        let socket = Endpoint::unix(Path::new(&task.socket)).map_err(|error| {
            Failure::failed(format!("the task's socket {:?}: {error}", task.socket))
        })?;
        let socket = WorkloadArgs::at(socket);
        let (first, stream) = watch(socket.clone());
        let first = in_time(async {
            first
                .await
                .map_err(|_ended| Failure::failed("the stream of the task's SVIDs ended at once"))
        })
        .await?;
        let after = clock.now().mono.saturating_sub(asked);
        say(&Step::Opened(opened(&task, ttl, &first, after)))?;
        Ok(Self {
            id: task.id,
            socket,
            stream,
        })
    }

    /// Waits until the identity is gone, which it must be by now.
    async fn ended(
        self,
        tasks: &mut Client,
        node: &WorkloadArgs,
        clock: &SystemClock,
    ) -> Result<Ended, Failure> {
        let stream = in_time(async {
            self.stream
                .await
                .map_err(|error| Failure::failed(format!("the task's stream: {error}")))
        });
        let stream = match stream.await? {
            Err(failure) if failure.exit == Exit::Denied => "PERMISSION_DENIED".to_owned(),
            Err(failure) => return Err(failure),
            Ok(()) => return Err(Failure::failed("the stream of a task's SVIDs was left")),
        };
        let after = clock.now().mono;
        if let Ok(_channel) = self.socket.channel().await {
            return Err(Failure::failed(format!(
                "the task has ended, and {} can still be connected to",
                self.socket.socket
            )));
        }
        let which = GetTaskRequest { id: self.id };
        let task = tasks
            .get(request(node, which))
            .await
            .map_err(|status| refused("look at the task", &status))?
            .into_inner();
        Ok(Ended {
            task: task.id,
            state: task.state,
            cause: task.cause,
            stream,
            after_ms: millis(after),
        })
    }
}

/// Follows the SVIDs of a socket: the first one, and the end of it all.
fn watch(
    socket: WorkloadArgs,
) -> (
    oneshot::Receiver<X509Identity>,
    JoinHandle<Result<(), Failure>>,
) {
    let (sender, first) = oneshot::channel();
    let mut sender = Some(sender);
    let stream = tokio::spawn(async move {
        stream::watch(
            &socket,
            |update| {
                let update = X509Update::read(&update)?;
                if let (Some(identity), Some(sender)) =
                    (update.svids.into_iter().next(), sender.take())
                {
                    // Whoever no longer waits has said why.
                    drop(sender.send(identity));
                }
                Ok(Then::Continue)
            },
            |_, _| {},
        )
        .await
    });
    (first, stream)
}

/// Asks for what must be refused.
async fn too_much(
    client: &mut Client,
    what: &str,
    scopes: &[&str],
    ttl: i64,
) -> Result<Step, Failure> {
    let mut asked = tonic::Request::new(wish("code.read", scopes, ttl));
    asked.set_timeout(PATIENCE);
    match client.open(asked).await {
        Ok(task) => Err(Failure::failed(format!(
            "a sub-task {what} was opened: {}",
            task.into_inner().id
        ))),
        Err(status) => match reason_of(MUSTER_DOMAIN, &status) {
            Some(reason) => Ok(Step::Refused {
                wish: what.to_owned(),
                reason,
                message: described(&status),
            }),
            None => Err(refused("ask for a sub-task", &status)),
        },
    }
}

/// A task of the calling process; on a task's socket, part of that task.
fn wish(kind: &str, scopes: &[&str], ttl: i64) -> OpenTaskRequest {
    OpenTaskRequest {
        kind: kind.to_owned(),
        permissions: Some(Permissions {
            scopes: scopes.iter().map(ToString::to_string).collect(),
            resources: Vec::new(),
        }),
        ttl: Some(prost_types::Duration {
            seconds: ttl,
            nanos: 0,
        }),
        ..OpenTaskRequest::default()
    }
}

fn opened(task: &Task, ttl: i64, first: &X509Identity, after: Duration) -> Opened {
    let permissions = task.permissions.clone().unwrap_or_default();
    let named = first.svid.spiffe_id.as_str();
    let verified = if named == task.spiffe_id {
        check(first, SystemClock::new().now().wall)
    } else {
        Err(format!("it is of {named}"))
    };
    Opened {
        task: task.id.clone(),
        parent: Some(task.parent.clone()).filter(|parent| !parent.is_empty()),
        spiffe_id: task.spiffe_id.clone(),
        kind: task.kind.clone(),
        scopes: permissions.scopes,
        ttl,
        serial_number: first.svid.serial.to_string(),
        verified,
        after_ms: millis(after),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn in_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                Exit::Unavailable,
                format!("a step of the agent took over {} s", PATIENCE.as_secs()),
            ))
        })
}

fn say(step: &Step) -> Result<(), Failure> {
    let line = serde_json::to_string(step)
        .map_err(|error| Failure::failed(format!("cannot write a report: {error}")))?;
    output::write(&format!("{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_survives_the_pipe() {
        let step = Step::Opened(Opened {
            task: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
            parent: None,
            spiffe_id: "spiffe://example.org/agent/a/1/t/01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
            kind: "code.review".to_owned(),
            scopes: vec!["repo.read".to_owned()],
            ttl: 60,
            serial_number: "7".to_owned(),
            verified: Err("expired".to_owned()),
            after_ms: 9,
        });
        let line = serde_json::to_string(&step).unwrap();
        assert!(line.starts_with(r#"{"step":"opened","task":"#), "{line}");
        assert_eq!(serde_json::from_str::<Step>(&line).unwrap(), step);
    }
}
