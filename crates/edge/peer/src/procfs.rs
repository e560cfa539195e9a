//! `/proc/PID` of a caller, read so that it cannot be another process's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstatat};
use rustix::fs::{AtFlags, StatxFlags, makedev, statx};

use crate::pidfd;

/// No file that we read from `/proc/PID` is longer than this, in bytes.
const FILE_LIMIT: u64 = 64 * 1024;
/// Room for most of these files in one read.
const PAGE: usize = 4096;

/// Why `/proc/PID` did not tell what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The process ended, before or while its directory was read.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The file cannot be read; the process is there.
    #[error(
        "/proc/{pid}/{name} cannot be read: {source}; run the node with enough privilege to read other processes, and with /proc mounted for its own pid namespace"
    )]
    Unreadable {
        /// The process.
        pid: u32,
        /// The file, or "" for the directory.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The file is not what the kernel writes.
    #[error("/proc/{pid}/{name} is not understood: {reason}")]
    Malformed {
        /// The process.
        pid: u32,
        /// The file.
        name: &'static str,
        /// What is wrong with it.
        reason: StatError,
    },
}

/// Which file a process runs: device and inode of `/proc/PID/exe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExecutableId {
    /// The device.
    pub device: u64,
    /// The inode on that device.
    pub inode: u64,
}

impl ExecutableId {
    /// Follows a link such as `/proc/PID/exe`.
    ///
    /// Neither number of a file ever changes, so its file system is not asked for them: one that a
    /// user serves (FUSE) could keep us waiting. A network file system may still ask its server
    /// whether the file is there.
    pub fn at(dir: impl AsFd, link: &str) -> io::Result<Self> {
        Self::found(dir, link, AtFlags::empty())
    }

    /// An open file's.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Self::found(file, "", AtFlags::EMPTY_PATH)
    }

    fn found(dir: impl AsFd, path: &str, flags: AtFlags) -> io::Result<Self> {
        let flags = flags | AtFlags::STATX_DONT_SYNC;
        let found = statx(dir, path, flags, StatxFlags::INO)?;
        Ok(Self {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        })
    }
}

/// The directory `/proc/PID`, opened while the process was known to run.
///
/// The kernel ties the open directory to the process: after it ended, files in it cannot be
/// opened, even if the number is given to another process.
#[derive(Debug)]
pub struct ProcDir {
    fd: OwnedFd,
    pid: u32,
    pidfd: Arc<OwnedFd>,
}

impl ProcDir {
    /// Opens `/proc/PID` and makes sure that it is the process of `pidfd`.
    pub(crate) fn open(pid: u32, pidfd: Arc<OwnedFd>) -> Result<Self, ProcError> {
        let path = format!("/proc/{pid}");
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = open(path.as_str(), flags, Mode::empty());
        // The number cannot have been given away while its owner still runs, so a directory that
        // was opened before this check is the owner's.
        if !pidfd::is_alive(pidfd.as_fd()) {
            return Err(ProcError::Gone { pid });
        }
        let fd = opened.map_err(|errno| ProcError::Unreadable {
            pid,
            name: "",
            source: errno.into(),
        })?;
        Ok(Self { fd, pid, pidfd })
    }

    /// Opens a file of the directory for reading, such as `exe`.
    pub fn open_file(&self, name: &'static str) -> Result<File, ProcError> {
        openat(
            &self.fd,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map(File::from)
        .map_err(|errno| self.failed(name, errno.into()))
    }

    /// Reads a file of the directory, such as `status`; at most 64 KiB of it.
    pub fn read(&self, name: &'static str) -> Result<Vec<u8>, ProcError> {
        let file = self.open_file(name)?;
        read_file(file, FILE_LIMIT).map_err(|source| self.failed(name, source))
    }

    /// When the process started, in clock ticks since boot (field 22 of `stat`).
    pub fn start_time(&self) -> Result<u64, ProcError> {
        start_time(&self.read("stat")?).map_err(|reason| ProcError::Malformed {
            pid: self.pid,
            name: "stat",
            reason,
        })
    }

    /// The number of its parent, in our pid namespace (field 4 of `stat`); 0 where that is not in
    /// it.
    pub fn parent(&self) -> Result<u32, ProcError> {
        field(&self.read("stat")?, 4).map_err(|reason| ProcError::Malformed {
            pid: self.pid,
            name: "stat",
            reason,
        })
    }

    /// The effective user, by `status`.
    pub fn effective_uid(&self) -> Result<u32, ProcError> {
        let status = self.read("status")?;
        let line = status
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(b"Uid:"));
        line.and_then(|line| std::str::from_utf8(line).ok()?.split_whitespace().nth(1))
            .and_then(|uid| uid.parse().ok())
            .ok_or(ProcError::Malformed {
                pid: self.pid,
                name: "status",
                reason: StatError::NotANumber,
            })
    }

