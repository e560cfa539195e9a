//! What the kernel says of a process: memory, time on a core, and how often a thread of it woke.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

use crate::Failure;

/// A process that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pid(pub i32);

impl Pid {
    /// Resident memory in MiB.
    pub fn resident(self) -> Result<f64, Failure> {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in MiB, or since [`Pid::forget_peak`].
    pub fn peak(self) -> Result<f64, Failure> {
        self.memory("VmHWM:")
    }

    /// Has the kernel count the peak from what is resident now (`CLEAR_REFS_MM_HIWATER_RSS` of
    /// `fs/proc/task_mmu.c`).
    pub fn forget_peak(self) -> Result<(), Failure> {
        let path = format!("/proc/{}/clear_refs", self.0);
        fs::write(&path, "5").map_err(|error| format!("{path}: {error}").into())
    }

    fn memory(self, field: &str) -> Result<f64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .ok_or_else(|| format!("/proc/PID/status without {field}"))?;
        let kib: u32 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(f64::from(kib) / 1024.0)
    }

    /// Time on a core so far, user and system together.
    pub fn cpu(self) -> Result<Duration, Failure> {
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
        Ok(Duration::from_millis(ticks * 1000 / u64::try_from(second)?))
    }

    /// How long its threads were ready to run so far and had no core, together.
    pub fn kept_waiting(self) -> Result<Duration, Failure> {
        let mut sum = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let stat = match fs::read_to_string(task?.path().join("schedstat")) {
                Ok(stat) => stat,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            // Run, waited, how often: in nanoseconds.
            let waited = stat.split_whitespace().nth(1);
            let waited = waited.ok_or("schedstat of a thread is short")?.parse()?;
            sum += Duration::from_nanos(waited);
        }
        Ok(sum)
    }

    /// How often the threads of that name were given work: a thread that waits for jobs wakes once
    /// or more for each. `None` if there is no such thread.
    ///
    /// The kernel cuts thread names to 15 bytes.
    pub fn wakes(self, thread: &str) -> Result<Option<u64>, Failure> {
        let mut sum = None;
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may end between the listing and the look at it.
            let status = match fs::read_to_string(task?.path().join("status")) {
                Ok(status) => status,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            let field = |name: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            if field("Name:") == Some(thread) {
                let switches: u64 = field("voluntary_ctxt_switches:")
                    .unwrap_or_default()
                    .parse()?;
                sum = Some(sum.unwrap_or(0) + switches);
            }
        }
        Ok(sum)
    }
}

/// What the kernel answers for a thread that has ended: its files are away, or cannot be read on.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

/// Best effort: containers and virtual machines often forbid it.
pub fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let me = Pid(i32::try_from(std::process::id()).unwrap());
        assert!(me.resident().unwrap() > 0.5);
        assert!(me.peak().unwrap() >= me.resident().unwrap() * 0.5);
        assert_eq!(me.wakes("no such thread").unwrap(), None);
        let waited = me.kept_waiting().unwrap();
        assert!(me.kept_waiting().unwrap() >= waited);
    }

    #[test]
    fn threads_may_end_while_they_are_counted() {
        let me = Pid(i32::try_from(std::process::id()).unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let brief = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::Relaxed) {
                    thread::spawn(|| ()).join().unwrap();
                }
            }
        });
        let seen: Vec<_> = (0..2_000).map(|_| me.wakes("no such thread")).collect();
        over.store(true, Ordering::Relaxed);
        brief.join().unwrap();
        for count in seen {
            assert_eq!(count.unwrap(), None);
        }
    }
}
