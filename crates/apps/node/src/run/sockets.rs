//! The node's two sockets, new or taken over from the node before.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use muster_peer::{BindError, Limits, ListenOptions, Listener};
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
    ) -> Result<Self, StartError> {
        let (workload, admin) = bind_both(config, inherited)?;
        let spare = workload
            .duplicate()
            .and_then(|first| Ok((first, admin.duplicate()?)))
            .map_err(failed("sockets"))?;
        let door = watch::Sender::new(false);
        Ok(Self {
            workload: open(
                config,
                workload,
                config.workload_api.unread_timeout,
                refusals,
                &door,
            )?,
            admin: open(config, admin, Limits::default().unread, refusals, &door)?,
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

/// The connections of a socket, until a successor takes them.
fn open(
    config: &Config,
    listener: Listener,
    unread: Duration,
    refusals: &Refusals,
    door: &watch::Sender<bool>,
) -> Result<Door, StartError> {
    let limits = Limits {
        open: config.workload_api.max_connections,
        unread,
        ..Limits::default()
    };
    let incoming = listener.incoming(limits).map_err(failed("sockets"))?;
    Ok(Door::new(incoming.observed_by(refusals.observer()), door))
}
