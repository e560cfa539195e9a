//! A node that is started again while its server is dead.

use tonic::Code;

use crate::double::Double;
use crate::jwt::ask;
use crate::rig::{Rig, fetch_x509, uid, within};
use crate::x509::check;

/// The sealed file.
const SEALED: &str = "sealed.bin";

fn rig_of(double: &Double) -> Rig {
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(double);
    rig.more = "[workload_api]\nhold = \"200ms\"".into();
    rig
}

#[tokio::test]
async fn a_node_that_restarts_in_an_outage_serves_what_it_held() {
    let mut double = Double::start().await;
    let rig = rig_of(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let (before, _stream) = fetch_x509(&mut client).await.unwrap();
    let token = client
        .fetch_jwtsvid(ask(&["warm"], ""))
        .await
        .unwrap()
        .into_inner();
    double.down().await;
    assert!(node.stop().await);
    let sealed = std::fs::read(rig.data_dir().join(SEALED)).unwrap();
    let token_text = token.svids[0].svid.as_bytes();
    assert!(!sealed.windows(token_text.len()).any(|w| w == token_text));

    let node = rig.run();
    let info = rig.info(|info| info.x509_svids == 1).await;
    assert!(!info.connected, "the view is not confirmed");
    assert_eq!((info.entries, info.jwt_svids), (1, 1));
    let mut client = rig.client().await;
    let (after, mut stream) = fetch_x509(&mut client).await.unwrap();
    assert_eq!(before.svids[0].x509_svid, after.svids[0].x509_svid);
    assert_eq!(before.svids[0].x509_svid_key, after.svids[0].x509_svid_key);
    let again = client
        .fetch_jwtsvid(ask(&["warm"], ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(token.svids[0].svid, again.svids[0].svid);
    // What the node does not know may exist: nothing is denied (WAPI-42).
    let cold = within("a refusal", client.fetch_jwtsvid(ask(&["cold"], ""))).await;
    assert_eq!(cold.err().expect("a refusal").code(), Code::Unavailable);

    // The server is back: the view is resumed where it was left, and goes on.
    double.add_entry("b", "/second", &[&uid()]);
    double.up().await;
    assert_eq!(
        check(&crate::rig::next(&mut stream).await.unwrap()).len(),
        2
    );
    assert!(double.shared.mind().resumed.last().is_some_and(|r| *r > 0));
    assert_eq!(double.heard("AttestAgent"), 1);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_sealed_state_that_is_changed_is_wiped_and_the_node_goes_on_without() {
    let double = Double::start().await;
    let rig = rig_of(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    fetch_x509(&mut client).await.unwrap();
    assert!(node.stop().await);
    let file = rig.data_dir().join(SEALED);
    let mut content = std::fs::read(&file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&file, content).unwrap();
    let node = rig.run();
    let mut client = rig.client().await;
    let (answer, _stream) = fetch_x509(&mut client).await.unwrap();
    check(&answer);
    assert_eq!(double.heard("BatchNewX509SVID"), 2, "signed anew");
    assert!(node.stop().await);
}

#[tokio::test]
async fn with_survive_restart_off_nothing_is_left() {
    let mut double = Double::start().await;
    let mut rig = rig_of(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    fetch_x509(&mut client).await.unwrap();
    assert!(node.stop().await);
    assert!(rig.data_dir().join(SEALED).exists());
    rig.more.push_str("\n[state]\nsurvive_restart = false");
    double.down().await;
    let node = rig.run();
    let mut client = rig.client().await;
    let status = fetch_x509(&mut client).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(node.stop().await);
    assert!(!rig.data_dir().join(SEALED).exists());
}

#[tokio::test]
async fn what_a_banned_node_held_is_wiped() {
    let double = Double::start().await;
    let rig = rig_of(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    fetch_x509(&mut client).await.unwrap();
    double.change(|mind| mind.refusal = Some(muster_policy::NodeRefusal::Banned));
    assert!(!node.ended().await);
    assert!(!rig.data_dir().join(SEALED).exists());
}

#[tokio::test]
async fn what_has_expired_is_not_served_by_the_next_run() {
    let mut double = Double::start().await;
    let rig = rig_of(&double);
    let clock = crate::rig::SteppedClock::new();
    let node = rig.run_by(clock.clone());
    let mut client = rig.client().await;
    fetch_x509(&mut client).await.unwrap();
    double.down().await;
    assert!(node.stop().await);
    clock.step(3601);
    let node = rig.run_by(clock);
    let info = rig.info(|info| info.entries == 1).await;
    assert_eq!(info.x509_svids, 0);
    // The call waits for a signature, as it would anywhere, and hears of no SVID that has expired.
    let mut client = rig.client().await;
    let call = tokio::spawn(async move { fetch_x509(&mut client).await.map(|_| ()) });
    rig.info(|info| info.held_calls == 1).await;
    assert!(node.stop().await);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
