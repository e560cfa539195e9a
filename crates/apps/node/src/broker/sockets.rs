//! The brokers' sockets: bound before anything is served, or taken over from the node before, and
//! handed on to the one after.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;

use muster_peer::{Limits, ListenOptions, Listener};
use tokio::sync::watch;

use super::listen::Closed;
use super::{BrokerError, Most};
use crate::config::BrokerConfig;
use crate::handover::{Door, InheritedSockets, Kind};

/// What the Broker API listens on.
pub(crate) struct Sockets {
    pub(super) unix: Option<Door>,
    pub(super) tcp: Option<(TcpListener, Closed)>,
    /// Both once more, for a successor.
    pub(crate) spare: Vec<(Kind, OwnedFd)>,
}

impl Sockets {
    /// Binds what the configuration names and the node before did not listen on: the Unix socket
    /// for its owner and group only (BEP-10). Each lets brokers in until `door` is closed.
    pub(crate) fn bind(
        config: &BrokerConfig,
        most: Most,
        before: &mut InheritedSockets,
        door: &watch::Sender<bool>,
    ) -> Result<Self, BrokerError> {
        let mut spare = Vec::new();
        let limits = Limits {
            open: most.connections,
            ..Limits::default()
        };
        let unix = match &config.socket {
            Some(path) => {
                let listener = listen_unix(path, before.take(Kind::BrokerUnix))?;
                spare.push((Kind::BrokerUnix, listener.duplicate()?));
                Some(Door::new(listener.incoming(limits)?, door))
            }
            None => None,
        };
        let tcp = match config.listen {
            Some(address) => {
                let listener = listen_tcp(address, before.take(Kind::BrokerTcp))?;
                spare.push((Kind::BrokerTcp, listener.try_clone()?.into()));
                Some((listener, Box::pin(Door::closed(door)) as Closed))
            }
            None => None,
        };
        Ok(Self { unix, tcp, spare })
    }
}

fn listen_unix(path: &Path, before: Option<OwnedFd>) -> Result<Listener, BrokerError> {
    let options = ListenOptions {
        mode: 0o770,
        dir_mode: 0o750,
        ..ListenOptions::default()
    };
    if let Some(socket) = before {
        let listener = Listener::adopt_at(socket, path, &options)?;
        // Without a file there it is the socket of another path: the configuration has changed.
        if listener.path().is_some() {
            return Ok(listener);
        }
    }
    Ok(Listener::bind(path, &options)?)
}

fn listen_tcp(address: SocketAddr, before: Option<OwnedFd>) -> Result<TcpListener, BrokerError> {
    let before = before
        .map(TcpListener::from)
        .filter(|listener| listener.local_addr().is_ok_and(|bound| bound == address));
    let listener = match before {
        Some(listener) => listener,
        None => TcpListener::bind(address)
            .map_err(|source: io::Error| BrokerError::Listen { address, source })?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}
