//! The audit log as its readers see it: past records by filter, new ones as they become durable,
//! what a slow reader missed, and what agents hold.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "the helpers of a test fail by panicking, and a story is told in one piece"
)]

use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::server::admin::v1::audit_client::AuditClient;
use muster_proto::muster::server::admin::v1::tail_response::Told;
use muster_proto::muster::server::admin::v1::{
    ListHeldRequest, ListRecordsRequest, ListRecordsResponse, NumberedRecord, RecordFilter,
    TailRequest, TailResponse,
};
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_svid::x509::build_csr;
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use muster_wire::urgency::EXPIRES_AT;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");
/// The longest that anything here should take; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);

fn audit(server: &ServerProcess) -> AuditClient<Channel> {
    AuditClient::new(server.channel()).max_decoding_message_size(64 << 20)
}

async fn attested(server: &ServerProcess) -> TestNode {
    let (bundle, token) = (server.bundle().await, server.join_token().await);
    TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap()
}

fn entry(parent: &str, path: &str) -> types::Entry {
    let id = |path: &str| types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    };
    types::Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id(parent)),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..types::Entry::default()
    }
}

async fn create(server: &ServerProcess, entries: Vec<types::Entry>) -> Vec<String> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let answer = server.entries().batch_create_entry(request).await.unwrap();
    let results = answer.into_inner().results;
    results
        .into_iter()
        .map(|one| one.entry.unwrap().id)
        .collect()
}

/// A class that may have identities.
async fn class(server: &ServerProcess, name: &str) {
    let mut registry = RegistryClient::new(server.channel());
    let far = prost_types::Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    };
    let spec = v1::ClassSpec {
        display_name: "Reader".into(),
        purposes: vec!["research".into()],
        owner: "mailto:olga@example.org".into(),
        sponsor: "mailto:sam@example.org".into(),
        valid_until: Some(far),
        review_by: Some(far),
        ..v1::ClassSpec::default()
    };
    let request = v1::CreateClassRequest {
        name: name.into(),
        spec: Some(spec),
        reason: String::new(),
    };
    registry.create_class(request).await.unwrap();
    registry.approve_class(step(name)).await.unwrap();
}

fn step(name: &str) -> v1::ClassStepRequest {
    v1::ClassStepRequest {
        name: name.into(),
        reason: "a test".into(),
        version: None,
    }
}

async fn sign(node: &TestNode, entry_id: &str) -> Code {
    sign_instead(node, entry_id, None).await
}

/// The same in place of an SVID that expires at `until`, in Unix seconds.
async fn sign_instead(node: &TestNode, entry_id: &str, until: Option<i64>) -> Code {
    let csr = build_csr(&PrivateKey::generate(KeyType::EcP256).unwrap(), None).unwrap();
    let mut request = Request::new(BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: entry_id.into(),
            csr: csr.into(),
        }],
    });
    if let Some(until) = until {
        let said = MetadataValue::from(until);
        request.metadata_mut().insert(EXPIRES_AT, said);
    }
    let answer = node.svids().await.batch_new_x509svid(request).await;
    let result = answer.unwrap().into_inner().results.remove(0);
    Code::from_i32(result.status.unwrap().code)
}

async fn tail(server: &ServerProcess, filter: RecordFilter) -> Streaming<TailResponse> {
    let request = TailRequest {
        filter: Some(filter),
        ocsf: false,
    };
    let mut stream = audit(server).tail(request).await.unwrap().into_inner();
    let began = told(&mut stream).await;
    assert!(matches!(began, Told::BeganAfter(_)), "{began:?}");
    stream
}

async fn told(stream: &mut Streaming<TailResponse>) -> Told {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    message.unwrap().unwrap().unwrap().told.unwrap()
}

async fn record(stream: &mut Streaming<TailResponse>) -> NumberedRecord {
    match told(stream).await {
        Told::Record(record) => *record,
        other @ (Told::BeganAfter(_) | Told::Missed(_)) => panic!("{other:?} is no record"),
    }
}

async fn list(server: &ServerProcess, request: ListRecordsRequest) -> ListRecordsResponse {
    let answer = audit(server).list_records(request).await.unwrap();
    answer.into_inner()
}

