//! The sockets of tasks: each a Workload API of its own, for those to whom its task is bound.
//!
//! All of them have one stack of services. A socket costs its descriptor, its place in the event
//! loop and one small future; connections have tasks of their own only while they are there.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use muster_model::{Selector, SelectorSet, TaskId};
use muster_peer::{
    BindError, HeldProcess, Incoming, ListenOptions, Listener, Only, Owner, Processes, Refusal,
    RefusedPeer, SharedLimits, Taken,
};
use muster_rt::sparing::Sparing;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::binding::Bound;
use crate::connections::Stack;
use crate::driver::SELECTOR_KIND;
use crate::refusals::Refusals;

const FILE: &str = "api.sock";
/// Connections that the kernel keeps for one task until they are accepted.
const BACKLOG: u16 = 128;
/// Counts who used a task's socket and is not the task.
const IMPERSONATIONS: &str = "muster_node_impersonation_attempts_total";
static IMPERSONATION: Sparing = Sparing::new(100, Duration::from_secs(1));

/// On whose socket a call came: among the extensions of every request on a task's socket. Clones are
/// the same.
#[derive(Clone)]
pub(crate) struct OnTask(Arc<Door>);

impl OnTask {
    /// The task.
    pub(crate) fn id(&self) -> TaskId {
        self.0.id
    }

    /// Whether the task is live, as the socket knows it.
    pub(crate) fn is_live(&self) -> bool {
        self.0.live.load(Ordering::Acquire)
    }

    /// What a caller is attested as whom the socket lets in.
    pub(crate) fn selectors(&self) -> Arc<SelectorSet> {
        self.0.selectors.clone()
    }
}

/// For whom a task's socket is.
struct Door {
    id: TaskId,
    bound: Bound,
    live: AtomicBool,
    selectors: Arc<SelectorSet>,
    refusals: Refusals,
}

impl Only for Door {
    fn admits(&self, process: &HeldProcess) -> bool {
        self.live.load(Ordering::Acquire) && self.bound.admits(process)
    }

    /// Also for as long as the connections of a task that has ended stay open: a client answers
    /// pings and settings while the end of its streams is on its way, and to refuse it for that
    /// would take the end away. Calls are asked whether the task lives.
    fn hears(&self, process: &HeldProcess) -> bool {
        self.bound.admits(process)
    }

    fn refused(&self, peer: RefusedPeer) {
        let is_attempt = matches!(
            peer.refusal,
            Refusal::NotBound { .. } | Refusal::OtherSender { .. }
        );
        if !self.live.load(Ordering::Acquire) {
            // Who was the task until now is no impostor.
            self.refusals.late(peer, self.id);
            return;
        }
        self.refusals.on_task(peer, self.id);
        if !is_attempt {
            return;
        }
        metrics::counter!(IMPERSONATIONS).increment(1);
        if let Some(held_back) = IMPERSONATION.pass(peer.refusal.word()) {
            tracing::warn!(
                pid = peer.pid,
                uid = peer.uid,
                task_id = %self.id,
                reason = %peer.refusal,
                held_back,
                "workload.impersonation_attempt"
            );
        }
    }
}

/// A task's one selector.
pub(crate) fn selector_of(id: TaskId) -> Option<Selector> {
    Selector::new(SELECTOR_KIND, format!("task:{id}")).ok()
}

/// Makes the sockets.
pub(crate) struct Sockets {
    directory: PathBuf,
    limits: SharedLimits,
    processes: Processes,
    stack: Arc<Stack>,
    refusals: Refusals,
}

/// A socket that listens.
pub(crate) struct Open {
    door: Arc<Door>,
    accepting: AbortHandle,
    /// Ends the connections with it.
    _connections: watch::Sender<()>,
    file: PathBuf,
}

impl Sockets {
    pub(crate) fn new(
        directory: PathBuf,
        limits: SharedLimits,
        processes: Processes,
        stack: Arc<Stack>,
        refusals: Refusals,
    ) -> Self {
        metrics::describe_counter!(
            IMPERSONATIONS,
            "connections to a task's socket, and messages on one, by a process to which the task is not bound"
        );
        Self {
            directory,
            limits,
            processes,
            stack,
            refusals,
        }
    }

    /// Where a task's socket is.
    pub(crate) fn path(&self, id: TaskId) -> PathBuf {
        self.directory.join(id.to_string()).join(FILE)
    }

