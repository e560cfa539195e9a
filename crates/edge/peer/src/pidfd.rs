//! What a pidfd tells: whether its process still runs, and whether two are the same process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

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
