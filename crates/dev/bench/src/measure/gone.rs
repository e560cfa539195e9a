//! From the end of an attested process to the end of its stream. The socket is held open by a child
//! that inherited it, so that nothing but the process's end can end the stream.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Figure, Sizes};
use crate::Failure;
use crate::numbers::Times;
use crate::subject::Domain;

const ENDS_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let mut times = Times::default();
    for _ in 0..sizes.gone {
        let mortal = Mortal::start(Socket::OfAll)?;
        times.add(mortal.end(&domain.workload_socket).await?);
    }
    Ok(vec![
        Figure::time("process gone to its stream ended, p50", times.quantile(50)),
        Figure::time("process gone to its stream ended, p99", times.quantile(99)).at_most(10.0),
    ])
}

/// Whose the socket is on which a stream is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// It stays.
    OfAll,
    /// It is the process's, and has to go with it.
    Own,
}

/// A process that is to open a stream, hand it to a child, and end.
pub(super) struct Mortal {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Mortal {
    /// Starts it.
    pub(super) fn start(socket: Socket) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("testator");
        if socket == Socket::Own {
            command.arg("--own");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("the process has no output")?;
        let input = child.stdin.take().ok_or("the process has no input")?;
        Ok(Self {
            child,
            input,
            lines: BufReader::new(output).lines(),
        })
    }

    pub(super) fn pid(&self) -> Result<u32, Failure> {
        Ok(self.child.id().ok_or("the process ended too early")?)
    }

    /// Lets it open its stream on `socket` and end; how long the stream lasted beyond it.
    pub(super) async fn end(mut self, socket: &Path) -> Result<Duration, Failure> {
        let line = format!("{}\n", socket.display());
        self.input.write_all(line.as_bytes()).await?;
        self.next().await?;
        self.input.write_all(b"\n").await?;
        // The testator tells when it ends, the heir when the connection does.
        let ended: u64 = self.next().await?.parse()?;
        let noticed: u64 = self.next().await?.parse()?;
        self.child.wait().await?;
        Ok(Duration::from_nanos(noticed.saturating_sub(ended)))
    }

    async fn next(&mut self) -> Result<String, Failure> {
        let line = timeout(ENDS_WITHIN, self.lines.next_line())
            .await
            .map_err(|_| "the stream of a process that has ended does not end")??;
        Ok(line.ok_or("the process ended too early")?)
    }
}