    /// Makes a task's socket, which belongs to `owner` where the node may give it away.
    pub(crate) fn open(&self, id: TaskId, bound: Bound, owner: Owner) -> Result<Open, BindError> {
        let file = self.path(id);
        let options = ListenOptions {
            mode: 0o600,
            // Its owner passes through, and changes nothing in it.
            dir_mode: 0o711,
            owner: nix::unistd::geteuid().is_root().then_some(owner),
            backlog: BACKLOG,
            // A predecessor that is on its way out may still serve it.
            taken: Taken::Replace,
        };
        let door = Arc::new(Door {
            id,
            bound,
            live: AtomicBool::new(true),
            selectors: Arc::new(selector_of(id).into_iter().collect()),
            refusals: self.refusals.clone(),
        });
        let failed = |source| BindError::Io {
            path: file.clone(),
            step: "serve",
            source,
        };
        let incoming = Listener::bind(&file, &options)?
            .incoming_within(&self.limits)
            .map_err(failed)?
            .known_in(&self.processes)
            .only_for(door.clone());
        let (connections, ended) = watch::channel(());
        let on = OnTask(door.clone());
        let accepting = tokio::spawn(accept(incoming, self.stack.clone(), on, ended));
        Ok(Open {
            door,
            accepting: accepting.abort_handle(),
            _connections: connections,
            file,
        })
    }

    /// Removes what an earlier run left of tasks that are not among `live`.
    pub(crate) fn sweep(&self, live: impl Fn(TaskId) -> bool) {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(directory = %self.directory.display(), %error, "sockets of tasks that are over were left");
                return;
            }
        };
        for entry in entries.flatten() {
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| TaskId::parse(name).ok());
            if let Some(id) = id.filter(|id| !live(*id)) {
                remove(&self.path(id));
            }
        }
    }

    /// Makes the directory of all of them, which everyone may pass through and nobody may read.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        match std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.directory)
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

impl Open {
    /// Lets nobody in any more, and removes the file. Connections end when they have said what they
    /// have to.
    pub(crate) fn close(self) {
        // First: what comes before the rest has happened is refused.
        self.door.live.store(false, Ordering::Release);
        self.accepting.abort();
        remove(&self.file);
    }

    /// Lets nobody in any more; the file is another process's.
    pub(crate) fn leave(self) {
        self.accepting.abort();
    }
}

async fn accept(mut incoming: Incoming, stack: Arc<Stack>, on: OnTask, ended: watch::Receiver<()>) {
    while let Some(next) = incoming.next().await {
        match next {
            Ok(connection) => stack.begin(connection, Some(on.clone()), ended.clone()),
            Err(error) => {
                tracing::warn!(task_id = %on.id(), %error, "a task's socket is of no use any more");
            }
        }
    }
}

/// Removes a socket and its directory. What is not there needs no removing.
fn remove(file: &Path) {
    let removed = std::fs::remove_file(file).and_then(|()| match file.parent() {
        Some(directory) => std::fs::remove_dir(directory),
        None => Ok(()),
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A directory without a socket: a kill came between the two.
            if let Some(directory) = file.parent() {
                let _gone = std::fs::remove_dir(directory).is_err();
            }
        }
        Err(error) => tracing::warn!(path = %file.display(), %error, "a task's socket was left"),
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use muster_rt::SystemClock;

    use super::*;
    use crate::denials::Denials;
    use crate::events::Events;

    #[test]
    fn of_a_task_that_has_ended_its_process_is_heard_and_told_nothing() {
        let own = HeldProcess::by_number(std::process::id()).unwrap();
        let other = HeldProcess::by_number(nix::unistd::getppid().as_raw().unsigned_abs()).unwrap();
        let id = TaskId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let clock = SystemClock::shared();
        let denials = Denials::new(Arc::clone(&clock));
        let door = Door {
            id,
            refusals: Refusals::new(Events::new(), denials, clock),
            bound: Bound::Process(own.clone()),
            live: AtomicBool::new(true),
            selectors: Arc::new(selector_of(id).into_iter().collect()),
        };
        assert!(door.admits(&own) && door.hears(&own));
        door.live.store(false, Ordering::Release);
        assert!(!door.admits(&own) && door.hears(&own));
        assert!(!door.admits(&other) && !door.hears(&other));
    }
}