    /// The inode of a file of the directory, links followed, such as that of `ns/pid`.
    pub fn inode_of(&self, name: &'static str) -> Result<u64, ProcError> {
        fstatat(&self.fd, name, nix::fcntl::AtFlags::empty())
            .map(|stat| stat.st_ino)
            .map_err(|errno| self.failed(name, errno.into()))
    }

    /// Which file the process runs.
    pub fn executable_id(&self) -> Result<ExecutableId, ProcError> {
        ExecutableId::at(&self.fd, "exe").map_err(|error| self.failed("exe", error))
    }

    /// The directory's descriptor, for `openat`.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn failed(&self, name: &'static str, source: io::Error) -> ProcError {
        // A dead process's files are ESRCH or ENOENT, depending on the file.
        if pidfd::is_alive(self.pidfd.as_fd()) {
            ProcError::Unreadable {
                pid: self.pid,
                name,
                source,
            }
        } else {
            ProcError::Gone { pid: self.pid }
        }
    }
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a file of `/proc`; at most `limit` bytes of it.
///
/// Such files do not tell their size: without room, each would be read in eight pieces. The room is on
/// the stack: pages of the heap that were touched once would lie under a new connection's buffers, most
/// of which are never touched.
pub fn read_file(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = file.take(limit);
    let mut first = [0; PAGE];
    let length = loop {
        match file.read(&mut first) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    let mut content = first.get(..length).unwrap_or_default().to_vec();
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// Why a `/proc/PID/stat` was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatError {
    /// There is no `)` to end the program's name.
    #[error("the program name does not end")]
    NoName,
    /// There are too few fields.
    #[error("a field is missing")]
    Short,
    /// The field is not a number.
    #[error("a field is not a number")]
    NotANumber,
}

/// The start time in `/proc/PID/stat` (field 22), in clock ticks since boot.
///
/// The second field is the program's name in parentheses, which the process chooses and which may
/// hold spaces and parentheses; the last `)` of the line ends it.
pub fn start_time(stat: &[u8]) -> Result<u64, StatError> {
    field(stat, 22)
}

/// A numeric field of `/proc/PID/stat` behind the name, counted from 1.
fn field<T: std::str::FromStr>(stat: &[u8], number: usize) -> Result<T, StatError> {
    let end = stat
        .iter()
        .rposition(|byte| *byte == b')')
        .ok_or(StatError::NoName)?;
    let rest = stat.get(end + 1..).unwrap_or_default();
    // The next field is the third.
    let field = rest
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .nth(number.saturating_sub(3))
        .ok_or(StatError::Short)?;
    std::str::from_utf8(field)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(StatError::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, start: &str) -> Vec<u8> {
        format!("42 ({name}) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 99 100\n")
            .into_bytes()
    }

    #[test]
    fn the_name_cannot_shift_the_fields() {
        for name in ["cat", "a b", ") S 1 1", "(((", ")", "1) 2 (3", ""] {
            assert_eq!(start_time(&line(name, "12345")), Ok(12345), "{name}");
        }
    }

    #[test]
    fn faults_have_reasons() {
        assert_eq!(start_time(b""), Err(StatError::NoName));
        assert_eq!(start_time(b"1 (x) S 1"), Err(StatError::Short));
        assert_eq!(start_time(&line("x", "-1")), Err(StatError::NotANumber));
        assert_eq!(start_time(&line("x", "+1")), Err(StatError::NotANumber));
        assert_eq!(
            start_time(&line("x", "99999999999999999999999")),
            Err(StatError::NotANumber)
        );
    }
}
