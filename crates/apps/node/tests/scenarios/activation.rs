//! A node whose socket systemd listens on: clients may come before it, and stay while it restarts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::double::Double;
use crate::rig::{Rig, client_of, fetch_x509, uid, within};
use crate::x509::check;

/// A node that is started as systemd does it: the socket is descriptor 3.
fn start(rig: &Rig, socket: &UnixListener, log: &str) -> Daemon {
    let file = rig.path("node.toml");
    std::fs::write(&file, rig.config()).unwrap();
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=workload exec \"$0\" run --config \"$1\"";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(env!("CARGO_BIN_EXE_muster-node"))
        .arg(file)
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())))
        .stderr(std::fs::File::create(rig.path(log)).unwrap())
        .spawn()
        .unwrap();
    Daemon(child)
}

/// A socket as the .socket unit in `deploy/systemd` has it.
fn listen(rig: &Rig) -> UnixListener {
    let socket = UnixListener::bind(rig.workload_socket()).unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::PassCred, &true).unwrap();
    socket
}

/// Waits until a client is in the kernel's queue.
async fn someone_waits(socket: &UnixListener) {
    let socket = socket.try_clone().unwrap();
    let waits = tokio::task::spawn_blocking(move || {
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::from(30_000_u16)).unwrap()
    });
    assert_eq!(waits.await.unwrap(), 1);
}

#[tokio::test]
async fn who_comes_before_the_node_is_served_when_it_is_there() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let socket = listen(&rig);
    let path = rig.workload_socket();
    let early = tokio::spawn(async move {
        let mut client = client_of(&path).await.unwrap();
        fetch_x509(&mut client)
            .await
            .map(|(answer, _stream)| answer)
    });
    someone_waits(&socket).await;
    let mut node = start(&rig, &socket, "node.log");
    let answer = early.await.unwrap().unwrap();
    assert_eq!(check(&answer).len(), 1);

    // It ends, and the socket stays.
    node.signal(Signal::SIGTERM);
    assert!(node.ended().await);
    assert!(rig.workload_socket().exists());
    let path = rig.workload_socket();
    let between = tokio::spawn(async move {
        let mut client = client_of(&path).await.unwrap();
        fetch_x509(&mut client)
            .await
            .map(|(answer, _stream)| answer)
    });
    someone_waits(&socket).await;
    let mut node = start(&rig, &socket, "again.log");
    assert_eq!(check(&between.await.unwrap().unwrap()).len(), 1);

    // Replaced while it serves, the successor knows whose the socket is.
    node.signal(Signal::SIGUSR2);
    assert!(node.ended().await);
    let (_, stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    drop(stream);
    let lock = std::fs::read_to_string(rig.data_dir().join("lock")).unwrap();
    kill(Pid::from_raw(lock.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    // The operator's socket is the node's own, and goes with it.
    within("the successor ends", async {
        while rig.path("private/a.sock").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(rig.workload_socket().exists());
}

#[tokio::test]
async fn a_socket_that_the_node_does_not_serve_is_a_mistake_in_the_unit() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let elsewhere = UnixListener::bind(rig.path("elsewhere.sock")).unwrap();
    let mut node = start(&rig, &elsewhere, "node.log");
    assert!(!node.ended().await);
    let said = std::fs::read_to_string(rig.path("node.log")).unwrap();
    assert!(said.contains("elsewhere.sock (workload)"), "{said}");
    assert!(said.contains("ListenStream="), "{said}");
}
