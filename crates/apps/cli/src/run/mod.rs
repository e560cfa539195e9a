//! `muster run`: a command with a task of its own, and nothing else of ours.
//!
//! The command's process is made first, and waits ([`muster_peer::child`]); the task is opened for
//! it; only then does it become the command. If there is no task, nothing is run.

mod environment;
mod tree;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use clap::Args;
use muster_peer::HeldProcess;
use muster_peer::child::{Program, Waiting};
use muster_proto::muster::agent::v1::{EndTaskRequest, Task, TaskBinding, task_binding};
use muster_rt::endpoint::{ENVIRONMENT_VARIABLE, Endpoint};
use muster_rt::lifecycle;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tonic::Request;

use self::environment::{Scrubbed, scrub};
use crate::failure::{Exit, Failure};
use crate::task::{Client, Wishes, client, refused, request};
use crate::workload::WorkloadArgs;
use crate::{output, process};

/// How long the node may take to acknowledge the end of a task whose process has ended.
const PARTING: Duration = Duration::from_secs(5);
/// Where programs are looked for when there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Run a command with a task of its own
///
/// The task is bound to the command's process: its identity is served, on a socket of its own that
/// the command finds in SPIFFE_ENDPOINT_SOCKET, from before its first instruction until it ends, and
/// to nothing that it starts. The command gains no privileges, inherits no descriptors but the
/// standard ones, and finds in its environment what is on a list only; secrets that were there are
/// named here, not shown.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct Run {
    #[command(flatten)]
    wishes: Wishes,
    /// When the command ends, end all that it started: SIGTERM, and SIGKILL 5s later
    #[arg(long, help_heading = "Command")]
    end_tree: bool,
    /// Keep this variable of the environment; repeatable
    #[arg(long, value_name = "NAME", help_heading = "Command")]
    keep_env: Vec<OsString>,
    #[command(flatten)]
    node: WorkloadArgs,
    /// The command and its arguments
    #[arg(
        last = true,
        required = true,
        value_name = "COMMAND",
        help_heading = "Command"
    )]
    command: Vec<OsString>,
}

/// Runs the command. The process is forked before the runtime starts its threads.
pub(crate) fn run(run: &Run) -> ExitCode {
    let outcome = match begin(run) {
        Ok(waiting) => {
            let mut outcome = Err(Failure::failed("the runtime cannot start"));
            lifecycle::block_on(async {
                outcome = supervise(run, waiting).await;
                ExitCode::SUCCESS
            });
            outcome
        }
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.is_silent() {
                output::note(&format!("muster: {failure}"));
            }
            failure.exit_code()
        }
    }
}

/// Makes everything ready, and the process; nothing was asked of the node so far.
fn begin(run: &Run) -> Result<Waiting, Failure> {
    if let Endpoint::Tcp(address) = &run.node.socket {
        return Err(Failure::usage(format!(
            "a task needs the node's Unix socket, and {address} is none; pass --socket \
             unix:///run/muster/node/workload.sock"
        )));
    }
    let name = run
        .command
        .first()
        .ok_or_else(|| Failure::usage("no command to run: write it after `--`"))?;
    let keep: BTreeSet<OsString> = run.keep_env.iter().cloned().collect();
    let scrubbed = scrub(std::env::vars_os(), &keep);
    tell(&scrubbed);
    let places = places(name)?;
    let program = Program::new(&places, &run.command, &scrubbed.kept).map_err(|error| {
        Failure::usage(format!(
            "the command or its environment is no text: {error}"
        ))
    })?;
    let program = if run.end_tree {
        // What its parents leave behind becomes ours, so that it is found.
        prctl::set_child_subreaper(true)
            .map_err(|error| Failure::failed(format!("cannot take charge of the tree: {error}")))?;
        program.dying_with_us()
    } else {
        program
    };
    Waiting::fork(&program)
        .map_err(|error| Failure::failed(format!("cannot start a process: {error}")))
}

