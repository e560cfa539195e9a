//! The recovery matrix for a node that can prove itself again, and its renewals.

use std::time::Duration;

use muster_policy::NodeRefusal;
use tonic::Status;

use crate::double::Double;
use crate::proof;
use crate::rig::{Rig, fetch_x509, next, uid};
use crate::x509::check;

/// A node whose attestor is a program that listens in its directory.
fn rig_of(double: &Double, again: bool) -> Rig {
    double.change(|mind| mind.proof.again = again);
    let mut rig = Rig::new(double);
    let socket = rig.path("plugin.sock");
    proof::listen(&socket);
    let bundle = rig.path("bundle.pem");
    rig.join = format!(
        "bundle = \"{}\"\n[join.plugin]\nname = \"{}\"\nsocket = \"{}\"",
        bundle.display(),
        proof::NAME,
        socket.display()
    );
    rig
}

#[tokio::test]
async fn a_valid_svid_is_used_without_another_proof() {
    let double = Double::start().await;
    let rig = rig_of(&double, true);
    let node = rig.run();
    let before = rig.in_step(&double).await;
    assert!(before.node_id.ends_with(proof::NODE), "{before:?}");
    assert!(node.stop().await);

    let node = rig.run();
    let after = rig.in_step(&double).await;
    assert_eq!(before.serial_number, after.serial_number);
    assert_eq!(double.heard("AttestAgent"), 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn an_expired_node_proves_itself_again_and_does_not_renew() {
    let mut double = Double::start().await;
    // Even where renewals of what has expired are allowed.
    double.change(|mind| {
        mind.grace = Duration::from_hours(24);
        mind.node_ttl = Duration::from_secs(2);
    });
    double.down().await;
    double.up().await;
    let rig = rig_of(&double, true);
    let node = rig.run();
    rig.in_step(&double).await;
    double.down().await;
    let before = rig.info(|info| !info.connected).await;
    assert!(node.stop().await);
    let end = before.expires_at.unwrap().seconds;
    while double.shared.now().unix_seconds() <= end {
        tokio::task::yield_now().await;
    }

    double.change(|mind| mind.node_ttl = Duration::from_hours(1));
    double.up().await;
    let proofs = double.heard("AttestAgent");
    let node = rig.run();
    let after = rig.in_step(&double).await;
    assert_eq!(before.node_id, after.node_id);
    assert_ne!(before.serial_number, after.serial_number);
    assert_eq!(double.heard("AttestAgent"), proofs + 1);
    assert_eq!(double.heard("RenewAgent"), 0);
    assert!(node.stop().await);
}

#[tokio::test]
async fn with_its_bundle_alone_a_node_proves_itself_again() {
    let double = Double::start().await;
    let mut rig = rig_of(&double, true);
    let node = rig.run();
    let before = rig.in_step(&double).await;
    assert!(node.stop().await);
    std::fs::remove_file(rig.data_dir().join("node.json")).unwrap();
    // The bundle that it kept is enough.
    rig.join = rig.join.split_once('\n').unwrap().1.to_owned();

    let node = rig.run();
    let after = rig.in_step(&double).await;
    assert_eq!(before.node_id, after.node_id);
    assert_eq!(double.heard("AttestAgent"), 2);
    assert!(node.stop().await);
}

/// The other way to a bundle alone: the server has forgotten the node, while it serves.
#[tokio::test]
async fn a_node_that_the_server_forgot_proves_itself_again_while_it_serves() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = rig_of(&double, true);
    let node = rig.run();
    let mut client = rig.client().await;
    let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
    double.change(|mind| mind.refusal = Some(NodeRefusal::NotAttested));
    double.hears("AttestAgent", 2).await;
    rig.in_step(&double).await;
    double.add_entry("b", "/second", &[&uid()]);
    assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2);
    assert!(node.stop().await);
}

#[tokio::test]
async fn with_nothing_a_node_proves_itself_to_whoever_answers_if_it_may() {
    let double = Double::start().await;
    let mut rig = rig_of(&double, true);
    let plugin = rig.join.split_once('\n').unwrap().1.to_owned();
    rig.join = plugin.clone();
    assert!(!rig.run().ended().await, "nothing to know the server by");
    assert_eq!(double.heard("AttestAgent"), 0);

    rig.join = format!("insecure_bootstrap = true\n{plugin}");
    let node = rig.run();
    let info = rig.in_step(&double).await;
    assert!(info.node_id.ends_with(proof::NODE));
    assert_eq!(double.heard("GetBundle"), 1);
    assert!(node.stop().await);
}

