//! Against a systemd of our own on a bus of our own. The real ones: `cargo xtask interop --only
//! systemd`.

#![expect(
    clippy::unused_self,
    reason = "what stands on the bus is a method, whatever it needs"
)]

use std::os::fd::AsRawFd as _;
use std::path::Path;

use muster_plugin::workload::conformance;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use zbus::zvariant::{ObjectPath, OwnedFd, OwnedObjectPath};
use zbus::{Connection, interface};

use super::*;
use crate::workload::process::tests::{end, own_process, process_by_pid, spawn};

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/pay_2eservice";

/// The bus itself.
struct Hub;

#[interface(name = "org.freedesktop.DBus")]
impl Hub {
    fn hello(&self) -> String {
        ":1.1".to_owned()
    }
}

/// systemd before 254.
struct OldManager(Knows);

/// systemd since 254.
struct Manager(Knows);

/// What it answers about any process.
#[derive(Clone, Copy)]
enum Knows {
    Unit,
    Nothing,
    Never,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum SystemdError {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoUnitForPID(String),
}

impl Knows {
    async fn path(self) -> Result<OwnedObjectPath, SystemdError> {
        match self {
            Self::Unit => Ok(ObjectPath::from_static_str_unchecked(UNIT_PATH).into()),
            Self::Nothing => Err(SystemdError::NoUnitForPID("none".to_owned())),
            Self::Never => std::future::pending().await,
        }
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl OldManager {
    #[zbus(name = "GetUnitByPID")]
    async fn unit_by_pid(&self, pid: u32) -> Result<OwnedObjectPath, SystemdError> {
        assert_ne!(pid, 0);
        self.0.path().await
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(name = "GetUnitByPIDFD")]
    async fn unit_by_pidfd(
        &self,
        pidfd: OwnedFd,
    ) -> Result<(OwnedObjectPath, String, Vec<u8>), SystemdError> {
        let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        assert!(std::fs::read_to_string(info).unwrap().contains("\nPid:\t"));
        Ok((self.0.path().await?, "pay.service".to_owned(), vec![0; 16]))
    }
}

struct PayUnit;

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl PayUnit {
    #[zbus(property)]
    fn id(&self) -> String {
        "pay.service".to_owned()
    }

    #[zbus(property)]
    fn fragment_path(&self) -> String {
        "/etc/systemd/system/pay.service".to_owned()
    }
}

struct PayService;

#[interface(name = "org.freedesktop.systemd1.Service")]
impl PayService {
    #[zbus(property)]
    fn slice(&self) -> String {
        "system.slice".to_owned()
    }
}

/// Answers each connection to `socket` with `manager`; the connection ends with the task.
fn systemd(socket: &Path, old: bool, knows: Knows) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut open: Vec<Connection> = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let builder = zbus::connection::Builder::unix_stream(stream)
                .server(zbus::Guid::generate())
                .unwrap()
                .p2p()
                .serve_at("/org/freedesktop/DBus", Hub)
                .unwrap()
                .serve_at(UNIT_PATH, PayUnit)
                .unwrap()
                .serve_at(UNIT_PATH, PayService)
                .unwrap();
            let path = "/org/freedesktop/systemd1";
            let builder = if old {
                builder.serve_at(path, OldManager(knows))
            } else {
                builder.serve_at(path, Manager(knows))
            };
            open.push(builder.unwrap().build().await.unwrap());
        }
    })
}

fn attestor(socket: &Path) -> SystemdAttestor {
    SystemdAttestor::new(SystemdOptions {
        bus_socket: socket.to_owned(),
    })
}

#[tokio::test]
async fn units_by_pidfd_and_by_number() {
    for (old, evidence) in [
        (false, Evidence::ServiceManager),
        (true, Evidence::ServiceManagerByNumber),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let bus = systemd(&socket, old, Knows::Unit);
        let attestor = attestor(&socket);
        for _ in 0..2 {
            let facts = attestor.attest(&own_process()).await.unwrap();
            let found: Vec<String> = facts.iter().map(|f| f.selector.to_string()).collect();
            assert_eq!(
                found,
                [
                    "systemd:id:pay.service",
                    "systemd:fragment_path:/etc/systemd/system/pay.service",
                    "systemd:slice:system.slice",
                ]
            );
            assert!(facts.iter().all(|fact| fact.evidence == evidence));
        }
        bus.abort();
    }
}

#[tokio::test]
async fn keeps_what_the_port_asks() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let bus = systemd(&socket, true, Knows::Unit);
    let child = spawn("cat");
    let gone = process_by_pid(child.id());
    end(child);
    conformance::check(&attestor(&socket), &own_process(), &gone)
        .await
        .unwrap();
    bus.abort();
}

#[tokio::test]
async fn a_process_of_no_unit_has_no_facts() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let bus = systemd(&socket, false, Knows::Nothing);
    let facts = attestor(&socket).attest(&own_process()).await.unwrap();
    assert_eq!(facts, []);
    bus.abort();
}

/// By number, an answer about a process that ended meanwhile may be about its successor.
#[tokio::test]
async fn an_answer_that_comes_after_the_end_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let bus = systemd(&socket, true, Knows::Never);
    let child = spawn("cat");
    let process = process_by_pid(child.id());
    let attestor = attestor(&socket);
    let asked = attestor.attest(&process);
    let ended = async {
        end(child);
    };
    let (answer, ()) = tokio::join!(asked, ended);
    let error = answer.unwrap_err();
    assert!(matches!(error, AttestError::Gone { .. }), "{error}");
    bus.abort();
}

#[tokio::test]
async fn a_bus_that_is_silent_absent_or_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let attestor = attestor(&socket);
    let process = own_process();
    let error = attestor.attest(&process).await.unwrap_err().to_string();
    assert!(error.contains("is the system bus running"), "{error}");

    // It comes, goes, and comes again: nobody needs to tell the attestor.
    for _ in 0..2 {
        let bus = systemd(&socket, false, Knows::Unit);
        assert_eq!(attestor.attest(&process).await.unwrap().len(), 3);
        bus.abort();
        drop(bus.await);
        std::fs::remove_file(&socket).unwrap();
    }

    let bus = systemd(&socket, false, Knows::Never);
    let error = attestor.attest(&process).await.unwrap_err().to_string();
    assert!(error.contains("within 3 s"), "{error}");
    bus.abort();
}
