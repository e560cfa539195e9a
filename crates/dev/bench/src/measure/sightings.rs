//! What it takes a node to look for agents among 500 processes: time on a core of the one thread that
//! does it, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use muster_proto::muster::node::admin::v1::node_sightings_client::NodeSightingsClient;
use muster_proto::muster::node::admin::v1::{
    ListLocalSightingsRequest, ListLocalSightingsResponse,
};
use tokio::process::{Child, Command};
use tonic::Request;
use tonic::transport::Channel;

use crate::Failure;
use crate::measure::{Figure, Sizes};
use crate::process::Pid;
use crate::subject::Domain;

/// A first sweep over 500 processes, in milliseconds on one core.
const WITHIN: f64 = 2000.0;
/// What the thread is called.
const THREAD: &str = "sightings";
/// How long a sweep may take all in all. Its thread has the lowest ordinary priority and rests most
/// of the time, so that beside other work it takes far longer than it is on a core.
const PATIENCE: Duration = Duration::from_mins(10);
/// One of so many processes looks like an agent.
const AGENTS: usize = 10;

/// Starts processes, and has the node look twice: at all that is new, and at what it knows.
pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let socket = domain
        .admin_socket
        .as_ref()
        .ok_or("the node has no admin socket")?;
    let folder = tempfile::tempdir()?;
    let (plain, agent) = (folder.path().join("plain"), folder.path().join("claude"));
    for program in [&plain, &agent] {
        let copied = Command::new("cp")
            .arg("/bin/cat")
            .arg(program)
            .status()
            .await?;
        if !copied.success() {
            return Err("/bin/cat cannot be copied".into());
        }
    }
    let mut children = Vec::with_capacity(sizes.sighted);
    for number in 0..sizes.sighted {
        let program = if number % AGENTS == 0 { &agent } else { &plain };
        children.push(start(program)?);
    }
    let mut client = NodeSightingsClient::new(muster_peer::connect(socket).await?);
    let (first, looked) = sweep(&mut client, domain.node).await?;
    if usize::try_from(looked.processes)? < sizes.sighted {
        return Err(format!("the node saw {} processes", looked.processes).into());
    }
    let found: u32 = looked
        .sightings
        .iter()
        .filter_map(|one| one.seen.as_ref())
        .filter(|seen| seen.executable == agent.to_string_lossy())
        .map(|seen| seen.count)
        .sum();
    if usize::try_from(found)? != sizes.sighted.div_ceil(AGENTS) {
        return Err(format!("the node found {found} of the agents").into());
    }
    // The second look at each is due; the third sweep finds all of them known.
    sweep(&mut client, domain.node).await?;
    let (known, _) = sweep(&mut client, domain.node).await?;
    drop(children);
    let what = |which: &str| {
        format!(
            "sightings, {} processes, {which}, on one core",
            looked.processes
        )
    };
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(vec![
        Figure::time(what("first sweep"), milliseconds(first)).at_most(WITHIN),
        Figure::time(what("all known"), milliseconds(known)).at_most(WITHIN),
    ])
}

fn start(program: &Path) -> Result<Child, Failure> {
    Ok(Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .env("OPENAI_API_KEY", "x")
        .kill_on_drop(true)
        .spawn()?)
}

/// One sweep: how long its thread was on a core, and what it came to.
async fn sweep(
    client: &mut NodeSightingsClient<Channel>,
    node: Pid,
) -> Result<(Duration, ListLocalSightingsResponse), Failure> {
    let before = on_core(node)?;
    let mut request = Request::new(ListLocalSightingsRequest { now: true });
    request.set_timeout(PATIENCE);
    let answer = client.list_local_sightings(request).await?.into_inner();
    Ok((on_core(node)?.saturating_sub(before), answer))
}

/// How long the thread was on a core so far (`/proc/PID/task/TID/schedstat`, nanoseconds).
fn on_core(node: Pid) -> Result<Duration, Failure> {
    for task in fs::read_dir(format!("/proc/{}/task", node.0))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == THREAD {
            let spent = fs::read_to_string(task.join("schedstat"))?;
            let spent = spent
                .split_whitespace()
                .next()
                .ok_or("schedstat is empty")?;
            return Ok(Duration::from_nanos(spent.parse()?));
        }
    }
    Err("the node has no thread that looks for agents".into())
}
