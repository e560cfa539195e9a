//! Policies on agents: what operators may store, what decides, and what is said of it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    reason = "the helpers of a test fail by panicking, and a story is told in one piece"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Decision, Event, Record};
use muster_cedar::{Limits, Outcome, PolicySet, Recorded, Verdict};
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Note, PolicyVersion, Revision, Sha256, Timestamp};
use muster_policy::{Caller, PutPolicies, decide};
use muster_proto::muster::agent::v1;
use muster_proto::muster::agent::v1::policies_client::PoliciesClient;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewX509svidRequest, MintJwtsvidRequest, MintWitsvidRequest,
    MintX509svidRequest, NewJwtsvidRequest, NewWitsvidParams, NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_store::{Store as _, Transaction};
use muster_store_sqlite::SqliteStore;
use muster_svid::x509::build_csr;
use muster_testkit::{ServerConfig, ServerProcess, TestNode, from_now};
use muster_wire::error_info::{MUSTER_DOMAIN, metadata_of, reason_of};
use tonic::transport::Channel;
use tonic::{Code, Status};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");
const WIT: &str = "[wit]\nenabled = true";

const OPEN: &str = "@id(\"all\") permit (principal, action, resource);\n";
/// Everything but identities of readers on nodes that only a token vouches for.
const STRICT: &str = "@id(\"all\") permit (principal, action, resource);
@id(\"no.readers\") forbid (
  principal in Muster::AgentClass::\"reader\",
  action == Muster::Action::\"svid.issue\",
  resource
) when { principal.node.level <= 1 };
";

fn policies(server: &ServerProcess) -> PoliciesClient<Channel> {
    PoliciesClient::new(server.channel())
}

