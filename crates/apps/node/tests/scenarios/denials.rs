//! Whom the node refuses, and what its server is told of it.

use std::os::unix::net::UnixStream;

use muster_proto::muster::agent::v1::task_binding::To;

use crate::double::Double;
use crate::rig::{Rig, fetch_x509};
use crate::task_actor::{Actor, asks_on};
use crate::tasks::{open, scene, socket_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tries_to_be_a_task_is_told_of_with_the_task() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let (mut child, mut sibling) = (Actor::start(), Actor::start());
    let task = open(&mut tasks, "a", Some(To::ChildPid(child.pid())))
        .await
        .unwrap();
    let socket = socket_of(&task);
    assert_eq!(sibling.asks(&socket, "/muster/v1/task"), None);
    let told = double.told_of(sibling.pid()).await;
    assert_eq!(
        (told.reason.as_str(), told.task.as_str()),
        ("not_bound", task.id.as_str())
    );
    assert_eq!(told.uid, nix::unistd::geteuid().as_raw());
    let own = std::env::current_exe().unwrap();
    assert_eq!(told.executable, own.to_str().unwrap());
    assert!(told.last_at.is_some());

    // Once in a long while, and once for both the connection and the task: no other row.
    let rows = double.shared.mind().refused.len();
    assert_eq!(sibling.asks(&socket, "/muster/v1/task"), None);
    // Who is served is no news.
    assert_eq!(child.asks(&socket, "/muster/v1/task"), Some(200));
    let mut third = Actor::start();
    assert_eq!(third.asks(&socket, "/muster/v1/task"), None);
    double.told_of(third.pid()).await;
    assert_eq!(double.shared.mind().refused.len(), rows + 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn whoever_speaks_on_another_s_connection_is_told_of() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let task = open(&mut tasks, "a", None).await.unwrap();
    let inherited = UnixStream::connect(socket_of(&task)).unwrap();
    let answered = tokio::task::spawn_blocking(move || asks_on(inherited, "/muster/v1/task"));
    assert_eq!(answered.await.unwrap(), None);
    double.hears("ReportRefusals", 1).await;
    let told = double.shared.mind().refused[0].clone();
    assert_eq!(
        (told.reason.as_str(), told.task.as_str()),
        ("other_sender", task.id.as_str())
    );
    assert_ne!(
        told.pid,
        std::process::id(),
        "the child, and not who connected"
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn who_has_no_identity_is_told_of_and_who_waits_is_not() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"".to_owned();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    assert!(fetch_x509(&mut client).await.is_err());
    let told = double.told_of(std::process::id()).await;
    assert_eq!(
        (told.reason.as_str(), told.task.as_str(), told.count),
        ("no_identity", "", 1)
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn what_is_refused_while_the_server_is_away_is_told_later() {
    let (mut double, rig, node, _tasks) = scene("").await;
    double.down().await;
    let inherited = UnixStream::connect(rig.workload_socket()).unwrap();
    let answered = tokio::task::spawn_blocking(move || asks_on(inherited, "/muster/v1/task"));
    assert_eq!(answered.await.unwrap(), None);
    double.up().await;
    double.hears("ReportRefusals", 1).await;
    let told = double.shared.mind().refused[0].clone();
    assert_eq!(
        (told.reason.as_str(), told.task.as_str()),
        ("other_sender", "")
    );
    assert!(node.stop().await);
}
