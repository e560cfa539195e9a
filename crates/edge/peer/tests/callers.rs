//! Who may speak on a connection: scenarios with real processes.
//!
//! Children are this test program, run again with a part to play in `MUSTER_PEER_PART`. They
//! and the tests wait for each other by lines on pipes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use muster_peer::{
    Assurance, Connection, HeldProcess, Incoming, Limits, ListenOptions, Listener, Only, ProcError,
    Refusal, RefusedPeer,
};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const PART: &str = "MUSTER_PEER_PART";
const SOCKET: &str = "MUSTER_PEER_SOCKET";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Server {
    incoming: Incoming,
    path: PathBuf,
    _dir: TempDir,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
        Self {
            incoming: listener.incoming(limits).unwrap(),
            path,
            _dir: dir,
        }
    }

    async fn accept(&mut self) -> Connection {
        self.incoming.next().await.unwrap().unwrap()
    }
}

/// Reads until `wanted` bytes have come, or the connection ends.
async fn read(connection: &mut Connection, wanted: usize) -> Result<Vec<u8>, Refusal> {
    let mut all = Vec::new();
    while all.len() < wanted {
        let mut buffer = [0; 1024];
        match connection.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) => {
                let refusal = connection.peer().refused().unwrap();
                assert_eq!(error.to_string(), refusal.to_string());
                return Err(refusal);
            }
        }
    }
    Ok(all)
}

struct Actor {
    child: Child,
    lines: std::io::Lines<BufReader<File>>,
    input: Option<ChildStdin>,
}

impl Actor {
    /// Starts this program again. Its stderr is the pipe on which it reports.
    fn start(part: &str, path: &Path, stdin: Option<OwnedFd>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_plays_its_part", "--nocapture"])
            .env(PART, part)
            .env(SOCKET, path)
            .stdin(stdin.map_or_else(Stdio::piped, Stdio::from))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = File::from(OwnedFd::from(child.stderr.take().unwrap()));
        Self {
            lines: BufReader::new(stderr).lines(),
            input: child.stdin.take(),
            child,
        }
    }

    fn hear(&mut self, line: &str) {
        assert_eq!(self.lines.next().unwrap().unwrap(), line);
    }

    fn tell(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().unwrap()
    }
}

fn report(line: &str) {
    eprintln!("{line}");
}

fn wait_for_word() {
    // Byte by byte: what follows the word is for another program.
    let mut byte = [0];
    while byte != *b"\n" && nix::unistd::read(std::io::stdin(), &mut byte).unwrap() == 1 {}
}

fn stdin_socket() -> UnixStream {
    UnixStream::from(
        std::os::fd::AsFd::as_fd(&std::io::stdin())
            .try_clone_to_owned()
            .unwrap(),
    )
}

/// Not a test by itself: what the children do.
#[test]
fn a_child_plays_its_part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let path = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    match part.as_str() {
        "heir" => {
            stdin_socket().write_all(PREFACE).unwrap();
            report("sent");
        }
        "receiver" => {
            let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
            let mut byte = [0];
            let mut iov = [std::io::IoSliceMut::new(&mut byte)];
            let door = stdin_socket();
            let message = recvmsg::<()>(
                door.as_raw_fd(),
                &mut iov,
                Some(&mut space),
                MsgFlags::empty(),
            )
            .unwrap();
            let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
                panic!("no descriptor came")
            };
            // By its path, as the raw number has no owner here.
            let fd = format!("/proc/self/fd/{}", fds[0]);
            assert!(
                std::fs::read_link(fd)
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("socket:")
            );
            let sent = nix::sys::socket::send(fds[0], PREFACE, MsgFlags::empty()).unwrap();
            assert_eq!(sent, PREFACE.len());
            report("sent");
        }
        "client" => {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(PREFACE).unwrap();
            report("sent");
            wait_for_word();
        }
        "threads" => {
            let mut stream = UnixStream::connect(path).unwrap();
            for byte in PREFACE {
                std::thread::scope(|scope| {
                    scope.spawn(|| stream.write_all(&[*byte]).unwrap());
                });
            }
            report("sent");
            wait_for_word();
        }
        "changer" => {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(PREFACE).unwrap();
            report("sent");
            wait_for_word();
            let error = Command::new("/bin/cat")
                .stdout(Stdio::from(std::io::stderr()))
                .exec();
            panic!("{error}");
        }
        "disguised" => {
            let stream = UnixStream::connect(path).unwrap();
            report("connected");
            wait_for_word();
            // The other program will send what the test tells it.
            let error = Command::new("/bin/cat")
                .stdout(OwnedFd::from(stream))
                .exec();
            panic!("{error}");
        }
        other => panic!("no part {other}"),
    }
}