fn put(
    text: &str,
    expected_version: u64,
) -> impl tonic::IntoStreamingRequest<Message = v1::PutPoliciesRequest> {
    // In pieces, as a long text is sent.
    let mut parts: Vec<v1::PutPoliciesRequest> = text
        .as_bytes()
        .chunks(40)
        .map(|part| v1::PutPoliciesRequest {
            text: String::from_utf8(part.to_vec()).unwrap(),
            ..v1::PutPoliciesRequest::default()
        })
        .collect();
    if parts.is_empty() {
        parts.push(v1::PutPoliciesRequest::default());
    }
    if let Some(first) = parts.first_mut() {
        first.expected_version = expected_version;
        first.reason = "a test".into();
    }
    tokio_stream::iter(parts)
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

/// An active class.
async fn class(server: &ServerProcess, name: &str) {
    let mut api = RegistryClient::new(server.channel());
    let spec = v1::ClassSpec {
        display_name: "Reader".into(),
        purposes: vec!["research".into()],
        owner: "mailto:olga@example.org".into(),
        sponsor: "mailto:sam@example.org".into(),
        valid_until: Some(from_now(36_000)),
        review_by: Some(from_now(18_000)),
        ..v1::ClassSpec::default()
    };
    let create = v1::CreateClassRequest {
        name: name.into(),
        spec: Some(spec),
        reason: String::new(),
    };
    api.create_class(create).await.unwrap();
    let step = v1::ClassStepRequest {
        name: name.into(),
        reason: "a test".into(),
        version: None,
    };
    api.approve_class(step).await.unwrap();
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

fn csr(name: Option<&str>) -> Vec<u8> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = name.map(|name| muster_model::SpiffeId::parse(name).unwrap());
    build_csr(&key, id.as_ref()).unwrap()
}

/// The statuses of X509-SVIDs for entries, in one call.
async fn sign(node: &TestNode, entries: &[&str]) -> Vec<(Code, String)> {
    let params = entries
        .iter()
        .map(|entry| NewX509svidParams {
            entry_id: (*entry).into(),
            csr: csr(None).into(),
        })
        .collect();
    let request = BatchNewX509svidRequest { params };
    let answer = node.svids().await.batch_new_x509svid(request).await;
    let results = answer.unwrap().into_inner().results;
    results
        .into_iter()
        .map(|result| {
            let status = result.status.unwrap();
            assert_eq!(result.svid.is_some(), status.code == 0);
            (Code::from_i32(status.code), status.message)
        })
        .collect()
}

async fn jwt(node: &TestNode, entry: &str) -> Result<(), Status> {
    let request = NewJwtsvidRequest {
        entry_id: entry.into(),
        audience: vec!["a".into()],
    };
    node.svids().await.new_jwtsvid(request).await.map(|_| ())
}

async fn records(dir: &Path) -> Vec<Record> {
    let store = SqliteStore::open(ServerConfig::new(dir).roll()).unwrap();
    let all = store.audit_after(0, 10_000).await.unwrap();
    all.into_iter().map(|(_, record)| record).collect()
}

async fn in_force(server: &ServerProcess) -> (u64, String, String) {
    let answer = policies(server)
        .get(v1::GetPoliciesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let standing = answer.in_force.unwrap();
    (standing.number, standing.origin, answer.text)
}

async fn record(server: &ServerProcess) -> Vec<String> {
    let mut stream = policies(server)
        .read_record(v1::ReadPolicyRecordRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut lines = Vec::new();
    while let Some(recorded) = stream.message().await.unwrap() {
        lines.push(recorded.line);
    }
    lines
}

#[tokio::test]
async fn a_set_that_does_not_load_never_replaces_one_that_did() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut api = policies(&server);
    let (number, origin, text) = in_force(&server).await;
    assert_eq!((number, origin.as_str()), (0, "built_in"));
    assert!(text.contains("default.permit"), "{text}");

    let first = api.put(put(OPEN, 0)).await.unwrap().into_inner();
    assert_eq!((first.number, first.policies, first.again), (1, 1, 0));
    assert_eq!(first.reason, "a test");
    assert!(first.by.starts_with("uid "), "{}", first.by);
    assert_eq!(in_force(&server).await, (1, "stored".into(), OPEN.into()));

    // Faults, each with its place and its remedy; and what was in force stays.
    let bad = "@id(\"typo\")\npermit (principal, action == Muster::Action::\"task.open\", resource)\nwhen { context.task.rsik <= 3 };\n";
    let fault = api.put(put(bad, 1)).await.unwrap_err();
    assert_eq!(why(&fault), reason(Code::InvalidArgument, "POLICY_FAULTS"));
    assert!(
        fault
            .message()
            .contains("line 3, column 8: policy \"typo\""),
        "{fault}"
    );
    assert_eq!(in_force(&server).await, (1, "stored".into(), OPEN.into()));
    let checked = v1::ValidatePoliciesRequest { text: bad.into() };
    let checked = api
        .validate(tokio_stream::iter([checked]))
        .await
        .unwrap()
        .into_inner();
    assert!(!checked.loads);
    let fault = &checked.faults[0];
    assert_eq!(
        (
            fault.line,
            fault.column,
            fault.policy.as_str(),
            fault.kind.as_str()
        ),
        (3, 8, "typo", "type")
    );
    assert!(!fault.remedy.is_empty());

    // The words that policies may use are those that the text was held against.
    let schema = api
        .get_schema(v1::GetPolicySchemaRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(schema.schema.contains("risk: Long"));
    assert!(schema.guards.contains("guard.ceiling"));

    // What else is refused, and changes nothing.
    let late = api.put(put(STRICT, 0)).await.unwrap_err();
    assert_eq!(why(&late), reason(Code::Aborted, "VERSION_MISMATCH"));
    let silent = v1::PutPoliciesRequest {
        expected_version: 1,
        text: STRICT.into(),
        reason: String::new(),
    };
    let silent = api.put(tokio_stream::iter([silent])).await.unwrap_err();
    assert_eq!(
        why(&silent),
        reason(Code::InvalidArgument, "REASON_MISSING")
    );
    let nowhere = v1::RollbackPoliciesRequest {
        version: 9,
        expected_version: 1,
        reason: "a test".into(),
    };
    let nowhere = api.rollback(nowhere).await.unwrap_err();
    assert_eq!(
        why(&nowhere),
        reason(Code::NotFound, "POLICY_VERSION_NOT_FOUND")
    );

    let second = api.put(put(STRICT, 1)).await.unwrap().into_inner();
    let back = v1::RollbackPoliciesRequest {
        version: 1,
        expected_version: 2,
        reason: "it was better".into(),
    };
    let third = api.rollback(back).await.unwrap().into_inner();
    assert_eq!((third.number, third.again), (3, 1));
    assert_eq!(third.digest, first.digest);
    assert_ne!(second.digest, first.digest);
    let listed = api
        .list_versions(v1::ListPolicyVersionsRequest {})
        .await
        .unwrap()
        .into_inner();
    let numbers: Vec<u64> = listed.versions.iter().map(|one| one.number).collect();
    assert_eq!(numbers, [3, 2, 1]);
    let earlier = v1::GetPoliciesRequest { version: 2 };
    let earlier = api.get(earlier).await.unwrap().into_inner();
    assert_eq!(earlier.text, STRICT);

    // A restart keeps all of it.
    server.stop().await;
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    assert_eq!(in_force(&server).await, (3, "stored".into(), OPEN.into()));
    server.stop().await;

    // Who, what, why; those who were refused as well.
    let records = records(dir.path()).await;
    let changed: Vec<&Record> = records
        .iter()
        .filter(|record| record.event == Event::PolicyChanged)
        .collect();
    let done: Vec<&BTreeMap<String, String>> = changed
        .iter()
        .filter(|record| record.decision == Decision::Allowed)
        .map(|record| &record.detail)
        .collect();
    assert_eq!(done.len(), 3);
    assert_eq!(done[2]["old_digest"], second.digest);
    assert_eq!(done[2]["new_digest"], first.digest);
    assert_eq!(done[2]["reason"], "it was better");
    assert_eq!(done[2]["again"], "1");
    let refused: Vec<&str> = changed
        .iter()
        .filter(|record| record.decision == Decision::Refused)
        .map(|record| record.detail["reason"].as_str())
        .collect();
    assert_eq!(
        refused,
        [
            "POLICY_FAULTS",
            "VERSION_MISMATCH",
            "REASON_MISSING",
            "POLICY_VERSION_NOT_FOUND"
        ]
    );
}

#[tokio::test]
async fn of_those_who_saw_the_same_version_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let attempts = (0..8).map(|number| {
        let mut api = policies(&server);
        async move {
            let text = format!("@id(\"p{number}\") permit (principal, action, resource);");
            let put = api.put(put(&text, 0)).await;
            put.map(|won| (won.into_inner().digest, text))
        }
    });
    let outcomes = futures::future::join_all(attempts).await;
    let won: Vec<&(String, String)> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    for lost in outcomes.iter().filter_map(|o| o.as_ref().err()) {
        assert_eq!(why(lost), reason(Code::Aborted, "VERSION_MISMATCH"));
    }
    assert_eq!(
        in_force(&server).await,
        (1, "stored".into(), won[0].1.clone())
    );
}

#[tokio::test]
async fn a_refused_identity_names_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path()).with(WIT)).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    class(&server, "reader").await;
    class(&server, "writer").await;
    let reader = entry(&server, &node, "/agent/reader/1", "").await;
    let writer = entry(&server, &node, "/agent/writer/1", "").await;
    // Of two classes; each has a say.
    let both = entry(&server, &node, "/agent/writer/2", "reader").await;
    let free = entry(&server, &node, "/web", "").await;
    let all = [&*reader, &*writer, &*both, &*free];
    let ok = |outcomes: Vec<(Code, String)>| -> Vec<Code> {
        outcomes.into_iter().map(|(code, _)| code).collect()
    };

    // Until a set is stored, the guards decide, and let them pass.
    assert_eq!(ok(sign(&node, &all).await), [Code::Ok; 4]);
    assert_eq!(record(&server).await.len(), 4);

    let mut api = policies(&server);
    let stored = api.put(put(STRICT, 0)).await.unwrap().into_inner();
    // From the acknowledgement on.
    let outcomes = sign(&node, &all).await;
    assert_eq!(
        ok(outcomes.clone()),
        [
            Code::PermissionDenied,
            Code::Ok,
            Code::PermissionDenied,
            Code::Ok
        ]
    );
    let said = &outcomes[0].1;
    assert!(
        said.contains("svid.issue to spiffe://example.org/agent/reader/1: forbidden (no.readers)"),
        "{said}"
    );
    // With the set, as a detail that programs read.
    let refused = jwt(&node, &reader).await.unwrap_err();
    assert_eq!(
        why(&refused),
        reason(Code::PermissionDenied, "POLICY_REFUSED")
    );
    let details = metadata_of(MUSTER_DOMAIN, &refused);
    assert_eq!(details["policies"], "no.readers");
    assert_eq!(details["reason"], "forbidden");
    assert_eq!(details["policy_set"], stored.digest);
    jwt(&node, &writer).await.unwrap();
    jwt(&node, &free).await.unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let spki = key.public_key().spki_der().to_vec();
    let wit = BatchNewWitsvidRequest {
        params: [&reader, &writer]
            .map(|entry| NewWitsvidParams {
                entry_id: entry.clone(),
                public_key: spki.clone().into(),
                signing_algorithm: "ES256".into(),
            })
            .to_vec(),
    };
    let wits = node.svids().await.batch_new_witsvid(wit).await.unwrap();
    let codes: Vec<i32> = wits
        .into_inner()
        .results
        .into_iter()
        .map(|result| result.status.unwrap().code)
        .collect();
    assert_eq!(codes, [Code::PermissionDenied as i32, 0]);

    // An operator is asked as well; the server itself vouches for nothing.
    let id = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/agent/reader/9".into(),
    };
    let x509 = MintX509svidRequest {
        csr: csr(Some("spiffe://example.org/agent/reader/9")).into(),
        ttl: 60,
    };
    let minted = server.svids().mint_x509svid(x509).await.unwrap_err();
    assert_eq!(
        why(&minted),
        reason(Code::PermissionDenied, "POLICY_REFUSED")
    );
    let token = MintJwtsvidRequest {
        id: Some(id.clone()),
        audience: vec!["a".into()],
        ttl: 60,
    };
    let minted = server.svids().mint_jwtsvid(token).await.err().unwrap();
    assert_eq!(
        why(&minted),
        reason(Code::PermissionDenied, "POLICY_REFUSED")
    );
    let wit = MintWitsvidRequest {
        id: Some(id),
        public_key: spki.clone().into(),
        signing_algorithm: "ES256".into(),
        ttl: 60,
    };
    let minted = server.svids().mint_witsvid(wit).await.err().unwrap();
    assert_eq!(
        why(&minted),
        reason(Code::PermissionDenied, "POLICY_REFUSED")
    );

    // The same refusal again and again is on record once.
    let before = record(&server).await.len();
    for _ in 0..5 {
        sign(&node, &[&reader]).await;
    }
    assert_eq!(record(&server).await.len(), before);

    server.stop().await;
    let records = records(dir.path()).await;
    let of = |subject: &str, event: Event, decision: Decision| -> Vec<&Record> {
        records
            .iter()
            .filter(|r| r.subject == subject && r.event == event && r.decision == decision)
            .collect()
    };
    let agent = "spiffe://example.org/agent/reader/1";
    let allowed = of(agent, Event::SvidIssued, Decision::Allowed);
    assert_eq!(allowed.len(), 1);
    assert_eq!(allowed[0].detail["policies"], "default.permit");
    let refused = of(agent, Event::SvidIssued, Decision::Refused);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].detail["policies"], "no.readers");
    assert_eq!(refused[0].detail["policy_set"], stored.digest);
    assert_eq!(refused[0].detail["policy_reason"], "forbidden");
    assert_eq!(refused[0].detail["entry_id"], reader);
    // Who is of no class is not asked about.
    let web = of(
        "spiffe://example.org/web",
        Event::SvidIssued,
        Decision::Allowed,
    );
    assert!(!web[0].detail.contains_key("policies"));
}

