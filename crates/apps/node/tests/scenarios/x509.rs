//! X509-SVIDs and X.509 bundles, as workloads get them.

use std::time::Duration;

use muster_crypto::Secret;
use muster_model::{Bundle, Timestamp, TrustDomain, X509Authority};
use muster_proto::workload::{X509BundlesRequest, X509svidRequest, X509svidResponse};
use muster_rt::{Clock, SystemClock};
use muster_svid::x509::{Certificate, Role, X509Svid, verify};
use tonic::Code;

use crate::authority::Foreign;
use crate::double::{Double, trust_domain};
use crate::rig::{Rig, fetch_x509, next, uid, within};

/// The DER elements of a concatenation (WAPI-25, WAPI-27).
pub(crate) fn split(mut der: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        assert_eq!(der[0], 0x30, "a SEQUENCE");
        let (header, length) = match der[1] {
            short @ 0..=0x7f => (2, usize::from(short)),
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            other => panic!("length byte {other:#x}"),
        };
        let (part, rest) = der.split_at(header + length);
        parts.push(part.to_vec());
        der = rest;
    }
    parts
}

pub(crate) fn bundle_of(trust_domain: TrustDomain, der: &[u8]) -> Bundle {
    Bundle {
        x509_authorities: split(der)
            .into_iter()
            .map(|der| X509Authority {
                expires_at: Certificate::parse(&der).unwrap().not_after,
                der: der.into(),
                tainted: false,
            })
            .collect(),
        ..Bundle::empty(trust_domain)
    }
}

/// Checks one answer in every respect that holds for all of them.
pub(crate) fn check(answer: &X509svidResponse) -> Vec<X509Svid> {
    let now: Timestamp = SystemClock::new().now().wall;
    assert!(!answer.svids.is_empty(), "WAPI-22");
    assert!(
        !answer
            .federated_bundles
            .contains_key("spiffe://example.org"),
        "WAPI-28"
    );
    let mut hints = std::collections::BTreeSet::new();
    answer
        .svids
        .iter()
        .map(|svid| {
            assert!(!svid.bundle.is_empty(), "WAPI-23, WAPI-27");
            assert_eq!(svid.bundle, answer.svids[0].bundle, "WAPI-28");
            assert!(svid.hint.is_empty() || hints.insert(&svid.hint), "WAPI-32");
            let bundle = bundle_of(trust_domain(), &svid.bundle);
            let chain = split(&svid.x509_svid);
            // WAPI-26: the key is PKCS #8 and that of the leaf, or loading fails.
            let loaded = X509Svid::load(chain, Secret::new(svid.x509_svid_key.to_vec())).unwrap();
            assert_eq!(loaded.spiffe_id.as_str(), svid.spiffe_id, "WAPI-24");
            verify(&loaded.chain, &bundle, Role::Client, now).expect("chain and bundle match");
            loaded
        })
        .collect()
}

