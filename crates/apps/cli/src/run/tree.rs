//! The end of all that a command started and left behind.
//!
//! This process is the reaper of its descendants (`PR_SET_CHILD_SUBREAPER`): whatever loses its
//! parent becomes our child, so that nothing that was started gets away by forking twice.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use crate::output;

/// How long what was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How often what is left is killed again: some may have forked meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

/// Ends every descendant of this process; returns when none is left.
pub(super) async fn end() {
    if reap() == Left::None {
        return;
    }
    let Ok(mut children) = signal(SignalKind::child()) else {
        return;
    };
    let started = tokio::time::Instant::now();
    let mut wanted = Signal::SIGTERM;
    let mut until = started + GRACE;
    loop {
        let told = send(wanted);
        while reap() == Left::Some {
            if timeout_at(until, children.recv()).await.is_err() {
                break;
            }
        }
        if reap() == Left::None {
            return;
        }
        if wanted == Signal::SIGTERM {
            output::note(&format!(
                "muster: of {} that the command left behind, some do not end and are killed",
                output::counted(told, "process", "processes"),
            ));
        }
        wanted = Signal::SIGKILL;
        until = Instant::now() + AGAIN;
    }
}

/// Whether there are children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Some,
    None,
}

/// Takes note of those that have ended.
fn reap() -> Left {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Left::Some,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Left::None,
        }
    }
}

/// Sends a signal to every descendant, and says to how many.
fn send(wanted: Signal) -> usize {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let parents = parents();
    let descendants = parents.keys().filter(|pid| is_below(&parents, **pid, own));
    // A number that was read and has passed to another since: pids are not reused that fast, and a
    // descendant's cannot be while we have not reaped it or its own parent has not.
    descendants
        .filter(|pid| kill(Pid::from_raw(**pid), wanted).is_ok())
        .count()
}

fn is_below(parents: &BTreeMap<i32, i32>, pid: i32, ancestor: i32) -> bool {
    let mut at = pid;
    // As many steps as there are processes: a list that changed as it was read may have a circle.
    for _ in 0..parents.len() {
        match parents.get(&at) {
            Some(parent) if *parent == ancestor => return true,
            Some(parent) => at = *parent,
            None => return false,
        }
    }
    false
}

/// Every process, and its parent.
fn parents() -> BTreeMap<i32, i32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect()
}

/// The parent in `/proc/PID/stat`: the fourth field, where the second may hold anything, in
/// parentheses.
fn parent(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_whatever_the_name_is() {
        assert_eq!(parent(b"7 (a) b) S 5 7 7 0"), Some(5));
        assert_eq!(parent(b"7 (x"), None);
        let own = std::fs::read("/proc/self/stat").unwrap();
        let expected = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(parent(&own), Some(expected));
    }

    #[test]
    fn descendants_are_told_from_others() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 7), (7, 6)]);
        assert!(is_below(&parents, 4, 2) && is_below(&parents, 3, 2));
        assert!(!is_below(&parents, 5, 2) && !is_below(&parents, 6, 2));
    }
}
