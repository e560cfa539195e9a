//! Downstream servers: a CA below the own one, keys in the own bundle, and what operators append.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail by panicking"
)]

use std::time::Duration;

use muster_audit::Event;
use muster_crypto::{KeyType, PrivateKey, random};
use muster_model::{Bundle, SpiffeId, Timestamp, TrustDomain};
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, PublishJwtAuthorityRequest, PublishWitAuthorityRequest,
};
use muster_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewDownstreamX509caRequest, NewDownstreamX509caResponse,
    NewX509svidParams,
};
use muster_proto::spire::api::types;
use muster_store::Store as _;
use muster_store_sqlite::SqliteStore;
use muster_svid::x509::{
    CaParams, Certificate, Issuer, LeafParams, Role, Subject, X509Svid, build_csr, draft_ca, verify,
};
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use tonic::{Code, Status};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");
const HOUR: i64 = 3600;

/// A node, and one that shows the SVID of a workload of it.
async fn workload(server: &ServerProcess, path: &str, downstream: bool) -> (TestNode, TestNode) {
    let (bundle, token) = (server.bundle().await, server.join_token().await);
    let node = TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap();
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
        downstream,
        ..Default::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let answer = server.entries().batch_create_entry(request).await.unwrap();
    let entry_id = answer.into_inner().results.remove(0).entry.unwrap().id;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let request = BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id,
            csr: build_csr(&key, None).unwrap().into(),
        }],
    };
    let answer = node
        .svids()
        .await
        .batch_new_x509svid(request)
        .await
        .unwrap();
    let svid = answer.into_inner().results.remove(0).svid.unwrap();
    let chain = svid.cert_chain.iter().map(|der| der.to_vec()).collect();
    let mut workload = node.clone();
    workload.svid = X509Svid::new(chain, &key).unwrap();
    (node, workload)
}

