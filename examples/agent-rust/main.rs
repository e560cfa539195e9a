//! An agent that works under an identity of its own, and shows who cannot have it.
//!
//! It is given nothing but `SPIFFE_ENDPOINT_SOCKET`. Tasks are opened by gRPC on that socket, with a
//! client made from `proto/muster/agent/v1/tasks.proto`; what a task is comes from the crate
//! `spiffe`, which knows nothing of tasks.

#![expect(clippy::print_stdout, reason = "it tells its story there")]

use std::error::Error;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muster_proto::muster::agent::v1::tasks_client::TasksClient;
use muster_proto::muster::agent::v1::{EndTaskRequest, OpenTaskRequest, Permissions, Task};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Svid};
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// What a shell can say on a connection that it inherits, and how it starts this program anew.
const INHERITED: &str = r"printf 'GET /muster/v1/tasks HTTP/1.1\r\nHost: muster\r\nConnection: close\r\nworkload.spiffe.io: true\r\n\r\n' >&0; exec cat";
const OWN: &str = r#"exec "$0" ask "$1""#;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, ask, socket] = arguments.as_slice()
        && ask == "ask"
    {
        let api = WorkloadApiClient::connect_to(format!("unix://{socket}")).await?;
        let svid = tokio::time::timeout(ANSWER_WITHIN, api.fetch_x509_svid()).await??;
        println!("{}", svid.spiffe_id());
        return Ok(());
    }

    let node = std::env::var("SPIFFE_ENDPOINT_SOCKET")?;
    let node = node.trim_start_matches("unix:").replacen("//", "", 1);
    let mut tasks = Tasks::at(&node).await?;
    let scopes = ["repo.read", "repo.comment"];
    let (task, mut identity) = tasks.open("task", "code.review", &scopes, 60).await?;

    // A shell that it starts has no identity, whatever it inherits or knows.
    for (what, path) in [("node", &node), ("task", &task.socket)] {
        let connection = OwnedFd::from(UnixStream::connect(path)?);
        let answer = shell(&[INHERITED], connection.into())?;
        let shell = format!("a shell on the agent's connection to the {what}");
        told("refused", &shell, answer.is_empty())?;
    }
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or("a path that is no text")?;
    let answer = shell(&[OWN, program, &task.socket], Stdio::null())?;
    let shell = "this program, started by a shell, at the task's socket";
    told("refused", shell, answer.is_empty())?;

    // A part of the work has less than the whole, and never more.
    let mut inside = Tasks::at(&task.socket).await?;
    let refused = match inside.0.open(wish("code.read", &["repo.merge"], 30)).await {
        Ok(_) => return Err("a sub-task has more than its task".into()),
        Err(status) => reason_of(MUSTER_DOMAIN, &status).unwrap_or_default(),
    };
    told(
        "refused",
        &format!("a sub-task with repo.merge: {refused}"),
        true,
    )?;
    let scopes = ["repo.read"];
    let (part, mut partial) = inside.open("sub-task", "code.read", &scopes, 30).await?;

    let done = EndTaskRequest {
        id: task.id.clone(),
    };
    tasks.0.complete(done).await?;
    for (name, task, identity) in [
        ("task", &task, &mut identity),
        ("sub-task", &part, &mut partial),
    ] {
        let end = match identity.next().await {
            Some(Err(error)) => error.to_string(),
            other => format!("{other:?}, and not an error"),
        };
        let gone = end == "no identity issued" && !Path::new(&task.socket).exists();
        told("ended", &format!("the {name}: {end}"), gone)?;
    }
    Ok(())
}

type Header = fn(Request<()>) -> Result<Request<()>, Status>;

/// The tasks of whoever asks, at the socket of a node or of a task.
struct Tasks(TasksClient<InterceptedService<Channel, Header>>);

impl Tasks {
    async fn at(path: &str) -> Outcome<Self> {
        let header: Header = |mut request| {
            let yes = MetadataValue::from_static("true");
            request.metadata_mut().insert("workload.spiffe.io", yes);
            Ok(request)
        };
        let channel = muster_peer::connect(Path::new(path)).await?;
        Ok(Self(TasksClient::with_interceptor(channel, header)))
    }

    /// Opens a task for this process, and follows its SVIDs.
    async fn open(
        &mut self,
        name: &str,
        kind: &str,
        scopes: &[&str],
        seconds: i64,
    ) -> Outcome<(Task, Svids)> {
        let began = now();
        let task = self.0.open(wish(kind, scopes, seconds)).await?.into_inner();
        let api = WorkloadApiClient::connect_to(format!("unix://{}", task.socket)).await?;
        let mut svids = Box::pin(api.stream_x509_svids().await?);
        let svid = svids.next().await.ok_or("no SVID")??;
        let took = began.elapsed().as_millis();
        let (id, scopes) = (svid.spiffe_id().to_string(), scopes.join(", "));
        let text = format!("{id} with {scopes}, in hand after {took} ms");
        told(name, &text, id == task.spiffe_id)?;
        Ok((task, svids))
    }
}

/// A task's SVIDs, one after the other, and in the end the error that ends them.
type Svids = std::pin::Pin<Box<dyn Stream<Item = Result<X509Svid, WorkloadApiError>>>>;

fn wish(kind: &str, scopes: &[&str], seconds: i64) -> OpenTaskRequest {
    OpenTaskRequest {
        kind: kind.to_owned(),
        permissions: Some(Permissions {
            scopes: scopes.iter().map(ToString::to_string).collect(),
            resources: Vec::new(),
        }),
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..OpenTaskRequest::default()
    }
}

/// What a shell hears.
fn shell(arguments: &[&str], stdin: Stdio) -> Outcome<String> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").args(arguments).stdin(stdin);
    Ok(String::from_utf8(command.output()?.stdout)?)
}

fn told(word: &str, text: &str, holds: bool) -> Outcome<()> {
    println!("{word:8} {text}");
    if holds {
        Ok(())
    } else {
        Err("that is not as it should be".into())
    }
}

#[expect(clippy::disallowed_methods, reason = "it says how long it waited")]
fn now() -> Instant {
    Instant::now()
}
