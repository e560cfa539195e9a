//! Policies about tasks, and a great many tasks.

use muster_audit::Event;
use muster_proto::muster::agent::v1;
use muster_proto::muster::node::v1::{EndRequest, ExtendRequest, ListRequest, WatchRequest};
use muster_testkit::from_now;
use tonic::Code;

use super::ended;
use super::rig::{Rig, asked, next, part, reason, why};

#[tokio::test]
async fn policies_are_asked_and_named() {
    let rig = Rig::start().await;
    rig.put_policies(
        "@id(\"all\") permit (principal, action, resource);\n\
         @id(\"no.payments\") forbid (principal, action == Muster::Action::\"task.open\", \
         resource in Muster::TaskKind::\"pay\");\n\
         @id(\"no.parts\") forbid (principal, action == Muster::Action::\"agent.spawn\", resource)\n\
         when { context has task && context.task.kind == \"mail.alone\" };\n\
         @id(\"no.extension\") forbid (principal, action == Muster::Action::\"task.extend\", resource)\n\
         when { context.requested.seconds > 900 };\n\
         @id(\"surely\") forbid (principal, action == Muster::Action::\"task.open\", resource)\n\
         when { context.proof.level < 2 || !context.proof.attested.contains(\"unix:uid:1\") };",
    )
    .await;
    let refused = |status: &tonic::Status, policy: &str| {
        assert_eq!(
            why(status),
            reason(Code::PermissionDenied, "POLICY_REFUSED")
        );
        assert!(status.message().contains(policy), "{status}");
    };
    let kind = |kind: &str| v1::OpenTaskRequest {
        kind: kind.into(),
        ..asked()
    };
    refused(
        &rig.open(kind("pay.invoice")).await.unwrap_err(),
        "no.payments",
    );
    let mut unsure = rig.request();
    unsure.level = 1;
    refused(&rig.tasks().await.open(unsure).await.unwrap_err(), "surely");
    let alone = rig.open(kind("mail.alone")).await.unwrap();
    let below = v1::OpenTaskRequest {
        parent: alone.id.clone(),
        ..part()
    };
    refused(&rig.open(below).await.unwrap_err(), "no.parts");
    let extend = |seconds| ExtendRequest {
        id: alone.id.clone(),
        deadline: Some(from_now(seconds)),
    };
    let mut tasks = rig.tasks().await;
    refused(
        &tasks.extend(extend(1200)).await.unwrap_err(),
        "no.extension",
    );
    tasks.extend(extend(800)).await.unwrap();
    let records = rig.stop().await;
    let policies = |event: Event| -> Vec<&str> {
        let of = records.iter().filter(|record| record.event == event);
        of.map(|record| record.detail["policies"].as_str())
            .collect()
    };
    assert_eq!(
        policies(Event::TaskRefused),
        ["no.payments", "surely", "no.parts", "no.extension"]
    );
    assert_eq!(policies(Event::TaskOpened), ["all"]);
    assert_eq!(policies(Event::TaskExtended), ["all"]);
}

/// Many at a time over one connection share transactions, and a commit does not look through the
/// tasks that are there.
#[tokio::test]
async fn thousands_of_tasks_come_and_go() {
    const ALL: usize = 3000;
    const AT_ONCE: usize = 100;
    let rig = Rig::start().await;
    let tasks = rig.tasks().await;
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..ALL / AT_ONCE {
        let open = (0..AT_ONCE).map(|_| {
            let (mut tasks, request) = (tasks.clone(), rig.request());
            async move { tasks.open(request).await.unwrap().into_inner() }
        });
        let opened = futures::future::join_all(open).await;
        ids.extend(opened.into_iter().map(|opened| opened.task.unwrap().id));
    }
    let mut stream = rig.watch(WatchRequest::default()).await;
    let mut seen = 0;
    loop {
        let step = next(&mut stream).await;
        seen += step.entries.len();
        if step.complete {
            break;
        }
    }
    assert_eq!(seen, ALL + 1);
    for part in ids.chunks(AT_ONCE) {
        let request = EndRequest {
            ended: part.iter().map(|id| ended(id, "completed")).collect(),
        };
        let done = tasks.clone().end(request).await.unwrap().into_inner();
        assert_eq!(done.tasks.len(), part.len());
    }
    let mut tasks = tasks.clone();
    let left = tasks.list(ListRequest::default()).await.unwrap();
    assert!(left.into_inner().tasks.is_empty());
}
