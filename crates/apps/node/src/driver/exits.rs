//! Waits for the end of processes that used a name of their own a moment ago.

use std::collections::HashSet;
use std::time::Duration;

use muster_model::ProcessMark;
use muster_peer::Processes;

use super::{Command, Driver};
use crate::mark;

/// As long as the roster keeps a name that nobody uses.
const WAIT: Duration = Duration::from_mins(1);

/// Which processes are waited for: each once, however often it calls.
pub(super) struct Exits {
    processes: Processes,
    driver: Driver,
    awaited: HashSet<ProcessMark>,
}

/// How a wait ended.
#[derive(Clone, Copy)]
pub(super) enum Waited {
    /// The process is gone.
    Gone(ProcessMark),
    /// It still runs, as far as can be told: the roster forgets what it does not use by itself.
    Stays(ProcessMark),
}

impl Exits {
    pub(super) fn new(processes: Processes, driver: Driver) -> Self {
        Self {
            processes,
            driver,
            awaited: HashSet::new(),
        }
    }

    /// Waits for the end of a process, if that comes soon.
    pub(super) fn wait_for(&mut self, process: ProcessMark) {
        if !self.awaited.insert(process) {
            return;
        }
        let (processes, driver) = (self.processes.clone(), self.driver.clone());
        tokio::spawn(async move {
            let waited = exit_of(&processes, process).await;
            // A loop that has ended needs no telling.
            let _stopped = driver.send(Command::Waited(waited)).is_err();
        });
    }

    /// A wait has ended. Returns the process if it is gone.
    pub(super) fn ended(&mut self, waited: Waited) -> Option<ProcessMark> {
        let (Waited::Gone(process) | Waited::Stays(process)) = waited;
        self.awaited.remove(&process);
        matches!(waited, Waited::Gone(_)).then_some(process)
    }
}

async fn exit_of(processes: &Processes, process: ProcessMark) -> Waited {
    let held = match processes.by_number(process.pid) {
        Ok(held) if mark::of(&held) == Some(process) => held,
        // The number is nobody's, or another's by now.
        Ok(_) | Err(_) => return Waited::Gone(process),
    };
    match tokio::time::timeout(WAIT, held.exited()).await {
        Ok(Ok(())) => Waited::Gone(process),
        Ok(Err(error)) => {
            tracing::debug!(pid = process.pid, %error, "the end of a process cannot be awaited");
            Waited::Stays(process)
        }
        Err(_elapsed) => Waited::Stays(process),
    }
}
