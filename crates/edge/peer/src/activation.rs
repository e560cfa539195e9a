//! Sockets on which a service manager listens for us: systemd's protocol, `sd_listen_fds(3)`.
//!
//! `LISTEN_PID` says whom the sockets are for, `LISTEN_FDS` how many there are, from descriptor 3 on,
//! and `LISTEN_FDNAMES` what they are called.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};

use crate::sys;

/// The first descriptor (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// The most sockets that are taken.
const MOST: usize = 16;

/// A Unix socket that listens already.
#[derive(Debug)]
pub struct Activated {
    socket: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Activated {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the service manager calls it (`FileDescriptorName=`), for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The socket itself, for [`Listener::adopt`](crate::Listener::adopt).
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

/// Why the service manager's sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// `LISTEN_FDS` is no number of sockets that we take.
    #[error("LISTEN_FDS is {0:?}, and should be a number up to {MOST}; see the .socket unit")]
    Count(OsString),
    /// A descriptor cannot be looked at.
    #[error("descriptor {descriptor} of the service manager ({name}): {source}")]
    Io {
        /// The descriptor.
        descriptor: i32,
        /// What the service manager calls it.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// It is not a Unix stream socket that listens at a path.
    #[error(
        "descriptor {descriptor} of the service manager ({name}) is {what}; give the .socket unit ListenStream= with a path, and Accept=no"
    )]
    Unfit {
        /// The descriptor.
        descriptor: i32,
        /// What the service manager calls it.
        name: String,
        /// What it is.
        what: Unfit,
    },
}

/// What a socket is that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Not a stream socket.
    NoStream,
    /// Not listening: a connection, perhaps.
    NotListening,
    /// Not at a path.
    NoPath,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoStream => "no stream socket",
            Self::NotListening => "a socket that does not listen",
            Self::NoPath => "no Unix socket with a path",
        })
    }
}

/// Takes the sockets that a service manager listens on for this process; none where there is none.
///
/// They are given once: a second call finds none. The variables stay as they are, and mean nothing to
/// children, which `LISTEN_PID` does not name.
pub fn activated() -> Result<Vec<Activated>, ActivationError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| is_own_pid(&pid));
    let Some(count) = std::env::var_os("LISTEN_FDS").filter(|_| is_ours) else {
        return Ok(Vec::new());
    };
    let count = read_count(&count).ok_or(ActivationError::Count(count))?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (FIRST..)
        .take(count)
        .map(|descriptor| {
            let name = names.next().filter(|name| !name.is_empty());
            take(descriptor, name.unwrap_or("unnamed").to_owned())
        })
        .collect()
}

fn is_own_pid(text: &str) -> bool {
    text.parse() == Ok(std::process::id())
}

fn read_count(text: &OsString) -> Option<usize> {
    text.to_str()?.parse().ok().filter(|count| *count <= MOST)
}

fn take(descriptor: i32, name: String) -> Result<Activated, ActivationError> {
    let failed = |source: io::Error, name: &str| ActivationError::Io {
        descriptor,
        name: name.to_owned(),
        source,
    };
    let socket = sys::inherited(descriptor).map_err(|source| failed(source, &name))?;
    let unfit = |what, name: &str| ActivationError::Unfit {
        descriptor,
        name: name.to_owned(),
        what,
    };
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(_) => return Err(unfit(Unfit::NoStream, &name)),
        Err(errno) => return Err(failed(errno.into(), &name)),
    }
    let listens = getsockopt(&socket, sockopt::AcceptConn);
    if !listens.map_err(|errno| failed(errno.into(), &name))? {
        return Err(unfit(Unfit::NotListening, &name));
    }
    let address: Result<UnixAddr, _> = getsockname(socket.as_raw_fd());
    let path = address
        .ok()
        .and_then(|address| address.path().map(Path::to_owned));
    let path = path.ok_or_else(|| unfit(Unfit::NoPath, &name))?;
    Ok(Activated { socket, name, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        assert_eq!(read_count(&"2".into()), Some(2));
        assert_eq!(read_count(&"0".into()), Some(0));
        for bad in ["", "-1", "17", "x", "1 "] {
            assert_eq!(read_count(&bad.into()), None, "{bad}");
        }
    }

    #[test]
    fn what_is_for_another_process_is_not_ours() {
        assert!(is_own_pid(&std::process::id().to_string()));
        assert!(!is_own_pid("1") && !is_own_pid("") && !is_own_pid("x"));
    }

    #[test]
    fn without_a_service_manager_there_are_none() {
        assert!(activated().unwrap().is_empty());
    }

    #[test]
    fn only_listening_unix_sockets_are_taken() {
        use std::os::fd::IntoRawFd as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let taken = take(listener.into_raw_fd(), "workload".into()).unwrap();
        assert_eq!((taken.path(), taken.name()), (&*path, "workload"));

        let connected = take(client.into_raw_fd(), "w".into()).unwrap_err();
        assert!(
            connected.to_string().contains("does not listen"),
            "{connected}"
        );
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let datagrams = take(datagrams.into_raw_fd(), "w".into()).unwrap_err();
        assert!(datagrams.to_string().contains("no stream"), "{datagrams}");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = take(tcp.into_raw_fd(), "w".into()).unwrap_err();
        assert!(tcp.to_string().contains("with a path"), "{tcp}");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(take(file.into_raw_fd(), "w".into()).is_err());
        assert!(take(1_000_000, "w".into()).is_err());
    }
}
