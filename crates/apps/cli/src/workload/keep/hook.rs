//! What is done after a new generation: once for each, in order, never two at a time.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::failure::Failure;
use crate::output;
use crate::time::rough;

/// The pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A hook that is not about a child.
pub(super) enum Hook {
    Exec(Vec<String>),
    SignalFile(Signal, PathBuf),
}

/// How often, and how long each time.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) attempts: u32,
    pub(super) timeout: Duration,
}

/// Runs the hook for a generation until it succeeds, as often as it may; the last failure is
/// returned, each is told.
pub(super) async fn run(hook: &Hook, generation: &Path, bounds: Bounds) -> Result<(), Failure> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let failure = match once(hook, generation, bounds.timeout).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if attempt >= bounds.attempts {
            output::note(&format!(
                "muster: {failure}; it is not tried again for this generation"
            ));
            return Err(failure);
        }
        output::note(&format!("muster: {failure} (again in {})", rough(pause)));
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

async fn once(hook: &Hook, generation: &Path, timeout: Duration) -> Result<(), Failure> {
    match hook {
        Hook::Exec(words) => exec(words, generation, timeout).await,
        Hook::SignalFile(signal, file) => signal_file(*signal, file),
    }
}

async fn exec(words: &[String], generation: &Path, timeout: Duration) -> Result<(), Failure> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| Failure::usage("the hook has no program"))?;
    let failed = |how: String| Failure::failed(format!("the hook `{program}` {how}"));
    let mut process = Command::new(program)
        .args(arguments)
        .env("MUSTER_GENERATION", generation)
        .stdin(Stdio::null())
        // A group of its own, so that what it started ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let group = process.id();
    match tokio::time::timeout(timeout, process.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("failed: {status}"))),
        Ok(Err(error)) => Err(failed(format!("cannot be waited for: {error}"))),
        Err(_) => {
            if let Some(group) = group.and_then(|pid| i32::try_from(pid).ok()) {
                // That it has just ended by itself is as good.
                let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL).is_err();
            }
            let _reaped = process.wait().await.is_ok();
            Err(failed(format!(
                "took more than {} and was killed",
                rough(timeout)
            )))
        }
    }
}

fn signal_file(signal: Signal, file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::failed(format!("cannot read the pid in {shown}: {error}")))?;
    let pid = text
        .trim()
        .parse::<i32>()
        .ok()
        .filter(|pid| *pid > 1)
        .ok_or_else(|| Failure::failed(format!("{shown} does not have the pid of a process")))?;
    kill(Pid::from_raw(pid), signal).map_err(|error| {
        Failure::failed(format!(
            "cannot send {signal} to pid {pid} of {shown}: {error}"
        ))
    })
}