#[tokio::test]
async fn a_workload_gets_every_identity_of_its_entries() {
    let double = Double::start().await;
    double.add_entry("b", "/second", &[&uid()]);
    double.add_entry("a", "/first", &[&uid()]);
    double.add_entry("c", "/other", &["unix:uid:4294967294"]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let (first, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    let names: Vec<String> = check(&first)
        .iter()
        .map(|svid| svid.spiffe_id.to_string())
        .collect();
    // WAPI-35: by ascending entry ID.
    assert_eq!(
        names,
        ["spiffe://example.org/first", "spiffe://example.org/second"]
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn svids_rotate_while_the_workload_watches() {
    let double = Double::start().await;
    double.change(|mind| mind.x509_ttl = Duration::from_secs(2));
    double.add_entry("a", "/first", &[&uid()]);
    double.add_entry("b", "/second", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let (mut last, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    for round in 0..6 {
        if round == 2 {
            // The bundle comes first, or with it: every answer is checked against its own.
            double.rotate_ca();
        }
        let answer = next(&mut stream).await.unwrap();
        let svids = check(&answer);
        assert_eq!(svids.len(), 2, "WAPI-05: the full set");
        assert_eq!(
            answer.svids[0].spiffe_id, "spiffe://example.org/first",
            "WAPI-35"
        );
        assert!(answer != last, "WAPI-07");
        // WAPI-53: long before the old one expires.
        let now = SystemClock::new().now().wall;
        for svid in &check_times(&last) {
            assert!(now < *svid, "renewed in time");
        }
        last = answer;
    }
    assert!(node.stop().await);
}

fn check_times(answer: &X509svidResponse) -> Vec<Timestamp> {
    answer
        .svids
        .iter()
        .map(|svid| {
            let chain = split(&svid.x509_svid);
            Certificate::parse(&chain[0]).unwrap().not_after
        })
        .collect()
}

#[tokio::test]
async fn a_call_is_held_until_its_entry_exists() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let call = tokio::spawn(async move { fetch_x509(&mut client).await.map(|(first, _)| first) });
    rig.info(|info| info.held_calls == 1).await;
    double.add_entry("a", "/late", &[&uid()]);
    let answer = within("the answer", call).await.unwrap().unwrap();
    assert_eq!(check(&answer)[0].spiffe_id.path(), "/late");
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_call_is_denied_when_its_hold_is_over() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let status = fetch_x509(&mut client).await.err().expect("a refusal");
    // WAPI-19, WAPI-20, WEP-10.
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    // WAPI-37.
    let status = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(node.stop().await);
}

/// A caller with a deadline, such as SPIRE's command line with its second, hears why before it has gone.
#[tokio::test]
async fn a_call_is_denied_before_its_deadline() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let mut request = tonic::Request::new(X509svidRequest {});
    // Less than the 10 s of the hold, and the last tenth is enough for the refusal to arrive.
    request.set_timeout(Duration::from_secs(5));
    let status = client.fetch_x509svid(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_entitlement_that_is_lost_is_taken_back() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    double.add_entry("b", "/second", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let (_, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    // WAPI-21: part of it gone is a smaller set.
    double.remove_entry("a");
    let answer = next(&mut stream).await.unwrap();
    assert_eq!(check(&answer).len(), 1);
    // All of it gone is the end.
    double.remove_entry("b");
    let status = next(&mut stream).await.err().expect("the end");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn every_change_is_told() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
    let mut bundles = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut bundles).await.unwrap();
    assert_eq!(
        first.bundles.keys().collect::<Vec<_>>(),
        ["spiffe://example.org"],
        "WAPI-36"
    );

    // WAPI-06: a hint.
    double.update_entry("a", |entry| entry.hint = "main".into());
    assert_eq!(next(&mut stream).await.unwrap().svids[0].hint, "main");

    // An entry more.
    double.add_entry("b", "/second", &[&uid()]);
    assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2);

    // WAPI-32: the same hint on a younger entry.
    double.update_entry("b", |entry| {
        entry.hint = "main".into();
        entry.created_at = entry.created_at.plus(Duration::from_mins(1));
    });
    let answer = next(&mut stream).await.unwrap();
    assert_eq!(check(&answer)[0].spiffe_id.path(), "/first");
    assert_eq!(answer.svids.len(), 1);

    // WAPI-30, WAPI-31: a federated bundle, for those who ask for it.
    let foreign = Foreign::new("other.test", SystemClock::new().now().wall);
    double.change(|mind| {
        mind.foreign
            .insert(foreign.trust_domain.clone(), foreign.bundle())
    });
    double.update_entry("a", |entry| {
        entry.federates_with.insert(foreign.trust_domain.clone());
    });
    let answer = next(&mut stream).await.unwrap();
    let federated = &answer.federated_bundles["spiffe://other.test"];
    assert_eq!(split(federated), [foreign.ca.authority.der.to_vec()]);
    assert_eq!(next(&mut bundles).await.unwrap().bundles.len(), 2);

    // WAPI-17: an empty one is left out.
    double.change(|mind| {
        let bundle = mind.foreign.get_mut(&foreign.trust_domain).unwrap();
        bundle.x509_authorities.clear();
        bundle.sequence_number += 1;
    });
    assert!(
        next(&mut stream)
            .await
            .unwrap()
            .federated_bundles
            .is_empty()
    );
    assert_eq!(next(&mut bundles).await.unwrap().bundles.len(), 1);

    // The own bundle.
    double.rotate_ca();
    let answer = next(&mut stream).await.unwrap();
    check(&answer);
    assert_eq!(split(&answer.svids[0].bundle).len(), 2);
    assert!(node.stop().await);
}

#[tokio::test]
async fn callers_without_identity_may_get_the_own_bundle() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"0s\"\nallow_unauthenticated_verifiers = true".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let mut bundles = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut bundles).await.unwrap().bundles.len(), 1);
    let status = client
        .fetch_x509svid(X509svidRequest {})
        .await
        .expect_err("a refusal");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_slow_reader_gets_the_last_state() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let (_, mut slow) = fetch_x509(&mut client).await.unwrap();
    let (_, mut fast) = fetch_x509(&mut client).await.unwrap();
    for n in 0..5 {
        double.update_entry("a", |entry| entry.hint = format!("hint-{n}"));
        // The fast one is not held up by the slow one (WAPI-09).
        assert_eq!(
            next(&mut fast).await.unwrap().svids[0].hint,
            format!("hint-{n}")
        );
    }
    let last = loop {
        let answer = next(&mut slow).await.unwrap();
        if answer.svids[0].hint == "hint-4" {
            break answer;
        }
    };
    check(&last);
    assert!(node.stop().await);
}

#[tokio::test]
async fn many_streams_are_told_the_same() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client().await;
        for _ in 0..50 {
            streams.push(fetch_x509(&mut client).await.unwrap().1);
        }
    }
    rig.info(|info| info.streams == 200).await;
    // WAPI-04: at once, when all is there.
    let mut client = rig.client().await;
    let first = tokio::time::timeout(Duration::from_secs(1), fetch_x509(&mut client)).await;
    assert!(first.expect("within a second").is_ok());
    double.rotate_ca();
    let mut answers = Vec::new();
    for stream in &mut streams {
        answers.push(next(stream).await.unwrap());
    }
    assert!(answers.iter().all(|a| *a == answers[0]));
    assert_eq!(double.heard("BatchNewX509SVID"), 1);
    drop(streams);
    rig.info(|info| info.streams == 0).await;
    assert!(node.stop().await);
}
