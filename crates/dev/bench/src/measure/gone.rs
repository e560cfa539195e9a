//! From the end of an attested process to the end of its stream. The socket is held open by a child
//! that inherited it, so that nothing but the process's end can end the stream.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Figure, Sizes};
use crate::Failure;
use crate::numbers::Times;
use crate::subject::Domain;

const ENDS_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut times = Times::default();
    for _ in 0..sizes.gone {
        times.add(one(domain).await?);
    }
    Ok(vec![
        Figure::time("process gone to its stream ended, p50", times.quantile(50)),
        Figure::time("process gone to its stream ended, p99", times.quantile(99)).at_most(10.0),
    ])
}

/// `heir` watches the connection that its parent opened; the parent is killed by this process.
async fn one(domain: &Domain) -> Result<Duration, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("testator")
        .arg(&domain.workload_socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().ok_or("the process has no output")?;
    let mut input = child.stdin.take().ok_or("the process has no input")?;
    let mut lines = BufReader::new(output).lines();
    let mut next = async || -> Result<String, Failure> {
        let line = timeout(ENDS_WITHIN, lines.next_line())
            .await
            .map_err(|_| "the stream of a process that has ended does not end")??;
        Ok(line.ok_or("the process ended too early")?)
    };
    next().await?;
    input.write_all(b"\n").await?;
    // The testator tells when it ends, the heir when the connection does.
    let ended: u64 = next().await?.parse()?;
    let noticed: u64 = next().await?.parse()?;
    child.wait().await?;
    Ok(Duration::from_nanos(noticed.saturating_sub(ended)))
}
