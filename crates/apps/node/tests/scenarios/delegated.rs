//! The Delegated Identity API on the operator's socket, as SPIRE has it.

use muster_proto::spire::api::agent::delegatedidentity::v1 as api;
use muster_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_client::DelegatedIdentityClient;
use muster_proto::spire::api::types;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::authority::Foreign;
use crate::broker::{Workload, cat};
use crate::double::Double;
use crate::rig::{Rig, next, uid, within};

type Client = DelegatedIdentityClient<Channel>;
type X509Stream = Streaming<api::SubscribeToX509sviDsResponse>;

/// A node for which `/delegate` is a delegate.
fn rig(double: &Double) -> Rig {
    let mut rig = Rig::new(double);
    rig.more =
        "[workload_api]\nhold = \"0s\"\n[attest.unix]\ndiscover_path = true\nsize_limit = -1\n\
                [delegated]\nauthorized = [\"spiffe://example.org/delegate\"]\n"
            .into();
    rig
}

async fn client(rig: &Rig) -> Client {
    DelegatedIdentityClient::new(rig.admin_channel().await)
}

fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').unwrap();
    types::Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    }
}

fn of(selectors: &[&str], pid: i32) -> api::SubscribeToX509sviDsRequest {
    api::SubscribeToX509sviDsRequest {
        selectors: selectors.iter().map(|s| selector(s)).collect(),
        pid,
    }
}

async fn subscribe(
    client: &mut Client,
    request: api::SubscribeToX509sviDsRequest,
) -> Result<(api::SubscribeToX509sviDsResponse, X509Stream), Status> {
    within("a first answer", async {
        let mut stream = client.subscribe_to_x509svi_ds(request).await?.into_inner();
        let first = stream.message().await?.expect("a message");
        Ok((first, stream))
    })
    .await
}

async fn refused(client: &mut Client, request: api::SubscribeToX509sviDsRequest) -> (Code, String) {
    let status = subscribe(client, request).await.err().expect("a refusal");
    (status.code(), status.message().to_owned())
}

fn paths(answer: &api::SubscribeToX509sviDsResponse) -> Vec<String> {
    let svids = answer.x509_svids.iter();
    svids
        .map(|s| s.x509_svid.clone().unwrap().id.unwrap().path)
        .collect()
}

