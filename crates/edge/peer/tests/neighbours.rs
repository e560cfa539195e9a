//! What one neighbour is turned away from, and what its connections cost. Alone in its program,
//! because it counts the program's descriptors.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects, in its helpers as well"
)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use muster_model::{Now, Timestamp};
use muster_peer::{Allowance, Limits, ListenOptions, Listener, Observer, OverLimit, Rate, Refusal};
use muster_rt::Clock;
use tokio::io::AsyncReadExt;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A clock by which nothing is ever earned.
struct Standing;

impl Clock for Standing {
    fn now(&self) -> Now {
        Now {
            wall: Timestamp::from_unix_seconds(0),
            mono: Duration::ZERO,
        }
    }
}

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
    let seen = Arc::<Mutex<Vec<Refusal>>>::default();
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let mut incoming = listener
        .incoming(limits)
        .unwrap()
        .timed_by(Arc::new(Standing))
        .observed_by(Observer::new({
            let seen = seen.clone();
            move |peer| seen.lock().unwrap().push(peer.refusal)
        }));
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
    let peer = connection.peer().clone();
    if peer.caller().unwrap().assurance() >= muster_peer::Assurance::ConnectorPidfd {
        // Both ends of each connection are ours; one more is the process's.
        assert!(open_descriptors() - before <= 2 * 200 + 1);
    }

    for _ in 0..5 {
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            admitted = incoming.next() => panic!("{admitted:?}"),
            read = client.read(&mut byte) => assert_eq!(read.unwrap(), 0),
        }
    }
    assert_eq!(tally.read().over_allowance, 5);
    let own = std::process::id();
    assert_eq!(
        *seen.lock().unwrap(),
        [Refusal::ConnectsTooOften { pid: own }; 5]
    );

    let open: Vec<_> = (0..3).map(|_| peer.admit_call().unwrap()).collect();
    assert_eq!(peer.admit_call().unwrap_err(), OverLimit::Calls);
    drop((open, held));
    assert_eq!(tally.read().open, 0);
}
