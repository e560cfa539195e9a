//! WIT-SVIDs: what is issued, and what is refused with which reason.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_crypto::{
    JwkError, JwsAlgorithm, JwsError, KeyAlgorithm, KeyType, PrivateKey, public_jwk_members,
};
use muster_model::{Bundle, SpiffeId, Timestamp, TrustDomain, WitAuthority};
use muster_svid::bundle::{
    decode_spiffe, decode_wit_jwks, encode_jwks, encode_spiffe, encode_wit_jwks,
};
use muster_svid::wit::{
    DiscoverableIssuer, ProvenWit, UnprovenWit, WitDraftError, WitError, WitParams, WitSvid,
    check_issuer, draft, validate,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/web").unwrap()
}

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn key(key_type: KeyType) -> PrivateKey {
    PrivateKey::generate(key_type).unwrap()
}

fn authority(key: &PrivateKey, key_id: &str) -> WitAuthority {
    WitAuthority {
        key_id: key_id.into(),
        public_key: key.public_key().spki_der().into(),
        expires_at: None,
        tainted: false,
    }
}

fn bundle(key: &PrivateKey) -> Bundle {
    Bundle {
        wit_authorities: vec![authority(key, "kid-1")],
        ..Bundle::empty(td("example.org"))
    }
}

fn params<'a>(id: &'a SpiffeId, signer: &'a PrivateKey, workload: &'a PrivateKey) -> WitParams<'a> {
    WitParams {
        spiffe_id: id,
        confirmation: workload.public_key(),
        confirmation_algorithm: JwsAlgorithm::for_key(workload.algorithm()).unwrap(),
        key_id: "kid-1",
        public_key: signer.public_key(),
        key_expires_at: None,
        ttl: HOUR,
        issuer: None,
        token_id: [7; 16],
    }
}

fn sign(params: &WitParams<'_>, signer: &PrivateKey) -> WitSvid {
    let unsigned = draft(params, NOW).unwrap();
    let signature = signer
        .sign(unsigned.scheme(), unsigned.signing_input())
        .unwrap();
    unsigned.assemble(&signature).unwrap()
}

