//! What one neighbour is turned away from, and what its connections cost. Alone in its program,
//! because it counts the program's descriptors.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::io::Write;
use std::os::unix::net::UnixStream;

use futures::StreamExt;
use muster_peer::{Allowance, Limits, ListenOptions, Listener, OverLimit, Rate};
use tokio::io::AsyncReadExt;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Two hundred connections of a process take one pidfd; the two hundred and first is closed before
/// anything is done for it; and so is a call beyond the allowance.
#[tokio::test]
async fn a_process_is_known_once_and_a_flood_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let rate = |burst| Rate {
        per_second: 1,
        burst,
    };
    let limits = Limits {
        allowance: Allowance {
            connections: rate(200),
            calls: rate(3),
            open_calls: 100,
        },
        ..Limits::default()
    };
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let mut incoming = listener.incoming(limits).unwrap();
    let tally = incoming.tally();
    let before = open_descriptors();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(PREFACE).unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        connection.read_exact(&mut [0; 24]).await.unwrap();
        held.push((client, connection));
    }
    let (_, connection) = held.last().unwrap();
    let peer = connection.inner().peer().clone();
    if peer.caller().unwrap().assurance() >= muster_peer::Assurance::ConnectorPidfd {
        // Both ends of each connection are ours; one more is the process's.
        assert!(open_descriptors() - before <= 2 * 200 + 1);
    }

    // More than the second that one connection takes to earn may have gone by meanwhile.
    let mut turned_away = 0;
    while turned_away < 5 {
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            earned = incoming.next() => drop(earned.unwrap().unwrap()),
            read = client.read(&mut byte) => {
                assert_eq!(read.unwrap(), 0);
                turned_away += 1;
            }
        }
    }
    assert_eq!(tally.read().over_allowance, 5);

    let open: Vec<_> = (0..3).map(|_| peer.admit_call().unwrap()).collect();
    assert_eq!(peer.admit_call().unwrap_err(), OverLimit::Calls);
    drop((open, held));
    assert_eq!(tally.read().open, 0);
}
