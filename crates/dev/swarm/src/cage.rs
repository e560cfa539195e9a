//! A process held to so much memory and to certain cores.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::Failure;

/// The root of the memory controller, where version 1 of control groups is mounted.
const MEMORY: &str = "/sys/fs/cgroup/memory";

/// What a process is held to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cage {
    /// The most memory in MiB, page cache included; beyond it the kernel kills the process.
    pub memory_mib: Option<u64>,
    /// The one core that it may run on.
    pub core: Option<usize>,
}

/// A control group that ends with this value.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Cage {
    /// The command that starts `program` inside the cage. The group must live as long as it.
    pub(crate) fn command(self, program: &Path) -> Result<(Command, Option<Group>), Failure> {
        let group = self.memory_mib.map(Group::new).transpose()?;
        let mut words: Vec<String> = Vec::new();
        if let Some(Group(folder)) = &group {
            // The shell enters the group and becomes the program.
            words.extend(["sh".into(), "-c".into()]);
            words.push(format!(
                "echo $$ > {}/cgroup.procs && exec \"$@\"",
                folder.display()
            ));
            words.push("cage".into());
        }
        if let Some(core) = self.core {
            words.extend(["taskset".into(), "-c".into(), core.to_string()]);
        }
        words.push(program.display().to_string());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        Ok((command, group))
    }
}

impl Group {
    fn new(mib: u64) -> Result<Self, Failure> {
        let folder = Path::new(MEMORY).join(format!("muster-swarm-{}", std::process::id()));
        let told = |error: std::io::Error| {
            format!(
                "cannot hold a process to {mib} MiB: {}: {error}; run as root where control groups of version 1 are mounted, or leave --memory out",
                folder.display()
            )
        };
        fs::create_dir_all(&folder).map_err(told)?;
        fs::write(
            folder.join("memory.limit_in_bytes"),
            (mib * 1024 * 1024).to_string(),
        )
        .map_err(told)?;
        Ok(Self(folder))
    }

    /// How often the kernel killed a process of the group for its memory.
    pub(crate) fn killed(&self) -> u64 {
        fs::read_to_string(self.0.join("memory.oom_control"))
            .ok()
            .and_then(|text| {
                let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "))?;
                line.trim().parse().ok()
            })
            .unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails while a process is in it, which the caller has ended before.
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Keeps this process, and the threads that it starts from now on, off the core `caged`, where
/// there is another.
pub fn leave_core(caged: usize) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for core in (0..cores).filter(|core| *core != caged) {
        set.set(core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