fn part(token: &str, n: usize) -> Map<String, Value> {
    let part = token.split('.').nth(n).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// A token with these parts, signed for real.
fn forge(header: &Value, claims: &Value, signer: &PrivateKey) -> String {
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let scheme = signer.public_key().default_scheme();
    let signature = signer.sign(scheme, input.as_bytes()).unwrap();
    let signature = scheme.to_jws(&signature).unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn prove(unproven: UnprovenWit, workload: &PrivateKey) -> Result<ProvenWit, WitError> {
    let scheme = workload.public_key().default_scheme();
    let signature = workload.sign(scheme, b"a fresh challenge").unwrap();
    unproven.prove(b"a fresh challenge", &scheme.to_jws(&signature).unwrap())
}

/// WIT-03, WIT-04, WIT-06 to WIT-09: exactly these members.
#[test]
fn what_is_issued() {
    let (signer, workload, id) = (key(KeyType::EcP256), key(KeyType::EcP384), id());
    let svid = sign(&params(&id, &signer, &workload), &signer);
    assert_eq!(
        Value::Object(part(&svid.token, 0)),
        json!({"alg": "ES256", "kid": "kid-1", "typ": "wit+jwt"})
    );
    let mut jwk = public_jwk_members(workload.public_key());
    jwk.insert("alg".into(), "ES384".into());
    assert_eq!(
        Value::Object(part(&svid.token, 1)),
        json!({
            "cnf": {"jwk": jwk},
            "exp": 1_800_003_600,
            "iat": 1_800_000_000,
            "jti": svid.token_id,
            "sub": "spiffe://example.org/web",
        })
    );
    assert!(!format!("{svid:?}").contains(&svid.token));
    // The issuer is optional, and no URL at which keys could be discovered (WIT-10).
    let named = WitParams {
        issuer: Some("spiffe://example.org"),
        ..params(&id, &signer, &workload)
    };
    assert_eq!(
        part(&sign(&named, &signer).token, 1)["iss"],
        "spiffe://example.org"
    );
    for (issuer, expected) in [
        ("spiffe://example.org", Ok(())),
        ("urn:example", Ok(())),
        ("example.org", Ok(())),
        ("https://example.org", Err(DiscoverableIssuer)),
        ("HTTPS://example.org", Err(DiscoverableIssuer)),
        ("http://example.org", Err(DiscoverableIssuer)),
        ("", Err(DiscoverableIssuer)),
    ] {
        assert_eq!(check_issuer(issuer), expected, "{issuer}");
    }
}

#[test]
fn what_is_not_issued() {
    let (signer, workload, id) = (key(KeyType::EcP256), key(KeyType::EcP256), id());
    let refused = |params: WitParams<'_>| draft(&params, NOW).unwrap_err();
    let domain = SpiffeId::parse("spiffe://example.org").unwrap();
    assert_eq!(
        refused(params(&domain, &signer, &workload)),
        WitDraftError::NoPath(domain.clone())
    );
    let ed25519 = key(KeyType::Ed25519);
    assert_eq!(
        refused(params(&id, &ed25519, &workload)),
        WitDraftError::KeyType(KeyAlgorithm::Ed25519)
    );
    for (bound, algorithm) in [
        (&ed25519, JwsAlgorithm::Es256),
        (&workload, JwsAlgorithm::Es384),
        (&workload, JwsAlgorithm::Rs256),
    ] {
        assert_eq!(
            refused(WitParams {
                confirmation: bound.public_key(),
                confirmation_algorithm: algorithm,
                ..params(&id, &signer, &workload)
            }),
            WitDraftError::Confirmation {
                algorithm: algorithm.as_str(),
                key: bound.algorithm()
            }
        );
    }
    let ended = WitParams {
        key_expires_at: Some(NOW),
        ..params(&id, &signer, &workload)
    };
    assert_eq!(refused(ended), WitDraftError::Expired(NOW));
    // No token outlives its key.
    let cut = WitParams {
        key_expires_at: Some(NOW.plus(Duration::from_mins(1))),
        ..params(&id, &signer, &workload)
    };
    assert_eq!(
        sign(&cut, &signer).expires_at,
        NOW.plus(Duration::from_mins(1))
    );
}

/// WIT-12, WIT-13: the issuer's signature is not enough, and another key's is none.
#[test]
fn only_who_has_the_key_is_who_the_token_says() {
    for (signs, bound) in [
        (KeyType::EcP256, KeyType::EcP256),
        (KeyType::EcP384, KeyType::Rsa2048),
        (KeyType::Rsa2048, KeyType::EcP384),
    ] {
        let (signer, workload, id) = (key(signs), key(bound), id());
        let svid = sign(&params(&id, &signer, &workload), &signer);
        let trust = bundle(&signer);
        let valid = || validate(&svid.token, |_| Some(&trust), NOW).unwrap();
        assert_eq!(valid().claimed_id(), &id);
        let proven = prove(valid(), &workload).unwrap();
        assert_eq!(proven.spiffe_id, id);
        assert_eq!(&proven.confirmation, workload.public_key());
        let thief = key(bound);
        assert_eq!(prove(valid(), &thief), Err(WitError::NotPossessed));
        assert_eq!(valid().prove(b"m", b""), Err(WitError::NotPossessed));
        assert_eq!(valid().prove(b"m", &[0; 64]), Err(WitError::NotPossessed));
    }
}

/// The fixtures: one change each, and the reason for which it is refused.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of faults")]
fn each_fault_has_its_reason() {
    let (signer, workload, id) = (key(KeyType::EcP256), key(KeyType::EcP256), id());
    let good = sign(&params(&id, &signer, &workload), &signer).token;
    let (header, claims) = (part(&good, 0), part(&good, 1));
    let trust = bundle(&signer);
    let outcome = |header: &Map<String, Value>, claims: &Map<String, Value>| {
        let token = forge(&json!(header), &json!(claims), &signer);
        validate(&token, |_| Some(&trust), NOW).map(|wit| wit.claimed_id().clone())
    };
    assert_eq!(outcome(&header, &claims), Ok(id.clone()));

    let head = |name: &str, value: Value, expected: Result<(), WitError>| {
        let mut changed = header.clone();
        if value.is_null() {
            changed.remove(name);
        } else {
            changed.insert(name.into(), value);
        }
        assert_eq!(
            outcome(&changed, &claims).map(drop),
            expected,
            "{changed:?}"
        );
    };
    // WIT-03.
    for typ in ["JWT", "JOSE", "WIT+JWT", "application/wit+jwt", "at+jwt"] {
        head("typ", typ.into(), Err(WitError::Type));
    }
    head("typ", Value::Null, Err(WitError::Type));
    head("kid", Value::Null, Err(WitError::NoKeyId));
    head("kid", "".into(), Err(WitError::NoKeyId));
    let unknown = |key_id: &str| WitError::UnknownKey {
        trust_domain: td("example.org"),
        key_id: key_id.into(),
    };
    // WIT-05: case counts.
    head("kid", "KID-1".into(), Err(unknown("KID-1")));
    for alg in ["none", "HS256", "EdDSA", "es256"] {
        head("alg", alg.into(), Err(JwsError::Algorithm.into()));
    }
    head("alg", "ES384".into(), Err(JwsError::KeyMismatch.into()));
    // WIT-04.
    head("x-unknown", "x".into(), Ok(()));
    head("crit", json!(["x"]), Err(JwsError::Critical.into()));

    let claim = |name: &str, value: Value, expected: Result<(), WitError>| {
        let mut changed = claims.clone();
        if value.is_null() {
            changed.remove(name);
        } else {
            changed.insert(name.into(), value);
        }
        assert_eq!(
            outcome(&header, &changed).map(drop),
            expected,
            "{changed:?}"
        );
    };
    // WIT-06, WIT-07, WIT-08.
    claim("sub", Value::Null, Err(WitError::Claim("sub")));
    claim("sub", 7.into(), Err(WitError::Claim("sub")));
    assert!(matches!(
        outcome(&header, &{
            let mut changed = claims.clone();
            changed.insert("sub".into(), "web".into());
            changed
        }),
        Err(WitError::Subject(_))
    ));
    claim("exp", Value::Null, Err(WitError::Claim("exp")));
    claim("exp", "later".into(), Err(WitError::Claim("exp")));
    claim("cnf", Value::Null, Err(WitError::Claim("cnf")));
    claim("cnf", json!({"jkt": "x"}), Err(WitError::Claim("cnf")));
    for aud in [json!("db"), json!(["db"]), json!([])] {
        claim("aud", aud, Err(WitError::Audience));
    }
    // WIT-12, to the second; WIT-14: `iat` limits nothing.
    let at = |seconds: i64| json!(NOW.unix_seconds() + seconds);
    claim("exp", at(0), Err(WitError::Expired));
    claim("exp", at(1), Ok(()));
    claim("nbf", at(60), Ok(()));
    claim("nbf", at(61), Err(WitError::NotYetValid));
    claim("nbf", "soon".into(), Err(WitError::Claim("nbf")));
    claim("iat", at(10_000), Ok(()));
    claim("jti", Value::Null, Ok(()));

    let jwk = |name: &str, value: Value, expected: Result<(), WitError>| {
        let mut inner = claims["cnf"]["jwk"].as_object().unwrap().clone();
        if value.is_null() {
            inner.remove(name);
        } else {
            inner.insert(name.into(), value);
        }
        claim("cnf", json!({"jwk": inner}), expected);
    };
    for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        jwk(
            private,
            "AA".into(),
            Err(WitError::PrivateConfirmation(private)),
        );
    }
    for alg in [Value::Null, "EdDSA".into(), "ES384".into(), "RS256".into()] {
        jwk("alg", alg, Err(WitError::ConfirmationAlgorithm));
    }
    jwk(
        "kty",
        "oct".into(),
        Err(WitError::Confirmation(JwkError::UnknownKeyType)),
    );
    jwk(
        "x",
        "AA".into(),
        Err(WitError::Confirmation(JwkError::Encoding("x"))),
    );

    // Somebody else signed it under our key's name.
    let forged = forge(&json!(header), &json!(claims), &workload);
    assert_eq!(
        validate(&forged, |_| Some(&trust), NOW),
        Err(JwsError::BadSignature.into())
    );
}

/// X509V-10, BND-16: a key serves its own use; no other domain's bundle counts.
#[test]
fn only_a_wit_key_of_the_right_bundle_verifies() {
    let (signer, workload, id) = (key(KeyType::EcP256), key(KeyType::EcP256), id());
    let svid = sign(&params(&id, &signer, &workload), &signer);
    let check = |bundle: Option<Bundle>| validate(&svid.token, |_| bundle, NOW).unwrap_err();
    let unknown = WitError::UnknownKey {
        trust_domain: td("example.org"),
        key_id: "kid-1".into(),
    };
    assert_eq!(check(None), WitError::NoBundle(td("example.org")));
    let own = bundle(&signer);
    let as_jwt = Bundle {
        jwt_authorities: vec![muster_model::JwtAuthority {
            key_id: "kid-1".into(),
            public_key: signer.public_key().spki_der().into(),
            expires_at: None,
            tainted: false,
        }],
        ..Bundle::empty(td("example.org"))
    };
    assert_eq!(check(Some(as_jwt)), unknown);
    let foreign = Bundle {
        trust_domain: td("other.org"),
        ..own.clone()
    };
    assert_eq!(check(Some(foreign)), unknown);
    let mut ended = own.clone();
    ended.wit_authorities[0].expires_at = Some(NOW);
    assert_eq!(check(Some(ended)), unknown);
    // And a WIT-SVID is no JWT-SVID, whatever the bundle says (JWTV-04, WIT-13).
    let mut both = own;
    both.jwt_authorities = vec![muster_model::JwtAuthority {
        key_id: "kid-1".into(),
        public_key: signer.public_key().spki_der().into(),
        expires_at: None,
        tainted: false,
    }];
    assert_eq!(
        muster_svid::jwt::validate(&svid.token, "db", |_| Some(&both), NOW),
        Err(muster_svid::jwt::JwtError::Type)
    );
}

/// WIT-16, WIT-19, BND-07, BND-13.
#[test]
fn keys_return_from_their_documents() {
    let keys = [key(KeyType::EcP256), key(KeyType::Rsa2048)];
    let mut own = bundle(&keys[0]);
    own.wit_authorities.push(authority(&keys[1], "kid-2"));
    let document: Value = serde_json::from_slice(&encode_spiffe(&own)).unwrap();
    for (entry, kid) in document["keys"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["kid-1", "kid-2"])
    {
        assert_eq!(
            (&entry["use"], &entry["kid"]),
            (&json!("wit-svid"), &json!(kid))
        );
    }
    let read = decode_spiffe(td("example.org"), &encode_spiffe(&own)).unwrap();
    assert_eq!(read, own);
    let set = encode_wit_jwks(&own.wit_authorities);
    assert_eq!(
        decode_wit_jwks(set.as_bytes()),
        Ok(own.wit_authorities.clone())
    );
    // WAPI-43: the set for JWTs has none of them.
    assert_eq!(encode_jwks(&own), br#"{"keys":[]}"#);
    assert!(
        muster_svid::bundle::decode_jwks(set.as_bytes())
            .unwrap()
            .is_empty()
    );
    // A WIT entry without a name spoils the document.
    let nameless = String::from_utf8(encode_spiffe(&own))
        .unwrap()
        .replace("\"kid\":\"kid-1\",", "");
    assert_eq!(
        decode_spiffe(td("example.org"), nameless.as_bytes()),
        Err(muster_svid::bundle::BundleError::NoKeyId { index: 0 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is drafted is validated, and nothing that differs by one bit.
    #[test]
    fn round_trip(
        path in "/[a-z0-9._-]{0,20}[a-z]",
        ttl in 1u64..10_000_000,
        token_id: [u8; 16],
        flip in any::<prop::sample::Index>(),
    ) {
        let (signer, workload) = (key(KeyType::EcP256), key(KeyType::EcP256));
        let id = SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap();
        let params = WitParams {
            ttl: Duration::from_secs(ttl),
            token_id,
            ..params(&id, &signer, &workload)
        };
        let svid = sign(&params, &signer);
        let trust = bundle(&signer);
        let wit = validate(&svid.token, |_| Some(&trust), NOW).unwrap();
        prop_assert_eq!(wit.expires_at(), NOW.plus(Duration::from_secs(ttl)));
        prop_assert_eq!(wit.confirmation(), (workload.public_key(), JwsAlgorithm::Es256));
        prop_assert_eq!(prove(wit, &workload).unwrap().spiffe_id, id);

        let mut bytes = svid.token.into_bytes();
        let at = flip.index(bytes.len());
        bytes[at] ^= 1;
        if let Ok(text) = String::from_utf8(bytes) {
            prop_assert!(validate(&text, |_| Some(&trust), NOW).is_err());
        }
    }

    #[test]
    fn never_panics(header in ".{0,60}", claims in ".{0,120}") {
        let token = format!(
            "{}.{}.AAAA",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let trust = Bundle::empty(td("example.org"));
        prop_assert!(validate(&token, |_| Some(&trust), NOW).is_err());
    }
}
