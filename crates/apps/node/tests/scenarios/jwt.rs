//! JWT-SVIDs, JWT bundles and validation.

use std::time::Duration;

use muster_model::TrustDomain;
use muster_proto::workload::{JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest};
use muster_rt::{Clock, SystemClock};
use muster_svid::bundle::decode_jwks;
use prost_types::value::Kind;
use tonic::Code;

use crate::authority::Foreign;
use crate::double::{Double, id};
use crate::rig::{Client, Rig, next, uid, within};

pub(crate) fn ask(audience: &[&str], spiffe_id: &str) -> JwtsvidRequest {
    JwtsvidRequest {
        audience: audience.iter().map(|a| (*a).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    }
}

async fn tokens(client: &mut Client, request: JwtsvidRequest) -> Vec<(String, String)> {
    let answer = within("tokens", client.fetch_jwtsvid(request))
        .await
        .unwrap()
        .into_inner();
    answer
        .svids
        .into_iter()
        .map(|svid| (svid.spiffe_id, svid.svid))
        .collect()
}

async fn validate(
    client: &mut Client,
    audience: &str,
    svid: &str,
) -> Result<
    (
        String,
        std::collections::BTreeMap<String, prost_types::Value>,
    ),
    (Code, String),
> {
    let request = ValidateJwtsvidRequest {
        audience: audience.to_owned(),
        svid: svid.to_owned(),
    };
    match within("a verdict", client.validate_jwtsvid(request)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            Ok((answer.spiffe_id, answer.claims.unwrap().fields))
        }
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

#[tokio::test]
async fn tokens_for_all_identities_or_for_one() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    double.add_entry("b", "/second", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    // WAPI-38.
    let all = tokens(&mut client, ask(&["x", "y"], "")).await;
    assert_eq!(all.len(), 2);
    let one = tokens(&mut client, ask(&["y", "x"], "spiffe://example.org/second")).await;
    assert_eq!(one, all[1..], "the order of audiences makes no other token");
    for audience in ["x", "y"] {
        let (name, claims) = validate(&mut client, audience, &one[0].1).await.unwrap();
        // WAPI-41, WAPI-48.
        assert_eq!(name, one[0].0);
        assert!(
            ["sub", "aud", "exp", "iss"]
                .iter()
                .all(|claim| claims.contains_key(*claim))
        );
        assert!(
            matches!(claims["aud"].kind, Some(Kind::ListValue(_))),
            "WAPI-49"
        );
    }
    assert_eq!(
        double.heard("NewJWTSVID"),
        2,
        "the rest came from the cache"
    );

    // WAPI-47.
    let (code, _) = validate(&mut client, "z", &one[0].1).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument);
    let mut tampered = one[0].1.clone();
    tampered.pop();
    tampered.push(if one[0].1.ends_with('A') { 'Q' } else { 'A' });
    let (code, _) = validate(&mut client, "x", &tampered).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument);
    assert!(node.stop().await);
}

#[tokio::test]
async fn bad_requests_are_refused_before_anything_is_done() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    // WAPI-11, WAPI-38, WAPI-39, WAPI-40.
    for request in [
        ask(&[], ""),
        ask(&[""], ""),
        ask(&["a", ""], ""),
        ask(&["a"], "spiffe://example.org/"),
        ask(&["a"], "nonsense"),
        ask(&["a"; 33], ""),
    ] {
        let status = client
            .fetch_jwtsvid(request.clone())
            .await
            .err()
            .expect("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
    }
    let status = client
        .fetch_jwtsvid(ask(&["a"], "spiffe://example.org/somebody"))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("no identity issued"), "WAPI-20");
    for (audience, svid) in [("", "a.b.c"), ("a", ""), ("a", "a.b.c"), ("a", "\u{0}")] {
        let (code, _) = validate(&mut client, audience, svid).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
    }
    assert!(node.stop().await);
}

