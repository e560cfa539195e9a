//! What a daemon gives up, so that whoever takes it over gets less.
//!
//! Start at [`apply`]: call it before secrets are in memory and before threads are started. What a
//! kernel or a container does not allow is reported, never fatal: a node that does not start
//! protects nobody.

mod filter;
mod memory;
mod writes;

use std::fmt;
use std::path::PathBuf;

use nix::sys::prctl;

use crate::process::keep_memory_private;

/// What to give up. Each of the flags can be turned off by the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in the configuration"
)]
pub struct Options {
    /// No program that the daemon starts gains privileges (setuid files, file capabilities).
    pub no_new_privileges: bool,
    /// No core files, and no debugger of the same user.
    pub private_memory: bool,
    /// Nothing goes to swap.
    pub lock_memory: bool,
    /// System calls that a daemon does not need kill it, and what it starts.
    pub system_calls: bool,
    /// Files are written only below certain directories.
    pub writes: Writes,
}

/// Where a daemon may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Only below these directories, and to `/dev/null`; reading stays free. They must exist.
    Below(Vec<PathBuf>),
    /// Anywhere that the file system's own rights let it: the operator asked for it.
    Anywhere,
    /// Likewise, because the confinement takes away what the daemon lives on. Landlock keeps a
    /// confined process from looking at others with the rights of a debugger, and `/proc/PID/exe`
    /// is behind these rights (`hook_ptrace_access_check` in `security/landlock/task.c`): a node
    /// could not tell any more which program a caller runs.
    NotConfinable,
}

/// A measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// `PR_SET_DUMPABLE` and `RLIMIT_CORE`.
    PrivateMemory,
    /// `mlockall(2)`.
    LockedMemory,
    /// `seccomp(2)`.
    SystemCalls,
    /// `landlock(7)`.
    Writes,
}

impl Measure {
    /// Its name in configurations and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "no_new_privileges",
            Self::PrivateMemory => "private_memory",
            Self::LockedMemory => "lock_memory",
            Self::SystemCalls => "system_calls",
            Self::Writes => "writes",
        }
    }
}

/// What became of a measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    InForce,
    /// The operator turned it off.
    TurnedOff,
    /// It is not for this daemon.
    NotFor(&'static str),
    /// The system did not let us; the text says why and what helps.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InForce => f.write_str("in force"),
            Self::TurnedOff => f.write_str("turned off"),
            Self::NotFor(why) => write!(f, "not used: {why}"),
            Self::Failed(why) => write!(f, "not in force: {why}"),
        }
    }
}

/// What became of each measure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they were taken.
    pub measures: Vec<(Measure, Outcome)>,
}

impl Report {
    /// What is not as it was asked for, for a warning each.
    pub fn shortfalls(&self) -> impl Iterator<Item = (Measure, &Outcome)> {
        self.measures.iter().filter_map(|(measure, outcome)| {
            let short = match outcome {
                Outcome::InForce | Outcome::NotFor(_) => false,
                Outcome::TurnedOff | Outcome::Failed(_) => true,
            };
            short.then_some((*measure, outcome))
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (measure, outcome)) in self.measures.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{} {outcome}", measure.as_str())?;
        }
        Ok(())
    }
}

/// Gives up what `options` say, for good: for this process and what it starts.
///
/// Landlock and the privileges bind the calling thread and those that it starts, so call this
/// while there is no other.
pub fn apply(options: &Options) -> Report {
    let mut measures = Vec::new();
    let mut take = |measure, wanted: bool, act: &dyn Fn() -> Result<(), String>| {
        let outcome = match wanted.then(act) {
            None => Outcome::TurnedOff,
            Some(Ok(())) => Outcome::InForce,
            Some(Err(why)) => Outcome::Failed(why),
        };
        measures.push((measure, outcome));
    };
    take(Measure::PrivateMemory, options.private_memory, &|| {
        keep_memory_private().map_err(|errno| errno.to_string())
    });
    take(Measure::NoNewPrivileges, options.no_new_privileges, &|| {
        prctl::set_no_new_privs().map_err(|errno| errno.to_string())
    });
    take(Measure::LockedMemory, options.lock_memory, &memory::lock);
    match &options.writes {
        Writes::Below(directories) => {
            take(Measure::Writes, true, &|| writes::confine(directories));
        }
        Writes::Anywhere => measures.push((Measure::Writes, Outcome::TurnedOff)),
        Writes::NotConfinable => {
            let why = "it would hide which program a caller runs; the systemd unit confines writes";
            measures.push((Measure::Writes, Outcome::NotFor(why)));
        }
    }
    // Last: it forbids nothing of the above, but need not know it either.
    let wanted = options.system_calls;
    let outcome = match wanted.then(filter::install) {
        None => Outcome::TurnedOff,
        Some(Ok(())) => Outcome::InForce,
        Some(Err(why)) => Outcome::Failed(why),
    };
    measures.push((Measure::SystemCalls, outcome));
    Report { measures }
}
