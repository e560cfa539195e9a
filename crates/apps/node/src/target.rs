//! Attesting a process that did not call: one that a broker, an operator or a delegate named by
//! its number.

use std::sync::Arc;
use std::time::Duration;

use muster_attest::workload::{Known, LeftOut, attest, process_of_held};
use muster_peer::{HeldProcess, Processes, Refusal};
use muster_plugin::workload::{AttestError, Fact, Process, WorkloadAttestor};
use muster_roster::Who;

use crate::mark;

/// The longest that the attestors may take together.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that was named, and what is known about it.
pub(crate) struct AttestedTarget {
    /// The process: ask it whether it still runs, or wait for its end.
    pub(crate) process: HeldProcess,
    /// Its effective user.
    pub(crate) uid: u32,
    /// Its effective group.
    pub(crate) gid: u32,
    /// What is known about it, and how.
    pub(crate) facts: Vec<Fact>,
    /// Attestors that failed, whose selectors it lacks.
    pub(crate) left_out: Vec<LeftOut>,
    /// The facts, for matching.
    pub(crate) who: Who,
}

/// Why a process that was named could not be attested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetRefusal {
    /// No process has the number, or not any more.
    #[error("no process has the number {pid}")]
    NotRunning {
        /// The number.
        pid: u32,
    },
    /// The process is there, and /proc does not show it to the node.
    #[error(
        "process {pid} is not visible to the node; run the node in the host's pid namespace (hostPID), with a /proc of that namespace that hides nothing"
    )]
    NotVisible {
        /// The number.
        pid: u32,
    },
    /// The attestation failed; another attempt may not.
    #[error("workload attestation failed: {0}")]
    Failed(String),
}

/// Attests processes that are named. Clones share everything.
#[derive(Clone)]
pub(crate) struct Targets {
    attestors: Vec<Arc<dyn WorkloadAttestor>>,
    processes: Processes,
}

impl Targets {
    /// Those that `attestors` tell about, known in `processes`.
    pub(crate) fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>, processes: Processes) -> Self {
        Self {
            attestors,
            processes,
        }
    }

    /// Attests the process that has the number `pid` now.
    ///
    /// The number is read once: what is attested is held by its pidfd, so that the answer, and
    /// every later question to `process`, is about that process alone (WEP-09).
    pub(crate) async fn attest(&self, pid: u32) -> Result<AttestedTarget, TargetRefusal> {
        let process = self
            .processes
            .by_number(pid)
            .map_err(|refusal| not_held(pid, refusal))?;
        attest_held(&self.attestors, process).await
    }
}

impl Targets {
    /// Attests the process that has the number `pid` and started then, in clock ticks since boot.
    pub(crate) async fn attest_one(
        &self,
        pid: u32,
        start_time: u64,
    ) -> Result<AttestedTarget, TargetRefusal> {
        let process = self
            .processes
            .by_number(pid)
            .map_err(|refusal| not_held(pid, refusal))?;
        if process.start_time() != start_time {
            return Err(TargetRefusal::NotRunning { pid });
        }
        attest_held(&self.attestors, process).await
    }
}

fn not_held(pid: u32, refusal: Refusal) -> TargetRefusal {
    match refusal {
        Refusal::Gone { .. } => TargetRefusal::NotRunning { pid },
        Refusal::NotVisible => TargetRefusal::NotVisible { pid },
        Refusal::Silent
        | Refusal::OtherSender { .. }
        | Refusal::OtherUser { .. }
        | Refusal::OtherProgram { .. }
        | Refusal::NoCredentials { .. }
        | Refusal::ControlTruncated { .. }
        | Refusal::Unidentified { .. }
        | Refusal::Exhausted { .. }
        | Refusal::TooSlow { .. }
        | Refusal::Unread { .. }
        | Refusal::Displaced { .. }
        | Refusal::Full { .. }
        | Refusal::NotBound { .. }
        | Refusal::HoldsTooMany { .. }
        | Refusal::ConnectsTooOften { .. } => TargetRefusal::Failed(refusal.to_string()),
    }
}