#[tokio::test]
async fn the_caller_is_known_by_its_first_bytes() {
    let mut server = Server::start(Limits::default());
    let mut actor = Actor::start("client", &server.path, None);
    let mut connection = server.accept().await;
    let peer = connection.peer().clone();
    assert_eq!(peer.caller().unwrap_err(), Refusal::Silent);
    assert_eq!(read(&mut connection, 24).await.unwrap(), PREFACE);
    actor.hear("sent");

    let caller = peer.caller().unwrap();
    assert_eq!(caller.pid(), actor.child.id());
    assert_eq!(caller.uid(), nix::unistd::geteuid().as_raw());
    assert_eq!(caller.gid(), nix::unistd::getegid().as_raw());
    assert_eq!(caller.sender_uid(), nix::unistd::getuid().as_raw());
    assert!(caller.is_alive());
    caller.verify().unwrap();
    let dir = caller.proc_dir().unwrap();
    assert_eq!(dir.start_time().unwrap(), caller.start_time());
    let status = String::from_utf8(dir.read("status").unwrap()).unwrap();
    assert!(status.contains(&format!("Pid:\t{}\n", caller.pid())));
    let own = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
    let executable = caller.executable_id().unwrap();
    assert_eq!(executable.inode, std::os::unix::fs::MetadataExt::ino(&own));
    assert!(actor.end().success());
}

/// The kernel here has SO_PASSPIDFD: the listening socket's setting is inherited by what it
/// accepts, also for bytes that were sent before (the weaker levels say so themselves).
/// A socket that may stop telling, and stop hearing.
#[derive(Default)]
struct Shutting {
    told_nothing: AtomicBool,
    not_heard: AtomicBool,
}

impl Only for Shutting {
    fn admits(&self, _process: &HeldProcess) -> bool {
        !self.told_nothing.load(Ordering::SeqCst)
    }

    fn hears(&self, _process: &HeldProcess) -> bool {
        !self.not_heard.load(Ordering::SeqCst)
    }

    fn refused(&self, _peer: RefusedPeer) {}
}

/// What ends on a connection has to be on its way before the connection is: answers to pings and
/// settings must not close it.
#[tokio::test]
async fn who_is_told_nothing_more_may_still_be_heard() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut server = Server::start(Limits::default());
    let only = Arc::new(Shutting::default());
    server.incoming = server.incoming.only_for(only.clone());
    let mut client = UnixStream::connect(&server.path).unwrap();
    let mut connection = server.accept().await;
    client.write_all(PREFACE).unwrap();
    read(&mut connection, 24).await.unwrap();
    let caller = connection.peer().caller().unwrap();
    caller.verify().unwrap();

    only.told_nothing.store(true, Ordering::SeqCst);
    client.write_all(&SETTINGS).unwrap();
    assert_eq!(read(&mut connection, 9).await.unwrap(), SETTINGS);
    let pid = std::process::id();
    assert_eq!(caller.verify(), Err(Refusal::NotBound { pid }));

    only.not_heard.store(true, Ordering::SeqCst);
    client.write_all(&SETTINGS).unwrap();
    let refusal = read(&mut connection, 9).await.unwrap_err();
    assert_eq!(refusal, Refusal::NotBound { pid });
}

#[tokio::test]
async fn the_level_is_what_the_kernel_can_do() {
    let mut server = Server::start(Limits::default());
    let mut client = UnixStream::connect(&server.path).unwrap();
    client.write_all(PREFACE).unwrap();
    let mut connection = server.accept().await;
    read(&mut connection, 24).await.unwrap();
    let caller = connection.peer().caller().unwrap();
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_str().unwrap().to_owned();
    let mut numbers = release
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let level = if version >= (6, 5) {
        Assurance::SenderPidfd
    } else {
        Assurance::OpenedPidfd
    };
    assert_eq!(caller.assurance(), level, "Linux {release}");
}

