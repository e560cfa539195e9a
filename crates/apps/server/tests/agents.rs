//! The roll of agents: what operators may write, and what becomes of identities.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "the helpers of a test fail by panicking, and a story is told in one piece"
)]

use std::time::Duration;

use muster_audit::{Decision, Event, Record};
use muster_crypto::{KeyType, PrivateKey};
use muster_model::SpiffeId;
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::node::v1::{WatchRequest, WatchResponse};
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_svid::x509::{Certificate, build_csr};
use muster_testkit::{ServerConfig, ServerProcess, TestNode, from_now};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

fn registry(server: &ServerProcess) -> RegistryClient<Channel> {
    RegistryClient::new(server.channel())
}

fn spec() -> v1::ClassSpec {
    v1::ClassSpec {
        display_name: "Reader".into(),
        purposes: vec!["research".into()],
        owner: "mailto:olga@example.org".into(),
        sponsor: "mailto:sam@example.org".into(),
        risk_tier: 1,
        data_ceiling: 2,
        valid_until: Some(from_now(3600)),
        review_by: Some(from_now(1800)),
        ..v1::ClassSpec::default()
    }
}

fn create(name: &str) -> v1::CreateClassRequest {
    v1::CreateClassRequest {
        name: name.into(),
        spec: Some(spec()),
        reason: String::new(),
    }
}

fn step(name: &str) -> v1::ClassStepRequest {
    v1::ClassStepRequest {
        name: name.into(),
        reason: "a test".into(),
        version: None,
    }
}

fn why(status: &Status) -> (Code, String) {
    (
        status.code(),
        reason_of(MUSTER_DOMAIN, status).unwrap_or_default(),
    )
}

fn reason(code: Code, word: &str) -> (Code, String) {
    (code, word.to_owned())
}

async fn entry(server: &ServerProcess, node: &TestNode, path: &str, class: &str) -> String {
    let entry = types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        }),
        parent_id: Some(muster_wire::id::write(node.id())),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        muster_agent_class: class.into(),
        ..types::Entry::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let answer = server.entries().batch_create_entry(request).await.unwrap();
    answer.into_inner().results.remove(0).entry.unwrap().id
}

/// Asks for an X509-SVID as the node does: when it ends, or the status of the item.
async fn sign(node: &TestNode, entry_id: &str) -> Result<i64, Code> {
    let csr = build_csr(&PrivateKey::generate(KeyType::EcP256).unwrap(), None).unwrap();
    let request = BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: entry_id.into(),
            csr: csr.into(),
        }],
    };
    let answer = node.svids().await.batch_new_x509svid(request).await;
    let result = answer.unwrap().into_inner().results.remove(0);
    let code = Code::from_i32(result.status.unwrap().code);
    if code != Code::Ok {
        return Err(code);
    }
    let svid = result.svid.unwrap();
    let leaf = Certificate::parse(svid.cert_chain.first().unwrap()).unwrap();
    Ok(leaf.not_after.unix_seconds())
}

async fn watch(node: &TestNode) -> Streaming<WatchResponse> {
    let mut views = node.views().await;
    let answer = views.watch(WatchRequest::default()).await.unwrap();
    answer.into_inner()
}

async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    let news = tokio::time::timeout(Duration::from_mins(1), stream.message()).await;
    news.expect("news in time").unwrap().expect("a step")
}

