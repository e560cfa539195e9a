//! A process that cannot become another one: held by its pidfd.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::OnceCell;

use crate::caller::Refusal;
use crate::pidfd;
use crate::procfs::{ExecutableId, ProcDir, ProcError};
use crate::sys;

/// A process on this machine, held by its pidfd: the other end of a connection, or one that
/// somebody named by its number. Cheap to clone.
///
/// Who it belongs to and what it is, attestors find out (`adapters/attest`).
#[derive(Clone)]
pub struct HeldProcess {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    watch: Arc<OnceCell<AsyncFd<Arc<OwnedFd>>>>,
    start_time: u64,
    executable: Option<ExecutableId>,
}

impl HeldProcess {
    /// Takes hold of the process that has the number `pid` now, in our pid namespace.
    ///
    /// Whether that is the process which was meant, only who named it can know: between its naming
    /// and this call the number may have been given away. From here on it is one process.
    ///
    /// [`Refusal::Gone`] when no process has the number (a thread's number is no process's),
    /// [`Refusal::NotVisible`] when `/proc` hides it from us.
    pub fn by_number(pid: u32) -> Result<Self, Refusal> {
        let pidfd = match pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            // No process has it; it belongs to a thread (EINVAL, ENOENT from 6.13 on); or no
            // process can have it.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidInput
                    || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) =>
            {
                return Err(Refusal::Gone { pid });
            }
            Err(error) => return Err(unidentified(pid, &error)),
        };
        let pidfd = Arc::new(pidfd);
        if let Err(ProcError::Unreadable {
            name: "", source, ..
        }) = ProcDir::open(pid, Arc::clone(&pidfd))
            && source.kind() == io::ErrorKind::NotFound
        {
            return Err(Refusal::NotVisible);
        }
        Self::hold(pid, pidfd)
    }

    /// Learns what tells the process of `pidfd`, whose number is `pid`, from others.
    pub(crate) fn hold(pid: u32, pidfd: Arc<OwnedFd>) -> Result<Self, Refusal> {
        let dir = ProcDir::open(pid, Arc::clone(&pidfd)).map_err(|error| refusal(pid, &error))?;
        let start_time = dir.start_time().map_err(|error| refusal(pid, &error))?;
        Ok(Self {
            pid,
            pidfd,
            watch: Arc::new(OnceCell::new()),
            start_time,
            // Another user's executable is hidden from an unprivileged node, and a kernel thread
            // has none. Attestors that need it say so.
            executable: dir.executable_id().ok(),
        })
    }

    /// Its number in our pid namespace. Never 0.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in clock ticks since boot.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// The file that it ran when it was taken hold of; `None` when the kernel does not show it to
    /// us.
    pub fn executable_id(&self) -> Option<ExecutableId> {
        self.executable
    }

    /// Its pidfd. Do not register it with an event loop: use [`exited`](Self::exited), or
    /// duplicate it.
    pub fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        pidfd::is_alive(self.pidfd.as_fd())
    }

    /// Whether it still runs, and the program that it ran when it was taken hold of. Ask after
    /// collecting facts about it and before believing them.
    pub fn verify(&self) -> Result<(), Refusal> {
        let pid = self.pid;
        let dir = self.proc_dir().map_err(|error| refusal(pid, &error))?;
        if dir.start_time().map_err(|error| refusal(pid, &error))? != self.start_time {
            return Err(Refusal::Gone { pid });
        }
        let executable = dir.executable_id().ok();
        // Last: what was read above is its own if it runs now.
        if !self.is_alive() {
            Err(Refusal::Gone { pid })
        } else if executable == self.executable {
            Ok(())
        } else {
            Err(Refusal::OtherProgram { pid })
        }
    }

    /// `/proc/PID`, surely of this process.
    pub fn proc_dir(&self) -> Result<ProcDir, ProcError> {
        ProcDir::open(self.pid, Arc::clone(&self.pidfd))
    }

    /// Resolves when the process has ended, within a scheduling delay of it.
    ///
    /// Any number of tasks may wait, each as often as it likes. Needs a tokio runtime with I/O
    /// enabled; fails only when the kernel refuses another epoll watch.
    pub async fn exited(&self) -> io::Result<()> {
        let watch = self
            .watch
            .get_or_try_init(|| async { sys::watch_pidfd(Arc::clone(&self.pidfd)) })
            .await?;
        while self.is_alive() {
            watch.readable().await?.clear_ready();
        }
        Ok(())
    }
}

impl fmt::Debug for HeldProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldProcess")
            .field("pid", &self.pid)
            .field("start_time", &self.start_time)
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

fn refusal(pid: u32, error: &ProcError) -> Refusal {
    match error {
        ProcError::Gone { pid } => Refusal::Gone { pid: *pid },
        ProcError::Unreadable { source, .. } => unidentified(pid, source),
        ProcError::Malformed { .. } => Refusal::Unidentified {
            pid,
            kind: io::ErrorKind::InvalidData,
        },
    }
}
