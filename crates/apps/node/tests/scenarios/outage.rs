//! The server is away, comes back, or the clock steps.

use std::time::Duration;

use tonic::Code;

use crate::double::Double;
use crate::explain::explain;
use crate::jwt::ask;
use crate::rig::{Rig, SteppedClock, fetch_x509, next, uid, within};
use crate::x509::check;

#[tokio::test]
async fn what_is_good_is_served_while_the_server_is_away() {
    let mut double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"200ms\"".into();
    let node = rig.run();
    let mut client = rig.client().await;
    let (_, mut stream) = fetch_x509(&mut client).await.unwrap();
    let token = client
        .fetch_jwtsvid(ask(&["warm"], ""))
        .await
        .unwrap()
        .into_inner();
    double.down().await;
    rig.info(|info| !info.connected).await;

    let (answer, _) = fetch_x509(&mut client).await.unwrap();
    check(&answer);
    let again = client
        .fetch_jwtsvid(ask(&["warm"], ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(token.svids[0].svid, again.svids[0].svid);
    // WAPI-42.
    let status = within("a refusal", client.fetch_jwtsvid(ask(&["cold"], "")))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(status.code(), Code::Unavailable);
    let status = within(
        "a refusal",
        client.fetch_jwtsvid(ask(&["a"], "spiffe://example.org/x")),
    )
    .await
    .err()
    .expect("a refusal");
    assert_eq!(status.code(), Code::Unavailable, "away is never a denial");

    // The stream of before is still there, and hears what is new.
    double.add_entry("b", "/second", &[&uid()]);
    double.up().await;
    assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2);
    assert!(node.stop().await);
}

#[tokio::test]
async fn the_view_is_resumed_by_its_revision() {
    let mut double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let revision = rig.in_step(&double).await.revision;
    double.down().await;
    rig.info(|info| !info.connected).await;
    double.up().await;
    rig.info(|info| info.connected).await;
    assert_eq!(double.shared.mind().resumed, [0, revision]);
    // In step again although nothing changed: a stranger is denied, not put off.
    let mut client = rig.client().await;
    let (answer, _) = fetch_x509(&mut client).await.unwrap();
    check(&answer);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_clock_that_steps_neither_storms_the_server_nor_serves_what_has_expired() {
    for seconds in [3600, -3600] {
        let double = Double::start().await;
        double.change(|mind| mind.x509_ttl = Duration::from_mins(30));
        for n in 0..20 {
            double.add_entry(&format!("e{n:02}"), &format!("/w{n}"), &[&uid()]);
        }
        let mut rig = Rig::new(&double);
        rig.more = "[workload_api]\nhold = \"200ms\"".into();
        let clock = SteppedClock::new();
        let node = rig.run_by(clock.clone());
        let mut client = rig.client().await;
        let (_, _stream) = fetch_x509(&mut client).await.unwrap();
        let before = double.heard("BatchNewX509SVID");
        clock.step(seconds);
        if seconds > 0 {
            // By this clock everything has expired, and what the server signs has too.
            rig.info(|info| info.x509_svids == 0).await;
            let own = i32::try_from(std::process::id()).unwrap();
            within("the clock is named", async {
                let named = "expired by this node's clock";
                while !explain(&rig, own).await.summary.contains(named) {}
            })
            .await;
            clock.step(-seconds);
            // Set right again: what is there is good, without the server.
            rig.info(|info| info.x509_svids == 20).await;
            let (answer, _) = fetch_x509(&mut client).await.unwrap();
            assert_eq!(check(&answer).len(), 20);
        } else {
            // What is there is good, by any clock.
            let (answer, _) = fetch_x509(&mut client).await.unwrap();
            check(&answer);
        }
        let asked = double.heard("BatchNewX509SVID") - before;
        assert!(asked <= 20, "{seconds}: {asked} requests");
        assert!(node.stop().await);
    }
}

/// An hour ahead and back, with nobody there to sign: the SVIDs are as good as they were.
#[tokio::test]
async fn a_clock_that_is_set_right_in_an_outage_gives_back_what_it_took() {
    let mut double = Double::start().await;
    double.change(|mind| mind.x509_ttl = Duration::from_mins(30));
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"200ms\"".into();
    let clock = SteppedClock::new();
    let node = rig.run_by(clock.clone());
    let mut client = rig.client().await;
    let (before, _stream) = fetch_x509(&mut client).await.unwrap();
    double.down().await;
    rig.info(|info| !info.connected).await;
    clock.step(3600);
    rig.info(|info| info.x509_svids == 0).await;
    let refused = fetch_x509(&mut client).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    clock.step(-3600);
    rig.info(|info| info.x509_svids == 1).await;
    let (after, _stream) = fetch_x509(&mut client).await.unwrap();
    assert_eq!(before.svids[0].x509_svid, after.svids[0].x509_svid);
    assert!(node.stop().await);
}