#[tokio::test]
async fn what_may_not_be_written_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut api = registry(&server);
    let first = api
        .create_class(create("reader"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((first.lifecycle.as_str(), first.version), ("proposed", 1));
    assert!(first.by.starts_with("uid "), "{}", first.by);

    let taken = api.create_class(create("reader")).await.unwrap_err();
    assert_eq!(why(&taken), reason(Code::AlreadyExists, "CLASS_EXISTS"));
    let mut alone = create("alone");
    alone.spec.as_mut().unwrap().sponsor = spec().owner;
    let alone = api.create_class(alone).await.unwrap_err();
    assert_eq!(
        why(&alone),
        reason(Code::InvalidArgument, "OWNER_IS_SPONSOR")
    );
    let mut vague = create("vague");
    vague.spec.as_mut().unwrap().owner = "olga".into();
    let vague = api.create_class(vague).await.unwrap_err();
    assert_eq!(why(&vague), reason(Code::InvalidArgument, "INVALID_FIELD"));
    assert!(
        vague
            .message()
            .starts_with("invalid owner \"olga\": a person is"),
        "{vague}"
    );

    // Two writers who saw the same version.
    let update = |team: &str, version| v1::UpdateClassRequest {
        name: "reader".into(),
        spec: Some(v1::ClassSpec {
            team: team.into(),
            ..v1::ClassSpec::default()
        }),
        mask: Some(prost_types::FieldMask {
            paths: vec!["team".into()],
        }),
        version,
    };
    let second = api.update_class(update("a", 1)).await.unwrap().into_inner();
    let written = second.spec.unwrap();
    assert_eq!((written.team.as_str(), written.owner), ("a", spec().owner));
    let late = api.update_class(update("b", 1)).await.unwrap_err();
    assert_eq!(why(&late), reason(Code::Aborted, "VERSION_MISMATCH"));
    assert!(late.message().contains("version 2"), "{late}");
    let mut unknown = update("b", 2);
    unknown
        .mask
        .as_mut()
        .unwrap()
        .paths
        .push("lifecycle".into());
    let unknown = api.update_class(unknown).await.unwrap_err();
    assert_eq!(
        why(&unknown),
        reason(Code::InvalidArgument, "INVALID_FIELD")
    );

    let nobody = api.approve_class(step("nobody")).await.unwrap_err();
    assert_eq!(why(&nobody), reason(Code::NotFound, "CLASS_NOT_FOUND"));
    let early = api.suspend_class(step("reader")).await.unwrap_err();
    assert_eq!(
        why(&early),
        reason(Code::FailedPrecondition, "STEP_NOT_POSSIBLE")
    );
    api.approve_class(step("reader")).await.unwrap();
    let mut silent = step("reader");
    silent.reason.clear();
    let silent = api.suspend_class(silent).await.unwrap_err();
    assert_eq!(
        why(&silent),
        reason(Code::InvalidArgument, "REASON_MISSING")
    );
    api.retire_class(step("reader")).await.unwrap();
    let over = api.reinstate_class(step("reader")).await.unwrap_err();
    assert_eq!(
        why(&over),
        reason(Code::FailedPrecondition, "CLASS_RETIRED")
    );

    // All of it is on the record: who, what, why.
    let address = dir.path().to_owned();
    server.stop().await;
    let records = records(&address).await;
    let of = |event: Event, decision: Decision| {
        records
            .iter()
            .filter(|record| record.event == event && record.decision == decision)
            .count()
    };
    assert_eq!(of(Event::ClassProposed, Decision::Allowed), 1);
    assert_eq!(of(Event::ClassChanged, Decision::Allowed), 1);
    assert_eq!(of(Event::ClassApproved, Decision::Allowed), 1);
    assert_eq!(of(Event::ClassRetired, Decision::Allowed), 1);
    let late = records
        .iter()
        .find(|r| r.event == Event::ClassChanged && r.decision == Decision::Refused)
        .unwrap();
    assert_eq!(
        (late.subject.as_str(), late.detail["reason"].as_str()),
        ("reader", "VERSION_MISMATCH")
    );
    assert_eq!(late.actor.class, "local");
}

async fn records(dir: &std::path::Path) -> Vec<Record> {
    let database = walk(dir);
    let store = SqliteStore::open(&database).unwrap();
    let all = store.audit_after(0, 10_000).await.unwrap();
    all.into_iter().map(|(_, record)| record).collect()
}

/// The roll's file somewhere below.
fn walk(dir: &std::path::Path) -> std::path::PathBuf {
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.file_name().is_some_and(|name| name == "roll.sqlite") {
                return path;
            }
        }
    }
    panic!("no roll");
}