#[tokio::test]
async fn a_delegate_gets_the_identities_of_workloads_it_describes() {
    let double = Double::start().await;
    let foreign = Foreign::new("other.org", double.shared.now());
    double.add_entry("a", "/delegate", &[&uid()]);
    double.add_entry("b", "/workload", &["unix:uid:4711"]);
    double.add_entry("c", "/admin", &["unix:uid:4711"]);
    double.update_entry("c", |e| e.admin = true);
    double.add_entry("d", "/downstream", &["unix:uid:4711"]);
    double.update_entry("d", |e| e.downstream = true);
    double.change(|mind| {
        mind.foreign
            .insert(foreign.trust_domain.clone(), foreign.bundle())
    });
    double.update_entry("b", |e| {
        e.hint = "internal".into();
        e.federates_with.insert(foreign.trust_domain.clone());
    });
    let rig = rig(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;

    let request = of(&["unix:uid:4711", "docker:label:a:b"], 0);
    let (first, mut stream) = subscribe(&mut client, request).await.unwrap();
    assert_eq!(paths(&first), ["/workload"], "no admins, no downstreams");
    assert_eq!(first.federates_with, ["spiffe://other.org"]);
    let svid = first.x509_svids[0].x509_svid.clone().unwrap();
    assert_eq!(svid.hint, "internal");
    assert_eq!(svid.id.unwrap().trust_domain, "example.org");
    let chain = svid.cert_chain.iter().map(|der| der.to_vec()).collect();
    let key = muster_crypto::Secret::new(first.x509_svids[0].x509_svid_key.to_vec());
    let loaded = muster_svid::x509::X509Svid::load(chain, key).unwrap();
    assert_eq!(loaded.not_after.unix_seconds(), svid.expires_at);

    // As SPIRE: without an entry the answer is empty, and the stream goes on.
    double.remove_entry("b");
    let empty = next(&mut stream).await.unwrap();
    assert_eq!((empty.x509_svids.len(), empty.federates_with.len()), (0, 0));
    double.add_entry("b", "/again", &["unix:uid:4711"]);
    assert_eq!(paths(&next(&mut stream).await.unwrap()), ["/again"]);
    let (nothing, mut stream) = subscribe(&mut client, of(&["unix:uid:4712"], 0))
        .await
        .unwrap();
    assert!(nothing.x509_svids.is_empty());
    double.add_entry("e", "/late", &["unix:uid:4712"]);
    assert_eq!(paths(&next(&mut stream).await.unwrap()), ["/late"]);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_workload_named_by_pid_is_the_process_and_ends_with_it() {
    let double = Double::start().await;
    double.add_entry("a", "/delegate", &[&uid()]);
    double.add_entry("b", "/workload", &[&cat()]);
    let rig = rig(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;
    let mut workload = Workload::start();
    let (first, mut stream) = subscribe(&mut client, of(&[], workload.pid()))
        .await
        .unwrap();
    // The workload's user is the delegate's, so it has that identity as well.
    assert_eq!(paths(&first), ["/delegate", "/workload"]);
    workload.end();
    let status = next(&mut stream).await.err().expect("the end");
    assert_eq!(status.code(), Code::Unavailable);
    let expected = (Code::Unavailable, "workload attestation failed".to_owned());
    for pid in [workload.pid(), -1, i32::MAX] {
        assert_eq!(refused(&mut client, of(&[], pid)).await, expected);
    }
    assert!(node.stop().await);
}

#[tokio::test]
async fn only_delegates_may_ask_and_only_while_they_are() {
    let double = Double::start().await;
    double.add_entry("b", "/workload", &["unix:uid:4711"]);
    let rig = rig(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;
    let request = || of(&["unix:uid:4711"], 0);
    let denied = |text: &str| (Code::PermissionDenied, text.to_owned());
    assert_eq!(
        refused(&mut client, request()).await,
        denied("no identity issued")
    );
    double.add_entry("a", "/somebody", &[&uid()]);
    rig.in_step(&double).await;
    let unauthorized = "caller not configured as an authorized delegate";
    assert_eq!(refused(&mut client, request()).await, denied(unauthorized));
    // The caller comes before the request.
    assert_eq!(refused(&mut client, of(&[], 0)).await, denied(unauthorized));

    double.add_entry("d", "/delegate", &[&uid()]);
    rig.in_step(&double).await;
    let (_, mut stream) = subscribe(&mut client, request()).await.unwrap();
    double.remove_entry("d");
    rig.in_step(&double).await;
    double.add_entry("e", "/more", &["unix:uid:4711"]);
    let status = next(&mut stream).await.err().expect("the end");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, unauthorized)
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_in_spires_words() {
    let double = Double::start().await;
    double.add_entry("a", "/delegate", &[&uid()]);
    let rig = rig(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;
    let invalid = |text: &str| (Code::InvalidArgument, text.to_owned());
    let one_of = "must provide either selectors or non-zero PID, but not both";
    for request in [of(&[], 0), of(&["unix:uid:1"], 1), of(&["unix:uid:1"], -1)] {
        assert_eq!(refused(&mut client, request).await, invalid(one_of));
    }
    let broken = api::SubscribeToX509sviDsRequest {
        selectors: vec![types::Selector::default()],
        pid: 0,
    };
    assert_eq!(
        refused(&mut client, broken).await,
        invalid("could not parse provided selectors")
    );
    let request = api::FetchJwtsviDsRequest {
        audience: Vec::new(),
        selectors: vec![selector("unix:uid:1")],
        pid: 0,
    };
    let status = client.fetch_jwtsvi_ds(request).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "audience must be specified");
    assert!(node.stop().await);
}

#[tokio::test]
async fn tokens_are_delegated_without_those_of_infrastructure() {
    let double = Double::start().await;
    double.add_entry("a", "/delegate", &[&uid()]);
    double.add_entry("b", "/workload", &["unix:uid:4711"]);
    double.add_entry("c", "/admin", &["unix:uid:4711"]);
    double.update_entry("c", |e| e.admin = true);
    let rig = rig(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;
    let request = |uid: &str| api::FetchJwtsviDsRequest {
        audience: vec!["db".into()],
        selectors: vec![selector(uid)],
        pid: 0,
    };
    let answer = client.fetch_jwtsvi_ds(request("unix:uid:4711")).await;
    let svids = answer.unwrap().into_inner().svids;
    assert_eq!(svids.len(), 1);
    assert_eq!(svids[0].id.clone().unwrap().path, "/workload");
    assert_eq!(svids[0].token.split('.').count(), 3);
    assert!(svids[0].issued_at > 0 && svids[0].expires_at > svids[0].issued_at);
    let status = client
        .fetch_jwtsvi_ds(request("unix:uid:1"))
        .await
        .err()
        .unwrap();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_delegate_follows_all_bundles_of_the_node() {
    let double = Double::start().await;
    let foreign = Foreign::new("other.org", double.shared.now());
    double.add_entry("a", "/delegate", &[&uid()]);
    double.add_entry("b", "/workload", &["unix:uid:4711"]);
    let rig = rig(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;
    let x509 = api::SubscribeToX509BundlesRequest {};
    let mut x509 = client
        .subscribe_to_x509_bundles(x509)
        .await
        .unwrap()
        .into_inner();
    let jwt = api::SubscribeToJwtBundlesRequest {};
    let mut jwt = client
        .subscribe_to_jwt_bundles(jwt)
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut x509).await.unwrap().ca_certificates;
    let own = double.shared.mind().bundle().x509_concatenated();
    assert_eq!(first.len(), 1);
    assert_eq!(first["spiffe://example.org"], own);
    let keys = next(&mut jwt).await.unwrap().bundles;
    let keys: serde_json::Value = serde_json::from_slice(&keys["spiffe://example.org"]).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "no X.509 keys");

    double.change(|mind| {
        mind.foreign
            .insert(foreign.trust_domain.clone(), foreign.bundle())
    });
    let both = next(&mut x509).await.unwrap().ca_certificates;
    assert_eq!(
        both["spiffe://other.org"],
        foreign.bundle().x509_concatenated()
    );
    assert_eq!(next(&mut jwt).await.unwrap().bundles.len(), 2);
    double.change(|mind| mind.foreign.remove(&foreign.trust_domain));
    assert_eq!(next(&mut x509).await.unwrap().ca_certificates.len(), 1);
    assert!(node.stop().await);
}
