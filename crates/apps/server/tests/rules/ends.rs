//! What becomes of the tasks of agents whose names rules give.

use muster_audit::Event;
use muster_proto::muster::agent::v1;
use muster_proto::muster::node::v1::WatchRequest;
use tonic::Code;

use crate::BY_PROCESS;
use crate::rig::{Rig, facts, in_force, next, spec};

/// Deleting a rule, changing what it gives, and barring a name end the tasks of the agents that only
/// that rule named, in the same transaction; other rules' names that look the same are no matter.
#[tokio::test]
async fn tasks_end_with_the_name_that_a_rule_gave_their_agent() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let rule = in_force(&rig.create("readers", spec(&rig, BY_PROCESS)).await.unwrap());
    let other = in_force(&rig.create("others", spec(&rig, BY_PROCESS)).await.unwrap());
    let [one, two, another] =
        [(&rule, 1), (&rule, 2), (&other, 1)].map(|(rule, pid)| rig.derived(rule, &facts(pid)));
    let mut stream = rig.watch(WatchRequest::default()).await;
    next(&mut stream).await;
    let revoked = |cause: &str| ("revoked".to_owned(), cause.to_owned());
    let open = || ("open".to_owned(), String::new());

    let (barred, left) = (rig.open(&one).await, rig.open(&two).await);
    let elsewhere = rig.open(&another).await;
    for _ in 0..3 {
        next(&mut stream).await;
    }
    rig.quarantine(&one.spiffe_id).await;
    assert_eq!(rig.state_of(&barred).await, revoked("agent_barred"));
    assert_eq!(rig.state_of(&left).await, open());
    let step = next(&mut stream).await;
    assert_eq!(step.removed_entries, [barred.id]);

    // What says nothing about whom it names ends nothing.
    rig.set("readers", 1, |spec| spec.hint = "reader".into())
        .await;
    assert_eq!(rig.state_of(&left).await, open());
    next(&mut stream).await;
    rig.set("readers", 2, |spec| {
        spec.template = "spiffe://{td}/agent/{class}/v2/{instance}".into();
    })
    .await;
    assert_eq!(rig.state_of(&left).await, revoked("name_gone"));
    // The node hears of both in one step.
    let step = next(&mut stream).await;
    assert_eq!(
        (step.removed_entries, step.rules.len()),
        (vec![left.id.clone()], 1)
    );
    assert_eq!(
        rig.sign_entry(&left.id).await,
        Err(Code::FailedPrecondition)
    );

    let rule = in_force(&rig.rule("readers").await.unwrap());
    let last = rig.open(&rig.derived(&rule, &facts(2))).await;
    next(&mut stream).await;
    let delete = v1::DeleteRuleRequest {
        name: "readers".into(),
        version: None,
    };
    rig.api().delete_rule(delete).await.unwrap();
    assert_eq!(rig.state_of(&last).await, revoked("name_gone"));
    let step = next(&mut stream).await;
    assert_eq!(
        (step.removed_entries, step.removed_rules),
        (vec![last.id.clone()], vec!["readers".to_owned()])
    );
    assert_eq!(rig.state_of(&elsewhere).await, open());

    // On the record it is the operator's doing, as the deletion is.
    let records = rig.stop().await;
    let of_task = |id: &str| {
        let is_it = |record: &&muster_audit::Record| {
            record.event == Event::TaskRevoked && record.subject == id
        };
        let record = records.iter().find(is_it).unwrap();
        (record.actor.class.clone(), record.detail["cause"].clone())
    };
    for task in [&left.id, &last.id] {
        assert_eq!(of_task(task), ("local".to_owned(), "name_gone".to_owned()));
    }
}