#[tokio::test]
async fn a_candidate_is_compared_with_what_was_decided() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    for name in ["reader", "writer"] {
        class(&server, name).await;
    }
    let mut api = policies(&server);
    let mut entries = Vec::new();
    for number in 0..4 {
        for name in ["reader", "writer"] {
            let path = format!("/agent/{name}/{number}");
            entries.push(entry(&server, &node, &path, "").await);
        }
    }
    let ids: Vec<&str> = entries.iter().map(String::as_str).collect();
    sign(&node, &ids).await;
    api.put(put(STRICT, 0)).await.unwrap();
    sign(&node, &ids).await;
    for id in &ids {
        drop(jwt(&node, id).await);
    }

    let lines = record(&server).await;
    let recorded: Vec<Recorded> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(recorded.len() >= 20, "{}", recorded.len());
    let candidates = [
        OPEN.to_owned(),
        STRICT.to_owned(),
        STRICT.replace("reader", "writer"),
        "@id(\"short\") permit (principal, action, resource) when { context.requested.seconds <= 300 };".to_owned(),
        String::from("@id(\"none\") forbid (principal, action, resource);"),
    ];
    for text in candidates {
        // By hand: each request as it was recorded, decided by the engine.
        let set = PolicySet::load(&text, &Limits::default()).unwrap();
        let mut expected: Vec<(String, Outcome, Outcome)> = Vec::new();
        let mut counts = (0, 0, 0);
        for one in &recorded {
            let now: Outcome = one.request.decide(&set).unwrap().into();
            if now == one.outcome {
                continue;
            }
            match (one.outcome.verdict, now.verdict) {
                (Verdict::Refuse, Verdict::Allow) => counts.0 += 1,
                (Verdict::Allow, Verdict::Refuse) => counts.1 += 1,
                (Verdict::Allow, Verdict::Allow) | (Verdict::Refuse, Verdict::Refuse) => {
                    counts.2 += 1;
                }
            }
            expected.push((one.request.id.clone(), one.outcome.clone(), now));
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        for given in [Vec::new(), lines.clone()] {
            let asked = v1::ComparePoliciesRequest {
                text: text.clone(),
                lines: given,
                ..v1::ComparePoliciesRequest::default()
            };
            let found = api
                .compare(tokio_stream::iter([asked]))
                .await
                .unwrap()
                .into_inner();
            assert_eq!(found.decided, recorded.len() as u64);
            assert_eq!(
                (
                    found.newly_allowed_count,
                    found.newly_refused_count,
                    found.otherwise_count
                ),
                counts
            );
            let mut changes: Vec<v1::PolicyChange> = found.newly_allowed;
            changes.extend(found.newly_refused);
            changes.extend(found.otherwise);
            changes.sort_by(|a, b| a.id.cmp(&b.id));
            assert_eq!(changes.len(), expected.len());
            for (change, (id, from, to)) in changes.iter().zip(&expected) {
                let told = |outcome: &Option<v1::PolicyOutcome>| {
                    let outcome = outcome.clone().unwrap();
                    (outcome.reason, outcome.policies)
                };
                let own = |outcome: &Outcome| {
                    (outcome.reason.as_str().to_owned(), outcome.policies.clone())
                };
                assert_eq!(change.id, *id);
                assert_eq!(told(&change.from), own(from));
                assert_eq!(told(&change.to), own(to));
            }
        }
        // And one by one.
        let asked = v1::SimulatePoliciesRequest {
            text: text.clone(),
            ..v1::SimulatePoliciesRequest::default()
        };
        let mut stream = api
            .simulate(tokio_stream::iter([asked]))
            .await
            .unwrap()
            .into_inner();
        for one in &recorded {
            let decided = stream.message().await.unwrap().unwrap();
            let by_hand: Outcome = one.request.decide(&set).unwrap().into();
            assert_eq!(decided.id, one.request.id);
            let outcome = decided.outcome.unwrap();
            assert_eq!(outcome.reason, by_hand.reason.as_str());
            assert_eq!(outcome.policies, by_hand.policies);
        }
        assert!(stream.message().await.unwrap().is_none());
    }

    // A request alone, and a line that is none.
    let alone = serde_json::to_string(&recorded[0].request).unwrap();
    let asked = v1::SimulatePoliciesRequest {
        lines: vec![alone, "{\"format\": 1}".into()],
        ..v1::SimulatePoliciesRequest::default()
    };
    let mut stream = api
        .simulate(tokio_stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.principal, "spiffe://example.org/agent/reader/0");
    assert!(first.outcome.is_some());
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(second.id, "line 2");
    assert!(second.undecidable.contains("missing field"), "{second:?}");
}

