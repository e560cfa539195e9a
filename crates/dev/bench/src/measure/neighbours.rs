//! Well-behaved clients beside a neighbour that connects as often as it can: of another user, and,
//! where control groups can be made, of the same user in another group. Needs root.
//!
//! The generator and the node share the machine's cores, so the generator runs at the lowest
//! priority: what is measured is what the node lets it take, not what the scheduler does.

use std::process::Stdio;
use std::time::Duration;

use nix::unistd::getuid;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::{Figure, Sizes, workload};
use crate::Failure;
use crate::clock::Stopwatch;
use crate::numbers::Times;
use crate::subject::Domain;

/// As whom the hostile neighbour runs.
const HOSTILE_UID: u32 = 59_999;
/// What it aims at, in connections by the second.
const RATE: u32 = 20_000;
/// How often a well-behaved client calls.
const PACE: Duration = Duration::from_millis(10);
/// Beyond it a call counts as lost.
const LOST: Duration = Duration::from_secs(5);
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The control group that a neighbour of the same user is put into.
const GROUP: &str = "/sys/fs/cgroup/unified/muster-bench";
const GROUP_ALONE: &str = "/sys/fs/cgroup/muster-bench";

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    if !getuid().is_root() {
        println!("not root: there is no other user to be a neighbour");
        return Ok(Vec::new());
    }
    let mut alone = calls(domain, sizes.flood).await?;
    let mut figures = vec![Figure::time("a call, undisturbed, p99", alone.quantile(99))];
    figures.extend(beside(domain, sizes, Some(HOSTILE_UID), None, "another user").await?);
    let groups = [GROUP, GROUP_ALONE];
    if let Some(group) = groups.iter().find(|path| std::fs::create_dir(path).is_ok()) {
        let who = "the same user in another cgroup";
        let found = beside(domain, sizes, None, Some(group), who).await;
        // It is empty once the neighbour has ended.
        drop(std::fs::remove_dir(group));
        figures.extend(found?);
    } else {
        println!("no control group can be made: the same user in another one is left out");
    }
    Ok(figures)
}

async fn beside(
    domain: &Domain,
    sizes: &Sizes,
    uid: Option<u32>,
    group: Option<&str>,
    who: &str,
) -> Result<Vec<Figure>, Failure> {
    let (mut child, mut lines) = start(domain, sizes.flood, uid, group).await?;
    let times = calls(domain, sizes.flood.saturating_sub(Duration::from_secs(1))).await;
    let last = timeout(ENDS_WITHIN, lines.next_line())
        .await
        .map_err(|_| "the flood does not end")??
        .ok_or("the flood says nothing")?;
    child.wait().await?;
    let mut times = times?;
    Ok(vec![
        Figure::rate(format!("flood by {who}: connections"), last.parse()?),
        Figure::time(format!("a call beside it, {who}, p50"), times.quantile(50)),
        Figure::time(format!("a call beside it, {who}, p99"), times.quantile(99)).at_most(20.0),
    ])
}

async fn start(
    domain: &Domain,
    time: Duration,
    uid: Option<u32>,
    group: Option<&str>,
) -> Result<(Child, Lines<BufReader<ChildStdout>>), Failure> {
    let mut command = Command::new("nice");
    command
        .args(["-n", "19"])
        .arg(std::env::current_exe()?)
        .arg("flood")
        .arg(&domain.workload_socket)
        .args(["--rate", &RATE.to_string()])
        .args(["--seconds", &time.as_secs().max(2).to_string()]);
    if let Some(uid) = uid {
        command.args(["--uid", &uid.to_string()]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let (Some(group), Some(pid)) = (group, child.id()) {
        // Before its first connection, which takes it longer to get to than this; one that came
        // too early would count for the client, and only against us.
        std::fs::write(format!("{group}/cgroup.procs"), pid.to_string())?;
    }
    let output = child.stdout.take().ok_or("the flood has no output")?;
    let mut lines = BufReader::new(output).lines();
    lines.next_line().await?.ok_or("the flood does not start")?;
    Ok((child, lines))
}

/// Connects and fetches, at an even pace, each time on a new connection; a call that fails counts
/// as one that took the longest.
async fn calls(domain: &Domain, time: Duration) -> Result<Times, Failure> {
    let mut times = Times::default();
    let whole = Stopwatch::start();
    while whole.elapsed() < time {
        let watch = Stopwatch::start();
        match timeout(LOST, workload::open(&domain.workload_socket)).await {
            Ok(Ok(_open)) => times.add(watch.elapsed()),
            Ok(Err(_)) | Err(_) => times.add(LOST),
        }
        sleep(PACE).await;
    }
    Ok(times)
}
