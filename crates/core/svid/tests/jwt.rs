//! Tokens and the documents with which they are verified.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_crypto::{JwsError, KeyType, PrivateKey};
use muster_model::{Bundle, JwtAuthority, SpiffeId, Timestamp, TrustDomain, X509Authority};
use muster_svid::bundle::{BundleError, decode_jwks, decode_spiffe, encode_jwks, encode_spiffe};
use muster_svid::jwt::{JwtDraftError, JwtError, JwtParams, draft, validate};
use muster_svid::x509::{CaParams, Subject, draft_ca};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_mins(1);

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn params<'a>(id: &'a SpiffeId, audience: &'a [String], key: &'a PrivateKey) -> JwtParams<'a> {
    JwtParams {
        spiffe_id: id,
        audience,
        key_id: "kid-1",
        public_key: key.public_key(),
        key_expires_at: None,
        ttl: 5 * MINUTE,
        issuer: None,
        token_id: None,
    }
}

fn authority(key: &PrivateKey, key_id: &str) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.into(),
        public_key: Arc::from(key.public_key().spki_der()),
        expires_at: None,
        tainted: false,
    }
}

fn bundle(key: &PrivateKey) -> Bundle {
    Bundle {
        jwt_authorities: vec![authority(key, "kid-1")],
        ..Bundle::empty(domain())
    }
}

fn issue(key: &PrivateKey) -> String {
    let id = domain().with_path("/w").unwrap();
    let audience = ["a".to_owned(), "b".to_owned()];
    let draft = draft(&params(&id, &audience, key), NOW).unwrap();
    let signature = key.sign(draft.scheme(), draft.signing_input()).unwrap();
    draft.assemble(&signature).unwrap().token
}

/// A token with any header and any claims, well signed.
fn forge(key: &PrivateKey, header: &Value, claims: &Value) -> String {
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let scheme = key.public_key().default_scheme();
    let signature = scheme
        .to_jws(&key.sign(scheme, input.as_bytes()).unwrap())
        .unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "kid-1", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"sub": "spiffe://example.org/w", "aud": ["a"], "exp": NOW.unix_seconds() + 300})
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    if value.is_null() {
        object.as_object_mut().unwrap().remove(name);
    } else {
        object.as_object_mut().unwrap().insert(name.into(), value);
    }
    object
}

/// JWTI-01 to -06, JWTI-08, -09, JWTI-11, -12.
#[test]
fn tokens_have_spires_shape() {
    for (key_type, alg) in [
        (KeyType::EcP256, "ES256"),
        (KeyType::EcP384, "ES384"),
        (KeyType::Rsa2048, "RS256"),
    ] {
        let key = PrivateKey::generate(key_type).unwrap();
        let token = issue(&key);
        let parts: Vec<Value> = token
            .split('.')
            .take(2)
            .map(|p| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(p).unwrap()).unwrap())
            .collect();
        assert_eq!(
            parts,
            [
                json!({"alg": alg, "kid": "kid-1", "typ": "JWT"}),
                json!({
                    "sub": "spiffe://example.org/w",
                    "aud": ["a", "b"],
                    "iat": 1_800_000_000,
                    "exp": 1_800_000_300
                })
            ]
        );
        let valid = validate(&token, "b", |_| Some(bundle(&key)), NOW).unwrap();
        assert_eq!(valid.spiffe_id.as_str(), "spiffe://example.org/w");
        assert_eq!(valid.claims["aud"], json!(["a", "b"]));
    }
}

#[test]
fn optional_claims_and_the_end_of_the_key() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = domain().with_path("/w").unwrap();
    let audience = [String::new(), "a".to_owned()];
    let params = JwtParams {
        issuer: Some("https://issuer"),
        token_id: Some([0; 16]),
        key_expires_at: Some(NOW.plus(MINUTE)),
        ..params(&id, &audience, &key)
    };
    let draft = draft(&params, NOW).unwrap();
    let (_, payload) = std::str::from_utf8(draft.signing_input())
        .unwrap()
        .split_once('.')
        .unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(
        claims,
        json!({
            "sub": "spiffe://example.org/w", "aud": ["a"], "iss": "https://issuer",
            "jti": "AAAAAAAAAAAAAAAAAAAAAA", "iat": 1_800_000_000, "exp": 1_800_000_060
        })
    );
}