async fn attest_held(
    attestors: &[Arc<dyn WorkloadAttestor>],
    process: HeldProcess,
) -> Result<AttestedTarget, TargetRefusal> {
    let pid = process.pid();
    let attested = match process_of_held(&process) {
        Ok(known) => facts_of(attestors, &known)
            .await
            .map(|found| (found, known.uid, known.gid)),
        Err(error) => Err(error),
    };
    let (Known { facts, left_out }, uid, gid) = attested.map_err(|error| match error {
        AttestError::Gone { .. } => TargetRefusal::NotRunning { pid },
        AttestError::Changed { .. }
        | AttestError::Traced { .. }
        | AttestError::Failed { .. }
        | AttestError::Away { .. }
        | AttestError::NoAttestors => TargetRefusal::Failed(error.to_string()),
    })?;
    let selectors = facts.iter().map(|fact| fact.selector.clone()).collect();
    let who = Who {
        selectors: Arc::new(selectors),
        process: mark::of(&process),
    };
    Ok(AttestedTarget {
        process,
        uid,
        gid,
        facts,
        left_out,
        who,
    })
}

/// What all attestors know about `process`, in bounded time.
pub(crate) async fn facts_of(
    attestors: &[Arc<dyn WorkloadAttestor>],
    process: &Process,
) -> Result<Known, AttestError> {
    tokio::time::timeout(ATTEST_TIMEOUT, attest(attestors, process))
        .await
        .unwrap_or_else(|_elapsed| {
            Err(AttestError::Failed {
                kind: "any",
                reason: format!("no answer within {} s", ATTEST_TIMEOUT.as_secs()),
                source: None,
            })
        })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use muster_attest::workload::unix::{UnixAttestor, UnixOptions};

    use super::*;

    fn targets() -> Targets {
        let unix = UnixAttestor::new(UnixOptions::default());
        Targets::new(vec![Arc::new(unix)], Processes::default())
    }

    #[tokio::test]
    async fn a_process_is_attested_by_its_number_until_it_ends() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let attested = targets().attest(child.id()).await.unwrap();
        let uid = format!("unix:uid:{}", nix::unistd::geteuid());
        assert!(attested.who.selectors.iter().any(|s| s.to_string() == uid));
        assert_eq!(attested.facts.len(), attested.who.selectors.iter().count());
        attested.process.verify().unwrap();

        drop(child.stdin.take());
        attested.process.exited().await.unwrap();
        // It is a zombie now, and its number is still its own.
        let refusal = targets().attest(child.id()).await.err().unwrap();
        assert!(matches!(refusal, TargetRefusal::NotRunning { .. }));
        child.wait().unwrap();
        assert!(attested.process.verify().is_err());
    }

    #[tokio::test]
    async fn numbers_of_no_process_have_a_reason() {
        // 0 means oneself to some system calls, and beyond i32::MAX there is no pid.
        for pid in [0, u32::MAX, i32::MAX.unsigned_abs()] {
            let refusal = targets().attest(pid).await.err().unwrap();
            assert!(
                matches!(refusal, TargetRefusal::NotRunning { .. }),
                "{pid}: {refusal}"
            );
        }
    }

    #[tokio::test]
    async fn a_threads_number_is_no_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            ended.recv().unwrap_err();
        });
        let tid = u32::try_from(told.recv().unwrap()).unwrap();
        let refusal = targets().attest(tid).await.err().unwrap();
        assert!(matches!(refusal, TargetRefusal::NotRunning { pid } if pid == tid));
        drop(end);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn without_attestors_nothing_is_known() {
        let refusal = Targets::new(Vec::new(), Processes::default())
            .attest(std::process::id())
            .await
            .err()
            .unwrap();
        assert!(matches!(refusal, TargetRefusal::Failed(_)), "{refusal}");
    }
}
