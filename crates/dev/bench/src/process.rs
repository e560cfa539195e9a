//! What the kernel says of a process: time on a core, memory; and of the machine: its load.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

use crate::Failure;
use crate::numbers::rate;

/// A process that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pid(pub(crate) i32);

impl Pid {
    /// Time on a core so far, user and system together.
    pub(crate) fn cpu(self) -> Result<Duration, Failure> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name is in parentheses and may hold anything; what follows it is numbers.
        let (_, rest) = stat
            .rsplit_once(')')
            .ok_or("/proc/PID/stat without a name")?;
        let mut fields = rest.split_whitespace().skip(11);
        let mut next = || -> Result<u64, Failure> {
            Ok(fields.next().ok_or("/proc/PID/stat is short")?.parse()?)
        };
        let ticks = next()? + next()?;
        let second = sysconf(SysconfVar::CLK_TCK)?.ok_or("the kernel names no clock tick")?;
        let second = u64::try_from(second)?;
        Ok(Duration::from_millis(ticks * 1000 / second))
    }

    /// Resident memory in MiB.
    pub(crate) fn resident(self) -> Result<f64, Failure> {
        self.memory("VmRSS:")
    }

    /// The most resident memory in MiB since the start, or since it was forgotten.
    pub(crate) fn peak(self) -> Result<f64, Failure> {
        self.memory("VmHWM:")
    }

    /// Makes the memory of now the peak.
    pub(crate) fn forget_peak(self) -> Result<(), Failure> {
        // `proc_pid_clear_refs(5)`.
        Ok(fs::write(format!("/proc/{}/clear_refs", self.0), "5")?)
    }

    fn memory(self, field: &str) -> Result<f64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .ok_or("/proc/PID/status without its memory")?;
        let kib: u32 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(f64::from(kib) / 1024.0)
    }
}

/// What a process spends while something is done.
pub(crate) struct Spending {
    pid: Pid,
    before: Duration,
}

impl Spending {
    /// Begins to count.
    pub(crate) fn of(pid: Pid) -> Result<Self, Failure> {
        Ok(Self {
            pid,
            before: pid.cpu()?,
        })
    }

    /// How many could be done by the second if the process had a whole core: operations by second
    /// of processor time.
    pub(crate) fn per_core(&self, operations: usize) -> Result<f64, Failure> {
        Ok(rate(
            operations,
            self.pid.cpu()?.saturating_sub(self.before),
        ))
    }
}

/// The load of the machine over 1, 5 and 15 minutes.
pub(crate) fn load_average() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = text.split_whitespace().take(3).collect();
    Ok(load.join(" "))
}

/// Best effort: containers and virtual machines often forbid it.
pub(crate) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        println!("the limit of open files stays as it is: {error}");
    }
}