#[tokio::test]
async fn a_child_that_inherits_the_socket_is_refused_from_its_first_byte() {
    let mut server = Server::start(Limits::default());
    let client = UnixStream::connect(&server.path).unwrap();
    let mut connection = server.accept().await;
    let mut actor = Actor::start(
        "heir",
        &server.path,
        Some(client.try_clone().unwrap().into()),
    );
    actor.hear("sent");
    let refusal = read(&mut connection, 24).await.unwrap_err();
    let expected = Refusal::OtherSender {
        connected: std::process::id(),
        sent: actor.child.id(),
    };
    assert_eq!(refusal, expected);
    assert!(actor.end().success());

    // For good, and in both directions, for the parent as well.
    assert_eq!(connection.peer().caller().unwrap_err(), expected);
    assert!(connection.write_all(b"x").await.is_err());
    assert!((&client).write_all(PREFACE).is_err());
    assert_eq!(read(&mut connection, 24).await.unwrap_err(), expected);
    assert_eq!(server.incoming.tally().read().refused, 1);
}

/// Bytes of two senders are never in one read, even if both wait.
#[tokio::test]
async fn the_parents_bytes_are_served_and_the_heirs_are_not() {
    let mut server = Server::start(Limits::default());
    let mut client = UnixStream::connect(&server.path).unwrap();
    let mut connection = server.accept().await;
    client.write_all(PREFACE).unwrap();
    let mut actor = Actor::start(
        "heir",
        &server.path,
        Some(client.try_clone().unwrap().into()),
    );
    actor.hear("sent");
    client.write_all(PREFACE).unwrap();
    assert!(actor.end().success());
    assert_eq!(read(&mut connection, 24).await.unwrap(), PREFACE);
    let caller = connection.peer().caller().unwrap();
    assert_eq!(caller.pid(), std::process::id());
    let refusal = read(&mut connection, 24).await.unwrap_err();
    assert!(matches!(refusal, Refusal::OtherSender { .. }), "{refusal}");
}

#[tokio::test]
async fn a_process_that_was_handed_the_socket_is_refused() {
    let mut server = Server::start(Limits::default());
    let client = UnixStream::connect(&server.path).unwrap();
    let mut connection = server.accept().await;
    let (door, other_end) = UnixStream::pair().unwrap();
    let mut actor = Actor::start("receiver", &server.path, Some(other_end.into()));
    sendmsg::<()>(
        door.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&[client.as_raw_fd()])],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    actor.hear("sent");
    let refusal = read(&mut connection, 24).await.unwrap_err();
    let expected = Refusal::OtherSender {
        connected: std::process::id(),
        sent: actor.child.id(),
    };
    assert_eq!(refusal, expected);
    assert!(actor.end().success());
}

