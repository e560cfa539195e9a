//! The Secret Discovery Service, as Envoy uses it.

use std::collections::BTreeMap;

use muster_proto::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use muster_proto::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SpiffeCertValidatorConfig, secret::Type,
};
use muster_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use muster_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use muster_proto::google::rpc;
use muster_rt::{Clock, SystemClock};
use prost::Message;
use prost_types::{Any, Struct, Value, value::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::authority::Foreign;
use crate::double::Double;
use crate::rig::{Rig, next, uid, within};

type Client = SecretDiscoveryServiceClient<Channel>;

/// What a resource holds.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    Certificate,
    Plain(usize),
    /// Trust domain and number of its authorities.
    Spiffe(Vec<(String, usize)>),
}

fn pem(source: Option<DataSource>) -> String {
    let Some(Specifier::InlineBytes(bytes)) = source.and_then(|s| s.specifier) else {
        panic!("inline bytes");
    };
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn count(source: Option<DataSource>) -> usize {
    pem(source).matches("BEGIN CERTIFICATE").count()
}

fn read(resource: &Any) -> (String, Held) {
    assert_eq!(
        resource.type_url,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    );
    let secret = Secret::decode(resource.value.as_slice()).unwrap();
    let held = match secret.r#type.unwrap() {
        Type::TlsCertificate(certificate) => {
            assert_eq!(count(certificate.certificate_chain), 1);
            let key = pem(certificate.private_key);
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
            Held::Certificate
        }
        Type::ValidationContext(context) => match context.custom_validator_config {
            None => Held::Plain(count(context.trusted_ca)),
            Some(validator) => {
                assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
                let config = validator.typed_config.unwrap();
                assert_eq!(
                    config.type_url,
                    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
                );
                let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
                let domains = config.trust_domains.into_iter();
                Held::Spiffe(domains.map(|d| (d.name, count(d.trust_bundle))).collect())
            }
        },
    };
    (secret.name, held)
}

fn world(answer: &DiscoveryResponse) -> BTreeMap<String, Held> {
    answer.resources.iter().map(read).collect()
}

fn changed(answer: &DeltaDiscoveryResponse) -> BTreeMap<String, Held> {
    let resources = answer.resources.iter();
    resources
        .map(|r| read(r.resource.as_ref().unwrap()))
        .collect()
}

fn names<T>(map: &BTreeMap<String, T>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn ask(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: owned(names),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: owned(names),
        ..DeltaDiscoveryRequest::default()
    }
}

async fn client(rig: &Rig) -> Client {
    SecretDiscoveryServiceClient::new(rig.channel().await)
}

async fn stream(
    client: &mut Client,
) -> (
    mpsc::UnboundedSender<DiscoveryRequest>,
    Streaming<DiscoveryResponse>,
) {
    let (sender, requests) = mpsc::unbounded_channel();
    let opened = client.stream_secrets(UnboundedReceiverStream::new(requests));
    let answers = within("the stream opens", opened).await.unwrap();
    (sender, answers.into_inner())
}

async fn delta(
    client: &mut Client,
) -> (
    mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    Streaming<DeltaDiscoveryResponse>,
) {
    let (sender, requests) = mpsc::unbounded_channel();
    let opened = client.delta_secrets(UnboundedReceiverStream::new(requests));
    let answers = within("the stream opens", opened).await.unwrap();
    (sender, answers.into_inner())
}

async fn fetch(
    client: &mut Client,
    request: DiscoveryRequest,
) -> Result<DiscoveryResponse, Status> {
    let answer = within("an answer", client.fetch_secrets(request)).await?;
    Ok(answer.into_inner())
}

fn federate(double: &Double) -> Foreign {
    let foreign = Foreign::new("other.test", SystemClock::new().now().wall);
    double.change(|mind| {
        mind.foreign
            .insert(foreign.trust_domain.clone(), foreign.bundle())
    });
    double.update_entry("a", |entry| {
        entry.federates_with.insert(foreign.trust_domain.clone());
    });
    foreign
}

fn part(double: &Double, foreign: &Foreign) {
    double.update_entry("a", |entry| {
        entry.federates_with.remove(&foreign.trust_domain);
    });
}

fn spiffe(domains: &[&str]) -> Held {
    Held::Spiffe(domains.iter().map(|d| ((*d).to_owned(), 1)).collect())
}

