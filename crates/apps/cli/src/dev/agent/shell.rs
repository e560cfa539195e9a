//! A shell that the agent starts, and that wants the agent's identity.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use muster_rt::endpoint::Endpoint;
use tokio::process::Command;

use super::{Step, Way};
use crate::failure::Failure;

const SHELL: &str = "/bin/sh";

/// Asks for the tasks on the connection that is its standard input, with nothing but what every
/// shell has, and prints what it hears.
const INHERITED: &str = r"printf 'GET /muster/v1/tasks HTTP/1.1\r\nHost: muster\r\nConnection: close\r\nworkload.spiffe.io: true\r\n\r\n' >&0; exec cat";
/// Becomes this program, which asks for an identity at the socket `$1`. A client that is cut off
/// may wait for what never comes.
const OWN: &str = r#"exec "$0" workload fetch x509 --timeout 2s --socket "$1""#;

/// Has a shell ask; that it is told anything is an error.
pub(super) async fn ask_by_shell(way: Way, socket: &Endpoint) -> Result<Step, Failure> {
    let failed =
        |what: &str, error: std::io::Error| Failure::failed(format!("cannot {what}: {error}"));
    let mut command = Command::new(SHELL);
    command.arg("-c");
    match way {
        Way::NodeInherited | Way::TaskInherited => {
            let Endpoint::Unix(path) = socket else {
                return Err(Failure::usage("the socket is no Unix socket"));
            };
            let connection = UnixStream::connect(path)
                .map_err(|error| failed("connect to the socket", error))?;
            command.arg(INHERITED).stdin(OwnedFd::from(connection));
        }
        Way::TaskOwn => {
            let program = std::env::current_exe()
                .map_err(|error| failed("find the program to start", error))?;
            command.arg(OWN).arg(program).arg(socket.to_string());
            command.stdin(Stdio::null());
        }
    }
    let shell = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("start a shell", error))?;
    let pid = shell.id().unwrap_or(0);
    let output = shell
        .wait_with_output()
        .await
        .map_err(|error| failed("wait for the shell", error))?;
    if output.stdout.is_empty() {
        return Ok(Step::Asked { way, pid });
    }
    Err(Failure::failed(format!(
        "a shell that was to be told nothing was told {} bytes",
        output.stdout.len()
    )))
}
