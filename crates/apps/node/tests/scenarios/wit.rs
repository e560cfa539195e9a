//! The WIT profile: what workloads get, and what they do not get.

use std::time::Duration;

use muster_crypto::PrivateKey;
use muster_model::{Bundle, Timestamp, WitAuthority};
use muster_proto::workload::{
    JwtBundlesRequest, WitBundlesRequest, WitBundlesResponse, Witsvid, WitsvidRequest,
    WitsvidResponse,
};
use muster_svid::bundle::{decode_jwks, decode_wit_jwks};
use muster_svid::wit::{ParsedWit, ProvenWit, WitError, validate};
use serde_json::Value;
use tonic::{Code, Status, Streaming};

use crate::double::{Double, Lie, id, trust_domain};
use crate::rig::{Client, Rig, next, uid, within};
use crate::wit_double::WitKey;

/// A double with the profile on, and a node that serves it.
async fn start(entries: &[(&str, &str)]) -> (Double, Rig) {
    let double = Double::start().await;
    double.change(|mind| mind.wit_keys.push(WitKey::new()));
    double.change(|mind| mind.sequence += 1);
    for (name, path) in entries {
        double.add_entry(name, path, &[&uid()]);
    }
    let mut rig = Rig::new(&double);
    rig.more = "[wit]\nenabled = true\n[workload_api]\nhold = \"500ms\"".into();
    (double, rig)
}

async fn fetch(
    client: &mut Client,
    spiffe_id: &str,
) -> Result<(WitsvidResponse, Streaming<WitsvidResponse>), Status> {
    within("WIT-SVIDs", async {
        let request = WitsvidRequest {
            spiffe_id: spiffe_id.into(),
        };
        let mut stream = client.fetch_witsvid(request).await?.into_inner();
        let first = stream.message().await?.expect("a first message");
        Ok((first, stream))
    })
    .await
}

async fn bundles(
    client: &mut Client,
) -> Result<(WitBundlesResponse, Streaming<WitBundlesResponse>), Status> {
    within("WIT bundles", async {
        let mut stream = client
            .fetch_wit_bundles(WitBundlesRequest {})
            .await?
            .into_inner();
        let first = stream.message().await?.expect("a first message");
        Ok((first, stream))
    })
    .await
}

fn keys_of(answer: &WitBundlesResponse) -> Vec<WitAuthority> {
    // WIT-19: the trust domain's SPIFFE ID, and a text.
    let set: &String = &answer.bundles["spiffe://example.org"];
    decode_wit_jwks(set.as_bytes()).unwrap()
}

fn now() -> Timestamp {
    use muster_rt::Clock as _;
    muster_rt::SystemClock::new().now().wall
}

/// WIT-18: what a workload does with what it got: it signs with the private JWK, and whoever has
/// the bundle and the token believes it. Nothing of ours reads the private JWK but this.
fn prove(svid: &Witsvid, keys: &[WitAuthority]) -> Result<ProvenWit, WitError> {
    let bundle = Bundle {
        wit_authorities: keys.to_vec(),
        ..Bundle::empty(trust_domain())
    };
    let unproven = validate(&svid.wit_svid, |_| Some(&bundle), now())?;
    let jwk: Value = serde_json::from_str(&svid.wit_svid_key).unwrap();
    assert_eq!((&jwk["kty"], &jwk["crv"]), (&"EC".into(), &"P-256".into()));
    for member in ["x", "y", "d"] {
        assert_eq!(jwk[member].as_str().unwrap().len(), 43, "full width");
    }
    let key = private_key(&jwk);
    let scheme = key.public_key().default_scheme();
    let signature = key.sign(scheme, b"a fresh challenge").unwrap();
    unproven.prove(b"a fresh challenge", &scheme.to_jws(&signature).unwrap())
}

/// SEC 1 and PKCS #8 by hand (RFC 5915, RFC 5208).
fn private_key(jwk: &Value) -> PrivateKey {
    use base64::Engine as _;
    let bytes = |name: &str| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(jwk[name].as_str().unwrap())
            .unwrap()
    };
    let mut der = vec![
        0x30, 0x81, 0x87, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 4, 0x6d, 0x30, 0x6b, 2, 1, 1, 4, 0x20,
    ];
    der.extend(bytes("d"));
    der.extend([0xa1, 0x44, 3, 0x42, 0, 4]);
    der.extend(bytes("x"));
    der.extend(bytes("y"));
    PrivateKey::from_pkcs8_der(&muster_crypto::Secret::new(der)).unwrap()
}