/// All records that fit, newest first, as "event subject decision".
async fn found(server: &ServerProcess, filter: RecordFilter) -> Vec<String> {
    let request = ListRecordsRequest {
        filter: Some(filter),
        ..ListRecordsRequest::default()
    };
    let records = list(server, request).await.records;
    records
        .iter()
        .map(|record| format!("{} {} {}", record.event, record.subject, record.decision))
        .collect()
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens_and_filtered() {
    let dir = tempfile::TempDir::new().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let node = attested(&server).await;
    let mut all = tail(&server, RecordFilter::default()).await;
    let mut of_class = tail(
        &server,
        RecordFilter {
            agent: "reader".into(),
            ..RecordFilter::default()
        },
    )
    .await;
    let mut refused = tail(
        &server,
        RecordFilter {
            decision: "refused".into(),
            ..RecordFilter::default()
        },
    )
    .await;

    class(&server, "reader").await;
    let parent = node.id().path().to_owned();
    let agent = "spiffe://example.org/agent/reader/1";
    let ids = create(
        &server,
        vec![entry(&parent, "/agent/reader/1"), entry(&parent, "/web")],
    )
    .await;
    assert_eq!(sign(&node, &ids[1]).await, Code::Ok);
    assert_eq!(sign(&node, &ids[0]).await, Code::Ok);
    let mut registry = RegistryClient::new(server.channel());
    registry.suspend_class(step("reader")).await.unwrap();
    assert_eq!(sign(&node, &ids[0]).await, Code::FailedPrecondition);

    // The refusal is written in the background; when it has come, all before has.
    let last = record(&mut refused).await;
    assert_eq!(
        (last.event.as_str(), last.subject.as_str()),
        ("svid.issued", agent)
    );
    assert_eq!(last.detail["node"], node.id().as_str());
    let mut seen = Vec::new();
    let mut number = 0;
    loop {
        let one = record(&mut all).await;
        assert!(
            number == 0 || one.sequence == number + 1,
            "numbers have no gaps"
        );
        number = one.sequence;
        if one.actor.as_ref().unwrap().class != "system" {
            assert_eq!(one.detail["trace_id"].len(), 32, "{one:?}");
        }
        seen.push(one.event.clone());
        if one.sequence == last.sequence {
            break;
        }
    }
    assert_eq!(
        seen,
        [
            "agent.class.proposed",
            "agent.class.approved",
            "entry.created",
            "entry.created",
            "svid.issued",
            "agent.registered",
            "agent.seen_first",
            "svid.issued",
            "agent.class.suspended",
            "svid.issued",
        ]
    );
    // Of the class: nothing of the other workload.
    let mut of_reader = Vec::new();
    while of_reader.len() < 8 {
        of_reader.push(record(&mut of_class).await.event);
    }
    assert_eq!(
        of_reader[2..],
        [
            "entry.created",
            "agent.registered",
            "agent.seen_first",
            "svid.issued",
            "agent.class.suspended",
            "svid.issued"
        ]
    );

    // The past, by each filter.
    let with = |change: fn(&mut RecordFilter)| {
        let mut filter = RecordFilter::default();
        change(&mut filter);
        filter
    };
    let issued = format!("svid.issued {agent} allowed");
    let kept = format!("svid.issued {agent} refused");
    let suspended = "agent.class.suspended reader allowed".to_owned();
    assert_eq!(
        found(&server, with(|f| f.decision = "refused".into())).await,
        std::slice::from_ref(&kept)
    );
    assert_eq!(
        found(&server, with(|f| f.event = "agent.class".into())).await[0],
        suspended
    );
    let of_agent = found(
        &server,
        with(|f| {
            f.agent = "spiffe://example.org/agent/reader/1".into();
            f.event = "svid".into();
        }),
    )
    .await;
    assert_eq!(of_agent, [kept, issued]);
    assert_eq!(
        found(&server, with(|f| f.since_ms = 4_000_000_000_000)).await,
        [""; 0]
    );
    let on_node = RecordFilter {
        node: node.id().to_string(),
        event: "svid".into(),
        ..RecordFilter::default()
    };
    assert_eq!(found(&server, on_node).await.len(), 3);
    let nothing = with(|f| f.task = "01JDQ8Z0000000000000000000".into());
    assert_eq!(found(&server, nothing).await, [""; 0]);

    for (filter, what) in [
        (with(|f| f.decision = "maybe".into()), "decision \"maybe\""),
        (with(|f| f.task = "x".into()), "task \"x\""),
    ] {
        let request = ListRecordsRequest {
            filter: Some(filter),
            ..ListRecordsRequest::default()
        };
        let status = audit(&server).list_records(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(what), "{status:?}");
    }

    // A stream ends with the server, and says why.
    server.stop().await;
    let end = loop {
        match tokio::time::timeout(PATIENCE, all.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
}

/// A reader that reads nothing while thousands of records are written: the writer is not held up,
/// and the reader learns exactly which it missed, and finds them.
#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_misses_nothing_unknowingly() {
    let dir = tempfile::TempDir::new().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut stream = tail(&server, RecordFilter::default()).await;
    for batch in 0..30 {
        let entries = (0..500)
            .map(|number| entry("/spire/agent/x", &format!("/w/{batch}/{number}")))
            .collect();
        create(&server, entries).await;
    }
    let head = list(&server, ListRecordsRequest::default()).await.head;
    let mut next = None;
    let mut missed = Vec::new();
    loop {
        let (first, last) = match told(&mut stream).await {
            Told::Record(record) => (record.sequence, record.sequence),
            Told::Missed(gap) => {
                missed.push((gap.first, gap.last));
                (gap.first, gap.last)
            }
            Told::BeganAfter(_) => panic!("the stream began twice"),
        };
        assert!(
            next.is_none_or(|next| first == next),
            "{first} is not {next:?}"
        );
        next = Some(last + 1);
        if last >= head {
            break;
        }
    }
    assert!(
        !missed.is_empty(),
        "a reader that is never behind shows nothing"
    );
    let (first, last) = missed[0];
    let mut before = last + 1;
    let mut listed = 0;
    loop {
        let request = ListRecordsRequest {
            before,
            after: first - 1,
            limit: 1000,
            ..ListRecordsRequest::default()
        };
        let page = list(&server, request).await;
        for record in &page.records {
            listed += 1;
            assert_eq!(record.sequence, last + 1 - listed);
        }
        before = page.next_before;
        if before == 0 {
            break;
        }
    }
    assert_eq!(listed, last - first + 1);
}

/// A node says what it replaces, and the record repeats it.
#[tokio::test]
async fn what_replaces_another_svid_is_renewed() {
    let dir = tempfile::TempDir::new().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let node = attested(&server).await;
    let ids = create(&server, vec![entry(node.id().path(), "/web")]).await;
    for until in [None, Some(0), Some(4_000_000_000)] {
        assert_eq!(sign_instead(&node, &ids[0], until).await, Code::Ok);
    }
    let request = ListRecordsRequest {
        filter: Some(RecordFilter {
            event: "svid".into(),
            ..RecordFilter::default()
        }),
        ..ListRecordsRequest::default()
    };
    let page = list(&server, request).await;
    let said: Vec<(&str, &str)> = page
        .records
        .iter()
        .map(|record| (record.event.as_str(), record.detail["svid"].as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("svid.renewed", "x509"),
            ("svid.issued", "x509"),
            ("svid.issued", "x509"),
        ]
    );
}

#[tokio::test]
async fn what_agents_hold_is_known_also_after_a_restart() {
    let dir = tempfile::TempDir::new().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let node = attested(&server).await;
    class(&server, "reader").await;
    let parent = node.id().path().to_owned();
    let ids = create(
        &server,
        vec![
            entry(&parent, "/agent/reader/1"),
            entry(&parent, "/agent/reader/2"),
            entry(&parent, "/web"),
        ],
    )
    .await;
    let mut tail = tail(&server, RecordFilter::default()).await;
    for id in &ids {
        assert_eq!(sign(&node, id).await, Code::Ok);
    }
    // A traced call: its ID stands in the record.
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut request = Request::new(NewJwtsvidRequest {
        entry_id: ids[0].clone(),
        audience: vec!["db".into()],
    });
    let header = format!("00-{trace}-b7ad6b7169203331-01");
    request
        .metadata_mut()
        .insert("traceparent", MetadataValue::try_from(header).unwrap());
    node.svids().await.new_jwtsvid(request).await.unwrap();
    let token = loop {
        let one = record(&mut tail).await;
        if one.event == "svid.issued" && one.detail["svid"] == "jwt" {
            break one;
        }
    };
    assert_eq!(token.detail["trace_id"], trace);
    assert_eq!(token.detail["class"], "reader");

    let held = async |server: &ServerProcess, agent: &str| {
        let request = ListHeldRequest {
            agent: agent.into(),
            ..ListHeldRequest::default()
        };
        let answer = audit(server).list_held(request).await.unwrap().into_inner();
        assert!(!answer.incomplete);
        answer.held
    };
    let kinds = |held: &[muster_proto::muster::server::admin::v1::Held]| -> Vec<String> {
        let text = |one: &muster_proto::muster::server::admin::v1::Held| {
            let name = one.spiffe_id.rsplit_once('/').unwrap().1;
            format!("{name} {}", one.kind)
        };
        held.iter().map(text).collect()
    };
    // Known a moment after it is told.
    let mut of_class = held(&server, "reader").await;
    while of_class.len() < 3 {
        tokio::task::yield_now().await;
        of_class = held(&server, "reader").await;
    }
    assert_eq!(kinds(&of_class), ["1 x509", "1 jwt", "2 x509"]);
    assert_eq!(of_class[0].node_id, node.id().as_str());
    assert_eq!(of_class[1].sequence, token.sequence);
    assert!(of_class[0].expires_at > of_class[0].issued_at);
    let config = server.config().clone();
    server.stop().await;

    let server = ServerProcess::start(SERVER, config).await;
    let one = "spiffe://example.org/agent/reader/1";
    let mut of_one = held(&server, one).await;
    while of_one.len() < 2 {
        tokio::task::yield_now().await;
        of_one = held(&server, one).await;
    }
    assert_eq!(kinds(&of_one), ["1 x509", "1 jwt"]);
    let request = ListHeldRequest {
        page_size: 2,
        ..ListHeldRequest::default()
    };
    let page = audit(&server)
        .list_held(request)
        .await
        .unwrap()
        .into_inner();
    let request = ListHeldRequest {
        page_size: 2,
        page_token: page.next_page_token,
        ..ListHeldRequest::default()
    };
    let rest = audit(&server)
        .list_held(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (page.held.len(), kinds(&rest.held)),
        (2, vec!["2 x509".to_owned()])
    );
    assert_eq!(rest.next_page_token, "");
}
