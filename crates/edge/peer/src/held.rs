//! A process that cannot become another one: held by its pidfd.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use crate::caller::Refusal;
use crate::processes::{Processes, Tracked};
use crate::procfs::{ExecutableId, ProcDir, ProcError};

/// A process on this machine, held by its pidfd: the other end of a connection, or one that
/// somebody named by its number. Cheap to clone.
///
/// Who it belongs to and what it is, attestors find out (`adapters/attest`).
#[derive(Clone)]
pub struct HeldProcess {
    process: Arc<Tracked>,
    executable: Option<ExecutableId>,
    named: Named,
}

/// How it is known which process is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The kernel gave its pidfd.
    ByKernel,
    /// The pidfd was opened by a number.
    ByNumber,
}

impl HeldProcess {
    /// Takes hold of the process that has the number `pid` now, as [`Processes::by_number`] does,
    /// and knows it apart from all others.
    pub fn by_number(pid: u32) -> Result<Self, Refusal> {
        Processes::default().by_number(pid)
    }

    /// Sees which program runs in a process that is taken hold of.
    pub(crate) fn hold(process: Arc<Tracked>, named: Named) -> Result<Self, Refusal> {
        let executable = process.executable();
        // The number cannot have been given away while its owner still runs: what was seen under
        // it before this check is the owner's.
        if !process.is_alive() {
            return Err(Refusal::Gone { pid: process.pid() });
        }
        Ok(Self {
            process,
            executable,
            named,
        })
    }

    /// Its number in our pid namespace. Never 0.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// When it started, in clock ticks since boot.
    pub fn start_time(&self) -> u64 {
        self.process.start_time()
    }

    /// The file that it ran when it was taken hold of; `None` when the kernel does not show it to
    /// us.
    pub fn executable_id(&self) -> Option<ExecutableId> {
        self.executable
    }

    /// Its pidfd. Do not register it with an event loop: use [`exited`](Self::exited), or
    /// duplicate it.
    pub fn pidfd(&self) -> &Arc<OwnedFd> {
        self.process.pidfd()
    }

    /// Whether the kernel gave its pidfd, so that the pidfd alone says which process it is.
    pub fn is_named_by_kernel(&self) -> bool {
        self.named == Named::ByKernel
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Whether it still runs, and the program that it ran when it was taken hold of. Ask after
    /// collecting facts about it and before believing them.
    ///
    /// That it is the same process needs no further look where the kernel gave the pidfd: a pidfd is
    /// of the process and not of its number, and while it runs the number is nobody else's. Where
    /// the pidfd was opened by number, the start time has to agree as well.
    pub fn verify(&self) -> Result<(), Refusal> {
        let pid = self.pid();
        if self.named == Named::ByNumber {
            self.verify_start()?;
        }
        let executable = self.process.executable();
        // Last: what was read above is its own if it runs now.
        if !self.is_alive() {
            Err(Refusal::Gone { pid })
        } else if executable == self.executable {
            Ok(())
        } else {
            Err(Refusal::OtherProgram { pid })
        }
    }

    fn verify_start(&self) -> Result<(), Refusal> {
        let pid = self.pid();
        let dir = self.proc_dir().map_err(|error| refusal(pid, &error))?;
        let start_time = dir.start_time().map_err(|error| refusal(pid, &error))?;
        if start_time == self.start_time() {
            Ok(())
        } else {
            Err(Refusal::Gone { pid })
        }
    }

    /// `/proc/PID`, surely of this process.
    pub fn proc_dir(&self) -> Result<ProcDir, ProcError> {
        self.process.proc_dir()
    }

    /// The control group that it is in, by its number in the unified hierarchy; `None` when the
    /// kernel does not tell (before Linux 6.13), or the process has ended.
    pub fn cgroup(&self) -> Option<u64> {
        crate::sys::cgroup(self.pidfd().as_fd())
    }

    /// The status with which it ended, as `waitpid` gives it; `None` while it runs, where the
    /// kernel does not tell (before Linux 6.15), and until its parent has taken note.
    pub fn exit_status(&self) -> Option<i32> {
        crate::sys::exit_status(self.pidfd().as_fd())
    }

    /// Whether two are one process: by the kernel's number for it where there is one, and by
    /// number and start.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.process, &other.process)
            || (self.pid() == other.pid()
                && self.start_time() == other.start_time()
                && crate::pidfd::may_be_same(self.pidfd(), other.pidfd()).unwrap_or(false))
    }

    /// Resolves when the process has ended, within a scheduling delay of it.
    ///
    /// Any number of tasks may wait, each as often as it likes. Needs a tokio runtime with I/O
    /// enabled; fails only when the kernel refuses another epoll watch.
    pub async fn exited(&self) -> io::Result<()> {
        self.process.exited().await
    }
}

impl fmt::Debug for HeldProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldProcess")
            .field("pid", &self.pid())
            .field("start_time", &self.start_time())
            .finish_non_exhaustive()
    }
}

/// What an error of the kernel about process `pid` means.
pub(crate) fn unidentified(pid: u32, error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
            Refusal::Exhausted { pid }
        }
        Some(libc::ESRCH) => Refusal::Gone { pid },
        _ => Refusal::Unidentified {
            pid,
            kind: error.kind(),
        },
    }
}

/// What an error about `/proc/PID` means.
pub(crate) fn refusal(pid: u32, error: &ProcError) -> Refusal {
    match error {
        ProcError::Gone { pid } => Refusal::Gone { pid: *pid },
        ProcError::Unreadable { source, .. } => unidentified(pid, source),
        ProcError::Malformed { .. } => Refusal::Unidentified {
            pid,
            kind: io::ErrorKind::InvalidData,
        },
    }
}
