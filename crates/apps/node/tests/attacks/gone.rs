//! A process that ends while another holds its connection.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use muster_rt::{Clock, SystemClock};

use crate::actor::{Actor, player, take_over};
use crate::rig::uid;
use crate::scene::Scene;
use crate::wire::{self, Reader, Seen};

const ROUNDS: &str = "MUSTER_ATTACK_GONE_ROUNDS";
/// The bar of `cargo xtask attacks`, in milliseconds; a machine that also builds gets a second.
const BAR: &str = "MUSTER_ATTACK_GONE_MILLIS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_a_process_that_is_gone_end_and_its_connection_is_refused() {
    let rounds: usize = std::env::var(ROUNDS).map_or(30, |text| text.parse().unwrap());
    let bar: u64 = std::env::var(BAR).map_or(1_000, |text| text.parse().unwrap());
    let clock = SystemClock::new();
    let scene = Scene::begin().await;
    scene.register("/first", &[&uid()]).await;
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..rounds {
        let (door, other_end) = UnixStream::pair().unwrap();
        let mut sharer = Actor::start_with_input(
            player("sharer", &scene.socket()).stdin(OwnedFd::from(other_end)),
        );
        let (_, socket) = take_over(&door).unwrap();
        let socket = UnixStream::from(socket.unwrap());
        let mut reader = Reader::new(&socket);
        assert!(matches!(reader.next(), Seen::Answer(_)));
        let began = clock.now().mono;
        sharer.child.kill().unwrap();
        assert_eq!(reader.next(), Seen::Ended("14".to_owned()));
        took.push(clock.now().mono.saturating_sub(began));
        // And whoever holds the connection cannot begin another stream on it.
        drop(wire::ask_again(&mut &socket, 3));
        assert_eq!(reader.next(), Seen::Closed);
        sharer.child.wait().unwrap();
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    eprintln!(
        "process gone until its stream has ended: p50 {:?}, p99 {:?}, {rounds} rounds",
        at(50),
        at(99)
    );
    assert!(at(99) < Duration::from_millis(bar), "{:?}", at(99));
    scene.end().await;
}