fn token_id(svid: &Witsvid) -> String {
    let wit = ParsedWit::parse(&svid.wit_svid).unwrap();
    wit.token_id().unwrap().to_owned()
}

/// WIT-11, WIT-17, WIT-18, WIT-19.
#[tokio::test]
async fn a_workload_gets_tokens_and_keys_and_what_verifies_them() {
    let (double, rig) = start(&[("a", "/first"), ("b", "/second")]).await;
    double.update_entry("b", |entry| entry.hint = "inner".into());
    let node = rig.run();
    let mut client = rig.client().await;
    let (answer, _stream) = fetch(&mut client, "").await.unwrap();
    let (sets, _bundles) = bundles(&mut client).await.unwrap();
    assert_eq!(answer.svids.len(), 2);
    assert_eq!(answer.svids[1].hint, "inner");
    for (svid, path) in answer.svids.iter().zip(["/first", "/second"]) {
        assert_eq!(svid.spiffe_id, id(path).as_str());
        let proven = prove(svid, &keys_of(&sets)).unwrap();
        assert_eq!(proven.spiffe_id, id(path));
        // The key of one identity is not that of another.
        let mut mixed = svid.clone();
        mixed.wit_svid_key = answer.svids[usize::from(path == "/first")]
            .wit_svid_key
            .clone();
        assert_eq!(prove(&mixed, &keys_of(&sets)), Err(WitError::NotPossessed));
    }
    let (one, _stream) = fetch(&mut client, id("/second").as_str()).await.unwrap();
    assert_eq!(one.svids.len(), 1);
    assert_eq!(
        one.svids[0].wit_svid, answer.svids[1].wit_svid,
        "and the same one"
    );
    // WAPI-43: no WIT key among the JWT keys.
    let mut jwt = client
        .fetch_jwt_bundles(JwtBundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let jwks = next(&mut jwt).await.unwrap();
    let jwks = decode_jwks(&jwks.bundles["spiffe://example.org"]).unwrap();
    let wits = keys_of(&sets);
    assert!(
        jwks.iter()
            .all(|key| wits.iter().all(|wit| wit.key_id != key.key_id))
    );
    assert!(node.stop().await);
}

/// WIT-20, WAPI-19: and a name that is none.
#[tokio::test]
async fn who_has_no_identity_is_denied() {
    let (double, rig) = start(&[]).await;
    double.add_entry("a", "/first", &["unix:uid:4294967294"]);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let denied = fetch(&mut client, "").await.err().unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let denied = bundles(&mut client).await.err().unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let invalid = fetch(&mut client, "not an ID").await.err().unwrap();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    double.add_entry("b", "/second", &[&uid()]);
    let (answer, mut stream) = fetch(&mut client, "").await.unwrap();
    assert_eq!(answer.svids.len(), 1);
    let other = fetch(&mut client, id("/third").as_str())
        .await
        .err()
        .unwrap();
    assert_eq!(other.code(), Code::PermissionDenied);
    double.remove_entry("b");
    let lost = next(&mut stream).await.err().unwrap();
    assert_eq!(lost.code(), Code::PermissionDenied);
    assert!(node.stop().await);
}

/// Renewed on one stream, with a new key each time, before the old one has ended.
#[tokio::test]
async fn tokens_are_renewed_with_new_keys() {
    let (double, rig) = start(&[("a", "/first")]).await;
    double.change(|mind| mind.wit_ttl = Duration::from_secs(4));
    let node = rig.run();
    let mut client = rig.client().await;
    let (sets, _bundles) = bundles(&mut client).await.unwrap();
    let (mut last, mut stream) = fetch(&mut client, "").await.unwrap();
    for _ in 0..2 {
        let answer = next(&mut stream).await.unwrap();
        let old = ParsedWit::parse(&last.svids[0].wit_svid).unwrap();
        assert!(now() < old.expires_at, "late");
        assert_ne!(token_id(&answer.svids[0]), token_id(&last.svids[0]));
        assert_ne!(answer.svids[0].wit_svid_key, last.svids[0].wit_svid_key);
        prove(&answer.svids[0], &keys_of(&sets)).unwrap();
        last = answer;
    }
    assert!(node.stop().await);
}

/// A server that is away ends no stream; what is held is served to its real end, and a wait for
/// more is UNAVAILABLE, never a denial.
#[tokio::test]
async fn through_an_outage() {
    let (mut double, rig) = start(&[("a", "/first")]).await;
    double.change(|mind| mind.wit_ttl = Duration::from_hours(1));
    let node = rig.run();
    let mut client = rig.client().await;
    let (before, _stream) = fetch(&mut client, "").await.unwrap();
    double.down().await;
    rig.info(|info| !info.connected).await;
    let (during, _other) = fetch(&mut client, "").await.unwrap();
    assert_eq!(during.svids[0].wit_svid, before.svids[0].wit_svid);
    let missing = fetch(&mut client, id("/second").as_str())
        .await
        .err()
        .unwrap();
    assert_eq!(missing.code(), Code::Unavailable);
    assert!(node.stop().await);
}

/// A tainted key, and one that leaves the bundle: new tokens at once.
#[tokio::test]
async fn keys_that_are_lost_take_their_tokens_along() {
    let (double, rig) = start(&[("a", "/first")]).await;
    let node = rig.run();
    let mut client = rig.client().await;
    let (first, mut stream) = fetch(&mut client, "").await.unwrap();
    let (_, mut sets) = bundles(&mut client).await.unwrap();
    double.change(|mind| {
        mind.wit_keys[0].authority.tainted = true;
        mind.wit_keys.push(WitKey::new());
        mind.sequence += 1;
    });
    let second = next(&mut stream).await.unwrap();
    let both = keys_of(&next(&mut sets).await.unwrap());
    assert_eq!(both.len(), 2, "both verify still");
    prove(&second.svids[0], &both[1..]).unwrap();
    assert!(matches!(
        prove(&first.svids[0], &both[1..]),
        Err(WitError::UnknownKey { .. })
    ));
    double.change(|mind| {
        mind.wit_keys = vec![WitKey::new()];
        mind.sequence += 1;
    });
    let third = next(&mut stream).await.unwrap();
    let one = keys_of(&next(&mut sets).await.unwrap());
    prove(&third.svids[0], &one).unwrap();
    assert!(node.stop().await);
}

/// Tokens for another key, of another authority or of another name never reach a workload.
#[tokio::test]
async fn a_server_that_lies_is_not_believed() {
    for lie in [Lie::OtherKey, Lie::OtherAuthority, Lie::OtherIdentity] {
        let (double, rig) = start(&[("a", "/first")]).await;
        let node = rig.run();
        // Only then: a node would not join a server that lies about its own certificate.
        rig.in_step(&double).await;
        double.change(|mind| mind.lie = Some(lie));
        let mut client = rig.client().await;
        let waiting =
            tokio::spawn(async move { fetch(&mut client, "").await.map(|(first, _)| first) });
        double.hears("BatchNewWITSVID", 2).await;
        assert!(!waiting.is_finished(), "{lie:?}");
        double.change(|mind| mind.lie = None);
        let answer = within("the truth", waiting).await.unwrap().unwrap();
        let keys: Vec<WitAuthority> = double.shared.mind().bundle().wit_authorities;
        prove(&answer.svids[0], &keys).unwrap();
        assert!(node.stop().await);
    }
}

/// A node whose server has the profile off: no key, so nothing to tell; not a denial.
#[tokio::test]
async fn a_server_without_the_profile() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[wit]\nenabled = true\n[workload_api]\nhold = \"100ms\"".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let waiting = tokio::spawn(async move { bundles(&mut client).await.map(|(first, _)| first) });
    // The keys come: the call that waited is answered.
    double.change(|mind| {
        mind.wit_keys.push(WitKey::new());
        mind.sequence += 1;
    });
    let answer = within("the first keys", waiting).await.unwrap().unwrap();
    assert_eq!(keys_of(&answer).len(), 1);
    assert!(node.stop().await);
}
