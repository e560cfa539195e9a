//! To what a task is bound: found out by the kernel's word, and asked again for everything that is
//! sent on its socket.

use std::sync::Arc;

use muster_peer::{Caller, Cgroup, CgroupError, HeldProcess, NotDescendant, Owner, Processes};
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::agent::v1::task_binding::To;
use muster_task::{Binding, LeaseId, ProcessId};

use super::refused::{Reason, Refused};

/// Of a control group so many processes are looked at for one that is the caller's.
const MEMBERS_MAX: usize = 4096;

/// To what a task is bound.
#[derive(Clone, Debug)]
pub(crate) enum Bound {
    /// One process.
    Process(HeldProcess),
    /// The process that holds a stream.
    Lease(HeldProcess),
    /// The processes of a control group.
    Cgroup(Arc<Cgroup>),
}

impl Bound {
    /// Whether the task is this process's.
    pub(crate) fn admits(&self, process: &HeldProcess) -> bool {
        match self {
            Self::Process(bound) | Self::Lease(bound) => bound.is(process),
            Self::Cgroup(group) => group.has(process),
        }
    }

    /// The process, if it is one.
    pub(crate) fn process(&self) -> Option<&HeldProcess> {
        match self {
            Self::Process(process) | Self::Lease(process) => Some(process),
            Self::Cgroup(_) => None,
        }
    }

    /// For the machine.
    pub(crate) fn binding(&self, lease: LeaseId) -> Binding {
        match self {
            Self::Process(process) => Binding::Process(id_of(process)),
            Self::Lease(process) => Binding::Lease(lease, id_of(process)),
            Self::Cgroup(group) => Binding::Cgroup(group.id()),
        }
    }

    /// For the server and for people.
    pub(crate) fn describe(&self, boot_id: &str) -> api::BoundTo {
        let (kind, cgroup_id) = match self {
            Self::Process(_) => ("process", 0),
            Self::Lease(_) => ("lease", 0),
            Self::Cgroup(group) => ("cgroup", group.id()),
        };
        let process = self.process();
        api::BoundTo {
            kind: kind.to_owned(),
            pid: process.map_or(0, HeldProcess::pid),
            start_time: process.map_or(0, HeldProcess::start_time),
            boot_id: boot_id.to_owned(),
            cgroup_id,
        }
    }
}

/// The process's name for the machine.
pub(crate) fn id_of(process: &HeldProcess) -> ProcessId {
    ProcessId {
        pid: process.pid(),
        start_time: process.start_time(),
    }
}

/// What a request binds to, and whose the socket is to be.
pub(crate) struct Resolved {
    pub(crate) bound: Bound,
    pub(crate) owner: Owner,
}

/// Finds out to what a caller binds a task that is not held by a stream.
pub(crate) fn resolve(
    binding: Option<&api::TaskBinding>,
    caller: &Caller,
    processes: &Processes,
) -> Result<Resolved, Refused> {
    let own = Owner {
        uid: caller.uid(),
        gid: caller.gid(),
    };
    match binding.and_then(|binding| binding.to.as_ref()) {
        None | Some(To::Caller(_)) => Ok(Resolved {
            bound: Bound::Process(caller.process().clone()),
            owner: own,
        }),
        Some(To::ChildPid(pid)) => child(*pid, caller, processes),
        Some(To::Cgroup(path)) => Ok(Resolved {
            bound: Bound::Cgroup(Arc::new(cgroup(path, caller, processes)?)),
            owner: own,
        }),
        Some(To::Lease(_)) => Err(Refused::field(
            "binding",
            "only Lease binds a task to a stream; call that",
        )),
    }
}

/// What Lease binds to: the stream, of the caller alone.
pub(crate) fn lease(
    binding: Option<&api::TaskBinding>,
    caller: &Caller,
) -> Result<Resolved, Refused> {
    match binding.and_then(|binding| binding.to.as_ref()) {
        None | Some(To::Lease(_)) => Ok(Resolved {
            bound: Bound::Lease(caller.process().clone()),
            owner: Owner {
                uid: caller.uid(),
                gid: caller.gid(),
            },
        }),
        Some(To::Caller(_) | To::ChildPid(_) | To::Cgroup(_)) => Err(Refused::field(
            "binding",
            "Lease binds to its stream; call Open for another binding",
        )),
    }
}

fn child(pid: u32, caller: &Caller, processes: &Processes) -> Result<Resolved, Refused> {
    let gone = |pid: u32| {
        Refused::new(
            Reason::ProcessGone,
            format!("there is no process {pid}, or it has ended"),
        )
    };
    if pid == 0 {
        return Err(Refused::field("binding.childPid", "0 is no pid"));
    }
    if counts_otherwise(caller) {
        return Err(Refused::new(
            Reason::PidNamespace,
            "the caller is in a pid namespace of its own, where its numbers are not the node's; have the child open the task itself",
        ));
    }
    let held = processes.by_number(pid).map_err(|_refusal| gone(pid))?;
    held.descends_from(caller.process(), processes)
        .map_err(|why| match why {
            NotDescendant::Gone { pid } => gone(pid),
            NotDescendant::Stranger { .. } | NotDescendant::Untold { .. } => {
                Refused::new(Reason::NotDescendant, why.to_string())
            }
        })?;
    let uid = held
        .proc_dir()
        .and_then(|dir| dir.effective_uid())
        .map_err(|_error| gone(pid))?;
    // Its group is of no use to a socket that only its owner may open.
    let gid = caller.gid();
    Ok(Resolved {
        bound: Bound::Process(held),
        owner: Owner { uid, gid },
    })
}

/// Whether the caller's pid namespace is surely another than the node's. Where the kernel does not
/// show it, the number still has to be a descendant's.
fn counts_otherwise(caller: &Caller) -> bool {
    let own = std::fs::metadata("/proc/self/ns/pid");
    let theirs = caller.proc_dir().and_then(|dir| dir.inode_of("ns/pid"));
    match (own, theirs) {
        (Ok(own), Ok(theirs)) => std::os::unix::fs::MetadataExt::ino(&own) != theirs,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn cgroup(path: &str, caller: &Caller, processes: &Processes) -> Result<Cgroup, Refused> {
    let group = Cgroup::open(path).map_err(|error| match error {
        CgroupError::NoHierarchy | CgroupError::NotThere { .. } => {
            Refused::new(Reason::CgroupUnavailable, error.to_string())
        }
        CgroupError::NotAPath(_) => Refused::field("binding.cgroup", error),
    })?;
    let own = caller.process();
    let is_member = |pid: u32| {
        let held = processes.by_number(pid).ok();
        held.is_some_and(|held| held.descends_from(own, processes).is_ok() && group.has(&held))
    };
    if group.has(own) || group.members(MEMBERS_MAX).into_iter().any(is_member) {
        return Ok(group);
    }
    Err(Refused::new(
        Reason::CgroupNotYours,
        format!(
            "neither the caller nor a process that it started is in control group {}",
            group.path()
        ),
    ))
}