#[tokio::test]
async fn any_mix_of_names_is_fetched_and_none_means_all() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    double.add_entry("b", "/second", &[&uid()]);
    federate(&double);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = client(&rig).await;
    let all = world(&fetch(&mut client, ask(&[], "")).await.unwrap());
    assert_eq!(
        names(&all),
        [
            "spiffe://example.org",
            "spiffe://example.org/first",
            "spiffe://example.org/second",
            "spiffe://other.test"
        ]
    );
    // Of each group more than one, and one that there is not.
    let mixed = ask(
        &[
            "default",
            "spiffe://example.org/first",
            "spiffe://example.org/second",
            "ROOTCA",
            "ALL",
            "spiffe://example.org",
            "spiffe://other.test",
            "nobody",
        ],
        "",
    );
    let mixed = world(&fetch(&mut client, mixed).await.unwrap());
    assert_eq!(mixed.len(), 7);
    assert_eq!(mixed["default"], Held::Certificate);
    assert_eq!(mixed["ROOTCA"], spiffe(&["example.org"]));
    assert_eq!(mixed["spiffe://other.test"], spiffe(&["other.test"]));
    assert_eq!(mixed["ALL"], spiffe(&["example.org", "other.test"]));
    let foreign_type = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        ..ask(&[], "")
    };
    let refused = fetch(&mut client, foreign_type)
        .await
        .err()
        .expect("a refusal");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_proxy_chooses_its_validator() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[sds]\ndisable_spiffe_cert_validation = true".into();
    let node = rig.run();
    let mut client = client(&rig).await;
    let plain = world(&fetch(&mut client, ask(&["ROOTCA"], "")).await.unwrap());
    assert_eq!(plain["ROOTCA"], Held::Plain(1));
    let no = Value {
        kind: Some(Kind::BoolValue(false)),
    };
    let choice = DiscoveryRequest {
        node: Some(Node {
            metadata: Some(Struct {
                fields: [("disable_spiffe_cert_validation".to_owned(), no)].into(),
            }),
            ..Node::default()
        }),
        ..ask(&["ROOTCA"], "")
    };
    let chosen = world(&fetch(&mut client, choice).await.unwrap());
    assert_eq!(chosen["ROOTCA"], spiffe(&["example.org"]));
    assert!(node.stop().await);
}

#[tokio::test]
async fn trust_comes_and_goes_on_open_streams() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = client(&rig).await;
    let wanted = ["ALL", "spiffe://other.test"];
    let (asks, mut worlds) = stream(&mut client).await;
    let (subscriptions, mut deltas) = delta(&mut client).await;
    asks.send(ask(&wanted, "")).unwrap();
    subscriptions.send(subscribe(&wanted)).unwrap();
    let alone = spiffe(&["example.org"]);
    let both = spiffe(&["example.org", "other.test"]);

    // What is not there is answered alone.
    let first = world(&next(&mut worlds).await.unwrap());
    assert_eq!((names(&first), &first["ALL"]), (vec!["ALL"], &alone));
    let first = next(&mut deltas).await.unwrap();
    assert_eq!(first.removed_resources, ["spiffe://other.test"]);
    assert_eq!(names(&changed(&first)), ["ALL"]);

    let foreign = federate(&double);
    let second = world(&next(&mut worlds).await.unwrap());
    assert_eq!((second.len(), &second["ALL"]), (2, &both));
    let second = next(&mut deltas).await.unwrap();
    assert_eq!(changed(&second)["ALL"], both);
    assert_eq!(names(&changed(&second)), wanted);
    assert!(second.removed_resources.is_empty());

    part(&double, &foreign);
    let third = world(&next(&mut worlds).await.unwrap());
    assert_eq!((names(&third), &third["ALL"]), (vec!["ALL"], &alone));
    let third = next(&mut deltas).await.unwrap();
    assert_eq!(third.removed_resources, ["spiffe://other.test"]);
    assert_eq!(changed(&third)["ALL"], alone);
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_rejection_is_not_answered_and_new_names_are() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = client(&rig).await;
    let (asks, mut answers) = stream(&mut client).await;
    asks.send(ask(&["default"], "")).unwrap();
    let first = next(&mut answers).await.unwrap();
    let rejection = DiscoveryRequest {
        error_detail: Some(rpc::Status {
            code: 3,
            message: "no".into(),
        }),
        ..ask(&["default"], &first.nonce)
    };
    asks.send(rejection).unwrap();
    // Were the rejection or the stale request answered, that answer would come first.
    asks.send(ask(&["ALL"], "stale")).unwrap();
    asks.send(ask(&["default", "ROOTCA"], &first.nonce))
        .unwrap();
    let second = next(&mut answers).await.unwrap();
    assert_eq!(names(&world(&second)), ["ROOTCA", "default"]);
    double.rotate_ca();
    loop {
        let answer = next(&mut answers).await.unwrap();
        if world(&answer)["ROOTCA"] == Held::Spiffe(vec![("example.org".into(), 2)]) {
            break;
        }
    }
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_reconnect_sends_only_what_differs() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = client(&rig).await;
    let (subscriptions, mut answers) = delta(&mut client).await;
    subscriptions
        .send(subscribe(&["default", "ROOTCA"]))
        .unwrap();
    let first = next(&mut answers).await.unwrap();
    let version = |name: &str| {
        let resource = first.resources.iter().find(|r| r.name == name).unwrap();
        (name.to_owned(), resource.version.clone())
    };
    let (again, mut answers) = delta(&mut client).await;
    again
        .send(DeltaDiscoveryRequest {
            initial_resource_versions: [
                version("default"),
                ("ROOTCA".to_owned(), "older".to_owned()),
            ]
            .into(),
            ..subscribe(&["default", "ROOTCA"])
        })
        .unwrap();
    let only = next(&mut answers).await.unwrap();
    assert_eq!(names(&changed(&only)), ["ROOTCA"]);
    assert!(node.stop().await);
}

