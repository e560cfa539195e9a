//! systemd's interface on D-Bus (`org.freedesktop.systemd1(5)`), over one connection.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::sync::Mutex;
use zbus::message::Body;
use zbus::zvariant::{Fd, OwnedObjectPath, OwnedValue};
use zbus::{Connection, connection};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The longest name or path that is believed, in bytes: the kernel's and systemd's own bounds are
/// lower.
const MAX_TEXT: usize = 8_192;

/// What is known of a unit. What it has not is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) id: String,
    pub(super) fragment_path: String,
    pub(super) slice: String,
}

/// By what systemd was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Pidfd,
    Number,
}

/// Why there is no unit.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    #[error("it belongs to no unit")]
    NoUnit,
    #[error("{socket}: {cause}; is the system bus running, and is this its socket?")]
    Unreachable { socket: String, cause: String },
    #[error("systemd refused: {name}: {text}")]
    Refused { name: String, text: String },
    #[error("the answer of systemd is not understood: {0}")]
    Malformed(String),
}

/// The bus; connected at the first question, and again after the connection was lost.
#[derive(Debug)]
pub(super) struct Bus {
    socket: PathBuf,
    connection: Mutex<Option<Link>>,
}

#[derive(Clone, Debug)]
struct Link {
    connection: Connection,
    /// systemd is older than 254, as far as this connection knows.
    without_pidfd: Arc<AtomicBool>,
}

impl Bus {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            connection: Mutex::new(None),
        }
    }

    /// The unit of a process, and by what it was found. Asked by number, `pid` must be a process
    /// that still runs afterwards.
    pub(super) async fn unit_of(&self, pid: u32, pidfd: &OwnedFd) -> Result<(Unit, By), BusError> {
        match self.link().await?.unit_of(pid, pidfd).await {
            // The bus may have been restarted since the last question.
            Err(BusError::Unreachable { .. }) => {
                *self.connection.lock().await = None;
                self.link().await?.unit_of(pid, pidfd).await
            }
            outcome => outcome,
        }
    }

    async fn link(&self) -> Result<Link, BusError> {
        let mut connection = self.connection.lock().await;
        if let Some(link) = &*connection {
            return Ok(link.clone());
        }
        let unreachable = |cause: String| BusError::Unreachable {
            socket: self.socket.display().to_string(),
            cause,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let link = Link {
            connection: connection::Builder::unix_stream(stream)
                .build()
                .await
                .map_err(|error| unreachable(error.to_string()))?,
            without_pidfd: Arc::default(),
        };
        *connection = Some(link.clone());
        Ok(link)
    }
}

impl Link {
    async fn unit_of(&self, pid: u32, pidfd: &OwnedFd) -> Result<(Unit, By), BusError> {
        let (path, by) = self.path_of(pid, pidfd).await?;
        let id = self.property(&path, UNIT, "Id").await?;
        let fragment_path = self.property(&path, UNIT, "FragmentPath").await?;
        let slice = match slice_interface(&id) {
            Some(interface) => self.property(&path, interface, "Slice").await?,
            None => String::new(),
        };
        let unit = Unit {
            id,
            fragment_path,
            slice,
        };
        Ok((unit, by))
    }

    async fn path_of(&self, pid: u32, pidfd: &OwnedFd) -> Result<(OwnedObjectPath, By), BusError> {
        if !self.without_pidfd.load(Ordering::Relaxed) {
            let fd = Fd::from(pidfd.as_fd());
            match self
                .call(MANAGER_PATH, MANAGER, "GetUnitByPIDFD", &(fd,))
                .await
            {
                Ok(body) => {
                    let (path, _id, _invocation): (OwnedObjectPath, String, Vec<u8>) =
                        body.deserialize().map_err(malformed)?;
                    return Ok((path, By::Pidfd));
                }
                Err(BusError::Refused { name, .. })
                    if name == "org.freedesktop.DBus.Error.UnknownMethod" =>
                {
                    self.without_pidfd.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        let body = self
            .call(MANAGER_PATH, MANAGER, "GetUnitByPID", &(pid,))
            .await?;
        Ok((body.deserialize().map_err(malformed)?, By::Number))
    }

    async fn property(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> Result<String, BusError> {
        let body = self
            .call(path.as_str(), PROPERTIES, "Get", &(interface, name))
            .await?;
        let value: OwnedValue = body.deserialize().map_err(malformed)?;
        let text = String::try_from(value).map_err(malformed)?;
        if text.len() > MAX_TEXT || text.contains('\0') {
            return Err(BusError::Malformed(format!(
                "{name} has {} bytes",
                text.len()
            )));
        }
        Ok(text)
    }

    async fn call<B: serde::Serialize + zbus::zvariant::DynamicType>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        arguments: &B,
    ) -> Result<Body, BusError> {
        self.connection
            .call_method(Some(SYSTEMD), path, Some(interface), method, arguments)
            .await
            .map(|answer| answer.body())
            .map_err(bus_error)
    }
}

/// Only what holds processes is in a slice, and says so on the interface of its own type.
fn slice_interface(unit: &str) -> Option<&'static str> {
    let (_, suffix) = unit.rsplit_once('.')?;
    match suffix {
        "service" => Some("org.freedesktop.systemd1.Service"),
        "scope" => Some("org.freedesktop.systemd1.Scope"),
        "socket" => Some("org.freedesktop.systemd1.Socket"),
        "mount" => Some("org.freedesktop.systemd1.Mount"),
        "swap" => Some("org.freedesktop.systemd1.Swap"),
        _ => None,
    }
}

fn malformed(error: impl std::fmt::Display) -> BusError {
    BusError::Malformed(error.to_string())
}

fn bus_error(error: zbus::Error) -> BusError {
    if let zbus::Error::MethodError(name, text, _) = error {
        return match name.as_str() {
            // "NoSuchProcess" too: whether ours runs is for its pidfd to say.
            "org.freedesktop.systemd1.NoUnitForPID" => BusError::NoUnit,
            name => BusError::Refused {
                name: name.to_owned(),
                text: text.unwrap_or_default(),
            },
        };
    }
    BusError::Unreachable {
        socket: "the system bus".to_owned(),
        cause: error.to_string(),
    }
}
