//! The workload attestor port: facts about a process on the node.
//!
//! An attestor is given a [`Process`] (held by descriptors, so that it cannot become another one)
//! and answers with [`Fact`]s: selectors, and how each is known. What a process can change about
//! itself is no fact.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use muster_model::Selector;

/// A process to attest.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number in the node's pid namespace; for messages, not for opening anything.
    pub pid: u32,
    /// Its effective user, as the kernel gave it when the process connected.
    pub uid: u32,
    /// Its effective group, likewise.
    pub gid: u32,
    /// The user and group that the kernel attached to its bytes; `None` for a process that did
    /// not call itself.
    pub sender: Option<SenderIds>,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// The file that it ran when it connected; `None` when the kernel does not show it to the
    /// node.
    pub executable: Option<FileId>,
    /// Its directory in /proc, for `openat`: of this process, even if its number is given away.
    pub dir: Arc<OwnedFd>,
    /// Its pidfd.
    pub pidfd: Arc<OwnedFd>,
    /// Where the pidfd is from.
    pub pidfd_from: PidfdFrom,
    /// What attesting it has cost so far; attestors add to it.
    pub work: Work,
}

/// The work of an attestation beyond reading the process's directory, for whoever has to ration
/// it: in units of about a millisecond of processor time, here or in whatever program is asked. It
/// is what was asked for and not how long that took, which depends on the neighbours. Clones count
/// together.
#[derive(Clone, Debug, Default)]
pub struct Work(Arc<AtomicU32>);

impl Work {
    /// Another program had to be asked.
    pub fn asked(&self) {
        self.add(1);
    }

    /// So many bytes had to be hashed: a unit for each half MiB.
    pub fn hashed(&self, bytes: u64) {
        self.add(u32::try_from(bytes >> 19).unwrap_or(u32::MAX));
    }

    /// All of it.
    pub fn units(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, units: u32) {
        let before = self.0.fetch_add(units, Ordering::Relaxed);
        if before.checked_add(units).is_none() {
            self.0.store(u32::MAX, Ordering::Relaxed);
        }
    }
}

/// Where a pidfd is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidfdFrom {
    /// The kernel gave it, as that of the process which connected.
    Kernel,
    /// It was opened by a number: that of a process which did not call itself, or on a kernel before
    /// Linux 6.5.
    Number,
}

/// Ids that the kernel attached to bytes: real, effective or saved ones of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Which file: its device and its inode there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// One thing that is known about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What.
    pub selector: Selector,
    /// How it is known.
    pub evidence: Evidence,
}

/// How a fact is known. `Display` says it in a few plain words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evidence {
    /// The kernel's credentials of the connection, and `/proc/PID/status` agrees.
    KernelCredentials,
    /// `/proc/PID/status`, which the kernel writes.
    ProcStatus,
    /// The system's user and group database, asked for an id that the kernel gave.
    NameService,
    /// The path of `/proc/PID/exe`, which names the same file in the node's view of the file
    /// system.
    ExecutablePath,
    /// The path of `/proc/PID/exe` in the process's own view of the file system, which the process may
    /// have arranged.
    ForeignExecutablePath,
    /// The content of the file that the process runs, read through `/proc/PID/exe`.
    ExecutableDigest,
    /// The system's container engine, about the container in whose control group the kernel
    /// shows the process.
    ContainerEngine,
    /// A user's own container engine, likewise; that user may have arranged what it says.
    UserContainerEngine,
    /// systemd, asked about the pidfd.
    ServiceManager,
    /// systemd, asked about the number, while the process that has it ran before and after.
    ServiceManagerByNumber,
    /// A program that the operator configured; it knows the process by its number and start time.
    Plugin,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelCredentials => "kernel credentials",
            Self::ProcStatus => "/proc/PID/status",
            Self::NameService => "name service",
            Self::ExecutablePath => "path of /proc/PID/exe",
            Self::ForeignExecutablePath => "path of /proc/PID/exe as the process sees it",
            Self::ExecutableDigest => "SHA-256 of the running executable",
            Self::ContainerEngine => "container engine, confirmed by /proc/PID/cgroup",
            Self::UserContainerEngine => {
                "a user's own container engine, confirmed by /proc/PID/cgroup"
            }
            Self::ServiceManager => "systemd, by pidfd",
            Self::ServiceManagerByNumber => "systemd, by number",
            Self::Plugin => "plugin",
        })
    }
}

