//! What a pidfd tells: whether its process still runs, and whether two are the same process.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

use crate::sys;

/// Whether the process behind `pidfd` still runs.
///
/// A process whose last thread has ended counts as gone, reaped or not.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(ready) => return ready == 0,
            Err(Errno::EINTR) => {}
            // Not knowing is not the same as alive.
            Err(_) => return false,
        }
    }
}

/// The file system of pidfds from Linux 6.9 on (`PID_FS_MAGIC` of `linux/magic.h`).
const PID_FS: FsType = FsType(0x5049_4446);

/// The inode number of `pidfd`, which tells its process from every other until the next boot; `None`
/// where pidfds have no file system of their own and share one inode (before Linux 6.9).
///
/// The kernel counts these numbers up in 64 bits and gives none a second time (`fs/pidfs.c`).
pub fn inode(pidfd: impl AsFd) -> io::Result<Option<NonZeroU64>> {
    if !cfg!(target_pointer_width = "64") || fstatfs(&pidfd)?.filesystem_type() != PID_FS {
        return Ok(None);
    }
    Ok(NonZeroU64::new(fstat(pidfd)?.st_ino))
}

/// Whether two pidfds can be one process.
///
/// From Linux 6.9 on every process has its own inode number in pidfs, so the answer is exact.
/// Before, all pidfds share one inode and the answer is always yes: compare pids as well.
pub(crate) fn may_be_same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// A pidfd for the process that has `pid` now. Whether it is the one that was meant, the caller
/// must know otherwise.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    sys::pidfd_open(pid)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_inode_is_one_process() {
        let own = open(std::process::id()).unwrap();
        let Some(number) = inode(&own).unwrap() else {
            return; // an older kernel
        };
        assert_eq!(
            inode(open(std::process::id()).unwrap()).unwrap(),
            Some(number)
        );
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let other = open(child.id()).unwrap();
        let others = inode(&other).unwrap();
        assert_ne!(others, Some(number));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(inode(&other).unwrap(), others, "also when it has ended");
        assert_eq!(
            inode(std::fs::File::open("/dev/null").unwrap()).unwrap(),
            None
        );
    }
}
