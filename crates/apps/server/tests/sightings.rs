//! What nodes report that looks like agents, over the server's own sockets.
use muster_audit::Event;
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::sightings_client::SightingsClient;
use muster_proto::muster::node::v1::ReportSightingsRequest;
use muster_proto::muster::node::v1::node_sightings_client::NodeSightingsClient;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use tonic::Code;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

fn seen(n: usize) -> v1::Sighted {
    v1::Sighted {
        key: format!("{n:032x}"),
        product: "claude-code".into(),
        kind: "cli".into(),
        confidence: "certain".into(),
        executable: "/usr/bin/claude".into(),
        uid: 1000,
        count: 1,
        pids: vec![7],
        started: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..v1::Sighted::default()
    }
}

fn report(sightings: Vec<v1::Sighted>) -> ReportSightingsRequest {
    ReportSightingsRequest {
        sightings,
        left_out: 0,
    }
}

#[tokio::test]
async fn a_report_is_kept_once_audited_and_shown_to_operators() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let mut told = NodeSightingsClient::new(node.channel().await);
    let mut api = SightingsClient::new(server.channel());

    let two = || report(vec![seen(1), seen(2)]);
    let answer = told.report_sightings(two()).await.unwrap().into_inner();
    assert_eq!((answer.kept, answer.dropped), (2, 0));
    assert_eq!(answer.standings.get(&seen(1).key).unwrap(), "unregistered");
    // The same again is nothing new.
    told.report_sightings(two()).await.unwrap();
    let request = v1::AcknowledgeSightingRequest {
        node_id: node.id().to_string(),
        key: seen(1).key,
        reason: "a trial".into(),
    };
    let known = api.acknowledge_sighting(request.clone()).await.unwrap();
    assert_eq!(known.into_inner().state, "acknowledged");
    let list = api
        .list_sightings(v1::ListSightingsRequest::default())
        .await;
    assert_eq!(list.unwrap().into_inner().sightings.len(), 2);
    told.report_sightings(report(vec![seen(2)])).await.unwrap();
    let late = api.acknowledge_sighting(request).await.unwrap_err();
    assert_eq!(
        reason_of(MUSTER_DOMAIN, &late).as_deref(),
        Some("SIGHTING_GONE")
    );
    let get = v1::GetSightingRequest {
        node_id: node.id().to_string(),
        key: seen(1).key,
    };
    let gone = api.get_sighting(get).await.unwrap().into_inner();
    assert!(gone.state == "gone" && gone.gone_at.is_some());

    // What is wrong is refused whole.
    let mut bad = seen(3);
    bad.executable = "\u{1b}[2J".into();
    for (sightings, reason) in [
        (vec![seen(2), bad], "INVALID_FIELD"),
        (vec![seen(4), seen(4)], "INVALID_FIELD"),
        ((0..1001).map(seen).collect(), "TOO_MANY_SIGHTINGS"),
    ] {
        let refused = told.report_sightings(report(sightings)).await.unwrap_err();
        assert_eq!(reason_of(MUSTER_DOMAIN, &refused).as_deref(), Some(reason));
    }
    // Operators do not tell in a node's name, and nodes do not read.
    let mut operator = NodeSightingsClient::new(server.channel());
    let refused = operator
        .report_sightings(report(Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut node_reads = SightingsClient::new(node.channel().await);
    let refused = node_reads
        .list_sightings(v1::ListSightingsRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    server.stop().await;
    let store = SqliteStore::open(ServerConfig::new(dir.path()).roll()).unwrap();
    let records = store.audit_after(0, 10_000).await.unwrap();
    let count = |event| {
        records
            .iter()
            .filter(|(_, record)| record.event == event)
            .count()
    };
    assert_eq!(count(Event::AgentSighted), 2);
    assert_eq!(count(Event::AgentSightingAcknowledged), 1);
    assert_eq!(count(Event::AgentSightingGone), 1);
    assert_eq!(store.load().await.unwrap().agents.sightings.len(), 2);
}
