//! Tasks on the node: opened for agents, each with a socket of its own that is a Workload API, and
//! ended with what it is bound to.
//!
//! Start at `calls`: what every call does, by gRPC (`service`) or as JSON (`json`). `core/task` decides
//! what becomes of tasks and `keeper` does it; `sockets` lets in whom a task is bound to; `journal` is
//! what a restart knows.
//!
//! An open task is an entry of the node with one selector, `muster:task:ID`, and a caller on the
//! task's socket is attested as just that. So the roster serves it as it serves everyone.

mod binding;
mod calls;
mod desk;
mod journal;
mod json;
mod keeper;
mod refused;
mod server;
pub(crate) mod service;
mod sockets;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use muster_peer::{Limits, Processes, SharedLimits};
use muster_rt::files::FileError;
use muster_rt::lifecycle::Shutdown;
use tokio::sync::{RwLock, Semaphore, mpsc};

use self::calls::Calls;
use self::desk::Command;
pub(crate) use self::desk::Desk;
pub(crate) use self::json::Shell;
pub(crate) use self::keeper::Keeper;
use self::keeper::Parts;
use self::server::Server;
use self::service::TasksApi;
pub(crate) use self::sockets::OnTask;
use self::sockets::Sockets;
use crate::config::Config;
use crate::connections::Stack;
use crate::driver::{Driver, TaskEntries};
use crate::mark;
use crate::refusals::Refusals;
use crate::upstream::Upstream;
use crate::workload_api::caller::{Attesting, CallerAttestor};

/// What of the node tasks are made of.
pub(crate) struct Surroundings<'a> {
    pub(crate) config: &'a Config,
    pub(crate) driver: Driver,
    pub(crate) upstream: Upstream,
    pub(crate) attesting: Attesting,
    pub(crate) processes: Processes,
    pub(crate) shutdown: Shutdown,
}

/// Tasks that are yet to be served: the services are there, the sockets need all services.
pub(crate) struct Unserved {
    pub(crate) api: TasksApi,
    pub(crate) shell: Shell,
    pub(crate) desk: Desk,
    commands: mpsc::UnboundedReceiver<Command>,
    calls: Arc<Calls>,
    limits: SharedLimits,
    refusals: Refusals,
    directory: std::path::PathBuf,
}

impl Unserved {
    /// The services of tasks.
    pub(crate) fn new(around: Surroundings<'_>) -> Self {
        let config = around.config;
        let Attesting {
            refusals, clock, ..
        } = around.attesting.clone();
        let (desk, commands) = Desk::new();
        let limits = SharedLimits::new(Limits {
            open: config.workload_api.max_connections,
            open_per_uid: config.limits.connections_per_user,
            allowance: config.limits.allowance,
            unread: config.workload_api.unread_timeout,
            ..Limits::default()
        })
        .timed_by(clock.clone())
        .observed_by(refusals.observer_of_tasks());
        let directory = config.tasks.directory.clone();
        let unfit = (!config.tasks.fits()).then(|| directory.display().to_string());
        let calls = Arc::new(Calls {
            callers: CallerAttestor::new(around.attesting, config.workload_api.max_calls),
            driver: around.driver,
            desk: desk.clone(),
            server: Server::new(around.upstream),
            processes: around.processes,
            boot_id: boot_id(),
            places: Arc::new(Semaphore::new(config.tasks.max.min(Semaphore::MAX_PERMITS))),
            turn: Arc::new(RwLock::new(())),
            clock,
            shutdown: around.shutdown,
            next_lease: AtomicU64::new(1),
            unfit,
        });
        Self {
            api: TasksApi(calls.clone()),
            shell: Shell(calls.clone()),
            desk,
            commands,
            calls,
            limits,
            refusals,
            directory,
        }
    }

    /// The loop that keeps them; `stack` is what their sockets serve.
    pub(crate) fn keeper(
        self,
        config: &Config,
        stack: Arc<Stack>,
        entries: mpsc::UnboundedReceiver<TaskEntries>,
    ) -> Result<Keeper, FileError> {
        let calls = self.calls;
        let sockets = Sockets::new(
            self.directory,
            self.limits,
            calls.processes.clone(),
            stack,
            self.refusals,
        );
        Keeper::new(
            &config.data_dir,
            Parts {
                commands: self.commands,
                entries,
                desk: self.desk,
                server: calls.server.clone(),
                driver: calls.driver.clone(),
                sockets,
                processes: calls.processes.clone(),
                boot_id: calls.boot_id.clone(),
                turn: calls.turn.clone(),
                clock: calls.clock.clone(),
            },
        )
    }
}

/// The boot of the kernel in which the node runs. Without one no task of an earlier run is taken up.
fn boot_id() -> Arc<str> {
    mark::boot()
        .map(|boot| boot.to_string())
        .unwrap_or_default()
        .into()
}