#[test]
fn drafts_that_are_refused() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id = domain().with_path("/w").unwrap();
    let fault = |p: JwtParams<'_>| draft(&p, NOW).err().unwrap();
    let (some, none) = (["a".to_owned()], [String::new()]);
    assert_eq!(fault(params(&id, &none, &key)), JwtDraftError::NoAudience);
    let bare = domain().id();
    assert_eq!(
        fault(params(&bare, &some, &key)),
        JwtDraftError::NoPath(bare.clone())
    );
    // JWTI-17.
    let long = ["a".repeat(64 * 1024)];
    assert!(matches!(
        fault(params(&id, &long, &key)),
        JwtDraftError::TooLong(_)
    ));
    let edwards = PrivateKey::generate(KeyType::Ed25519).unwrap();
    assert_eq!(
        fault(params(&id, &some, &edwards)),
        JwtDraftError::KeyType(edwards.algorithm())
    );
    let ended = JwtParams {
        key_expires_at: Some(NOW),
        ..params(&id, &some, &key)
    };
    assert_eq!(fault(ended), JwtDraftError::Expired(NOW));
}

/// JWTV-01, -02, JWTV-04 to JWTV-09, JWTV-12.
#[test]
fn tokens_that_are_refused() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let check = |header: Value, claims: Value, expected: JwtError| {
        let token = forge(&key, &header, &claims);
        assert_eq!(
            validate(&token, "a", |_| Some(bundle(&key)), NOW),
            Err(expected),
            "{header} {claims}"
        );
    };
    for alg in ["none", "HS256", "EdDSA"] {
        let bad = with(header(), "alg", alg.into());
        check(bad, claims(), JwtError::Jws(JwsError::Algorithm));
    }
    let rs = with(header(), "alg", "RS256".into());
    check(rs, claims(), JwtError::Jws(JwsError::KeyMismatch));
    for typ in ["wit+jwt", "at+jwt", "jwt", ""] {
        check(with(header(), "typ", typ.into()), claims(), JwtError::Type);
    }
    let crit = with(header(), "crit", json!(["exp"]));
    check(crit, claims(), JwtError::Jws(JwsError::Critical));
    check(
        with(header(), "kid", Value::Null),
        claims(),
        JwtError::NoKeyId,
    );
    check(
        with(header(), "kid", "".into()),
        claims(),
        JwtError::NoKeyId,
    );
    check(header(), json!([]), JwtError::Claims);
    for (name, bad) in [
        ("aud", Value::Null),
        ("aud", json!([])),
        ("aud", json!([1])),
        ("aud", json!(1)),
        ("exp", Value::Null),
        ("exp", json!("1900000000")),
        ("sub", Value::Null),
        ("sub", json!(1)),
    ] {
        check(
            header(),
            with(claims(), name, bad),
            JwtError::Claim(match name {
                "aud" => "aud",
                "exp" => "exp",
                _ => "sub",
            }),
        );
    }
    for aud in [json!("A"), json!("ab"), json!(["aa", "b"])] {
        check(
            header(),
            with(claims(), "aud", aud),
            JwtError::Audience("a".into()),
        );
    }
    let now = NOW.unix_seconds();
    for ago in [0, 1, 120] {
        check(
            header(),
            with(claims(), "exp", json!(now - ago)),
            JwtError::Expired,
        );
    }
    check(
        header(),
        with(claims(), "nbf", json!(now + 3600)),
        JwtError::NotYetValid,
    );
    for bad in [
        "example.org/w",
        "spiffe://example.org/w/",
        "https://example.org/w",
    ] {
        let token = forge(&key, &header(), &with(claims(), "sub", bad.into()));
        assert!(matches!(
            validate(&token, "a", |_| Some(bundle(&key)), NOW),
            Err(JwtError::Subject(_))
        ));
    }
}