/// A set that a later version of the schema no longer takes is in the store; what decides is the one
/// before it, and everybody is told.
#[tokio::test]
async fn a_stored_set_that_no_longer_loads_leaves_the_one_before_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut api = policies(&server);
    api.put(put(STRICT, 0)).await.unwrap();
    server.stop().await;
    unloadable(dir.path(), 2).await;

    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mut api = policies(&server);
    assert_eq!(in_force(&server).await.0, 1);
    let listed = api
        .list_versions(v1::ListPolicyVersionsRequest {})
        .await
        .unwrap()
        .into_inner();
    let problem = listed.in_force.unwrap().problem;
    assert!(
        problem.starts_with("version 2: line 1, column 56: policy \"old\""),
        "{problem}"
    );
    health_becomes(&server, "NotServing").await;
    // The next one goes on from it.
    let third = api.put(put(OPEN, 2)).await.unwrap().into_inner();
    assert_eq!(third.number, 3);
    assert_eq!(in_force(&server).await.0, 3);
    health_becomes(&server, "Serving").await;
}

/// Where nothing that was stored loads, nothing is permitted: an open door is not what operators left.
#[tokio::test]
async fn where_no_stored_set_loads_nothing_is_permitted() {
    let dir = tempfile::tempdir().unwrap();
    ServerProcess::start(SERVER, ServerConfig::new(dir.path()))
        .await
        .stop()
        .await;
    unloadable(dir.path(), 1).await;
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let (number, origin, _) = in_force(&server).await;
    assert_eq!((number, origin.as_str()), (0, "guards_only"));
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    class(&server, "reader").await;
    let reader = entry(&server, &node, "/agent/reader/1", "").await;
    let free = entry(&server, &node, "/web", "").await;
    let outcomes = sign(&node, &[&reader, &free]).await;
    assert_eq!(outcomes[0].0, Code::PermissionDenied);
    assert!(outcomes[0].1.contains("not_permitted"), "{outcomes:?}");
    assert_eq!(outcomes[1].0, Code::Ok);
}