/// What changed about a process while it was attested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its user or group.
    Credentials,
    /// The program that it runs.
    Program,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "changed its user or group",
            Self::Program => "executed another program",
        })
    }
}

/// Why there are no facts. All of it is for the log; to the caller it is `UNAVAILABLE`, never a
/// denial.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The process ended.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The process is not any more what it was when it connected.
    #[error("process {pid} {change} since it connected; it must connect anew")]
    Changed {
        /// The process.
        pid: u32,
        /// What changed.
        change: Change,
    },
    /// Another process steers it with the rights of a debugger, so what it says may be the
    /// other's word.
    #[error(
        "process {pid} is traced by process {tracer}, which may speak for it; detach the debugger, or set attest.unix.allow_traced"
    )]
    Traced {
        /// The process.
        pid: u32,
        /// The one that steers it.
        tracer: u32,
    },
    /// The attestor could not do its work.
    #[error("workload attestor {kind} failed: {reason}")]
    Failed {
        /// The attestor.
        kind: &'static str,
        /// What went wrong, and what to do about it.
        reason: String,
        /// The cause, if there is one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// Whoever knows the facts is not there, or does not answer in time: another attempt may find
    /// them.
    #[error("workload attestor {kind} cannot be asked: {reason}")]
    Away {
        /// The attestor.
        kind: &'static str,
        /// What went wrong, and what to do about it.
        reason: String,
    },
    /// No attestor is configured.
    #[error("no workload attestor is configured; configure at least one, such as unix")]
    NoAttestors,
}

impl AttestError {
    /// The reason in one word, for metrics and events.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "gone",
            Self::Changed {
                change: Change::Program,
                ..
            } => "other_program",
            Self::Changed {
                change: Change::Credentials,
                ..
            } => "other_user",
            Self::Traced { .. } => "traced",
            Self::Failed { .. } | Self::NoAttestors => "attestation_failed",
            Self::Away { .. } => "attestor_away",
        }
    }

    /// Whether the process itself is to blame, so that no other attestor can help.
    pub fn is_about_the_process(&self) -> bool {
        match self {
            Self::Gone { .. } | Self::Changed { .. } | Self::Traced { .. } => true,
            Self::Failed { .. } | Self::Away { .. } | Self::NoAttestors => false,
        }
    }
}

/// Finds facts about processes.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync + 'static {
    /// The attestor's name, which is the type of all its selectors, such as `unix`.
    fn kind(&self) -> &'static str;

    /// What is known about `process`.
    ///
    /// A process that is not this attestor's business (not in a container, say) has no facts; that
    /// is no error. May be dropped at any point.
    async fn attest(&self, process: &Process) -> Result<Vec<Fact>, AttestError>;
}

pub mod conformance {
    //! What every workload attestor must keep; adapters run it in their tests.

    use std::collections::BTreeSet;

    use super::{AttestError, Process, WorkloadAttestor};

    /// Checks `attestor` against a process that runs and one that has ended, both of which must
    /// be within its business.
    pub async fn check(
        attestor: &dyn WorkloadAttestor,
        alive: &Process,
        gone: &Process,
    ) -> Result<(), String> {
        let kind = attestor.kind();
        if kind.is_empty() || kind.contains(':') {
            return Err(format!("{kind:?} is no selector type"));
        }
        let facts = attestor
            .attest(alive)
            .await
            .map_err(|error| format!("a running process is not attested: {error}"))?;
        if facts.is_empty() {
            return Err("a running process has no facts".to_owned());
        }
        let mut seen = BTreeSet::new();
        for fact in &facts {
            if fact.selector.kind() != kind {
                return Err(format!("{} is not a selector of {kind}", fact.selector));
            }
            if !seen.insert(&fact.selector) {
                return Err(format!("{} is there twice", fact.selector));
            }
        }
        let again = attestor
            .attest(alive)
            .await
            .map_err(|error| format!("a second attestation fails: {error}"))?;
        if again != facts {
            return Err(format!("{facts:?} became {again:?}"));
        }
        match attestor.attest(gone).await {
            Err(AttestError::Gone { pid }) if pid == gone.pid => Ok(()),
            other => Err(format!("a process that has ended gives {other:?}")),
        }
    }
}