#[tokio::test]
async fn a_class_that_is_not_active_has_no_identities() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let mut api = registry(&server);
    api.create_class(create("reader")).await.unwrap();
    let by_path = entry(&server, &node, "/agent/reader/1", "").await;
    let by_name = entry(&server, &node, "/batch", "reader").await;
    let free = entry(&server, &node, "/web", "").await;

    // Proposed: the node does not even see them.
    let mut stream = watch(&node).await;
    let first = next(&mut stream).await;
    let ids = |step: &WatchResponse| -> Vec<String> {
        step.entries.iter().map(|entry| entry.id.clone()).collect()
    };
    assert_eq!(ids(&first), std::slice::from_ref(&free));
    assert_eq!(sign(&node, &by_path).await, Err(Code::FailedPrecondition));

    api.approve_class(step("reader")).await.unwrap();
    let mut both = vec![by_path.clone(), by_name.clone()];
    both.sort();
    assert_eq!(ids(&next(&mut stream).await), both);
    // Nothing lives longer than its class, whatever the server's defaults are.
    let class = api
        .get_class(v1::GetClassRequest {
            name: "reader".into(),
        })
        .await
        .unwrap()
        .into_inner();
    let end = class.spec.unwrap().valid_until.unwrap().seconds;
    assert!(sign(&node, &by_path).await.unwrap() <= end);
    sign(&node, &by_name).await.unwrap();
    sign(&node, &free).await.unwrap();

    // Who received an SVID is known from then on, without anybody's registering it.
    let listed = api
        .list_instances(v1::ListInstancesRequest {
            class: "reader".into(),
            ..v1::ListInstancesRequest::default()
        })
        .await
        .unwrap()
        .into_inner()
        .instances;
    let seen: Vec<&str> = listed
        .iter()
        .map(|agent| agent.spiffe_id.as_str())
        .collect();
    assert_eq!(
        seen,
        [
            "spiffe://example.org/agent/reader/1",
            "spiffe://example.org/batch"
        ]
    );
    assert_eq!(listed[0].node_id, node.id().as_str());

    // Suspended: gone from the view, and nothing is signed, for nobody.
    api.suspend_class(step("reader")).await.unwrap();
    assert_eq!(sign(&node, &by_path).await, Err(Code::FailedPrecondition));
    assert_eq!(sign(&node, &by_name).await, Err(Code::FailedPrecondition));
    sign(&node, &free).await.unwrap();
    let mut removed = next(&mut stream).await.removed_entries;
    removed.sort();
    assert_eq!(removed, both);
    let token = NewJwtsvidRequest {
        entry_id: by_name.clone(),
        audience: vec!["x".into()],
    };
    let token = node.svids().await.new_jwtsvid(token).await.err().unwrap();
    assert_eq!(
        why(&token),
        reason(Code::FailedPrecondition, "CLASS_SUSPENDED")
    );
    let mint = |path: &str| {
        let id = SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        MintX509svidRequest {
            csr: build_csr(&key, Some(&id)).unwrap().into(),
            ttl: 60,
        }
    };
    for path in ["/agent/reader/9", "/batch"] {
        let minted = server.svids().mint_x509svid(mint(path)).await.unwrap_err();
        assert_eq!(
            why(&minted),
            reason(Code::FailedPrecondition, "CLASS_SUSPENDED"),
            "{path}"
        );
    }

    // Also after a restart, and for a node that was away meanwhile.
    drop(stream);
    let config = ServerConfig::new(dir.path());
    server.stop().await;
    let server = ServerProcess::start(SERVER, config).await;
    let node = node.at(server.address());
    let mut api = registry(&server);
    let mut stream = watch(&node).await;
    assert_eq!(ids(&next(&mut stream).await), [free]);

    // Back.
    api.reinstate_class(step("reader")).await.unwrap();
    assert_eq!(ids(&next(&mut stream).await), both);
    sign(&node, &by_name).await.unwrap();

    // One agent alone.
    let one = |id: &str| v1::InstanceStepRequest {
        spiffe_id: id.into(),
        reason: "a test".into(),
    };
    let id = "spiffe://example.org/agent/reader/1";
    let barred = api.quarantine_instance(one(id)).await.unwrap().into_inner();
    assert_eq!(barred.state, "quarantined");
    assert_eq!(
        next(&mut stream).await.removed_entries,
        std::slice::from_ref(&by_path)
    );
    assert_eq!(sign(&node, &by_path).await, Err(Code::FailedPrecondition));
    sign(&node, &by_name).await.unwrap();
    api.release_instance(one(id)).await.unwrap();
    assert_eq!(
        ids(&next(&mut stream).await),
        std::slice::from_ref(&by_path)
    );

    // Nobody answers for it any longer.
    let gone = v1::MarkPersonRequest {
        person: "mailto:sam@example.org".into(),
        reason: "left".into(),
    };
    let orphaned = api
        .mark_person_gone(gone.clone())
        .await
        .unwrap()
        .into_inner();
    let names: Vec<&str> = orphaned
        .quarantined
        .iter()
        .map(|class| class.name.as_str())
        .collect();
    assert_eq!(
        (names, orphaned.quarantined[0].cause.as_str()),
        (vec!["reader"], "sponsor_gone")
    );
    assert_eq!(next(&mut stream).await.removed_entries.len(), 2);
    let still = api.reinstate_class(step("reader")).await.unwrap_err();
    assert_eq!(why(&still), reason(Code::FailedPrecondition, "PERSON_GONE"));
    api.mark_person_returned(gone.clone()).await.unwrap();
    let twice = api.mark_person_returned(gone).await.unwrap_err();
    assert_eq!(why(&twice), reason(Code::NotFound, "PERSON_NOT_GONE"));
    api.reinstate_class(step("reader")).await.unwrap();
    assert_eq!(next(&mut stream).await.entries.len(), 2);
}

/// The server itself acts upon dates: nobody asks it to.
#[tokio::test]
async fn an_overdue_review_suspends_the_class() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let mut api = registry(&server);
    let mut soon = create("reader");
    soon.spec.as_mut().unwrap().review_by = Some(from_now(5));
    api.create_class(soon).await.unwrap();
    let id = entry(&server, &node, "/agent/reader/1", "").await;
    api.approve_class(step("reader")).await.unwrap();
    let mut stream = watch(&node).await;
    assert_eq!(next(&mut stream).await.entries.len(), 1);
    assert_eq!(next(&mut stream).await.removed_entries, [id]);
    let request = v1::GetClassRequest {
        name: "reader".into(),
    };
    let class = api.get_class(request).await.unwrap().into_inner();
    let standing = (
        class.lifecycle.as_str(),
        class.cause.as_str(),
        class.by.as_str(),
    );
    assert_eq!(standing, ("suspended", "review_overdue", "the server"));
    server.stop().await;
    let records = records(dir.path()).await;
    let overdue: Vec<&Record> = records
        .iter()
        .filter(|record| record.event == Event::AgentReviewOverdue)
        .collect();
    // Warned of first, unless the first look came after the date.
    assert!((1..=2).contains(&overdue.len()), "{overdue:?}");
    assert!(overdue.iter().all(|record| record.actor.class == "system"));
}
