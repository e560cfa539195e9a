//! The WIT profile of the server: off unless the operator says so; its authority; what it signs.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail by panicking"
)]

use muster_audit::{Record, SvidKind};
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, Timestamp, TrustDomain};
use muster_proto::muster::node::v1::WatchRequest;
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, MintWitsvidRequest, NewWitsvidParams,
};
use muster_proto::spire::api::types;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_svid::wit::{UnprovenWit, WitError, validate};
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use tonic::Code;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");
const ON: &str = "[wit]\nenabled = true";

async fn entry_of(server: &ServerProcess, node: &TestNode, ttl: i32, path: &str) -> String {
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
        x509_svid_ttl: ttl,
        hint: path.trim_start_matches('/').into(),
        ..Default::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let answer = server.entries().batch_create_entry(request).await.unwrap();
    answer.into_inner().results.remove(0).entry.unwrap().id
}

async fn node_of(server: &ServerProcess) -> TestNode {
    let (bundle, token) = (server.bundle().await, server.join_token().await);
    TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap()
}

fn params(entry_id: &str, key: &PrivateKey, algorithm: &str) -> NewWitsvidParams {
    NewWitsvidParams {
        entry_id: entry_id.into(),
        public_key: key.public_key().spki_der().to_vec().into(),
        signing_algorithm: algorithm.into(),
    }
}

fn mint(path: &str, key: &PrivateKey) -> MintWitsvidRequest {
    MintWitsvidRequest {
        id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        }),
        public_key: key.public_key().spki_der().to_vec().into(),
        ttl: 60,
        signing_algorithm: "ES256".into(),
    }
}

fn read(bundle: &types::Bundle) -> Bundle {
    muster_wire::bundle::read(bundle, |_| Some(Timestamp::MAX)).unwrap()
}

fn check(svid: &types::Witsvid, bundle: &types::Bundle) -> Result<UnprovenWit, WitError> {
    let own = read(bundle);
    let lookup = |td: &TrustDomain| (*td == own.trust_domain).then_some(&own);
    validate(
        &svid.token,
        lookup,
        Timestamp::from_unix_seconds(svid.issued_at),
    )
}

/// WIT-02.
#[tokio::test]
async fn off_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    assert!(server.bundle().await.wit_authorities.is_empty());
    let node = node_of(&server).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let status = server.svids().mint_witsvid(mint("/x", &key)).await.err();
    assert_eq!(status.unwrap().code(), Code::Unimplemented);
    let batch = BatchNewWitsvidRequest {
        params: vec![params("e", &key, "ES256")],
    };
    let status = node.svids().await.batch_new_witsvid(batch).await.err();
    assert_eq!(status.unwrap().code(), Code::Unimplemented);
}

/// WIT-03, WIT-05, WIT-06, WIT-07: for the node's own entries, each with its own outcome.
#[tokio::test]
async fn a_node_gets_tokens_for_its_entries_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path()).with(ON)).await;
    let (node, other) = (node_of(&server).await, node_of(&server).await);
    let mine = entry_of(&server, &node, 600, "/w").await;
    let plain = entry_of(&server, &node, 0, "/plain").await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let ed25519 = PrivateKey::generate(KeyType::Ed25519).unwrap();
    let request = BatchNewWitsvidRequest {
        params: vec![
            params(&mine, &key, "ES256"),
            params(&plain, &key, "ES256"),
            params("unknown", &key, "ES256"),
            params("", &key, "ES256"),
            params(&mine, &key, "RS256"),
            params(&mine, &key, "none"),
            params(&mine, &ed25519, "EdDSA"),
            NewWitsvidParams {
                public_key: b"garbage".to_vec().into(),
                ..params(&mine, &key, "ES256")
            },
            NewWitsvidParams {
                public_key: Vec::new().into(),
                ..params(&mine, &key, "ES256")
            },
        ],
    };
    let results = node
        .svids()
        .await
        .batch_new_witsvid(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<Code> = results
        .iter()
        .map(|r| Code::from_i32(r.status.as_ref().unwrap().code))
        .collect();
    let mut expected = vec![Code::Ok, Code::Ok, Code::NotFound];
    expected.resize(9, Code::InvalidArgument);
    assert_eq!(codes, expected);

    let bundle = server.bundle().await;
    for (result, (path, life)) in results.iter().zip([("/w", 600), ("/plain", 3600)]) {
        let svid = result.svid.as_ref().unwrap();
        let wit = check(svid, &bundle).unwrap();
        assert_eq!(wit.claimed_id().path(), path);
        assert_eq!(wit.confirmation().0, key.public_key());
        assert_eq!(svid.expires_at - svid.issued_at, life);
        assert_eq!(svid.hint, path.trim_start_matches('/'));
    }
    let again = BatchNewWitsvidRequest {
        params: vec![params(&mine, &key, "ES256")],
    };
    let stranger = other.svids().await.batch_new_witsvid(again).await.unwrap();
    let status = stranger.into_inner().results[0].status.clone().unwrap();
    assert_eq!(status.message, "entry not found or not authorized");
    let refused = async |params: Vec<NewWitsvidParams>| {
        let mut client = node.svids().await;
        let status = client
            .batch_new_witsvid(BatchNewWitsvidRequest { params })
            .await;
        status.err().unwrap().code()
    };
    assert_eq!(refused(Vec::new()).await, Code::InvalidArgument);
    let many = vec![params(&mine, &key, "ES256"); 501];
    assert_eq!(refused(many).await, Code::InvalidArgument);
}

