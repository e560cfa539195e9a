//! What ends a task, and what its end does.

use std::path::Path;
use std::time::Duration;

use muster_model::TaskId;
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::agent::v1::task_binding::To;
use muster_rt::lifecycle::Reason;
use tonic::{Code, Streaming};

use crate::double::Double;
use crate::rig::{Rig, SteppedClock, client_of, fetch_x509, next, uid, within};
use crate::task_actor::Actor;
use crate::tasks::{AGENT, Tasks, ask, open, reason, scene, socket_of, tasks_at};

/// An operator ends a task, or its class is suspended: its entry is gone.
fn revoke(double: &Double, id: &str) {
    let id = TaskId::parse(id).unwrap();
    let now = double.shared.now();
    double.change(|mind| mind.end_task(id, "revoked", "operator", now));
}

/// What the double has of a task.
fn on_server(double: &Double, id: &str) -> api::Task {
    let id = TaskId::parse(id).unwrap();
    double.shared.mind().tasks.all[&id].clone()
}

async fn gone(socket: &Path) {
    within("its socket is gone", async {
        while socket.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn ended(tasks: &mut Tasks, id: &str) -> api::Task {
    within("it has ended", async {
        loop {
            let request = api::GetTaskRequest { id: id.to_owned() };
            let task = tasks.get(request).await.unwrap().into_inner();
            if task.ended_at.is_some() {
                return task;
            }
        }
    })
    .await
}

fn end(id: &str) -> api::EndTaskRequest {
    api::EndTaskRequest { id: id.to_owned() }
}

#[tokio::test]
async fn its_own_word_ends_it_and_all_below_and_their_streams() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let task = open(&mut tasks, "a", None).await.unwrap();
    let socket = socket_of(&task);
    let mut own = tasks_at(&socket).await;
    let below = open(&mut own, "b", None).await.unwrap();
    let mut client = client_of(&socket_of(&below)).await.unwrap();
    let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
    let mut events = tasks
        .watch_events(api::WatchTaskEventsRequest {})
        .await
        .unwrap()
        .into_inner();

    let done = tasks.complete(end(&task.id)).await.unwrap().into_inner();
    assert_eq!(
        (done.state.as_str(), done.socket.as_str()),
        ("completed", "")
    );
    let status = next(&mut stream).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(!socket.exists() && !socket_of(&below).exists());
    assert!(client_of(&socket).await.is_err());
    let lost = ended(&mut tasks, &below.id).await;
    assert_eq!(
        (lost.state.as_str(), lost.cause.as_str()),
        ("revoked", "parent_ended")
    );
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = next(&mut events).await.unwrap();
        told.push((event.what, event.task.unwrap().id));
    }
    told.sort();
    let mut expected = [task.id.clone(), below.id.clone()].map(|id| ("ended".to_owned(), id));
    expected.sort();
    assert_eq!(told, expected);
    double.hears("EndTasks", 1).await;
    assert_eq!(on_server(&double, &task.id).state, "completed");
    assert_eq!(on_server(&double, &below.id).state, "revoked");
    assert_eq!(double.shared.mind().tasks.ended.len(), 1);

    let refused = tasks.fail(end(&task.id)).await.unwrap_err();
    assert_eq!(reason(&refused), "TASK_ENDED");
    assert!(node.stop().await);
}

/// What a client's stack answers to the end of a connection must not cut off the reason for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_is_told_that_the_identity_is_gone() {
    let (_double, _rig, node, mut tasks) = scene("").await;
    for round in 0..32 {
        let task = open(&mut tasks, "a", None).await.unwrap();
        let mut client = client_of(&socket_of(&task)).await.unwrap();
        let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
        tasks.complete(end(&task.id)).await.unwrap();
        let status = next(&mut stream).await.err().unwrap();
        assert_eq!(
            status.code(),
            Code::PermissionDenied,
            "round {round}: {status}"
        );
    }
    assert!(node.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_its_process_is_its_end_at_once() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let child = Actor::start();
    let task = open(&mut tasks, "a", Some(To::ChildPid(child.pid())))
        .await
        .unwrap();
    child.ends();
    let task = ended(&mut tasks, &task.id).await;
    assert_eq!(
        (task.state.as_str(), task.cause.as_str()),
        ("process_exited", "process_exited")
    );
    double.hears("EndTasks", 1).await;
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_lease_ends_with_its_stream() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let mut lease: Streaming<api::Task> = tasks.lease(ask("a", None)).await.unwrap().into_inner();
    let task = next(&mut lease).await.unwrap();
    assert_eq!(task.bound_to.as_ref().unwrap().kind, "lease");
    let socket = socket_of(&task);
    let mut client = client_of(&socket).await.unwrap();
    fetch_x509(&mut client).await.unwrap();
    drop(lease);
    gone(&socket).await;
    let task = ended(&mut tasks, &task.id).await;
    assert_eq!(
        (task.state.as_str(), task.cause.as_str()),
        ("process_exited", "lease_ended")
    );
    double.hears("EndTasks", 1).await;

    // It is told how its task changes, and of its end.
    let mut lease: Streaming<api::Task> = tasks.lease(ask("a", None)).await.unwrap().into_inner();
    let task = next(&mut lease).await.unwrap();
    tasks.complete(end(&task.id)).await.unwrap();
    assert_eq!(next(&mut lease).await.unwrap().state, "completed");
    assert!(lease.message().await.unwrap().is_none(), "that is all");
    let refused = tasks
        .lease(ask("a", Some(To::ChildPid(1))))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_deadline_ends_it_and_can_be_moved() {
    let double = Double::start().await;
    double.add_entry("agent", AGENT, &[&uid()]);
    let rig = Rig::new(&double);
    let clock = SteppedClock::new();
    let node = rig.run_by(clock.clone());
    rig.in_step(&double).await;
    let mut tasks = tasks_at(&rig.workload_socket()).await;
    let task = open(&mut tasks, "a", None).await.unwrap();
    let extend = api::ExtendTaskRequest {
        id: task.id.clone(),
        deadline: None,
        ttl: prost_types::Duration::try_from(Duration::from_mins(20)).ok(),
    };
    let moved = tasks.extend(extend.clone()).await.unwrap().into_inner();
    assert!(moved.deadline.unwrap().seconds > task.deadline.unwrap().seconds);
    let both = api::ExtendTaskRequest {
        deadline: moved.deadline,
        ..extend
    };
    let refused = tasks.extend(both).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    clock.step(15 * 60);
    let request = api::ListTasksRequest::default();
    assert_eq!(
        tasks.list(request).await.unwrap().into_inner().tasks.len(),
        1
    );
    clock.step(6 * 60);
    let task = ended(&mut tasks, &task.id).await;
    assert_eq!(
        (task.state.as_str(), task.cause.as_str()),
        ("expired", "deadline_passed")
    );
    double.hears("EndTasks", 1).await;
    assert!(node.stop().await);
}

#[tokio::test]
async fn who_spends_the_last_of_a_budget_ends_it() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let request = api::OpenTaskRequest {
        budget: Some(10),
        ..ask("a", None)
    };
    let task = tasks.open(request).await.unwrap().into_inner();
    let spend = |amount| api::SpendTaskRequest {
        id: task.id.clone(),
        amount,
    };
    let left = tasks.spend(spend(9)).await.unwrap().into_inner();
    assert_eq!((left.spent, left.state.as_str()), (9, "open"));
    let left = tasks.spend(spend(1)).await.unwrap().into_inner();
    assert_eq!(
        (left.state.as_str(), left.cause.as_str()),
        ("expired", "budget_spent")
    );
    assert!(!socket_of(&task).exists());
    let refused = tasks.spend(spend(1)).await.unwrap_err();
    assert_eq!(reason(&refused), "TASK_ENDED");
    assert_eq!(double.heard("EndTasks"), 0, "the server knows");
    assert!(node.stop().await);
}

#[tokio::test]
async fn what_the_server_takes_back_is_gone_and_may_come_again() {
    let (double, _rig, node, mut tasks) = scene("").await;
    let revoked = open(&mut tasks, "a", None).await.unwrap();
    let paused = open(&mut tasks, "b", None).await.unwrap();
    let mut client = client_of(&socket_of(&revoked)).await.unwrap();
    let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
    revoke(&double, &revoked.id);
    let status = next(&mut stream).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    let task = ended(&mut tasks, &revoked.id).await;
    assert_eq!(
        (task.state.as_str(), task.cause.as_str()),
        ("revoked", "operator")
    );
    assert!(!socket_of(&revoked).exists());

    // The class is suspended, and reinstated.
    let entry = double.change(|mind| {
        let id = TaskId::parse(&paused.id).unwrap();
        mind.tasks.all.get_mut(&id).unwrap().state = "suspended".into();
        mind.entries
            .remove(&muster_model::EntryId::parse(&paused.id).unwrap())
            .unwrap()
    });
    gone(&socket_of(&paused)).await;
    let request = || api::GetTaskRequest {
        id: paused.id.clone(),
    };
    let task = tasks.get(request()).await.unwrap().into_inner();
    assert_eq!(
        (task.state.as_str(), task.socket.as_str()),
        ("suspended", "")
    );
    double.hears("ListTasks", 3).await;
    double.change(|mind| {
        let id = TaskId::parse(&paused.id).unwrap();
        mind.tasks.all.get_mut(&id).unwrap().state = "open".into();
        mind.entries.insert(entry.id.clone(), entry);
    });
    within("it is open again", async {
        while tasks.get(request()).await.unwrap().into_inner().state != "open" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut client = client_of(&socket_of(&paused)).await.unwrap();
    fetch_x509(&mut client).await.unwrap();
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_end_in_an_outage_is_told_afterwards() {
    let (mut double, rig, node, mut tasks) = scene("").await;
    let task = open(&mut tasks, "a", None).await.unwrap();
    double.down().await;
    rig.info(|info| !info.connected).await;
    let refused = open(&mut tasks, "b", None).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "SERVER_UNAVAILABLE")
    );
    let done = tasks.complete(end(&task.id)).await.unwrap().into_inner();
    assert_eq!(done.state, "completed");
    assert!(!socket_of(&task).exists());
    double.up().await;
    double.hears("EndTasks", 1).await;
    assert_eq!(on_server(&double, &task.id).state, "completed");
    assert!(node.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_up_what_lives_and_ends_the_rest() {
    let (double, rig, node, mut tasks) = scene("").await;
    let (mut lives, dies) = (Actor::start(), Actor::start());
    let first = open(&mut tasks, "a", Some(To::ChildPid(lives.pid())))
        .await
        .unwrap();
    let second = open(&mut tasks, "b", Some(To::ChildPid(dies.pid())))
        .await
        .unwrap();
    let mut lease = tasks.lease(ask("c", None)).await.unwrap().into_inner();
    let third = next(&mut lease).await.unwrap();
    assert_eq!(double.heard("EndTasks"), 0);
    node.shutdown.begin(Reason::Terminate);
    assert!(node.ended().await);
    drop(lease);
    dies.ends();
    assert_eq!(lives.asks(&socket_of(&first), "/muster/v1/task"), None);
    // As a kill would have left it.
    let stale = rig.path("t").join(&second.id);
    std::fs::create_dir_all(&stale).unwrap();
    drop(std::os::unix::net::UnixListener::bind(stale.join("api.sock")).unwrap());

    let node = rig.run();
    rig.in_step(&double).await;
    assert_eq!(lives.asks(&socket_of(&first), "/muster/v1/task"), Some(200));
    assert!(!stale.exists());
    within("the server is told", async {
        while double.shared.mind().tasks.ended.len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for id in [&second.id, &third.id] {
        let task = on_server(&double, id);
        assert_eq!(
            (task.state.as_str(), task.cause.as_str()),
            ("process_exited", "node_restarted")
        );
    }
    assert_eq!(on_server(&double, &first.id).state, "open");
    // Whoever opened it sees it still, and its process's end is still its end.
    let mut tasks = tasks_at(&rig.workload_socket()).await;
    lives.ends();
    let task = ended(&mut tasks, &first.id).await;
    assert_eq!(task.cause, "process_exited");
    assert!(node.stop().await);
}
