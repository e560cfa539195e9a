//! A task of a control group: of whoever is in it now, and of nobody who was, or will be.

use std::path::{Path, PathBuf};

use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::agent::v1::task_binding::To;
use muster_proto::muster::agent::v1::tasks_client::TasksClient;
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};

use crate::needs;
use crate::rig::{Header, channel, header, uid, within};
use crate::scene::Scene;
use crate::task_actor::Actor;

const TASK: &str = "/muster/v1/task";

/// A control group of version 2 of our own, which goes away with this.
struct Group(PathBuf);

impl Group {
    /// As `/proc/PID/cgroup` has it.
    fn path(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }

    fn takes(&self, pid: u32) {
        move_to(&self.0, pid);
    }

    fn lets_go(&self, pid: u32) {
        move_to(self.0.parent().unwrap(), pid);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _empty = std::fs::remove_dir(&self.0).is_ok();
    }
}

fn move_to(group: &Path, pid: u32) {
    std::fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_in_its_control_group_is_not_the_task() {
    let Some(group) = needs::control_group().map(Group) else {
        return;
    };
    let scene = Scene::begin().await;
    scene.register("/agent/reader/1", &[&uid()]).await;
    let channel = channel(&scene.socket()).await;
    let mut tasks = TasksClient::with_interceptor(channel, header as Header);
    let request = || api::OpenTaskRequest {
        kind: "code.review".to_owned(),
        binding: Some(api::TaskBinding {
            to: Some(To::Cgroup(group.path())),
        }),
        ..api::OpenTaskRequest::default()
    };
    // Of a group in which it has nobody, a caller gets no task.
    let refused = tasks.open(request()).await.unwrap_err();
    assert_eq!(
        reason_of(MUSTER_DOMAIN, &refused).as_deref(),
        Some("CGROUP_NOT_YOURS")
    );

    let (mut member, mut stranger) = (Actor::start(), Actor::start());
    group.takes(member.pid());
    let task = tasks.open(request()).await.unwrap().into_inner();
    let bound = task.bound_to.clone().unwrap();
    assert_eq!((bound.kind.as_str(), bound.pid), ("cgroup", 0));
    let socket = PathBuf::from(&task.socket);
    assert_eq!(member.asks(&socket, TASK), Some(200));
    assert_eq!(stranger.asks(&socket, TASK), None);
    // Membership is asked for each time, not remembered.
    group.takes(stranger.pid());
    group.lets_go(member.pid());
    assert_eq!(member.asks(&socket, TASK), None);
    assert_eq!(stranger.asks(&socket, TASK), Some(200));

    // Nobody is left.
    stranger.ends();
    let ended = within("the task ends", async {
        loop {
            let request = api::GetTaskRequest {
                id: task.id.clone(),
            };
            let task = tasks.get(request).await.unwrap().into_inner();
            if task.ended_at.is_some() {
                return task;
            }
        }
    })
    .await;
    assert_eq!(ended.cause, "cgroup_emptied");
    assert!(!socket.exists());
    member.ends();
    scene.end().await;
}