fn tell(scrubbed: &Scrubbed) {
    let list = |suspects: &[environment::Suspect]| {
        let one = |suspect: &environment::Suspect| format!("{} ({})", suspect.name, suspect.why);
        suspects.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if !scrubbed.held_back.is_empty() {
        output::note(&format!(
            "muster: held back from the command: {}",
            list(&scrubbed.held_back)
        ));
    }
    if !scrubbed.kept_suspects.is_empty() {
        output::note(&format!(
            "muster: passed on to the command, because of --keep-env: {}",
            list(&scrubbed.kept_suspects)
        ));
    }
}

/// Where the program may be, as `execvp` looks; an error when it surely is nowhere.
pub(crate) fn places(name: &OsStr) -> Result<Vec<OsString>, Failure> {
    let is_program = |path: &Path| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        if !path.exists() {
            return Err(not_found(name));
        }
        return Ok(vec![name.to_owned()]);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let found: Vec<OsString> = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .filter(|place| is_program(place))
        .map(PathBuf::into_os_string)
        .collect();
    if found.is_empty() {
        return Err(not_found(name));
    }
    Ok(found)
}

fn not_found(name: &OsStr) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("there is no program {}; nothing was run", name.display()),
    )
}

/// Opens the task, lets the command run, and returns its exit code.
async fn supervise(run: &Run, waiting: Waiting) -> Result<u8, Failure> {
    let mut signals = process::signals()?;
    let binding = TaskBinding {
        to: Some(task_binding::To::ChildPid(waiting.pid())),
    };
    let message = run.wishes.request(binding)?;
    let mut client = client(&run.node).await?;
    let opening = client.open(request(&run.node, message));
    let task = tokio::select! {
        answer = opening => answer
            .map_err(|status| nothing_run(&refused("open a task", &status)))?
            .into_inner(),
        // Dropping the child ends it, and with it a task that is being opened.
        Some(signal) = signals.recv() => return Ok(killed_by(signal)),
    };
    let pid = match start(waiting, &task) {
        Ok(pid) => pid,
        Err(failure) => {
            end(&mut client, &task, false).await;
            return Err(failure);
        }
    };
    let status = wait(pid, &mut signals).await?;
    if run.end_tree {
        tree::end().await;
    }
    end(&mut client, &task, status.success()).await;
    Ok(process::exit_code(status))
}

/// Has the child become the command.
fn start(waiting: Waiting, task: &Task) -> Result<u32, Failure> {
    if task.socket.is_empty() {
        return Err(Failure::failed(
            "the node opened a task and did not say where its socket is; nothing was run",
        ));
    }
    let variable = format!("{ENVIRONMENT_VARIABLE}=unix://{}", task.socket);
    waiting
        .go(variable.as_bytes())
        .map_err(|error| Failure::failed(format!("the command was not run: {error}")))
}

fn nothing_run(failure: &Failure) -> Failure {
    Failure::new(failure.exit, format!("{failure}; nothing was run"))
}

fn killed_by(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(1)
}

/// Waits for the command's end, and passes on what is sent to us.
async fn wait(pid: u32, signals: &mut mpsc::Receiver<Signal>) -> Result<ExitStatus, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot wait for the command: {error}"))
    };
    // Nobody but us can reap it, so that the number is its own until we have.
    let held = HeldProcess::by_number(pid);
    let number = Pid::from_raw(i32::try_from(pid).map_err(|error| failed(&error))?);
    if let Ok(held) = held {
        loop {
            tokio::select! {
                ended = held.exited() => break ended.map_err(|error| failed(&error))?,
                Some(signal) = signals.recv() => {
                    if !process::sent_by_terminal(signal) {
                        // One that has just ended is no error: its end is on its way to us.
                        let _gone = kill(number, signal).is_err();
                    }
                }
            }
        }
    }
    // A process that ended before it could be held is waited for as well.
    loop {
        return match waitpid(number, None) {
            Ok(WaitStatus::Exited(_, code)) => Ok(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => Err(failed(&io::Error::from(error))),
        };
    }
}

/// Has the node end the task, unless it saw the process end and has done so; returns when it has.
///
/// The node is asked as a friend: that it is gone, or that the task is, changes nothing for us.
async fn end(client: &mut Client, task: &Task, done: bool) {
    let mut request = Request::new(EndTaskRequest {
        id: task.id.clone(),
    });
    request.set_timeout(PARTING);
    let ended = if done {
        client.complete(request).await
    } else {
        client.fail(request).await
    };
    if let Err(status) = ended
        && !matches!(
            status.code(),
            tonic::Code::NotFound | tonic::Code::FailedPrecondition
        )
    {
        output::note(&format!(
            "muster: {}; the node ends the task by itself",
            refused("end the task", &status)
        ));
    }
}
