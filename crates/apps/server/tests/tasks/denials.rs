//! Whom nodes refused, on the record.

use muster_audit::{Decision, Event};
use muster_proto::muster::node::v1::node_refusals_client::NodeRefusalsClient;
use muster_proto::muster::node::v1::{RefusedProcess, ReportRefusalsRequest};
use muster_proto::muster::server::admin::v1::audit_client::AuditClient;
use muster_proto::muster::server::admin::v1::{ListRecordsRequest, RecordFilter};
use tonic::Code;

use super::rig::{Rig, asked, reason, why};

fn refused(reason: &str, pid: u32, task: &str) -> RefusedProcess {
    RefusedProcess {
        reason: reason.into(),
        pid,
        uid: 1000,
        executable: "/usr/bin/curl".into(),
        task: task.into(),
        count: 3,
        last_at: Some(prost_types::Timestamp {
            seconds: 1_767_225_600,
            nanos: 5_000_000,
        }),
    }
}

/// A report of somebody who has no identity.
pub(crate) fn one() -> ReportRefusalsRequest {
    report(vec![refused("no_identity", 7, "")], 0)
}

fn report(refused: Vec<RefusedProcess>, unreported: u64) -> ReportRefusalsRequest {
    ReportRefusalsRequest {
        refused,
        unreported,
    }
}

#[tokio::test]
async fn who_tried_to_be_a_task_is_on_the_task_s_record() {
    let rig = Rig::start().await;
    let task = rig.open(asked()).await.unwrap();
    let mut told = NodeRefusalsClient::new(rig.node.channel().await);
    let attempt = refused("not_bound", 7, &task.id);
    let other = refused("other_program", 8, "");
    let answer = told.report_refusals(report(vec![other, attempt.clone()], 5));
    assert_eq!(answer.await.unwrap().into_inner().unrecorded, 0);
    // Of another's task a node says nothing.
    let stranger = rig.another_node().await;
    let mut lies = NodeRefusalsClient::new(stranger.channel().await);
    lies.report_refusals(report(vec![attempt.clone()], 0))
        .await
        .unwrap();

    // As `muster audit tail --decision refused --task ID` asks.
    let request = ListRecordsRequest {
        filter: Some(RecordFilter {
            decision: "refused".into(),
            task: task.id.clone(),
            ..RecordFilter::default()
        }),
        ..ListRecordsRequest::default()
    };
    let mut audit = AuditClient::new(rig.server.channel());
    let page = audit.list_records(request).await.unwrap().into_inner();
    let [found] = page.records.as_slice() else {
        panic!("one record: {page:?}");
    };
    assert_eq!(found.event, "workload.impersonation_attempt");
    assert_eq!(found.subject, task.id);
    let node = rig.node.id().to_string();
    for (name, value) in [
        ("reason", "not_bound"),
        ("pid", "7"),
        ("uid", "1000"),
        ("count", "3"),
        ("last_ms", "1767225600005"),
        ("executable", "/usr/bin/curl"),
        ("task", &task.id),
        ("agent", &rig.agent),
        ("class", "reader"),
        ("node", &node),
        // Attempts come first, and the first says how many others there were.
        ("unreported", "5"),
    ] {
        assert_eq!(found.detail[name], value, "{name}");
    }

    // What is wrong is refused whole, and operators are no nodes.
    let spoilt = RefusedProcess {
        executable: "\u{1b}[2J".into(),
        ..attempt.clone()
    };
    for (all, expected) in [
        (vec![attempt.clone(), spoilt], "INVALID_FIELD"),
        (vec![attempt.clone(); 65], "TOO_MANY_REFUSALS"),
    ] {
        let status = told.report_refusals(report(all, 0)).await.unwrap_err();
        assert_eq!(why(&status), reason(Code::InvalidArgument, expected));
    }
    let mut operator = NodeRefusalsClient::new(rig.server.channel());
    let status = operator.report_refusals(report(Vec::new(), 0)).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);

    let records = rig.stop().await;
    let count = |event| {
        let of = |record: &&muster_audit::Record| {
            record.event == event && record.decision == Decision::Refused
        };
        records.iter().filter(of).count()
    };
    assert_eq!(count(Event::WorkloadExeChanged), 1);
    assert_eq!(count(Event::WorkloadImpersonationAttempt), 2);
}

#[tokio::test]
async fn a_node_that_floods_is_counted() {
    let rig = Rig::start().await;
    let mut told = NodeRefusalsClient::new(rig.node.channel().await);
    let mut unrecorded = 0;
    for _ in 0..10 {
        let many = (0..64).map(|pid| refused("no_identity", pid, "")).collect();
        let answer = told.report_refusals(report(many, 0)).await.unwrap();
        unrecorded += answer.into_inner().unrecorded;
    }
    let records = rig.stop().await;
    let denied: Vec<_> = records
        .iter()
        .filter(|record| record.event == Event::WorkloadDenied)
        .collect();
    assert_eq!(denied.len(), 640 - usize::try_from(unrecorded).unwrap());
    assert!(
        (128..640).contains(&denied.len()),
        "{} records",
        denied.len()
    );
    // Whoever is left out is counted where there is a record to say so.
    let left_out: u64 = denied
        .iter()
        .filter_map(|record| record.detail.get("unreported")?.parse::<u64>().ok())
        .sum();
    assert!(left_out <= unrecorded * 3);
}
