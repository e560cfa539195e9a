//! From the acknowledgement of an entry to the workload that holds its SVID, each workload a process
//! and, under root, a user of its own. They wait in waves, for a node holds a call only so long.

use std::process::Stdio;
use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::types::Entry;
use nix::unistd::getuid;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{Figure, Sizes};
use crate::Failure;
use crate::caller::{create, entry};
use crate::clock::shared_nanoseconds;
use crate::numbers::{Times, number};
use crate::subject::Domain;

const WAVE: usize = 100;
const FIRST_UID: usize = 60_000;
const WAITING_WITHIN: Duration = Duration::from_mins(1);
const ARRIVED_WITHIN: Duration = Duration::from_mins(2);

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut api = EntryClient::new(muster_peer::connect(&domain.server.admin_socket).await?);
    let mut times = Times::default();
    let mut denials = 0;
    if getuid().is_root() {
        for first in (0..sizes.waiters).step_by(WAVE) {
            let uids: Vec<usize> = (first..sizes.waiters.min(first + WAVE))
                .map(|number| FIRST_UID + number)
                .collect();
            let waiters = start(domain, uids.iter().map(|uid| Some(*uid))).await?;
            let mut acknowledged = Vec::new();
            for uid in uids {
                create(&mut api, vec![waiter_entry(domain, uid)]).await?;
                acknowledged.push(shared_nanoseconds());
            }
            for (waiter, at) in waiters.into_iter().zip(acknowledged) {
                denials += arrive(waiter, at, &mut times).await?;
            }
        }
    } else {
        println!("not root: all waiting processes are one user, and one entry serves a wave");
        let uid = usize::try_from(getuid().as_raw())?;
        let waiters = start(domain, (0..WAVE.min(sizes.waiters)).map(|_| None)).await?;
        create(&mut api, vec![waiter_entry(domain, uid)]).await?;
        let at = shared_nanoseconds();
        for waiter in waiters {
            denials += arrive(waiter, at, &mut times).await?;
        }
    }
    let what = format!(
        "entry acknowledged to SVID held, {} workloads",
        times.count()
    );
    Ok(vec![
        Figure::time(format!("{what}, p50"), times.quantile(50)),
        Figure::time(format!("{what}, p99"), times.quantile(99)).at_most(50.0),
        Figure::time(format!("{what}, longest"), times.longest()),
        Figure::new("denials on the way", number(denials), "").at_most(0.0),
    ])
}

fn waiter_entry(domain: &Domain, uid: usize) -> Entry {
    let path = format!("/bench/waiter/{uid}");
    entry(&domain.node_id, &path, &[("unix", format!("uid:{uid}"))])
}

/// A process that waits.
struct Waiter {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Starts a wave, and returns when all of it has asked.
async fn start(
    domain: &Domain,
    uids: impl Iterator<Item = Option<usize>>,
) -> Result<Vec<Waiter>, Failure> {
    let bench = std::env::current_exe()?;
    let mut waiters = Vec::new();
    for uid in uids {
        let mut command = Command::new(&bench);
        command.arg("waiter").arg(&domain.workload_socket);
        if let Some(uid) = uid {
            command.arg("--uid").arg(uid.to_string());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("a waiter without output")?;
        waiters.push(Waiter {
            child,
            lines: BufReader::new(output).lines(),
        });
    }
    for waiter in &mut waiters {
        let line = timeout(WAITING_WITHIN, waiter.lines.next_line())
            .await
            .map_err(|_| "a workload does not start")??;
        if line.as_deref() != Some("waiting") {
            return Err(format!("a workload says {line:?}").into());
        }
    }
    Ok(waiters)
}

/// Waits for one workload; tells how often it was denied.
async fn arrive(mut waiter: Waiter, at: u64, times: &mut Times) -> Result<usize, Failure> {
    let line = timeout(ARRIVED_WITHIN, waiter.lines.next_line())
        .await
        .map_err(|_| "a workload never got its SVID")??
        .unwrap_or_default();
    let told = line
        .split_once(' ')
        .ok_or_else(|| format!("a workload says {line:?}"))?;
    let held: u64 = told.0.parse()?;
    // A push may overtake the acknowledgement.
    times.add(Duration::from_nanos(held.saturating_sub(at)));
    waiter.child.wait().await?;
    Ok(told.1.parse()?)
}
