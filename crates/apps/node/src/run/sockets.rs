//! The node's two sockets, new or taken over from the node before.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use muster_peer::{BindError, Limits, ListenOptions, Listener, Processes};
use muster_rt::Clock;
use tokio::sync::watch;

use super::{StartError, failed};
use crate::config::Config;
use crate::handover::Door;
use crate::refusals::Refusals;

/// What the node listens on.
pub(super) struct Sockets {
    pub(super) workload: Door,
    pub(super) admin: Door,
    /// Both once more, for a successor.
    pub(super) spare: (OwnedFd, OwnedFd),
    /// Closes both doors.
    pub(super) door: watch::Sender<bool>,
}

impl Sockets {
    pub(super) fn open(
        config: &Config,
        inherited: Option<(OwnedFd, OwnedFd)>,
        refusals: &Refusals,
        processes: &Processes,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let (workload, admin) = bind_both(config, inherited)?;
        let spare = workload
            .duplicate()
            .and_then(|first| Ok((first, admin.duplicate()?)))
            .map_err(failed("sockets"))?;
        let door = watch::Sender::new(false);
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
            Ok(Door::new(incoming, &door))
        };
        Ok(Self {
            workload: open(workload, config.workload_api.unread_timeout)?,
            admin: open(admin, Limits::default().unread)?,
            spare,
            door,
        })
    }
}

/// The sockets: the Workload API's for everyone, the operator's in a directory of its own. Those of
/// the node before are taken over as they are.
fn bind_both(
    config: &Config,
    inherited: Option<(OwnedFd, OwnedFd)>,
) -> Result<(Listener, Listener), StartError> {
    let admin_options = ListenOptions {
        mode: 0o770,
        dir_mode: 0o750,
        ..ListenOptions::default()
    };
    let (workload, admin) = inherited.unzip();
    let workload = bind(&config.workload_socket, workload, &ListenOptions::default())
        .map_err(failed("Workload API"))?;
    let admin =
        bind(&config.admin_socket, admin, &admin_options).map_err(failed("admin socket"))?;
    Ok((workload, admin))
}

fn bind(
    path: &Path,
    inherited: Option<OwnedFd>,
    options: &ListenOptions,
) -> Result<Listener, BindError> {
    match inherited {
        Some(socket) => Listener::adopt_at(socket, path, options),
        None => Listener::bind(path, options),
    }
}
