//! A process that becomes another program while it has a connection.

use std::process::Command;

use crate::actor::{self, Actor, player};
use crate::rig::{uid, within};
use crate::scene::Scene;

/// The attacker is the process itself; `then` says what it becomes.
async fn stream_of(scene: &Scene, then: impl FnOnce(&mut Command)) -> Actor {
    scene.register("/first", &[&uid()]).await;
    let mut command = player("changer", &scene.socket());
    then(&mut command);
    let mut changer = Actor::start(&mut command);
    changer.hear("answered");
    changer
}

/// What the other program finds on the connection is the end of the stream, and no key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_opened_before_exec_delivers_nothing_after_it() {
    let mut scene = Scene::begin().await;
    let mut changer = stream_of(&scene, |command| actor::then_run(command, "/bin/cat")).await;
    let (pid, exe) = (changer.pid(), std::env::current_exe().unwrap());
    changer.tell();
    // `execve` has happened when the link has changed.
    let link = format!("/proc/{pid}/exe");
    let executed = async {
        // In between, the link leads nowhere.
        while !std::fs::read_link(&link).is_ok_and(|found| found != exe) {
            tokio::task::yield_now().await;
        }
    };
    within("another program runs", executed).await;
    scene.double.add_entry("second", "/second", &[&uid()]);
    scene.refused_and_told(pid, "other_program").await;
    scene.end().await;
    changer.child.kill().unwrap();
    let delivered = changer.rest();
    assert!(!delivered.contains("spiffe://"), "{delivered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_after_exec_is_attested_anew_and_refused() {
    let mut scene = Scene::begin().await;
    let other = scene.rig.path("other");
    actor::copy_to(&other);
    let mut changer = stream_of(&scene, |command| {
        actor::then_play(command, &other, "late-heir");
    })
    .await;
    changer.tell();
    let said = changer.line();
    assert!(
        ["ended unknown", "closed", "ended 14"].contains(&said.as_str()),
        "{said}"
    );
    scene.refused(changer.pid(), "other_program").await;
    changer.end();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_put_on_a_connected_socket_is_refused() {
    let mut scene = Scene::begin().await;
    scene.register("/first", &[&uid()]).await;
    let other = scene.rig.path("other");
    actor::copy_to(&other);
    let mut command = player("connector", &scene.socket());
    actor::then_play(&mut command, &other, "heir");
    let mut connector = Actor::start(&mut command);
    connector.hear("connected");
    // The node has seen who connected when it serves another that came later.
    drop(scene.rig.client().await);
    connector.tell();
    connector.hear("closed");
    scene.refused(connector.pid(), "other_program").await;
    connector.end();
    scene.end().await;
}
