//! A connection in the hands of a process that did not open it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::actor::{Actor, hand_over, player};
use crate::rig::uid;
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inherited_connected_socket_is_refused() {
    let mut scene = Scene::begin().await;
    scene.register("/victim", &[&uid()]).await;
    let victims = UnixStream::connect(scene.socket()).unwrap();
    let mut heir = Actor::start_with_input(
        player("heir", &scene.socket()).stdin(OwnedFd::from(victims.try_clone().unwrap())),
    );
    heir.hear("closed");
    scene.refused_and_told(heir.pid(), "other_sender").await;
    heir.end();
    // Nor does the victim speak on it any more: nobody knows what was said.
    assert!(crate::wire::ask(&mut &victims).is_err());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descriptor_passed_by_scm_rights_is_refused() {
    let mut scene = Scene::begin().await;
    scene.register("/victim", &[&uid()]).await;
    let victims = UnixStream::connect(scene.socket()).unwrap();
    let (door, other_end) = UnixStream::pair().unwrap();
    let mut receiver = Actor::start_with_input(
        player("receiver", &scene.socket()).stdin(OwnedFd::from(other_end)),
    );
    hand_over(&door, 0, Some(&victims));
    receiver.hear("closed");
    scene.refused_and_told(receiver.pid(), "other_sender").await;
    receiver.end();
    scene.end().await;
}
