//! A node that comes back with an SVID that has expired.

use std::time::Duration;

use muster_rt::{Clock, SystemClock};

use crate::double::Double;
use crate::rig::Rig;

/// A rig whose node has joined and stopped, and whose SVID has expired meanwhile; with its serial.
async fn lapsed(double: &mut Double, grace: Duration) -> (Rig, String) {
    double.change(|mind| {
        mind.node_ttl = Duration::from_secs(2);
        mind.grace = grace;
    });
    double.down().await;
    double.up().await;
    let mut rig = Rig::new(double);
    let node = rig.run();
    rig.in_step(double).await;
    double.down().await;
    let info = rig.info(|info| !info.connected).await;
    assert!(node.stop().await);
    rig.join = String::new();
    let clock = SystemClock::new();
    let end = info.expires_at.unwrap().seconds + 1;
    while clock.now().wall.unix_seconds() <= end {
        tokio::task::yield_now().await;
    }
    double.change(|mind| mind.node_ttl = Duration::from_hours(1));
    double.up().await;
    (rig, info.serial_number)
}

#[tokio::test]
async fn an_expired_node_renews_by_its_key_where_the_server_allows_it() {
    let mut double = Double::start().await;
    let (rig, serial) = lapsed(&mut double, Duration::from_hours(1)).await;
    let attested = double.heard("AttestAgent");
    let node = rig.run();
    let info = rig.in_step(&double).await;
    assert_ne!(info.serial_number, serial);
    assert_eq!(double.heard("AttestAgent"), attested, "no token was needed");
    assert!(node.stop().await);
}

#[tokio::test]
async fn without_a_grace_an_expired_node_wants_a_token_and_keeps_its_key_until_it_has_one() {
    let mut double = Double::start().await;
    let (mut rig, serial) = lapsed(&mut double, Duration::ZERO).await;
    assert!(!rig.run().ended().await, "there is no token");
    let kept = std::fs::read_to_string(rig.data_dir().join("node.json")).unwrap();
    assert!(!kept.contains("\"current\": null"));

    double.change(|mind| mind.tokens.push("another".into()));
    rig.join = "token = \"another\"".into();
    let node = rig.run();
    let info = rig.in_step(&double).await;
    assert_ne!(info.serial_number, serial);
    assert!(info.node_id.ends_with("/another"));
    assert!(node.stop().await);
}