/// Each renewal is a proof; the workloads' streams and the node's view go on over it.
#[tokio::test]
async fn renewals_are_proofs_and_nobody_notices() {
    let double = Double::start().await;
    double.change(|mind| mind.node_ttl = Duration::from_secs(4));
    double.add_entry("a", "/first", &[&uid()]);
    let rig = rig_of(&double, true);
    let node = rig.run();
    let mut client = rig.client().await;
    let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
    double.hears("AttestAgent", 3).await;
    assert_eq!(double.heard("RenewAgent"), 0);
    double.add_entry("b", "/second", &[&uid()]);
    assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2);
    assert!(node.stop().await);
}

/// What an earlier version kept does not say that the node is to prove itself again.
#[tokio::test]
async fn a_node_that_tries_to_renew_is_told_and_proves_itself() {
    let double = Double::start().await;
    double.change(|mind| mind.node_ttl = Duration::from_secs(6));
    let rig = rig_of(&double, true);
    let node = rig.run();
    rig.in_step(&double).await;
    assert!(node.stop().await);
    let file = rig.data_dir().join("node.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("\"reattests\": true"), "the node noted it");
    let without = kept.replace("\"reattests\": true,", "");
    assert_ne!(kept, without);
    std::fs::write(&file, without).unwrap();

    let node = rig.run();
    double.hears("AttestAgent", 3).await;
    assert_eq!(double.heard("RenewAgent"), 1, "told once");
    assert!(node.stop().await);
}

/// A server that admits nobody for a while, because its plugin is at fault, costs no workload its SVID.
#[tokio::test]
async fn a_refusal_is_not_the_end_of_a_node_that_was_in() {
    let double = Double::start().await;
    double.change(|mind| mind.node_ttl = Duration::from_secs(4));
    double.add_entry("a", "/first", &[&uid()]);
    let rig = rig_of(&double, true);
    let node = rig.run();
    let mut client = rig.client().await;
    let (before, _stream) = fetch_x509(&mut client).await.unwrap();
    double.change(|mind| mind.proof.refused = Some(Status::permission_denied("not today")));
    // Past the end of its SVID: that takes two attempts and more.
    let expires = rig.info(|_| true).await.expires_at.unwrap().seconds;
    rig.info(|_| double.shared.now().unix_seconds() > expires)
        .await;
    let asked = double.heard("AttestAgent");
    double.hears("AttestAgent", asked + 1).await;
    let (still, _stream) = fetch_x509(&mut client).await.unwrap();
    assert_eq!(check(&before)[0].serial, check(&still)[0].serial);

    double.change(|mind| {
        mind.proof.refused = None;
        mind.node_ttl = Duration::from_hours(1);
    });
    rig.in_step(&double).await;
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_refusal_ends_a_node_that_never_was_in() {
    let double = Double::start().await;
    double.change(|mind| mind.proof.refused = Some(Status::permission_denied("no")));
    let rig = rig_of(&double, true);
    assert!(!rig.run().ended().await);
    assert_eq!(double.heard("AttestAgent"), 1);
}

#[tokio::test]
async fn a_node_that_is_banned_when_it_proves_itself_keeps_nothing() {
    let double = Double::start().await;
    double.change(|mind| mind.node_ttl = Duration::from_secs(4));
    let rig = rig_of(&double, true);
    let node = rig.run();
    rig.in_step(&double).await;
    double.change(|mind| mind.proof.refused = Some(proof::banned()));
    assert!(!node.ended().await);
    let kept = std::fs::read_to_string(rig.data_dir().join("node.json")).unwrap();
    assert!(kept.contains("\"current\": null"));
}

/// A program whose proof is good once: from then on the node renews by its key, as with a token.
#[tokio::test]
async fn a_node_whose_proof_is_good_once_renews_by_its_key() {
    let double = Double::start().await;
    double.change(|mind| mind.node_ttl = Duration::from_secs(4));
    let rig = rig_of(&double, false);
    let node = rig.run();
    double.hears("RenewAgent", 2).await;
    assert_eq!(double.heard("AttestAgent"), 1);
    assert!(node.stop().await);
}
