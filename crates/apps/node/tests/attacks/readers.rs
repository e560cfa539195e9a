//! A process that asks and does not read.

use crate::actor::{Actor, player};
use crate::rig::uid;
use crate::scene::Scene;

/// Its connection is full and stays so: it is closed at a bound, and the refusal is counted like
/// any other. Meanwhile everybody else is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_is_dropped_at_a_bound() {
    let mut scene =
        Scene::begin_with("[workload_api]\nhold = \"0s\"\nunread_timeout = \"300ms\"").await;
    scene.register("/first", &[&uid()]).await;
    let mut deaf = Actor::start(&mut player("deaf", &scene.socket()));
    deaf.hear("asked");
    deaf.hear("closed");
    scene.refused(deaf.pid(), "unread").await;
    let mut honest = Actor::start(&mut player("caller", &scene.socket()));
    honest.tell();
    honest.hear("answered");
    honest.child.kill().unwrap();
    honest.end();
    deaf.end();
    scene.end().await;
}
