//! A plugin that the node runs: started, connected to, and started again when it ends.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// The variable that names the socket to listen on.
const SOCKET: &str = "MUSTER_PLUGIN_SOCKET";
/// The pause before the first restart; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A program that ran so long has started well, and its next restart is a first one.
const STEADY: Duration = Duration::from_mins(1);
/// How often a program that was just started is tried.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// A program that is kept running until this value is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    _keeper: JoinSet<()>,
}

impl Child {
    pub(crate) fn keep(
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
        socket: PathBuf,
    ) -> Self {
        let mut keeper = JoinSet::new();
        keeper.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let started = Instant::now();
                match run(&program, &arguments, &socket).await {
                    Ok(status) => tracing::warn!(plugin = name, %status, "a plugin ended"),
                    Err(error) => {
                        tracing::error!(plugin = name, program = %program.display(), %error, "a plugin cannot be started");
                    }
                }
                if started.elapsed() >= STEADY {
                    pause = FIRST_PAUSE;
                }
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        });
        Self { _keeper: keeper }
    }
}

/// Runs the program until it ends. Its standard input is open as long as the node lives, so that
/// it can end with a node that was killed; of the environment it gets `PATH` alone.
async fn run(
    program: &Path,
    arguments: &[String],
    socket: &Path,
) -> io::Result<std::process::ExitStatus> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env(SOCKET, socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let mut child = command.spawn()?;
    // `wait` would close it.
    let input = child.stdin.take();
    let status = child.wait().await;
    drop(input);
    status
}

/// A channel to the plugin. One that the node starts is tried until it listens; give it a deadline.
pub(crate) async fn connect(
    socket: &Path,
    is_ours: bool,
) -> Result<Channel, muster_peer::ConnectError> {
    loop {
        match muster_peer::connect(socket).await {
            Err(_) if is_ours => sleep(BETWEEN_TRIES).await,
            outcome => return outcome,
        }
    }
}