/// What others may write and we accept.
#[test]
fn tokens_that_are_accepted() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let now = NOW.unix_seconds();
    for (header, claims) in [
        (header(), claims()),
        (with(header(), "typ", Value::Null), claims()),
        (with(header(), "typ", "JOSE".into()), claims()),
        // JWTV-05: key material in a header is not looked at.
        (
            with(header(), "jwk", json!({"kty": "oct", "k": "AA"})),
            claims(),
        ),
        (header(), with(claims(), "aud", json!("a"))),
        (header(), with(claims(), "exp", json!(1_800_000_000.5))),
        (header(), with(claims(), "nbf", json!(now + 30))),
        // JWTV-14: no path is the issuer's fault, not the token's.
        (
            header(),
            with(claims(), "sub", "spiffe://example.org".into()),
        ),
    ] {
        let token = forge(&key, &header, &claims);
        let result = validate(&token, "a", |_| Some(bundle(&key)), NOW);
        assert!(result.is_ok(), "{header} {claims} {result:?}");
    }
}

/// JWTV-10, X509V-10.
#[test]
fn keys_come_from_the_bundle_of_the_subject() {
    let (ours, theirs) = (
        PrivateKey::generate(KeyType::EcP256).unwrap(),
        PrivateKey::generate(KeyType::EcP256).unwrap(),
    );
    // The same kid, another domain's key.
    let token = forge(&theirs, &header(), &claims());
    assert_eq!(
        validate(&token, "a", |_| Some(bundle(&ours)), NOW),
        Err(JwtError::Jws(JwsError::BadSignature))
    );
    assert_eq!(
        validate(&token, "a", |_| None::<Bundle>, NOW),
        Err(JwtError::NoBundle(domain()))
    );
    let unknown = JwtError::UnknownKey {
        trust_domain: domain(),
        key_id: "kid-1".into(),
    };
    let mut foreign = bundle(&theirs);
    foreign.trust_domain = TrustDomain::parse("other.org").unwrap();
    assert_eq!(
        validate(&token, "a", |_| Some(foreign), NOW),
        Err(unknown.clone())
    );
    let mut expired = bundle(&theirs);
    expired.jwt_authorities[0].expires_at = Some(NOW);
    assert_eq!(validate(&token, "a", |_| Some(expired), NOW), Err(unknown));
}

fn full_bundle(key: &PrivateKey) -> Bundle {
    let draft = draft_ca(
        &CaParams {
            trust_domain: &domain(),
            subject: &Subject::default_ca(),
            public_key: key.public_key(),
            serial: [3; 16],
            ttl: 60 * MINUTE,
        },
        NOW,
    )
    .unwrap();
    let expires_at = draft.not_after;
    let signature = key.sign(draft.scheme(), draft.tbs()).unwrap();
    Bundle {
        x509_authorities: vec![X509Authority {
            der: draft.assemble(&signature).into(),
            expires_at,
            tainted: false,
        }],
        refresh_hint: 300,
        sequence_number: 7,
        ..bundle(key)
    }
}

