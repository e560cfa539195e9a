//! What is signed: for a node's entries, and for operators.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail by panicking"
)]

use muster_crypto::{KeyType, PrivateKey};
use muster_model::{SpiffeId, Timestamp};
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintJwtsvidRequest, MintX509svidRequest, NewJwtsvidRequest,
    NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_svid::x509::{Certificate, build_csr};
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use tonic::Code;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

async fn entry_of(server: &ServerProcess, node: &TestNode, dns: &[&str]) -> String {
    let entry = types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: "/w".into(),
        }),
        parent_id: Some(muster_wire::id::write(node.id())),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        dns_names: dns.iter().map(ToString::to_string).collect(),
        x509_svid_ttl: 600,
        ..Default::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let mut results = server
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    results.remove(0).entry.unwrap().id
}

fn csr(id: Option<&str>) -> Vec<u8> {
    let id = id.map(|id| SpiffeId::parse(id).unwrap());
    build_csr(&PrivateKey::generate(KeyType::EcP256).unwrap(), id.as_ref()).unwrap()
}

#[tokio::test]
async fn a_node_gets_certificates_for_its_entries_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let other = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let mine = entry_of(&server, &node, &["a.example.org", "b.example.org"]).await;

    let params = |entry_id: &str, csr: Vec<u8>| NewX509svidParams {
        entry_id: entry_id.into(),
        csr: csr.into(),
    };
    let mut tampered = csr(None);
    *tampered.last_mut().unwrap() ^= 1;
    let request = BatchNewX509svidRequest {
        params: vec![
            params(&mine, csr(Some("spiffe://example.org/somebody-else"))),
            params("unknown", csr(None)),
            params(&mine, tampered),
            params(&mine, b"garbage".to_vec()),
        ],
    };
    let results = node
        .svids()
        .await
        .batch_new_x509svid(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<Code> = results
        .iter()
        .map(|r| Code::from_i32(r.status.as_ref().unwrap().code))
        .collect();
    assert_eq!(
        codes,
        [
            Code::Ok,
            Code::NotFound,
            Code::InvalidArgument,
            Code::InvalidArgument
        ]
    );

    let svid = results[0].svid.as_ref().unwrap();
    assert_eq!(svid.cert_chain.len(), 1, "the chain has no root");
    let leaf = Certificate::parse(&svid.cert_chain[0]).unwrap();
    assert_eq!(
        leaf.spiffe_id().unwrap().as_str(),
        "spiffe://example.org/w",
        "the request's own name means nothing"
    );
    assert_eq!(svid.expires_at, leaf.not_after.unix_seconds());
    let life = leaf.not_after.since(leaf.not_before).as_secs();
    assert_eq!(
        life, 610,
        "the entry's lifetime, and ten seconds before now"
    );

    let request = BatchNewX509svidRequest {
        params: vec![params(&mine, csr(None))],
    };
    let results = other
        .svids()
        .await
        .batch_new_x509svid(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(
        results[0].status.as_ref().unwrap().message,
        "entry not found or not authorized"
    );
}

#[tokio::test]
async fn tokens_name_their_audience_and_a_key_of_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let entry_id = entry_of(&server, &node, &[]).await;

    let request = NewJwtsvidRequest {
        entry_id: entry_id.clone(),
        audience: vec!["db".into(), String::new()],
    };
    let svid = node
        .svids()
        .await
        .new_jwtsvid(request)
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    let own = muster_wire::bundle::read(&bundle, |der| {
        Certificate::parse(der).ok().map(|c| c.not_after)
    })
    .unwrap();
    let lookup = |td: &muster_model::TrustDomain| (*td == own.trust_domain).then_some(&own);
    let now = Timestamp::from_unix_seconds(svid.issued_at);
    let valid = muster_svid::jwt::validate(&svid.token, "db", lookup, now).unwrap();
    assert_eq!(valid.spiffe_id.as_str(), "spiffe://example.org/w");
    assert_eq!(svid.expires_at - svid.issued_at, 300);

    let nobody = NewJwtsvidRequest {
        entry_id,
        audience: vec![String::new()],
    };
    assert_eq!(
        node.svids()
            .await
            .new_jwtsvid(nobody)
            .await
            .err()
            .unwrap()
            .code(),
        Code::InvalidArgument
    );
    let mint = MintJwtsvidRequest {
        id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: "/ops".into(),
        }),
        audience: vec!["a".into()],
        ttl: 60,
    };
    let minted = server
        .svids()
        .mint_jwtsvid(mint)
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    assert_eq!(minted.expires_at - minted.issued_at, 60);
}

#[tokio::test]
async fn operators_mint_what_their_request_names() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let mint = |csr: Vec<u8>| MintX509svidRequest {
        csr: csr.into(),
        ttl: 60,
    };
    let minted = server
        .svids()
        .mint_x509svid(mint(csr(Some("spiffe://example.org/ops"))))
        .await
        .unwrap();
    let svid = minted.into_inner().svid.unwrap();
    assert_eq!(
        Certificate::parse(&svid.cert_chain[0])
            .unwrap()
            .spiffe_id()
            .unwrap()
            .path(),
        "/ops"
    );
    for refused in [
        csr(None),
        csr(Some("spiffe://other.org/ops")),
        b"x".to_vec(),
        Vec::new(),
    ] {
        let status = server
            .svids()
            .mint_x509svid(mint(refused))
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}
