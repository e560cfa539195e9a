//! The sockets of workloads and operators, new or taken over from the node before.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use muster_peer::{Activated, BindError, Limits, ListenOptions, Listener, Processes};
use muster_rt::Clock;
use tokio::sync::watch;

use super::{StartError, failed};
use crate::config::Config;
use crate::handover::{Door, InheritedSockets, Kind, Managed};
use crate::refusals::Refusals;

/// What the node listens on.
pub(super) struct Sockets {
    pub(super) workload: Door,
    pub(super) admin: Door,
    /// Which of them a service manager listens on for us.
    pub(super) managed: Managed,
}

impl Sockets {
    /// Opens both, each until `door` is closed, and gives both once more, for a successor.
    pub(super) fn open(
        config: &Config,
        given: Given<'_>,
        refusals: &Refusals,
        processes: &Processes,
        clock: &Arc<dyn Clock>,
        door: &watch::Sender<bool>,
    ) -> Result<(Self, [(Kind, OwnedFd); 2]), StartError> {
        let (workload, admin) = bind_both(config, given)?;
        let managed = Managed {
            workload: workload.path().is_none(),
            admin: admin.path().is_none(),
        };
        let spare = workload
            .duplicate()
            .and_then(|first| {
                let second = admin.duplicate()?;
                Ok([(Kind::Workload, first), (Kind::Admin, second)])
            })
            .map_err(failed("sockets"))?;
        let open = |listener: Listener, unread| -> Result<Door, StartError> {
            let limits = Limits {
                open: config.workload_api.max_connections,
                open_per_uid: config.limits.connections_per_user,
                allowance: config.limits.allowance,
                unread,
                ..Limits::default()
            };
            let incoming = listener
                .incoming(limits)
                .map_err(failed("sockets"))?
                .timed_by(clock.clone())
                .known_in(processes)
                .observed_by(refusals.observer());
            Ok(Door::new(incoming, door))
        };
        let sockets = Self {
            workload: open(workload, config.workload_api.unread_timeout)?,
            admin: open(admin, Limits::default().unread)?,
            managed,
        };
        Ok((sockets, spare))
    }
}

/// Sockets that the node need not make itself.
pub(super) struct Given<'a> {
    /// Those of the node before.
    pub(super) inherited: &'a mut InheritedSockets,
    /// Those that a service manager listens on for this process.
    pub(super) activated: Vec<Activated>,
}

/// The sockets: the Workload API's for everyone, the operator's in a directory of its own. Those of
/// the node before, and of a service manager, are taken over as they are.
fn bind_both(config: &Config, given: Given<'_>) -> Result<(Listener, Listener), StartError> {
    let admin_options = ListenOptions {
        mode: 0o770,
        dir_mode: 0o750,
        ..ListenOptions::default()
    };
    let mut activated = given.activated;
    let mut source = |path: &Path, inherited: Option<(OwnedFd, bool)>| {
        let found = activated.iter().position(|one| one.path() == path);
        match (inherited, found.map(|index| activated.swap_remove(index))) {
            (Some((socket, true)), _) => Source::Manager(socket),
            (Some((socket, false)), _) => Source::Before(socket),
            (None, Some(socket)) => Source::Manager(socket.into_socket()),
            (None, None) => Source::None,
        }
    };
    let before = given.inherited;
    let managed = before.managed;
    let workload = before.take(Kind::Workload).map(|s| (s, managed.workload));
    let admin = before.take(Kind::Admin).map(|s| (s, managed.admin));
    let workload = source(&config.workload_socket, workload);
    let admin = source(&config.admin_socket, admin);
    if let Some(socket) = activated.first() {
        return Err(failed("sockets")(format!(
            "the service manager listens on {} ({}) for the node, which serves {} and {}; make ListenStream= of the .socket unit one of them",
            socket.path().display(),
            socket.name(),
            config.workload_socket.display(),
            config.admin_socket.display(),
        )));
    }
    let workload = bind(&config.workload_socket, workload, &ListenOptions::default())
        .map_err(failed("Workload API"))?;
    let admin =
        bind(&config.admin_socket, admin, &admin_options).map_err(failed("admin socket"))?;
    Ok((workload, admin))
}

/// Where a listening socket comes from.
enum Source {
    /// Nobody listens yet.
    None,
    /// The node before, with its file.
    Before(OwnedFd),
    /// A service manager, whose file it is: it stays there when the node ends.
    Manager(OwnedFd),
}

fn bind(path: &Path, source: Source, options: &ListenOptions) -> Result<Listener, BindError> {
    match source {
        Source::None => Listener::bind(path, options),
        Source::Before(socket) => Listener::adopt_at(socket, path, options),
        Source::Manager(socket) => Listener::adopt(socket).map_err(|source| BindError::Io {
            path: path.to_owned(),
            step: "take over the service manager's socket",
            source,
        }),
    }
}
