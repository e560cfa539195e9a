//! What operators see.

use muster_proto::muster::node::admin::v1 as admin;
use muster_proto::muster::node::admin::v1::event::What;
use std::os::unix::fs::PermissionsExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::double::{Double, trust_domain};
use crate::rig::{Rig, fetch_x509, next, uid};

#[tokio::test]
async fn events_tell_what_was_attested_issued_and_refused() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more =
        "[workload_api]\nhold = \"0s\"\n[attest.unix]\ndiscover_path = true\nsize_limit = -1"
            .into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut events = rig
        .admin()
        .await
        .watch_events(admin::WatchEventsRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut client = rig.client().await;
    assert!(fetch_x509(&mut client).await.is_err());
    let Some(What::Attested(attested)) = next(&mut events).await.unwrap().what else {
        panic!("attested comes first");
    };
    assert_eq!(attested.pid, i32::try_from(std::process::id()).unwrap());
    assert!(
        attested.executable.contains("scenarios"),
        "{}",
        attested.executable
    );
    assert!(attested.level.contains("sender"), "{}", attested.level);
    let facts: Vec<String> = attested
        .facts
        .iter()
        .map(|f| f.selector.as_ref().unwrap())
        .map(|s| format!("{}:{}", s.r#type, s.value))
        .collect();
    assert!(facts.contains(&uid()), "{facts:?}");
    assert!(
        facts.iter().any(|f| f.starts_with("unix:path:/")),
        "{facts:?}"
    );
    assert!(attested.facts.iter().all(|f| !f.how.is_empty()));
    let Some(What::Refused(refused)) = next(&mut events).await.unwrap().what else {
        panic!("then refused");
    };
    assert_eq!(refused.reason, "no_identity");

    double.add_entry("a", "/first", &[&uid()]);
    let Some(What::Issued(issued)) = next(&mut events).await.unwrap().what else {
        panic!("then issued");
    };
    assert_eq!(issued.spiffe_id, "spiffe://example.org/first");
    assert_eq!(issued.previous_serial_number, "");
    assert_eq!(issued.authority_id.len(), 40);
    assert!(issued.renew_at.unwrap().seconds > issued.not_before.unwrap().seconds);

    let info = rig.info(|info| info.x509_svids == 1).await;
    assert_eq!(
        (info.entries, info.trust_domain.as_str()),
        (1, trust_domain().as_str())
    );
    assert!(node.stop().await);
    let status = next(&mut events).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn sockets_have_the_modes_of_the_house() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mode = |name: &str| {
        std::fs::metadata(rig.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("w.sock"), 0o777, "WEP-17");
    assert_eq!(mode("private/a.sock"), 0o770);
    assert_eq!(mode("private"), 0o750);
    assert!(node.stop().await);
    assert!(!rig.path("w.sock").exists());
}

#[tokio::test]
async fn health_is_serving_once_the_node_is_in_step_and_stays_so() {
    let mut double = Double::start().await;
    double.down().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut health = HealthClient::new(rig.channel().await);
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut status = async || {
        let answer = next(&mut watch).await.unwrap();
        ServingStatus::try_from(answer.status).unwrap()
    };
    assert_eq!(status().await, ServingStatus::NotServing);
    double.up().await;
    assert_eq!(status().await, ServingStatus::Serving);
    double.down().await;
    rig.info(|info| !info.connected).await;
    let answer = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status, i32::from(ServingStatus::Serving));
    assert!(node.stop().await);
}