#[tokio::test]
async fn bundles_hold_jwt_keys_only_and_foreign_ones_on_request() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let foreign = Foreign::new("other.test", SystemClock::new().now().wall);
    double.change(|mind| {
        mind.foreign
            .insert(foreign.trust_domain.clone(), foreign.bundle())
    });
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let mut stream = client
        .fetch_jwt_bundles(JwtBundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await.unwrap();
    assert_eq!(
        first.bundles.keys().collect::<Vec<_>>(),
        ["spiffe://example.org"],
        "WAPI-43"
    );
    let keys = decode_jwks(&first.bundles["spiffe://example.org"]).unwrap();
    assert_eq!(keys.len(), 1);
    // WAPI-44: each key has a kid, and none is a certificate's.
    let text = String::from_utf8(first.bundles["spiffe://example.org"].to_vec()).unwrap();
    assert!(text.contains("\"kid\"") && !text.contains("x5c"), "{text}");

    let token = foreign.jwt.sign(
        &foreign.trust_domain.with_path("/w").unwrap(),
        &["me".to_owned()],
        Duration::from_mins(1),
        SystemClock::new().now().wall,
    );
    let (code, _) = validate(&mut client, "me", &token).await.unwrap_err();
    assert_eq!(
        code,
        Code::InvalidArgument,
        "WAPI-47: a domain that the caller does not trust"
    );

    double.update_entry("a", |entry| {
        entry.federates_with.insert(foreign.trust_domain.clone());
    });
    assert_eq!(next(&mut stream).await.unwrap().bundles.len(), 2);
    // WAPI-50; WAPI-48: foreign claims are filtered.
    let (name, claims) = validate(&mut client, "me", &token).await.unwrap();
    assert_eq!(name, "spiffe://other.test/w");
    assert_eq!(claims.keys().collect::<Vec<_>>(), ["aud", "exp", "sub"]);

    // WAPI-45: without usable keys it is left out.
    double.change(|mind| {
        let bundle = mind.foreign.get_mut(&foreign.trust_domain).unwrap();
        bundle.jwt_authorities.clear();
        bundle.sequence_number += 1;
    });
    assert_eq!(next(&mut stream).await.unwrap().bundles.len(), 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn keys_of_one_domain_do_not_vouch_for_another() {
    let double = Double::start().await;
    let foreign = Foreign::new("other.test", SystemClock::new().now().wall);
    double.change(|mind| {
        mind.foreign
            .insert(foreign.trust_domain.clone(), foreign.bundle())
    });
    double.add_entry("a", "/first", &[&uid()]);
    double.update_entry("a", |entry| {
        entry.federates_with.insert(foreign.trust_domain.clone());
    });
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    tokens(&mut client, ask(&["me"], "")).await;
    // WAPI-51: signed by the foreign key, and it says that it is ours.
    let now = SystemClock::new().now().wall;
    let lie = foreign
        .jwt
        .sign(&id("/first"), &["me".into()], Duration::from_mins(1), now);
    let (code, _) = validate(&mut client, "me", &lie).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_stranger_may_validate_our_tokens() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let token = {
        let mind = double.shared.mind();
        let now = SystemClock::new().now().wall;
        mind.jwt_keys[0].sign(&id("/w"), &["me".into()], Duration::from_mins(1), now)
    };
    // WAPI-50.
    let (name, _) = validate(&mut rig.client().await, "me", &token)
        .await
        .unwrap();
    assert_eq!(name, "spiffe://example.org/w");
    assert_eq!(
        TrustDomain::from_name_or_id(&name).unwrap().as_str(),
        "example.org"
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_token_of_a_key_that_left_the_bundle_is_signed_anew() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let before = tokens(&mut client, ask(&["me"], "")).await;
    double.change(|mind| {
        mind.jwt_keys = vec![crate::authority::JwtKey::new()];
        mind.sequence += 1;
    });
    rig.in_step(&double).await;
    let after = tokens(&mut client, ask(&["me"], "")).await;
    assert_ne!(before, after);
    validate(&mut client, "me", &after[0].1).await.unwrap();
    assert!(node.stop().await);
}
