//! Alone in its program, because it counts the program's descriptors.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures::StreamExt;
use muster_peer::{Limits, ListenOptions, Listener};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn connections_leave_no_descriptors_and_running_out_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let mut incoming = listener.incoming(Limits::default()).unwrap();
    let tally = incoming.tally();
    let before = open_descriptors();

    for round in 0..2_000 {
        let mut client = UnixStream::connect(&path).unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        client.write_all(PREFACE).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(connection.read(&mut buffer).await.unwrap(), PREFACE.len());
        // A client that goes first, and one that goes last; waiting for its end or not.
        let caller = connection.peer().caller().unwrap();
        if round % 2 == 0 {
            drop(client);
        } else {
            assert!(timeout(Duration::ZERO, caller.exited()).await.is_err());
        }
        drop(connection);
    }
    assert_eq!(open_descriptors(), before);
    assert_eq!((tally.read().accepted, tally.read().open), (2_000, 0));

    // No descriptor left, one (enough to accept, not to identify), two: some wait and some are
    // closed, nothing ends, and there is service again when there is room.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    for left in 0..3 {
        let clients: Vec<_> = (0..3)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let pauses = tally.read().pauses;
        setrlimit(Resource::RLIMIT_NOFILE, lowest_free() + left, hard).unwrap();
        let connection = timeout(Duration::from_millis(50), incoming.next()).await;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert!(connection.is_err(), "with {left} left");
        assert!(tally.read().pauses >= pauses + 2, "with {left} left");
        drop(clients);

        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(PREFACE).unwrap();
        loop {
            let next = timeout(Duration::from_secs(5), incoming.next()).await;
            let mut connection = next.unwrap().unwrap().unwrap();
            if connection.read(&mut [0; 64]).await.unwrap() == PREFACE.len() {
                break;
            }
        }
    }
    assert_eq!(open_descriptors(), before);
}

/// The next descriptor would have this number.
fn lowest_free() -> u64 {
    let probe = std::fs::File::open("/dev/null").unwrap();
    u64::try_from(probe.as_raw_fd()).unwrap()
}