#[tokio::test]
async fn who_has_no_identity_is_held_and_then_denied() {
    let double = Double::start().await;
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nhold = \"100ms\"".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = client(&rig).await;
    let denied = fetch(&mut client, ask(&["default"], ""))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(denied.message(), "no identity issued");
    let (_asks, mut worlds) = stream(&mut client).await;
    assert_eq!(
        next(&mut worlds).await.err().expect("a refusal").code(),
        Code::PermissionDenied
    );
    let (_asks, mut deltas) = delta(&mut client).await;
    assert_eq!(
        next(&mut deltas).await.err().expect("a refusal").code(),
        Code::PermissionDenied
    );
    assert!(node.stop().await);
}

/// All PEM in the answer, by name.
fn texts<'a>(resources: impl IntoIterator<Item = &'a Any>) -> BTreeMap<String, String> {
    let text = |resource: &Any| {
        let secret = Secret::decode(resource.value.as_slice()).unwrap();
        let text = match secret.r#type.unwrap() {
            Type::TlsCertificate(certificate) => pem(certificate.certificate_chain),
            Type::ValidationContext(context) => match context.custom_validator_config {
                None => pem(context.trusted_ca),
                Some(validator) => {
                    let config = validator.typed_config.unwrap();
                    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice());
                    let domains = config.unwrap().trust_domains.into_iter();
                    domains.map(|domain| pem(domain.trust_bundle)).collect()
                }
            },
        };
        (secret.name, text)
    };
    resources.into_iter().map(text).collect()
}

/// Envoy keeps what it has when a stream ends: so that it keeps nothing, all of it is replaced.
#[tokio::test]
async fn what_is_withdrawn_is_replaced_before_the_stream_ends() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = client(&rig).await;
    let wanted = ["ALL", "ROOTCA", "default", "nobody"];
    let (asks, mut worlds) = stream(&mut client).await;
    let (subscriptions, mut deltas) = delta(&mut client).await;
    asks.send(ask(&wanted, "")).unwrap();
    subscriptions.send(subscribe(&wanted)).unwrap();
    let world_before = next(&mut worlds).await.unwrap();
    let delta_before = next(&mut deltas).await.unwrap();

    double.remove_entry("a");
    let world_after = next(&mut worlds).await.unwrap();
    let delta_after = next(&mut deltas).await.unwrap();
    // The same names in the same form, and nothing of what was in them.
    assert_eq!(world(&world_after), world(&world_before));
    assert_eq!(changed(&delta_after), changed(&delta_before));
    let of = |delta: &DeltaDiscoveryResponse| {
        let resources = delta.resources.iter();
        texts(resources.map(|r| r.resource.as_ref().unwrap()))
    };
    for (before, after) in [
        (
            texts(&world_before.resources),
            texts(&world_after.resources),
        ),
        (of(&delta_before), of(&delta_after)),
    ] {
        for (name, text) in after {
            assert!(!text.is_empty() && before[&name] != text, "{name}");
            for der in muster_svid::pem::certificates(text.as_bytes()).unwrap() {
                let read = muster_svid::x509::Certificate::parse(&der).unwrap();
                assert_eq!(read.not_after.unix_seconds(), 1, "{name}");
            }
        }
    }
    for ended in [next(&mut worlds).await.err(), next(&mut deltas).await.err()] {
        assert_eq!(ended.expect("an end").code(), Code::PermissionDenied);
    }
    assert!(node.stop().await);
}

/// A node that goes away says nothing of its callers' identities.
#[tokio::test]
async fn a_node_that_stops_withdraws_nothing() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = client(&rig).await;
    let (asks, mut worlds) = stream(&mut client).await;
    asks.send(ask(&["default"], "")).unwrap();
    next(&mut worlds).await.unwrap();
    assert!(node.stop().await);
    let end = next(&mut worlds).await.err().expect("an end");
    assert_eq!(end.code(), Code::Unavailable);
}

#[tokio::test]
async fn istio_finds_all_bundles_by_its_name() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    federate(&double);
    let mut rig = Rig::new(&double);
    rig.more = "[sds]\npreset = \"istio\"".into();
    let node = rig.run();
    let mut client = client(&rig).await;
    let got = world(
        &fetch(&mut client, ask(&["default", "ROOTCA"], ""))
            .await
            .unwrap(),
    );
    assert_eq!(got["default"], Held::Certificate);
    assert_eq!(got["ROOTCA"], spiffe(&["example.org", "other.test"]));
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_service_that_is_off_is_not_there() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[sds]\nenabled = false".into();
    let node = rig.run();
    let mut client = client(&rig).await;
    let refused = fetch(&mut client, ask(&[], ""))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(node.stop().await);
}
