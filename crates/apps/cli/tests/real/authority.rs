//! An authority is compromised: a real server, a real node, a workload that watches, and an
//! operator with the command.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use muster_model::{Bundle, TrustDomain, X509Authority};
use muster_rt::{Clock as _, SystemClock};
use muster_svid::x509::{Certificate, Role, VerifyError, verify};
use serde_json::Value;

use crate::common::Dev;

/// From the operator's order to what the workload holds; it takes some hundredths of a second where
/// nothing else runs.
const BOUND: Duration = Duration::from_secs(20);

/// The certificates of a PEM file, DER.
fn chain(file: &Path) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .map(|part| {
            let body = part.split("-----END").next().unwrap();
            STANDARD.decode(body.replace('\n', "")).unwrap()
        })
        .collect()
}

fn authority_of(chain: &[Vec<u8>]) -> String {
    let leaf = Certificate::parse(&chain[0]).unwrap();
    muster_crypto::digest::hex(&leaf.authority_key_id.unwrap())
}

/// The server's bundle as a peer has it.
fn bundle(dev: &Dev) -> Bundle {
    let shown = dev.json(&["bundle", "show"]);
    let mut bundle = Bundle::empty(TrustDomain::parse("example.org").unwrap());
    for root in shown["x509_authorities"].as_array().unwrap() {
        let der = STANDARD.decode(root["asn1"].as_str().unwrap()).unwrap();
        bundle.x509_authorities.push(X509Authority {
            expires_at: Certificate::parse(&der).unwrap().not_after,
            der: der.into(),
            tainted: root["tainted"].as_bool().unwrap(),
        });
    }
    bundle
}

fn id(state: &Value) -> String {
    state["authority_id"].as_str().unwrap().to_owned()
}

/// What the workload fetches now, by way of files.
fn fetch(dev: &Dev, name: &str) -> Vec<Vec<u8>> {
    let folder = dev.scratch().join(name);
    let to = folder.to_str().unwrap();
    dev.json(&["workload", "fetch", "x509", "--write", to]);
    chain(&folder.join("svid.0.pem"))
}

#[test]
fn a_compromised_ca_is_replaced_under_a_workload_that_watches() {
    let clock = SystemClock::new();
    let mut dev = Dev::start(&["--x509-ttl", "1h"]);
    let node_id = dev.ready["node_id"].as_str().unwrap().to_owned();
    let [first, _] = dev.until_each([&|line| line["event"] == "issued", &|line| {
        line["event"] == "received"
    }]);
    let before = fetch(&dev, "before");
    let old = id(&dev.json(&["authority", "show", "x509"])["x509"]["active"]);
    assert_eq!(first["authority_id"], old.as_str());
    assert_eq!(authority_of(&before), old);
    let node_serial =
        |dev: &Dev| dev.json(&["node", "show", &node_id])["x509svid_serial_number"].clone();
    let node_before = node_serial(&dev);

    let prepared = dev.json(&["authority", "prepare", "x509"]);
    let new = id(&prepared["prepared_authority"]);
    let activated = dev.json(&["authority", "activate", "x509", &new]);
    assert_eq!(id(&activated["activated_authority"]), new);
    // A planned rotation disturbs nobody: what is held stays until it is due.
    assert_eq!(authority_of(&fetch(&dev, "planned")), old);

    let ordered = clock.now().mono;
    dev.json(&["authority", "taint", "x509", &old]);
    // The agent's identity is replaced as well.
    let [issued, received] = dev.until_each([
        &|line| line["event"] == "issued" && line["spiffe_id"] == "spiffe://example.org/demo",
        &|line| line["event"] == "received" && line["serial_number"] != first["serial_number"],
    ]);
    assert_eq!(issued["authority_id"], new.as_str());
    assert_eq!(received["serial_number"], issued["serial_number"]);
    assert_eq!(received["verified"], true);
    let took = clock.now().mono.saturating_sub(ordered);
    assert!(took < BOUND, "{took:?}");
    let after = fetch(&dev, "after");
    assert_eq!(authority_of(&after), new);

    // Tainted, the root still verifies what peers show that have not heard of it.
    let now = clock.now().wall;
    let tainted = bundle(&dev);
    assert!(verify(&before, &tainted, Role::Client, now).is_ok());
    // The node replaces its own SVID as well.
    while node_serial(&dev) == node_before {
        let took = clock.now().mono.saturating_sub(ordered);
        assert!(took < 2 * BOUND, "the node keeps its SVID");
    }

    dev.json(&["authority", "revoke", "x509", &old]);
    let without = bundle(&dev);
    assert_eq!(without.x509_authorities.len(), 1);
    let now = clock.now().wall;
    assert_eq!(
        verify(&before, &without, Role::Client, now),
        Err(VerifyError::UnknownAuthority),
        "a peer refuses the old SVID"
    );
    assert!(verify(&after, &without, Role::Server, now).is_ok());
    // The workload hears of the bundle, and goes on with what it holds.
    assert_eq!(dev.until("received")["verified"], true);
    assert_eq!(fetch(&dev, "then"), after);
    let shown = dev.json(&["authority", "show", "x509"])["x509"].clone();
    assert_eq!(id(&shown["active"]), new);
    assert!(
        shown["old"].is_null() && shown["other"] == serde_json::json!([]),
        "{shown}"
    );
}

/// The key that signed a token.
fn key_of(token: &str) -> String {
    let header = token.split('.').next().unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

#[test]
fn a_compromised_jwt_key_is_replaced_at_once() {
    let mut dev = Dev::start(&["--x509-ttl", "1h"]);
    dev.until("received");
    let token = |dev: &Dev| {
        let fetched = dev.json(&["workload", "fetch", "jwt", "--audience", "a"]);
        fetched["svids"][0]["svid"].as_str().unwrap().to_owned()
    };
    let valid = |dev: &Dev, token: &str| {
        let words = ["workload", "validate", "jwt", "--audience", "a", token];
        dev.ask(&words).status.success()
    };
    let before = token(&dev);
    let old = key_of(&before);
    let new = id(&dev.json(&["authority", "prepare", "jwt"])["prepared_authority"]);
    dev.json(&["authority", "activate", "jwt", &new]);
    assert_eq!(token(&dev), before, "a token is kept until it is due");

    let wrong = dev.ask(&["authority", "revoke", "jwt", &old]);
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        said.contains("not possible to revoke an untainted key"),
        "{said}"
    );

    dev.json(&["authority", "taint", "jwt", &old]);
    // The node hears of it on its stream; what it holds of that key is dropped then.
    let clock = SystemClock::new();
    let ordered = clock.now().mono;
    while key_of(&token(&dev)) != new {
        let took = clock.now().mono.saturating_sub(ordered);
        assert!(took < BOUND, "the node keeps its token");
    }
    assert!(valid(&dev, &before), "others may not have heard of it");
    dev.json(&["authority", "revoke", "jwt", &old]);
    while valid(&dev, &before) {
        let took = clock.now().mono.saturating_sub(ordered);
        assert!(took < 2 * BOUND, "the old token is still accepted");
    }
    assert!(valid(&dev, &token(&dev)));
}
