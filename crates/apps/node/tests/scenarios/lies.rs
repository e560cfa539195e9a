//! A server that lies is refused, and what was good stays in use.

use std::time::Duration;

use tonic::Code;

use crate::double::{Double, Lie};
use crate::jwt::ask;
use crate::rig::{Rig, fetch_x509, next, uid, within};
use crate::x509::check;

/// No SVID that is not what was asked for reaches a workload.
#[tokio::test]
async fn svids_that_are_not_what_was_asked_for_are_not_served() {
    for lie in [
        Lie::OtherKey,
        Lie::OtherAuthority,
        Lie::OtherIdentity,
        Lie::OtherTrustDomain,
        Lie::Expired,
    ] {
        let double = Double::start().await;
        double.add_entry("a", "/first", &[&uid()]);
        let rig = Rig::new(&double);
        let node = rig.run();
        let (first, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
        check(&first);
        // From now on the server signs nonsense, and a second entry is to be signed.
        double.change(|mind| mind.lie = Some(lie));
        double.add_entry("b", "/second", &[&uid()]);
        let asked = double.heard("BatchNewX509SVID");
        double.hears("BatchNewX509SVID", asked + 1).await;
        double.change(|mind| mind.lie = None);
        // The first answer that comes is a good one.
        let answer = next(&mut stream).await.unwrap();
        assert_eq!(check(&answer).len(), 2, "{lie:?}");
        assert!(node.stop().await);
    }
}

#[tokio::test]
async fn a_token_that_is_not_what_was_asked_for_is_not_served() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    double.change(|mind| mind.lie = Some(Lie::OtherIdentity));
    let mut client = rig.client().await;
    let status = within("a refusal", client.fetch_jwtsvid(ask(&["a"], "")))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(node.stop().await);
}

/// A view that cannot be right changes nothing; the node starts over until it is right again.
#[tokio::test]
async fn views_that_cannot_be_right_are_refused() {
    for lie in [
        Lie::ForeignEntry,
        Lie::EmptyBundle,
        Lie::RevisionBack,
        Lie::Digest,
    ] {
        let double = Double::start().await;
        double.add_entry("a", "/first", &[&uid()]);
        let rig = Rig::new(&double);
        let node = rig.run();
        let (first, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
        check(&first);
        double.change(|mind| mind.lie = Some(lie));
        let opened = double.heard("Watch");
        double.hears("Watch", opened + 1).await;
        assert_eq!(double.shared.mind().resumed.last(), Some(&0), "{lie:?}");
        // The bundles are as they were, for callers and on disk.
        check(&fetch_x509(&mut rig.client().await).await.unwrap().0);
        double.change(|mind| mind.lie = None);
        double.add_entry("b", "/second", &[&uid()]);
        // Nothing was told of the wrong view.
        let answer = next(&mut stream).await.unwrap();
        assert_eq!(check(&answer).len(), 2, "{lie:?}");
        assert!(node.stop().await);
    }
}

/// What cannot be a view at all is refused before the roster sees it; the node goes on from where
/// it stood.
#[tokio::test]
async fn views_of_others_and_without_a_bundle_are_refused() {
    for lie in [Lie::OtherNodesEntry, Lie::BundleRemoved] {
        let double = Double::start().await;
        double.add_entry("a", "/first", &[&uid()]);
        let rig = Rig::new(&double);
        let node = rig.run();
        let (first, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
        check(&first);
        let opened = double.heard("Watch");
        double.change(|mind| mind.lie = Some(lie));
        double.hears("Watch", opened + 1).await;
        let bundle = check(&fetch_x509(&mut rig.client().await).await.unwrap().0);
        assert_eq!(bundle.len(), 1, "{lie:?}");
        double.change(|mind| mind.lie = None);
        double.add_entry("b", "/second", &[&uid()]);
        assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2, "{lie:?}");
        assert!(node.stop().await);
    }
}

/// Neither is an SVID for the node itself.
#[tokio::test]
async fn a_node_does_not_take_somebody_elses_svid() {
    for lie in [
        Lie::OtherKey,
        Lie::OtherAuthority,
        Lie::OtherIdentity,
        Lie::OtherTrustDomain,
        Lie::Expired,
    ] {
        let double = Double::start().await;
        double.change(|mind| mind.node_ttl = Duration::from_secs(4));
        let rig = Rig::new(&double);
        let node = rig.run();
        let first = rig.in_step(&double).await;
        double.change(|mind| mind.lie = Some(lie));
        double.hears("RenewAgent", 1).await;
        double.change(|mind| mind.lie = None);
        let serial = first.serial_number.clone();
        let renewed = rig.info(move |info| info.serial_number != serial).await;
        assert_eq!(renewed.node_id, first.node_id, "{lie:?}");
        assert!(node.stop().await);
    }
}