/// Writes a set past the server that does not load.
async fn unloadable(dir: &Path, number: u64) {
    let store = SqliteStore::open(ServerConfig::new(dir).roll()).unwrap();
    let permit = decide::<PutPolicies>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
    let mut transaction = Transaction::new();
    let version = PolicyVersion {
        number,
        digest: Sha256::parse(&"00".repeat(32)).unwrap(),
        policies: 1,
        bytes: 1,
        again: None,
        at: Timestamp::from_unix_seconds(1),
        by: "uid 0".into(),
        note: Note::parse("an old one").unwrap(),
        changed_at: Revision::default(),
    };
    let text = "@id(\"old\") permit (principal, action, resource) when { principal.gone };";
    transaction.put_policies(&permit, version, text.into());
    store.commit(vec![Arc::new(transaction)]).await.unwrap();
}

/// Waits until those who watch the server's health are told so.
async fn health_becomes(server: &ServerProcess, expected: &str) {
    let mut client = tonic_health::pb::health_client::HealthClient::new(server.channel());
    let request = tonic_health::pb::HealthCheckRequest {
        service: "muster.agent.v1.Policies".into(),
    };
    let mut stream = client.watch(request).await.expect("a stream").into_inner();
    let told = async {
        while let Some(news) = stream.message().await.unwrap() {
            if format!("{:?}", news.status()) == expected {
                return;
            }
        }
        unreachable!("the stream ended");
    };
    tokio::time::timeout(Duration::from_mins(1), told)
        .await
        .expect("news in time");
}