#[tokio::test]
async fn operators_mint_and_it_is_on_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path()).with(ON)).await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let minted = server.svids().mint_witsvid(mint("/ops", &key)).await;
    let svid = minted.unwrap().into_inner().svid.unwrap();
    assert_eq!(svid.expires_at - svid.issued_at, 60);
    let bundle = server.bundle().await;
    let wit = check(&svid, &bundle).unwrap();
    assert_eq!(wit.claimed_id().path(), "/ops");
    // WIT-16: of all keys of the bundle.
    let own = read(&bundle);
    assert_eq!(
        (own.jwt_authorities.len(), own.wit_authorities.len()),
        (1, 1)
    );
    assert_ne!(own.jwt_authorities[0].key_id, own.wit_authorities[0].key_id);
    for path in ["", "relative"] {
        let status = server.svids().mint_witsvid(mint(path, &key)).await.err();
        assert_eq!(status.unwrap().code(), Code::InvalidArgument);
    }
    assert!(server.stop().await.success());
    let store = SqliteStore::open(ServerConfig::new(dir.path()).roll()).unwrap();
    let issued: Vec<Record> = store
        .audit_after(0, 1000)
        .await
        .unwrap()
        .into_iter()
        .map(|(_, record)| record)
        .filter(|record| SvidKind::issued(record) == Some(SvidKind::Wit))
        .collect();
    assert_eq!(issued.len(), 1);
    assert_eq!(issued[0].subject, "spiffe://example.org/ops");
    assert_eq!(
        issued[0].detail["authority_id"],
        own.wit_authorities[0].key_id
    );
}

/// WIT-05: two slots, and a key is in the bundle before anything is signed with it.
#[tokio::test]
async fn the_authority_rotates_and_is_known_before_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path()).with(
        "[authority]\nttl = \"6s\"\n[svid]\nx509_ttl = \"2s\"\nnode_ttl = \"5s\"\n[wit]\nenabled = true",
    );
    let server = ServerProcess::start(SERVER, config).await;
    let node = node_of(&server).await;
    let watching = node.views().await.watch(WatchRequest::default()).await;
    let mut stream = watching.unwrap().into_inner();
    let mut known = stream.message().await.unwrap().unwrap().bundles.remove(0);
    let first = known.wit_authorities[0].clone();
    while known.wit_authorities.len() < 2 {
        known = stream.message().await.unwrap().unwrap().bundles.remove(0);
    }
    assert_ne!(known.wit_authorities[1].key_id, first.key_id);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let minted = server.svids().mint_witsvid(mint("/x", &key)).await.unwrap();
    check(&minted.into_inner().svid.unwrap(), &known).unwrap();
}

/// Off again, the keys leave the bundle and the journal; on again, there are new ones.
#[tokio::test]
async fn switched_off_the_keys_are_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path());
    let server = ServerProcess::start(SERVER, config.clone().with(ON)).await;
    let on = server.bundle().await;
    assert!(server.stop().await.success());
    // As it was, the authority is the same after a restart.
    let server = ServerProcess::start(SERVER, config.clone().with(ON)).await;
    assert_eq!(server.bundle().await.wit_authorities, on.wit_authorities);
    assert!(server.stop().await.success());

    let server = ServerProcess::start(SERVER, config.clone()).await;
    let off = server.bundle().await;
    assert!(off.wit_authorities.is_empty());
    assert_eq!(off.jwt_authorities, on.jwt_authorities);
    assert!(off.sequence_number > on.sequence_number, "BND-03");
    assert!(server.stop().await.success());
    let server = ServerProcess::start(SERVER, config.with(ON)).await;
    let again = server.bundle().await;
    assert_eq!(again.wit_authorities.len(), 1);
    assert_ne!(again.wit_authorities, on.wit_authorities);
}
