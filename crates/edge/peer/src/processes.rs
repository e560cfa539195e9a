//! The processes that are held: each known once, however many connections it has.
//!
//! A node that serves ten thousand connections has a hard limit of descriptors to live with, so
//! the pidfd, its place in the event loop and the start time belong to the process, not to the
//! connection.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::stat::fstat;
use tokio::io::unix::AsyncFd;
use tokio::sync::OnceCell;

use crate::caller::Refusal;
use crate::held::{HeldProcess, Named, refusal, unidentified};
use crate::pidfd;
use crate::procfs::{ExecutableId, ProcDir, ProcError};
use crate::sys;

/// The fewest entries that are searched for ended processes.
const FIRST_SWEEP: usize = 64;

/// A process, by its pidfd.
pub(crate) struct Tracked {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    start_time: u64,
    watch: OnceCell<AsyncFd<Arc<OwnedFd>>>,
}

impl Tracked {
    fn of(pid: u32, pidfd: OwnedFd) -> Result<Self, ProcError> {
        let pidfd = Arc::new(pidfd);
        let start_time = ProcDir::open(pid, Arc::clone(&pidfd))?.start_time()?;
        Ok(Self {
            pid,
            pidfd,
            start_time,
            watch: OnceCell::new(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    /// In clock ticks since boot.
    pub(crate) fn start_time(&self) -> u64 {
        self.start_time
    }

    pub(crate) fn is_alive(&self) -> bool {
        pidfd::is_alive(self.pidfd.as_fd())
    }

    /// The file that whoever has the number runs now: its own, if it is alive afterwards. `None`:
    /// another user's executable is hidden from an unprivileged node, and a kernel thread has none;
    /// attestors that need it say so.
    pub(crate) fn executable(&self) -> Option<ExecutableId> {
        ExecutableId::at(rustix::fs::CWD, &format!("/proc/{}/exe", self.pid)).ok()
    }

    pub(crate) fn proc_dir(&self) -> Result<ProcDir, ProcError> {
        ProcDir::open(self.pid, Arc::clone(&self.pidfd))
    }

    /// Resolves when the process has ended.
    pub(crate) async fn exited(&self) -> io::Result<()> {
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

/// The processes that a program holds; clones are the same ones.
#[derive(Clone, Default)]
pub struct Processes {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    by_pid: HashMap<u32, (Inode, Weak<Tracked>)>,
    sweep_at: usize,
}

/// Device and inode of a pidfd in pidfs, which no two processes share until the next boot.
type Inode = (u64, u64);

impl Processes {
    /// Takes hold of the process that has the number `pid` now, in our pid namespace.
    ///
    /// Whether that is the process which was meant, only who named it can know: between its naming
    /// and this call the number may have been given away. From here on it is one process.
    ///
    /// [`Refusal::Gone`] when no process has the number (a thread's number is no process's),
    /// [`Refusal::NotVisible`] when `/proc` hides it from us.
    pub fn by_number(&self, pid: u32) -> Result<HeldProcess, Refusal> {
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
        match self.track(pid, pidfd) {
            Ok(process) => HeldProcess::hold(process, Named::ByNumber),
            Err(ProcError::Unreadable {
                name: "", source, ..
            }) if source.kind() == io::ErrorKind::NotFound => Err(Refusal::NotVisible),
            Err(error) => Err(refusal(pid, &error)),
        }
    }

    /// Takes hold of the process of `pidfd`, whose number is `pid`.
    pub(crate) fn hold(
        &self,
        pid: u32,
        pidfd: OwnedFd,
        named: Named,
    ) -> Result<HeldProcess, Refusal> {
        let process = self
            .track(pid, pidfd)
            .map_err(|error| refusal(pid, &error))?;
        HeldProcess::hold(process, named)
    }

    /// The process of `pidfd`, which has `pid`. A second pidfd of a known process is closed.
    fn track(&self, pid: u32, pidfd: OwnedFd) -> Result<Arc<Tracked>, ProcError> {
        // Before Linux 6.9 all pidfds share one inode and nothing tells two processes apart that
        // had the same number in turn: each connection then keeps its own.
        let Some(inode) = pidfs_inode(&pidfd) else {
            return Tracked::of(pid, pidfd).map(Arc::new);
        };
        if let Some(process) = self.find(pid, inode) {
            return Ok(process);
        }
        let process = Arc::new(Tracked::of(pid, pidfd)?);
        self.with(|known| {
            if known.by_pid.len() >= known.sweep_at {
                known.by_pid.retain(|_, (_, weak)| weak.strong_count() > 0);
                known.sweep_at = FIRST_SWEEP.max(2 * known.by_pid.len());
            }
            known.by_pid.insert(pid, (inode, Arc::downgrade(&process)));
        });
        Ok(process)
    }

    fn find(&self, pid: u32, inode: Inode) -> Option<Arc<Tracked>> {
        self.with(|known| match known.by_pid.get(&pid) {
            Some((seen, weak)) if *seen == inode => weak.upgrade(),
            _ => None,
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Processes")
    }
}

fn pidfs_inode(pidfd: &OwnedFd) -> Option<Inode> {
    if !sys::has_pidfs() {
        return None;
    }
    let stat = fstat(pidfd).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_has_one_pidfd() {
        let processes = Processes::default();
        let own = std::process::id();
        let first = processes.track(own, pidfd::open(own).unwrap()).unwrap();
        let second = processes.track(own, pidfd::open(own).unwrap()).unwrap();
        assert_eq!(Arc::ptr_eq(&first, &second), sys::has_pidfs());
        assert!(first.is_alive());
    }

    /// What a number was known as is not believed of the next process that has it.
    #[test]
    fn a_number_is_not_a_process() {
        let spawn = || {
            Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let (mut a, mut b) = (spawn(), spawn());
        let processes = Processes::default();
        let open = |id| pidfd::open(id).unwrap();
        let first = processes.track(a.id(), open(a.id())).unwrap();
        // As if `b` had got the number of `a`.
        let second = processes.track(a.id(), open(b.id())).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        for child in [&mut a, &mut b] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(!first.is_alive() && !second.is_alive());
    }

    #[test]
    fn ended_processes_are_forgotten() {
        let processes = Processes::default();
        let own = std::process::id();
        for number in 0..10 * u32::try_from(FIRST_SWEEP).unwrap() {
            // Another number each time: none of them is held.
            drop(processes.track(own, pidfd::open(own).unwrap()));
            processes.with(|known| {
                known
                    .by_pid
                    .insert(1_000_000 + number, ((0, 0), Weak::new()));
                if known.by_pid.len() >= known.sweep_at {
                    known.by_pid.retain(|_, (_, weak)| weak.strong_count() > 0);
                }
            });
        }
        assert!(processes.with(|known| known.by_pid.len()) <= FIRST_SWEEP);
    }
}