async fn new_ca(
    caller: &TestNode,
    csr: Vec<u8>,
    preferred_ttl: i32,
) -> Result<NewDownstreamX509caResponse, Status> {
    let request = NewDownstreamX509caRequest {
        csr: csr.into(),
        preferred_ttl,
    };
    let answer = caller.svids().await.new_downstream_x509ca(request).await;
    answer.map(tonic::Response::into_inner)
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn read(bundle: &types::Bundle) -> Bundle {
    let expiry = |der: &[u8]| Certificate::parse(der).ok().map(|c| c.not_after);
    muster_wire::bundle::read(bundle, expiry).unwrap()
}

/// The CA is signed, capped, audited, and what it signs verifies with the bundle.
#[tokio::test]
async fn a_downstream_server_gets_a_ca() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path()).with("[authority]\nttl = \"2h\"");
    let server = ServerProcess::start(SERVER, config).await;
    let (node, downstream) = workload(&server, "/nested", true).await;
    let own = server.bundle().await;
    let root = Certificate::parse(&own.x509_authorities[0].asn1).unwrap();

    let ca_key = key();
    // As SPIRE's servers ask: with the trust domain's own ID in the request.
    let domain = TrustDomain::parse("example.org").unwrap().id();
    let csr = build_csr(&ca_key, Some(&domain)).unwrap();
    let answer = new_ca(&downstream, csr.clone(), 600).await.unwrap();
    assert_eq!(answer.ca_cert_chain.len(), 1);
    assert_eq!(
        answer.x509_authorities,
        [own.x509_authorities[0].asn1.clone()]
    );
    let ca = Certificate::parse(&answer.ca_cert_chain[0]).unwrap();
    assert!(ca.can_sign_certificates());
    assert_eq!(ca.uri_names, ["spiffe://example.org"]);
    assert_eq!(ca.subject_text().matches("OU=DOWNSTREAM-1").count(), 1);
    assert_eq!(ca.authority_key_id, root.subject_key_id);
    let lifetime = |ca: &Certificate| ca.not_after.unix_seconds() - ca.not_before.unix_seconds();
    assert_eq!(lifetime(&ca), 610);

    // No wish is the server's own lifetime; no wish is longer than the root.
    for wish in [0, -1, i32::MAX] {
        let answer = new_ca(&downstream, csr.clone(), wish).await.unwrap();
        let ca = Certificate::parse(&answer.ca_cert_chain[0]).unwrap();
        assert_eq!(ca.not_after, root.not_after, "{wish}");
        assert!(lifetime(&ca) <= 2 * HOUR + 10);
    }

    // What the downstream server signs is an SVID of the trust domain.
    let issuer = Issuer::from_certificate(&answer.ca_cert_chain[0]).unwrap();
    let leaf_key = key();
    let leaf = LeafParams {
        spiffe_id: &SpiffeId::parse("spiffe://example.org/below").unwrap(),
        public_key: leaf_key.public_key(),
        dns_names: &[],
        subject: None,
        serial: random::serial(),
        ttl: Duration::from_mins(1),
    };
    let now = ca.not_before.plus(Duration::from_secs(10));
    let unsigned = issuer.draft_leaf(&leaf, now).unwrap();
    let signature = ca_key.sign(unsigned.scheme(), unsigned.tbs()).unwrap();
    let leaf = unsigned.assemble(&signature);
    let chain = [leaf.as_slice(), &answer.ca_cert_chain[0]];
    let verified = verify(&chain, &read(&own), Role::Client, now).unwrap();
    assert_eq!(verified.spiffe_id.as_str(), "spiffe://example.org/below");

    // Nobody else, and no nonsense.
    let (_, plain) = workload(&server, "/plain", false).await;
    for caller in [&node, &plain] {
        let refused = new_ca(caller, csr.clone(), 600).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let invalid = |status: Result<_, Status>, says: &str| {
        let status = status.map(|_: NewDownstreamX509caResponse| ()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{}", status.message());
    };
    invalid(new_ca(&downstream, vec![], 600).await, "missing CSR");
    invalid(new_ca(&downstream, vec![1], 600).await, "malformed CSR");
    let other = SpiffeId::parse("spiffe://other.example/x").unwrap();
    let foreign = build_csr(&ca_key, Some(&other)).unwrap();
    invalid(
        new_ca(&downstream, foreign, 600).await,
        "set the downstream server's trust domain to \"example.org\"",
    );

    let config = server.config().clone();
    assert!(server.stop().await.success());
    let store = SqliteStore::open(config.dir.join("server/roll.sqlite")).unwrap();
    let signed: Vec<_> = store
        .audit_after(0, 1000)
        .await
        .unwrap()
        .into_iter()
        .map(|(_, record)| record)
        .filter(|record| record.event == Event::CaIssued)
        .collect();
    assert_eq!(signed.len(), 4);
    assert_eq!(signed[0].actor.class, "downstream");
    assert_eq!(signed[0].subject, "spiffe://example.org/nested");
    assert_eq!(signed[0].detail["serial_number"], ca.serial.as_str());
}

fn jwt_key(key_id: &str, key: &PrivateKey) -> types::JwtKey {
    types::JwtKey {
        public_key: key.public_key().spki_der().to_vec().into(),
        key_id: key_id.into(),
        expires_at: 4_000_000_000,
        tainted: true,
    }
}

/// BND-13: a key ID is never given to another key.
#[tokio::test]
async fn a_downstream_server_publishes_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path()).with("[wit]\nenabled = true");
    let server = ServerProcess::start(SERVER, config).await;
    let (node, downstream) = workload(&server, "/nested", true).await;
    let mut bundles = BundleClient::new(downstream.channel().await);
    let mut publish = async |authority: Option<types::JwtKey>| {
        let request = PublishJwtAuthorityRequest {
            jwt_authority: authority,
        };
        let answer = bundles.publish_jwt_authority(request).await;
        answer.map(|answer| answer.into_inner().jwt_authorities)
    };
    let own = server.bundle().await;
    let published = key();
    let all = publish(Some(jwt_key("below", &published))).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], own.jwt_authorities[0]);
    assert_eq!(all[1].key_id, "below");
    assert!(!all[1].tainted, "a taint is an order of its own");
    let bundle = server.bundle().await;
    assert_eq!(bundle.jwt_authorities, all);
    assert_eq!(bundle.sequence_number, own.sequence_number + 1);
    // Again is no change.
    assert_eq!(
        publish(Some(jwt_key("below", &published))).await.unwrap(),
        all
    );
    assert_eq!(server.bundle().await, bundle);

    let taken = own.jwt_authorities[0].key_id.clone();
    for id in ["below", &taken, &own.wit_authorities[0].key_id] {
        let refused = publish(Some(jwt_key(id, &key()))).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    }
    let mut broken = jwt_key("broken", &published);
    broken.public_key = vec![1, 2].into();
    for wrong in [None, Some(jwt_key("", &published)), Some(broken)] {
        let refused = publish(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!(server.bundle().await, bundle);

    // The same for WIT keys, which SPIRE does not serve.
    let request = PublishWitAuthorityRequest {
        wit_authority: Some(types::WitKey {
            public_key: published.public_key().spki_der().to_vec().into(),
            key_id: "wit-below".into(),
            expires_at: 4_000_000_000,
            tainted: false,
        }),
    };
    let mut bundles = BundleClient::new(downstream.channel().await);
    let answer = bundles
        .publish_wit_authority(request.clone())
        .await
        .unwrap();
    assert_eq!(answer.into_inner().wit_authorities.len(), 2);
    let mut bundles = BundleClient::new(node.channel().await);
    let refused = bundles.publish_wit_authority(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

fn root(trust_domain: &str, now: Timestamp) -> Vec<u8> {
    let key = key();
    let params = CaParams {
        trust_domain: &TrustDomain::parse(trust_domain).unwrap(),
        subject: &Subject::default_ca(),
        public_key: key.public_key(),
        serial: random::serial(),
        ttl: Duration::from_hours(1),
    };
    let draft = draft_ca(&params, now).unwrap();
    let signature = key.sign(draft.scheme(), draft.tbs()).unwrap();
    draft.assemble(&signature)
}

#[tokio::test]
async fn an_operator_appends_to_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let own = server.bundle().await;
    let now = Timestamp::from_unix_seconds(1_900_000_000);
    let certificate = |der: Vec<u8>| types::X509Certificate {
        asn1: der.into(),
        tainted: true,
    };
    let mut bundles = BundleClient::new(server.channel());
    let mut append = async |x509: Vec<types::X509Certificate>, jwt: Vec<types::JwtKey>| {
        let request = AppendBundleRequest {
            x509_authorities: x509,
            jwt_authorities: jwt,
            ..Default::default()
        };
        let answer = bundles.append_bundle(request).await;
        answer.map(tonic::Response::into_inner)
    };
    let more = root("example.org", now);
    let bundle = append(
        vec![certificate(more.clone())],
        vec![jwt_key("mine", &key())],
    )
    .await
    .unwrap();
    assert_eq!(bundle.sequence_number, own.sequence_number + 1);
    assert_eq!(bundle.x509_authorities.len(), 2);
    assert_eq!(bundle.x509_authorities[1].asn1, more);
    assert!(!bundle.x509_authorities[1].tainted);
    assert_eq!(bundle, server.bundle().await);
    let again = append(vec![certificate(more)], vec![]).await.unwrap();
    assert_eq!(again, bundle);

    let (_, plain) = workload(&server, "/plain", false).await;
    let leaf = plain.svid.chain[0].clone();
    let refused = [
        (vec![], "no authorities to append"),
        (vec![vec![1]], "X.509 authority 0"),
        (vec![leaf], "not the certificate of a CA"),
        (
            vec![root("other.example", now)],
            "is of \"spiffe://other.example\"",
        ),
    ];
    for (roots, says) in refused {
        let roots = roots.into_iter().map(certificate).collect();
        let status = append(roots, vec![]).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{}", status.message());
    }
    assert_eq!(server.bundle().await, bundle, "all or nothing");
    let request = AppendBundleRequest {
        x509_authorities: vec![certificate(root("example.org", now))],
        ..Default::default()
    };
    let mut bundles = BundleClient::new(plain.channel().await);
    let refused = bundles.append_bundle(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