/// BND-01, -02, -03, BND-07, BND-09, BND-11, -12: what the document says, member by member.
#[test]
fn bundles_return_from_their_document() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let bundle = full_bundle(&key);
    let document = encode_spiffe(&bundle);
    let value: Value = serde_json::from_slice(&document).unwrap();
    let names = |v: &Value| {
        let mut names: Vec<String> = v.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&value),
        ["keys", "spiffe_refresh_hint", "spiffe_sequence"]
    );
    assert_eq!(
        names(&value["keys"][0]),
        ["crv", "kty", "use", "x", "x5c", "y"]
    );
    assert_eq!(
        names(&value["keys"][1]),
        ["crv", "kid", "kty", "use", "x", "y"]
    );
    assert_eq!(decode_spiffe(domain(), &document), Ok(bundle.clone()));

    let jwks = encode_jwks(&bundle);
    let value: Value = serde_json::from_slice(&jwks).unwrap();
    assert_eq!(names(&value), ["keys"]);
    assert_eq!(names(&value["keys"][0]), ["crv", "kid", "kty", "x", "y"]);
    assert_eq!(decode_jwks(&jwks), Ok(bundle.jwt_authorities));

    // BND-02: `keys` is there also when it is empty.
    let empty = Bundle::empty(domain());
    assert_eq!(encode_jwks(&empty), br#"{"keys":[]}"#);
    assert_eq!(decode_spiffe(domain(), &encode_spiffe(&empty)), Ok(empty));
}

/// BND-06, BND-08, BND-15, BND-16, X509V-12, JWTV-11.
#[test]
fn what_is_not_understood_is_passed_over() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut document: Value = serde_json::from_slice(&encode_spiffe(&full_bundle(&key))).unwrap();
    let x509 = document["keys"][0].clone();
    let jwt = document["keys"][1].clone();
    document["keys"] = json!([
        x509,
        jwt,
        {"kty": "AKP", "use": "jwt-svid", "kid": "ml-dsa"},
        {"kty": "EC", "crv": "secp256k1", "use": "jwt-svid", "kid": "k1"},
        {"use": "jwt-svid", "kid": "no type"},
        with(jwt.clone(), "use", Value::Null),
        with(jwt.clone(), "use", "wit-svid".into()),
        with(jwt.clone(), "use", "JWT-SVID".into()),
        with(x509.clone(), "x5c", Value::Null),
        with(x509.clone(), "x5c", json!([])),
        with(x509.clone(), "x5c", json!([x509["x5c"][0], "later ones do not count"])),
        "not an object",
    ]);
    document["more"] = json!({"later": true});
    let bundle = decode_spiffe(domain(), document.to_string().as_bytes()).unwrap();
    assert_eq!(bundle.x509_authorities.len(), 2);
    assert_eq!(bundle.jwt_authorities.len(), 1);
}

/// BND-10 for every kind of key: coordinates at full width, numbers without a zero at their head,
/// base64url without padding; BND-11: a certificate in base64 with it.
#[test]
fn keys_of_every_kind_are_written_as_rfc_7518_says() {
    use base64::engine::general_purpose::STANDARD;
    for (key_type, members) in [
        (KeyType::EcP256, [("x", 32), ("y", 32)].as_slice()),
        (KeyType::EcP384, &[("x", 48), ("y", 48)]),
        (KeyType::Rsa2048, &[("n", 256), ("e", 3)]),
    ] {
        let key = PrivateKey::generate(key_type).unwrap();
        let bundle = full_bundle(&key);
        let document = encode_spiffe(&bundle);
        let value: Value = serde_json::from_slice(&document).unwrap();
        for entry in value["keys"].as_array().unwrap() {
            for (member, width) in members {
                let bytes = URL_SAFE_NO_PAD
                    .decode(entry[member].as_str().unwrap())
                    .unwrap();
                assert_eq!(bytes.len(), *width, "{member}");
            }
        }
        let certificates = value["keys"][0]["x5c"].as_array().unwrap();
        assert_eq!(certificates.len(), 1);
        assert_eq!(
            STANDARD.decode(certificates[0].as_str().unwrap()).unwrap(),
            *bundle.x509_authorities[0].der
        );
        assert_eq!(decode_spiffe(domain(), &document), Ok(bundle));
    }
}

