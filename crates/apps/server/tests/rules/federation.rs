//! What rules have as entries have it: foreign bundles, hints and DNS names.

use muster_proto::muster::node::v1::WatchRequest;
use muster_proto::spire::api::server::bundle::v1::BatchDeleteFederatedBundleRequest;
use muster_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use tonic::Code;

use crate::BY_PROCESS;
use crate::rig::{Rig, facts, next, spec, why};

/// What a deletion of a bundle comes to.
async fn delete(rig: &Rig, name: &str, mode: Mode) -> (Code, String) {
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![name.into()],
        mode: mode.into(),
    };
    let answer = rig.bundles().batch_delete_federated_bundle(request).await;
    let status = answer
        .unwrap()
        .into_inner()
        .results
        .remove(0)
        .status
        .unwrap();
    (Code::from_i32(status.code), status.message)
}

#[tokio::test]
async fn what_a_rule_gives_has_bundles_hint_and_dns_names() {
    let rig = Rig::start().await;
    rig.class("reader").await;
    let mut wanted = spec(&rig, BY_PROCESS);
    wanted.federates_with = vec!["friend.test".into()];
    let unknown = rig.create("readers", wanted.clone()).await.unwrap_err();
    assert_eq!(
        why(&unknown),
        (Code::InvalidArgument, "BUNDLE_NOT_FOUND".to_owned())
    );
    for name in ["friend.test", "other.test"] {
        rig.set_bundle(name).await;
    }
    for (field, bad) in [
        ("hint", ("h".repeat(1025), "a.example")),
        ("DNS name", (String::new(), "A.example")),
    ] {
        let mut spec = wanted.clone();
        (spec.hint, spec.dns_names) = (bad.0, vec![bad.1.into()]);
        let refused = rig.create("readers", spec).await.unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::InvalidArgument, "INVALID_FIELD".to_owned())
        );
        assert!(refused.message().contains(field), "{refused}");
    }

    let mut stream = rig.watch(WatchRequest::default()).await;
    let own = next(&mut stream).await.bundles;
    assert_eq!(own.len(), 1);
    wanted.hint = "reader".into();
    wanted.dns_names = vec!["reader.example".into(), "alt.example".into()];
    rig.create("readers", wanted).await.unwrap();
    let mut step = next(&mut stream).await;
    assert_eq!(step.bundles.remove(0).trust_domain, "friend.test");
    let rule = step.rules.remove(0);
    let agent = rig.derived(&rule, &facts(1));
    let (leaf, hint) = rig.certificate(agent.clone()).await;
    assert_eq!(hint, "reader");
    assert_eq!(leaf.dns_names, ["reader.example", "alt.example"]);
    assert_eq!(leaf.common_name.as_deref(), Some("reader.example"));

    // A change of it reaches the node in one step.
    rig.set("readers", 1, |spec| {
        spec.federates_with = vec!["other.test".into()];
        spec.dns_names.clear();
    })
    .await;
    let mut step = next(&mut stream).await;
    assert_eq!(step.removed_bundles, ["friend.test"]);
    assert_eq!(step.bundles.remove(0).trust_domain, "other.test");
    let (leaf, _) = rig.certificate(agent).await;
    assert!(leaf.dns_names.is_empty());

    // A bundle that a rule names goes as one does that entries name.
    let (code, text) = delete(&rig, "other.test", Mode::Restrict).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        text.ends_with("0 registration entries and 1 identity rules"),
        "{text}"
    );
    assert_eq!(
        delete(&rig, "other.test", Mode::Dissociate).await.0,
        Code::Ok
    );
    assert_eq!(next(&mut stream).await.removed_bundles, ["other.test"]);
    let left = rig.rule("readers").await.unwrap();
    assert_eq!(left.version, 3);
    assert!(left.spec.unwrap().federates_with.is_empty());
    rig.set("readers", 3, |spec| {
        spec.federates_with = vec!["friend.test".into()];
    })
    .await;
    assert_eq!(delete(&rig, "friend.test", Mode::Delete).await.0, Code::Ok);
    assert_eq!(
        rig.rule("readers").await.unwrap_err().code(),
        Code::NotFound
    );
}
