//! What nodes report that looks like agents, over the server's own sockets.
use muster_audit::Event;
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::agent::v1::sightings_client::SightingsClient;
use muster_proto::muster::node::v1::ReportSightingsRequest;
use muster_proto::muster::node::v1::node_sightings_client::NodeSightingsClient;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_testkit::{ServerConfig, ServerProcess, TestNode, from_now};
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

/// An agent that was started for a provider which its class does not allow is shown, and on record.
#[tokio::test]
async fn a_provider_that_a_class_does_not_allow_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let mut registry = RegistryClient::new(server.channel());
    let class = v1::CreateClassRequest {
        name: "reader".into(),
        spec: Some(v1::ClassSpec {
            display_name: "Reader".into(),
            purposes: vec!["research".into()],
            owner: "mailto:olga@example.org".into(),
            sponsor: "mailto:sam@example.org".into(),
            allowed_providers: vec!["local".into(), "anthropic".into()],
            valid_until: Some(from_now(3600)),
            review_by: Some(from_now(1800)),
            ..v1::ClassSpec::default()
        }),
        reason: String::new(),
    };
    registry.create_class(class).await.unwrap();
    let step = v1::ClassStepRequest {
        name: "reader".into(),
        reason: "a test".into(),
        version: None,
    };
    registry.approve_class(step).await.unwrap();
    let started_for = |n: usize, providers: &[&str]| v1::Sighted {
        identities: vec!["spiffe://example.org/agent/reader/1".into()],
        providers: providers.iter().map(ToString::to_string).collect(),
        ..seen(n)
    };
    let mut told = NodeSightingsClient::new(node.channel().await);
    let both = report(vec![
        started_for(1, &["anthropic"]),
        started_for(2, &["anthropic", "openai"]),
    ]);
    let answer = told.report_sightings(both).await.unwrap().into_inner();
    assert_eq!(answer.standings[&seen(1).key], "registered");
    assert_eq!(answer.standings[&seen(2).key], "provider_not_allowed");
    // Among those that somebody ought to look at.
    let request = v1::ListSightingsRequest {
        unregistered: true,
        ..v1::ListSightingsRequest::default()
    };
    let mut api = SightingsClient::new(server.channel());
    let list = api.list_sightings(request).await.unwrap().into_inner();
    let [shown] = &list.sightings[..] else {
        panic!("{list:?}");
    };
    assert_eq!((shown.state.as_str(), &shown.register), ("new", &None));
    assert_eq!(shown.providers_not_allowed, ["openai"]);

    // The node has nothing new to tell: the change of the class itself judges what was told.
    let get = v1::GetClassRequest {
        name: "reader".into(),
    };
    let mut class = registry.get_class(get).await.unwrap().into_inner();
    let spec = class.spec.as_mut().unwrap();
    spec.allowed_providers.push("openai".into());
    let update = v1::UpdateClassRequest {
        name: class.name,
        spec: class.spec,
        version: class.version,
        mask: None,
    };
    registry.update_class(update).await.unwrap();
    let request = v1::ListSightingsRequest {
        unregistered: true,
        ..v1::ListSightingsRequest::default()
    };
    let list = api.list_sightings(request).await.unwrap().into_inner();
    assert_eq!(list.sightings, []);

    server.stop().await;
    let store = SqliteStore::open(ServerConfig::new(dir.path()).roll()).unwrap();
    let records = store.audit_after(0, 10_000).await.unwrap();
    let record = records
        .iter()
        .map(|(_, record)| record)
        .find(|record| {
            record
                .detail
                .get("standing")
                .is_some_and(|s| s == "provider_not_allowed")
        })
        .unwrap();
    assert_eq!(record.event, Event::AgentSighted);
    assert_eq!(record.detail["providers"], "anthropic openai");
    let judged = |(_, record): &(_, muster_audit::Record)| {
        let detail = |name: &str| record.detail.get(name).map(String::as_str);
        record.event == Event::AgentSighted
            && detail("stage") == Some("standing")
            && detail("standing") == Some("registered")
    };
    assert_eq!(records.iter().filter(|&one| judged(one)).count(), 1);
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