/// BND-15, X509V-12: the first value of `x5c` counts, so one that is no text is a fault and not a
/// reason to look at the second.
#[test]
fn a_first_certificate_that_is_no_text_is_not_passed_over() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut document: Value = serde_json::from_slice(&encode_spiffe(&full_bundle(&key))).unwrap();
    let good = document["keys"][0]["x5c"][0].clone();
    document["keys"][0]["x5c"] = json!([1, good]);
    assert!(matches!(
        decode_spiffe(domain(), document.to_string().as_bytes()),
        Err(BundleError::Key { index: 0, .. })
    ));
}

/// ID-14: the longest ID stands in a token.
#[test]
fn the_longest_id_has_a_token() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let path = format!("/{}", "p".repeat(2048 - "spiffe://example.org/".len()));
    let id = domain().with_path(&path).unwrap();
    assert_eq!(id.as_str().len(), 2048);
    let audience = ["a".to_owned()];
    let draft = draft(&params(&id, &audience, &key), NOW).unwrap();
    let signature = key.sign(draft.scheme(), draft.signing_input()).unwrap();
    let token = draft.assemble(&signature).unwrap().token;
    let valid = validate(&token, "a", |_| Some(bundle(&key)), NOW).unwrap();
    assert_eq!(valid.spiffe_id, id);
}

/// JWTV-13: a token is no ticket for one ride.
#[test]
fn a_token_may_be_shown_twice() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let token = forge(&key, &header(), &with(claims(), "jti", json!("1")));
    for _ in 0..2 {
        assert!(validate(&token, "a", |_| Some(bundle(&key)), NOW).is_ok());
    }
}

#[test]
fn documents_that_are_refused() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let good: Value = serde_json::from_slice(&encode_spiffe(&full_bundle(&key))).unwrap();
    let fault = |value: &Value| {
        decode_spiffe(domain(), value.to_string().as_bytes())
            .err()
            .unwrap()
    };
    for bad in [json!([]), json!({}), json!({"keys": {}}), json!(null)] {
        assert_eq!(fault(&bad), BundleError::NotAKeySet);
    }
    for bad in [json!(-1), json!(1.5), json!("7")] {
        assert_eq!(
            fault(&with(good.clone(), "spiffe_sequence", bad)),
            BundleError::Number("spiffe_sequence")
        );
    }
    let mut bad = good.clone();
    bad["keys"][1]["kid"] = json!("");
    assert_eq!(fault(&bad), BundleError::NoKeyId { index: 1 });
    let mut bad = good.clone();
    bad["keys"][1]["x"] = json!("AA");
    assert!(matches!(fault(&bad), BundleError::Key { index: 1, .. }));
    let mut bad = good.clone();
    bad["keys"][0]["x5c"][0] = json!("!");
    assert!(matches!(
        fault(&bad),
        BundleError::Certificate { index: 0, .. }
    ));
    let other = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut bad = good;
    let others: Value = serde_json::from_slice(&encode_spiffe(&full_bundle(&other))).unwrap();
    bad["keys"][0]["x5c"] = others["keys"][0]["x5c"].clone();
    assert_eq!(fault(&bad), BundleError::CertificateKey { index: 0 });
}

proptest! {
    #[test]
    fn documents_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
        let _ignored = decode_spiffe(domain(), &bytes);
        let _ignored = decode_jwks(&bytes);
        let document = json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [text]}], "spiffe_sequence": text});
        let _ignored = decode_spiffe(domain(), document.to_string().as_bytes());
    }

    #[test]
    fn claims_never_panic(exp: f64, nbf: i64, sub in ".{0,40}", aud in ".{0,10}") {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let token = forge(&key, &header(), &json!({"exp": exp, "nbf": nbf, "sub": sub, "aud": aud}));
        let _ignored = validate(&token, &aud, |_| Some(bundle(&key)), NOW);
        let fixed = forge(&key, &header(), &json!({"exp": exp, "nbf": nbf, "sub": "spiffe://example.org/w", "aud": aud}));
        let _ignored = validate(&fixed, &aud, |_| Some(bundle(&key)), NOW);
    }
}
