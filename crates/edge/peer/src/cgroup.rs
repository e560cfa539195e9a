//! Control groups of version 2, by the number that the kernel gives them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use tokio::io::Interest;

use crate::held::HeldProcess;
use crate::sys;

/// Why a path names no control group that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has no hierarchy of version 2, or the node does not see it.
    #[error(
        "no control groups of version 2 are mounted here; mount them (`mount -t cgroup2 none /sys/fs/cgroup`), or bind to a process"
    )]
    NoHierarchy,
    /// It is no path below the root, or the root itself.
    #[error("{0:?} names no control group: give a path below the root, without \"..\"")]
    NotAPath(String),
    /// There is none.
    #[error("there is no control group {path:?}: {source}")]
    NotThere {
        /// The path as it was given.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// A control group that was there when it was opened. The number is not given to another before the
/// next boot.
#[derive(Debug)]
pub struct Cgroup {
    id: u64,
    path: String,
    directory: PathBuf,
    events: File,
}

impl Cgroup {
    /// Opens the group with this path below the hierarchy's root, as `/proc/PID/cgroup` writes it
    /// behind `0::`.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        let root = hierarchy().ok_or(CgroupError::NoHierarchy)?;
        let below = path.strip_prefix('/').unwrap_or(path);
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if below.is_empty() || !Path::new(below).components().all(is_plain) {
            return Err(CgroupError::NotAPath(path.to_owned()));
        }
        let not_there = |source| CgroupError::NotThere {
            path: path.to_owned(),
            source,
        };
        let path_of_it = root.join(below);
        let opened = File::options()
            .read(true)
            .custom_flags(nix::libc::O_DIRECTORY)
            .open(&path_of_it)
            .map_err(not_there)?;
        let id = opened.metadata().map_err(not_there)?.ino();
        let events = nix::fcntl::openat(
            &opened,
            "cgroup.events",
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .map_err(|errno| not_there(errno.into()))?;
        Ok(Self {
            id,
            path: format!("/{}", below.trim_end_matches('/')),
            directory: path_of_it,
            events: events.into(),
        })
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its path below the root, with a slash at the beginning and none at the end.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the process is in this very group; those below it are others.
    pub fn has(&self, process: &HeldProcess) -> bool {
        // Before Linux 6.13 the kernel does not tell by the pidfd, and /proc has the path only.
        let id = process.cgroup().or_else(|| {
            let dir = process.proc_dir().ok()?;
            let groups = String::from_utf8(dir.read("cgroup").ok()?).ok()?;
            let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
            (path == self.path).then_some(self.id)
        });
        id == Some(self.id) && process.is_alive()
    }

    /// The numbers of its processes in our pid namespace, so many at the most. Whether they still
    /// are when they are looked at, [`Cgroup::has`] says.
    pub fn members(&self, most: usize) -> Vec<u32> {
        let text = std::fs::read_to_string(self.directory.join("cgroup.procs"));
        let text = text.unwrap_or_default();
        let numbers = text.lines().filter_map(|line| line.parse().ok());
        numbers.filter(|pid| *pid != 0).take(most).collect()
    }

    /// Resolves when no process is left in the group and in those below it, or it is gone.
    pub async fn emptied(&self) -> io::Result<()> {
        let mut events = self.events.try_clone()?;
        let watch = sys::watch_changes(events.as_fd().try_clone_to_owned()?)?;
        loop {
            // The kernel tells of changes since the file was last read.
            if !is_populated(&mut events) {
                return Ok(());
            }
            watch.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }
}

fn is_populated(events: &mut File) -> bool {
    let mut text = String::new();
    // A group that was removed cannot be read.
    events.rewind().is_ok()
        && events.read_to_string(&mut text).is_ok()
        && text.lines().any(|line| line == "populated 1")
}

/// Where the hierarchy of version 2 is mounted.
fn hierarchy() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        // Field 4 is the root of what is mounted, field 5 where.
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (kind == "cgroup2" && root == "/").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_root() {
        if hierarchy().is_none() {
            assert!(matches!(Cgroup::open("/a"), Err(CgroupError::NoHierarchy)));
            return;
        }
        for bad in ["", "/", "..", "/a/../b", "//"] {
            let found = Cgroup::open(bad);
            assert!(matches!(found, Err(CgroupError::NotAPath(_))), "{bad}");
        }
        let found = Cgroup::open("/there is none of that name");
        assert!(matches!(found, Err(CgroupError::NotThere { .. })));
    }
}