/// Whether the kernel refuses to deliver them or we close them: none stays.
#[tokio::test]
async fn descriptors_sent_to_us_do_not_stay() {
    let mut server = Server::start(Limits::default());
    let client = UnixStream::connect(&server.path).unwrap();
    let mut connection = server.accept().await;
    let (watched, given) = std::os::unix::net::UnixStream::pair().unwrap();
    let sent = sendmsg::<()>(
        client.as_raw_fd(),
        &[IoSlice::new(PREFACE)],
        &[ControlMessage::ScmRights(&[given.as_raw_fd(); 100])],
        MsgFlags::empty(),
        None,
    );
    drop(given);
    if sent.is_ok() {
        assert_eq!(read(&mut connection, 24).await.unwrap(), PREFACE);
        assert_eq!(connection.peer().descriptors_closed(), 100);
    }
    // The other end of a pair is closed when nobody holds this one any more.
    watched.set_nonblocking(true).unwrap();
    assert_eq!(std::io::Read::read(&mut &watched, &mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn threads_are_one_process() {
    let mut server = Server::start(Limits::default());
    let mut actor = Actor::start("threads", &server.path, None);
    actor.hear("sent");
    let mut connection = server.accept().await;
    assert_eq!(read(&mut connection, 24).await.unwrap(), PREFACE);
    let caller = connection.peer().caller().unwrap();
    assert_eq!(caller.pid(), actor.child.id());
    assert!(actor.end().success());
}

#[tokio::test]
async fn the_end_of_a_process_is_known_at_once() {
    let mut server = Server::start(Limits::default());
    let mut actor = Actor::start("client", &server.path, None);
    let mut connection = server.accept().await;
    read(&mut connection, 24).await.unwrap();
    actor.hear("sent");
    let caller = connection.peer().caller().unwrap();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.exited().await })
        })
        .collect();
    let short = Duration::from_millis(100);
    assert!(
        timeout(short, caller.exited()).await.is_err(),
        "it still runs"
    );
    let dir = caller.proc_dir().unwrap();

    let pid = caller.pid();
    assert!(actor.end().success());
    for waiter in waiters {
        timeout(short, waiter).await.unwrap().unwrap().unwrap();
    }
    timeout(short, caller.exited()).await.unwrap().unwrap();
    assert!(!caller.is_alive());
    assert_eq!(caller.verify().unwrap_err(), Refusal::Gone { pid });
    assert!(matches!(caller.proc_dir(), Err(ProcError::Gone { .. })));
    assert!(matches!(dir.read("status"), Err(ProcError::Gone { .. })));
    assert!(matches!(dir.start_time(), Err(ProcError::Gone { .. })));
}

#[tokio::test]
async fn another_program_in_the_same_process_is_noticed() {
    let mut server = Server::start(Limits::default());
    let mut actor = Actor::start("changer", &server.path, None);
    let mut connection = server.accept().await;
    read(&mut connection, 24).await.unwrap();
    actor.hear("sent");
    let caller = connection.peer().caller().unwrap();
    caller.verify().unwrap();
    actor.tell();
    // Only the other program answers what it is told.
    actor.tell();
    actor.hear("go");
    assert_eq!(
        caller.verify().unwrap_err(),
        Refusal::OtherProgram { pid: caller.pid() }
    );
    assert!(caller.is_alive());
    actor.end();
}

/// A program that writes what it is told is no caller because its output was connected to us.
#[tokio::test]
async fn a_program_put_on_a_connected_socket_is_refused() {
    let mut server = Server::start(Limits::default());
    let mut actor = Actor::start("disguised", &server.path, None);
    let mut connection = server.accept().await;
    actor.hear("connected");
    actor.tell();
    actor.input.as_mut().unwrap().write_all(PREFACE).unwrap();
    let refusal = read(&mut connection, 24).await.unwrap_err();
    assert_eq!(
        refusal,
        Refusal::OtherProgram {
            pid: actor.child.id()
        }
    );
    actor.end();
}

#[tokio::test]
async fn silent_connections_are_bounded_in_number_and_time() {
    let limits = Limits {
        half_open: 4,
        first_bytes: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut server = Server::start(limits);
    let tally = server.incoming.tally();
    let silent: Vec<_> = (0..4)
        .map(|_| UnixStream::connect(&server.path).unwrap())
        .collect();
    let mut accepted = Vec::new();
    for _ in &silent {
        accepted.push(server.accept().await);
    }
    // The fifth is served, and the first, silent for longest, makes room for it.
    let fifth = UnixStream::connect(&server.path).unwrap();
    accepted.push(server.accept().await);
    assert_eq!((tally.read().half_open, tally.read().over_limit), (4, 1));
    let refusal = read(&mut accepted.remove(0), 24).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Displaced { .. }), "{refusal}");

    // One byte is not enough to be served for ever.
    (&fifth).write_all(&PREFACE[..1]).unwrap();
    for connection in &mut accepted {
        let refusal = read(connection, 24).await.unwrap_err();
        assert!(matches!(refusal, Refusal::TooSlow { .. }), "{refusal}");
    }
    drop(accepted);
    assert_eq!((tally.read().open, tally.read().half_open), (0, 0));

    // There is room again, and whoever speaks leaves the half-open ones.
    let mut client = UnixStream::connect(&server.path).unwrap();
    let mut connection = server.accept().await;
    client.write_all(PREFACE).unwrap();
    read(&mut connection, 24).await.unwrap();
    assert_eq!((tally.read().open, tally.read().half_open), (1, 0));
}
