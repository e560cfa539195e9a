//! Whom nodes attested and served, on the record.

use muster_audit::Event;
use muster_proto::muster::node::v1::node_attestations_client::NodeAttestationsClient;
use muster_proto::muster::node::v1::node_refusals_client::NodeRefusalsClient;
use muster_proto::muster::node::v1::{AttestedWorkload, ReportAttestationsRequest};
use muster_proto::muster::server::admin::v1::audit_client::AuditClient;
use muster_proto::muster::server::admin::v1::{ListRecordsRequest, NumberedRecord, RecordFilter};
use muster_proto::spire::api::types::Selector;
use tonic::Code;

use super::rig::{Rig, asked, reason, why};

fn attested(ids: &[&str]) -> AttestedWorkload {
    let at = |seconds| {
        Some(prost_types::Timestamp {
            seconds,
            nanos: 5_000_000,
        })
    };
    AttestedWorkload {
        uid: 1000,
        selectors: vec![Selector {
            r#type: "unix".into(),
            value: "uid:1000".into(),
        }],
        count: 2000,
        first_pid: 7,
        last_pid: 2007,
        first_at: at(1_767_225_600),
        last_at: at(1_767_225_700),
        spiffe_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..AttestedWorkload::default()
    }
}

fn report(attested: Vec<AttestedWorkload>, unreported: u64) -> ReportAttestationsRequest {
    ReportAttestationsRequest {
        attested,
        unreported,
    }
}

/// As `muster audit tail` asks.
async fn found(rig: &Rig, filter: RecordFilter) -> Vec<NumberedRecord> {
    let request = ListRecordsRequest {
        filter: Some(RecordFilter {
            event: "workload.attested".into(),
            ..filter
        }),
        ..ListRecordsRequest::default()
    };
    let mut audit = AuditClient::new(rig.server.channel());
    audit
        .list_records(request)
        .await
        .unwrap()
        .into_inner()
        .records
}

#[tokio::test]
async fn who_was_served_is_on_the_record_of_the_agent_the_node_and_the_task() {
    let rig = Rig::start().await;
    let task = rig.open(asked()).await.unwrap();
    let mut told = NodeAttestationsClient::new(rig.node.channel().await);
    let of_task = AttestedWorkload {
        task: task.id.clone(),
        ..attested(&[&task.spiffe_id])
    };
    let of_agent = AttestedWorkload {
        selectors_left_out: 3,
        others: 4,
        // What is not the node's to give is counted, and nobody's name is taken in vain.
        ..attested(&[&rig.agent, "spiffe://example.org/agent/writer/1"])
    };
    let answer = told.report_attestations(report(vec![of_agent, of_task.clone()], 5));
    assert_eq!(answer.await.unwrap().into_inner().unrecorded, 0);
    let stranger = rig.another_node().await;
    let mut lies = NodeAttestationsClient::new(stranger.channel().await);
    lies.report_attestations(report(vec![of_task.clone()], 0))
        .await
        .unwrap();

    let node = rig.node.id().to_string();
    let by_agent = RecordFilter {
        agent: rig.agent.clone(),
        ..RecordFilter::default()
    };
    // The agent's own, and its task's: the newest first.
    let [second, first] = found(&rig, by_agent).await.try_into().unwrap();
    assert_eq!(
        (first.subject.as_str(), first.decision.as_str()),
        (rig.agent.as_str(), "allowed")
    );
    for (name, value) in [
        ("node", node.as_str()),
        ("uid", "1000"),
        ("selectors", "unix:uid:1000"),
        ("count", "2000"),
        ("first_pid", "7"),
        ("last_pid", "2007"),
        ("first_ms", "1767225600005"),
        ("last_ms", "1767225700005"),
        ("spiffe_ids", &rig.agent),
        ("class", "reader"),
        ("selectors_left_out", "3"),
        ("other_ids", "4"),
        ("foreign_ids", "1"),
        ("unreported", "5"),
    ] {
        assert_eq!(first.detail[name], value, "{name}");
    }
    assert_eq!(second.subject, task.spiffe_id);
    assert_eq!(second.detail["task"], task.id);
    let by_task = RecordFilter {
        task: task.id.clone(),
        ..RecordFilter::default()
    };
    assert_eq!(found(&rig, by_task).await, [second]);
    let by_node = RecordFilter {
        node,
        ..RecordFilter::default()
    };
    assert_eq!(found(&rig, by_node).await.len(), 2);
    // The stranger says of itself that it served somebody, and of nobody else's task anything.
    let by_stranger = RecordFilter {
        node: stranger.id().to_string(),
        ..RecordFilter::default()
    };
    let [lie] = found(&rig, by_stranger).await.try_into().unwrap();
    assert_eq!(lie.subject, stranger.id().to_string());
    assert!(!lie.detail.contains_key("task") && !lie.detail.contains_key("spiffe_ids"));
    let nobody = RecordFilter {
        agent: "writer".into(),
        ..RecordFilter::default()
    };
    assert_eq!(found(&rig, nobody).await, []);

    // What is wrong is refused whole, and operators are no nodes.
    let spoilt = attested(&["nobody"]);
    for (all, expected) in [
        (vec![of_task.clone(), spoilt], "INVALID_FIELD"),
        (vec![of_task.clone(); 65], "TOO_MANY_ATTESTATIONS"),
    ] {
        let status = told.report_attestations(report(all, 0)).await.unwrap_err();
        assert_eq!(why(&status), reason(Code::InvalidArgument, expected));
    }
    let mut operator = NodeAttestationsClient::new(rig.server.channel());
    let status = operator.report_attestations(report(Vec::new(), 0)).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);
    let records = rig.stop().await;
    let all = records
        .iter()
        .filter(|record| record.event == Event::WorkloadAttested);
    assert_eq!(all.count(), 3);
}

#[tokio::test]
async fn a_node_that_tells_of_too_many_is_counted_and_keeps_its_say_on_refusals() {
    let rig = Rig::start().await;
    let mut told = NodeAttestationsClient::new(rig.node.channel().await);
    let mut unrecorded = 0;
    for _ in 0..10 {
        let answer = told.report_attestations(report(vec![attested(&[]); 64], 0));
        unrecorded += answer.await.unwrap().into_inner().unrecorded;
    }
    let mut refusals = NodeRefusalsClient::new(rig.node.channel().await);
    let answer = refusals.report_refusals(super::denials::one()).await;
    assert_eq!(answer.unwrap().into_inner().unrecorded, 0);
    let records = rig.stop().await;
    let attested: Vec<_> = records
        .iter()
        .filter(|record| record.event == Event::WorkloadAttested)
        .collect();
    assert_eq!(attested.len(), 640 - usize::try_from(unrecorded).unwrap());
    assert!((128..640).contains(&attested.len()));
    let denied = |record: &&muster_audit::Record| record.event == Event::WorkloadDenied;
    assert_eq!(records.iter().filter(denied).count(), 1);
}
