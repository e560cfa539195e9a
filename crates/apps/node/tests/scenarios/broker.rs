//! The Broker API: who may call, for whom, what they get, and for how long.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_proto::spiffe::broker as api;
use muster_wire::error_info;
use prost::Message;
use tonic::{Code, Status, Streaming};

use crate::authority::Foreign;
use crate::broker_client::{Broker, Place, ServerId, reflected};
use crate::double::Double;
use crate::rig::{Rig, SteppedClock, next, within};
use crate::x509::{bundle_of, split};

/// A workload: a process of ours that is told apart by its executable.
pub(crate) struct Workload(Child);

impl Workload {
    pub(crate) fn start() -> Self {
        let child = Command::new("/bin/cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a workload is known by.
pub(crate) fn cat() -> String {
    let path = Path::new("/bin/cat").canonicalize().unwrap();
    format!("unix:path:{}", path.display())
}

/// A node with a Broker API at both places; `allowed` are further lines.
pub(crate) fn rig(double: &Double, allowed: &str) -> Rig {
    let mut rig = Rig::new(double);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    rig.more = format!(
        "[workload_api]\nhold = \"0s\"\n[attest.unix]\ndiscover_path = true\nsize_limit = -1\n\
         [broker]\nsocket = \"{}\"\nlisten = \"{port}\"\n\
         [[broker.allowed]]\nid = \"spiffe://example.org/proxy\"\n{allowed}\n",
        rig.path("broker/b.sock").display()
    );
    rig.tcp = Some(port);
    rig
}

async fn unix(rig: &Rig, double: &Double) -> Broker {
    Broker::of(rig, double, "/proxy").connect(Place::Unix).await
}

fn pid(pid: i32) -> Option<api::WorkloadReference> {
    packed(
        "spiffe.broker.WorkloadPIDReference",
        api::WorkloadPidReference { pid }.encode_to_vec(),
    )
}

#[expect(clippy::unnecessary_wraps, reason = "it is a field of a message")]
fn packed(name: &str, value: Vec<u8>) -> Option<api::WorkloadReference> {
    Some(api::WorkloadReference {
        reference: Some(prost_types::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value,
        }),
    })
}

fn pod() -> Option<api::WorkloadReference> {
    let reference = api::KubernetesObjectReference {
        r#type: Some(api::KubernetesObjectType {
            plural: "pods".into(),
            group: "core".into(),
        }),
        key: None,
        uid: "a1b2c3d4-0000-4000-8000-00000000abcd".into(),
    };
    packed(
        "spiffe.broker.KubernetesObjectReference",
        reference.encode_to_vec(),
    )
}

type X509Stream = Streaming<api::SubscribeToX509svidResponse>;

async fn subscribe(
    broker: &mut Broker,
    reference: Option<api::WorkloadReference>,
) -> Result<(api::SubscribeToX509svidResponse, X509Stream), Status> {
    within("a first answer", async {
        let request = api::SubscribeToX509svidRequest { reference };
        let stream = broker.api.subscribe_to_x509svid(request).await?;
        let mut stream = stream.into_inner();
        let first = stream.message().await?.expect("a stream does not end well");
        Ok((first, stream))
    })
    .await
}

async fn refused(
    broker: &mut Broker,
    reference: Option<api::WorkloadReference>,
) -> (Code, Option<String>) {
    let status = subscribe(broker, reference).await.err().expect("a refusal");
    (status.code(), error_info::reason(&status))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it is compared with what a status may lack"
)]
fn reason(word: &str) -> Option<String> {
    Some(word.to_owned())
}

fn ids(answer: &api::SubscribeToX509svidResponse) -> Vec<&str> {
    answer.svids.iter().map(|s| s.spiffe_id.as_str()).collect()
}

fn ask(
    reference: Option<api::WorkloadReference>,
    audience: &[&str],
    spiffe_id: &str,
) -> api::FetchJwtsvidRequest {
    api::FetchJwtsvidRequest {
        reference,
        audience: audience.iter().map(|a| (*a).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    }
}

/// Two identities and one of infrastructure of each kind, for the workload; one for this process.
fn enlist(double: &Double) {
    double.add_entry("a", "/first", &[&cat()]);
    double.add_entry("b", "/second", &[&cat()]);
    double.update_entry("b", |e| e.hint = "internal".into());
    double.add_entry("c", "/admin", &[&cat()]);
    double.update_entry("c", |e| e.admin = true);
    double.add_entry("d", "/downstream", &[&cat()]);
    double.update_entry("d", |e| e.downstream = true);
    double.add_entry("e", "/not-the-workload", &["unix:path:/elsewhere"]);
}

/// BRK-02, BRK-07, BRK-22 to -28, BRK-33, BRK-35, BEP-01.
#[tokio::test]
async fn a_broker_gets_what_the_workload_would_get() {
    let double = Double::start().await;
    let foreign = Foreign::new("other.org", double.shared.now());
    let stranger = Foreign::new("stranger.org", double.shared.now());
    enlist(&double);
    double.change(|mind| {
        for domain in [&foreign, &stranger] {
            let td = domain.trust_domain.clone();
            mind.foreign.insert(td, domain.bundle());
        }
    });
    double.update_entry("a", |e| {
        e.federates_with.insert(foreign.trust_domain.clone());
    });
    // Known to the node, and none of the workload's business.
    double.update_entry("e", |e| {
        e.federates_with.insert(stranger.trust_domain.clone());
    });
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let workload = Workload::start();
    let mut broker = unix(&rig, &double).await;

    let (first, mut stream) = subscribe(&mut broker, pid(workload.pid())).await.unwrap();
    let both = ["spiffe://example.org/first", "spiffe://example.org/second"];
    assert_eq!(ids(&first), both);
    assert_eq!(first.svids[0].hint, "");
    assert_eq!(first.svids[1].hint, "internal");
    let own = double.shared.mind().bundle().x509_concatenated();
    for svid in &first.svids {
        assert_eq!(svid.bundle, own);
        let key = muster_crypto::Secret::new(svid.x509_svid_key.to_vec());
        let loaded = muster_svid::x509::X509Svid::load(split(&svid.x509_svid), key).unwrap();
        assert_eq!(loaded.spiffe_id.as_str(), svid.spiffe_id);
    }
    let domains: Vec<&String> = first.federated_bundles.keys().collect();
    assert_eq!(domains, ["spiffe://other.org"]);
    let other = bundle_of(
        foreign.trust_domain.clone(),
        &first.federated_bundles["spiffe://other.org"],
    );
    assert_eq!(
        other.x509_authorities[0].der, foreign.ca.authority.der,
        "the foreign bundle"
    );
    // A full set after each change.
    double.remove_entry("b");
    assert_eq!(ids(&next(&mut stream).await.unwrap()), both[..1]);

    let request = api::SubscribeToX509BundlesRequest {
        reference: pid(workload.pid()),
    };
    let mut bundles = broker
        .api
        .subscribe_to_x509_bundles(request)
        .await
        .unwrap()
        .into_inner();
    let bundles = next(&mut bundles).await.unwrap().bundles;
    assert_eq!(bundles["spiffe://example.org"], own);
    assert_eq!(bundles.len(), 2, "BRK-22: not those of other workloads");

    let request = api::SubscribeToJwtBundlesRequest {
        reference: pid(workload.pid()),
    };
    let mut keys = broker
        .api
        .subscribe_to_jwt_bundles(request)
        .await
        .unwrap()
        .into_inner();
    let keys = next(&mut keys).await.unwrap().bundles;
    assert_eq!(keys.len(), 2);
    let own: serde_json::Value = serde_json::from_slice(&keys["spiffe://example.org"]).unwrap();
    let uses = own["keys"].as_array().unwrap();
    assert!(uses.iter().all(|key| key["use"] != "x509-svid"), "BRK-27");
    assert!(node.stop().await);
}

/// BRK-25, BRK-28.
#[tokio::test]
async fn tokens_are_for_one_identity_or_for_all() {
    let double = Double::start().await;
    enlist(&double);
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let workload = Workload::start();
    let mut broker = unix(&rig, &double).await;
    let mut fetch = async |spiffe_id: &str, audience: &[&str]| {
        let request = ask(pid(workload.pid()), audience, spiffe_id);
        let answer = broker.api.fetch_jwtsvid(request).await?.into_inner();
        let ids = answer.svids.into_iter().map(|s| (s.spiffe_id, s.svid));
        Ok::<BTreeMap<String, String>, Status>(ids.collect())
    };
    let all = fetch("", &["db"]).await.unwrap();
    assert_eq!(
        all.keys().collect::<Vec<_>>(),
        ["spiffe://example.org/first", "spiffe://example.org/second"]
    );
    assert_eq!(all["spiffe://example.org/first"].split('.').count(), 3);
    let one = fetch("spiffe://example.org/second", &["db"]).await.unwrap();
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        ["spiffe://example.org/second"]
    );
    for foreign in ["spiffe://example.org/admin", "spiffe://other.org/x"] {
        let status = fetch(foreign, &["db"]).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{foreign}");
        assert_eq!(error_info::reason(&status), reason("WORKLOAD_NOT_ENTITLED"));
    }
    for (spiffe_id, audience) in [("", &[][..]), ("", &[""]), ("no id", &["db"])] {
        let status = fetch(spiffe_id, audience).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{audience:?}");
    }
    assert!(node.stop().await);
}

/// BRK-09, BRK-22, BRK-29, BRK-30.
#[tokio::test]
async fn a_stream_ends_with_its_workload_and_no_other_does() {
    let double = Double::start().await;
    enlist(&double);
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let (mut ends, stays) = (Workload::start(), Workload::start());
    let mut broker = unix(&rig, &double).await;
    let (_, mut ended) = subscribe(&mut broker, pid(ends.pid())).await.unwrap();
    let (_, mut going_on) = subscribe(&mut broker, pid(stays.pid())).await.unwrap();
    ends.end();
    let status = next(&mut ended).await.err().expect("the end");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(error_info::reason(&status), reason("WORKLOAD_NOT_FOUND"));
    assert_eq!(
        refused(&mut broker, pid(ends.pid())).await,
        (Code::NotFound, reason("WORKLOAD_NOT_FOUND"))
    );
    double.remove_entry("b");
    let answer = next(&mut going_on).await.expect("the other goes on");
    assert_eq!(ids(&answer), ["spiffe://example.org/first"]);
    assert!(node.stop().await);
}

/// BRK-10, BRK-11, BRK-31.
#[tokio::test]
async fn a_workload_that_is_not_entitled_is_denied() {
    let double = Double::start().await;
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let workload = Workload::start();
    let mut broker = unix(&rig, &double).await;
    let denied = (Code::PermissionDenied, reason("WORKLOAD_NOT_ENTITLED"));
    assert_eq!(refused(&mut broker, pid(workload.pid())).await, denied);
    // Nor is one whose identities are all of infrastructure (BRK-35).
    double.add_entry("a", "/admin", &[&cat()]);
    double.update_entry("a", |e| e.admin = true);
    rig.in_step(&double).await;
    assert_eq!(refused(&mut broker, pid(workload.pid())).await, denied);

    double.update_entry("a", |e| e.admin = false);
    rig.in_step(&double).await;
    let (_, mut stream) = subscribe(&mut broker, pid(workload.pid())).await.unwrap();
    double.remove_entry("a");
    let status = next(&mut stream).await.err().expect("the end");
    assert_eq!((status.code(), error_info::reason(&status)), denied);
    assert!(node.stop().await);
}

/// BRK-04, BRK-05, BRK-08, BRK-12 to -15 on the wire, and the order of BEP-13.
#[tokio::test]
async fn the_first_fault_in_the_order_of_checks_is_told() {
    let double = Double::start().await;
    let more = "reference_types = [\"kubernetes\"]\n\
                [[broker.allowed]]\nid = \"spiffe://example.org/pods\"\nreference_types = [\"pid\"]";
    let rig = rig(&double, more);
    let node = rig.run();
    rig.in_step(&double).await;
    let invalid = (Code::InvalidArgument, reason("WORKLOAD_REFERENCE_INVALID"));
    let mut broker = unix(&rig, &double).await;
    for reference in [
        None,
        Some(api::WorkloadReference { reference: None }),
        packed("", Vec::new()),
        packed("spiffe.broker.WorkloadPIDReference", vec![0xff]),
        packed("google.protobuf.Empty", Vec::new()),
        packed("spiffe.broker.KubernetesObjectReference", Vec::new()),
        // The shape comes before the policy: this broker may not name pids.
        pid(0),
        pid(-1),
        // No node resolves it yet.
        pod(),
    ] {
        assert_eq!(refused(&mut broker, reference).await, invalid);
    }
    // The policy comes before the workload: there is no such process.
    let status = refused(&mut broker, pid(i32::MAX)).await;
    assert_eq!(status, (Code::PermissionDenied, None));
    let mut other = Broker::of(&rig, &double, "/pods")
        .connect(Place::Unix)
        .await;
    assert_eq!(
        refused(&mut other, pod()).await,
        (Code::PermissionDenied, None)
    );
    assert_eq!(
        refused(&mut other, pid(i32::MAX)).await,
        (Code::NotFound, reason("WORKLOAD_NOT_FOUND"))
    );
    // The caller comes before the shape, the header before the caller.
    let unlisted = Broker::of(&rig, &double, "/unlisted");
    let mut unlisted = unlisted.connect(Place::Unix).await;
    let status = subscribe(&mut unlisted, None).await.err().unwrap();
    assert_eq!(
        status.code(),
        Code::PermissionDenied,
        "BRK-20, BEP-03, BEP-08"
    );
    let request = api::SubscribeToX509svidRequest { reference: None };
    let status = unlisted
        .without_header()
        .subscribe_to_x509svid(request)
        .await;
    assert_eq!(
        status.err().unwrap().code(),
        Code::InvalidArgument,
        "BEP-05"
    );
    assert!(node.stop().await);
}

/// BRK-19, BRK-21.
#[tokio::test]
async fn each_broker_has_its_own_limits() {
    let double = Double::start().await;
    enlist(&double);
    let more = "spiffe_ids = [\"spiffe://example.org/second\"]\naudiences = [\"db\"]\n\
                [[broker.allowed]]\nid = \"spiffe://example.org/far\"\nallow_pid_over_tcp = true";
    let rig = rig(&double, more);
    let node = rig.run();
    rig.in_step(&double).await;
    let workload = Workload::start();
    let second = ["spiffe://example.org/second"];
    let mut broker = unix(&rig, &double).await;
    let (first, _stream) = subscribe(&mut broker, pid(workload.pid())).await.unwrap();
    assert_eq!(ids(&first), second);
    let mut fetch = async |audience, id| {
        let request = ask(pid(workload.pid()), &[audience], id);
        let answer = broker.api.fetch_jwtsvid(request).await;
        answer.map(|a| a.into_inner().svids).map_err(|s| s.code())
    };
    let tokens = fetch("db", "").await.unwrap_or_default();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].spiffe_id, second[0]);
    let denied = Some(Code::PermissionDenied);
    assert_eq!(fetch("other", "").await.err(), denied);
    let first = "spiffe://example.org/first";
    assert_eq!(fetch("db", first).await.err(), denied);

    let mut tcp = Broker::of(&rig, &double, "/proxy")
        .connect(Place::Tcp)
        .await;
    assert_eq!(
        refused(&mut tcp, pid(workload.pid())).await,
        (Code::PermissionDenied, None)
    );
    let mut far = Broker::of(&rig, &double, "/far").connect(Place::Tcp).await;
    let (all, _stream) = subscribe(&mut far, pid(workload.pid())).await.unwrap();
    assert_eq!(all.svids.len(), 2);
    assert!(node.stop().await);
}

/// BRK-02: a profile that is off is not served.
#[tokio::test]
async fn a_profile_can_be_switched_off() {
    let double = Double::start().await;
    let mut rig = rig(&double, "");
    rig.more = rig.more.replace("[broker]\n", "[broker]\njwt = false\n");
    let node = rig.run();
    rig.in_step(&double).await;
    let mut broker = unix(&rig, &double).await;
    let answer = broker.api.fetch_jwtsvid(ask(None, &[], "")).await;
    assert_eq!(answer.err().unwrap().code(), Code::Unimplemented);
    let request = api::SubscribeToJwtBundlesRequest { reference: None };
    let answer = broker.api.subscribe_to_jwt_bundles(request).await;
    assert_eq!(answer.err().unwrap().code(), Code::Unimplemented);
    let (code, _) = refused(&mut broker, None).await;
    assert_eq!(code, Code::InvalidArgument, "the other one is served");
    assert!(node.stop().await);
}

/// BEP-01, BEP-02, BEP-03, BEP-07, BEP-12.
#[tokio::test]
async fn nobody_comes_in_without_a_good_svid() {
    let double = Double::start().await;
    let (known, unknown) = (
        Foreign::new("known.org", double.shared.now()),
        Foreign::new("unknown.org", double.shared.now()),
    );
    enlist(&double);
    double.change(|mind| {
        mind.foreign
            .insert(known.trust_domain.clone(), known.bundle())
    });
    double.update_entry("a", |e| {
        e.federates_with.insert(known.trust_domain.clone());
    });
    let more = "[[broker.allowed]]\nid = \"spiffe://known.org/proxy\"\n\
                [[broker.allowed]]\nid = \"spiffe://unknown.org/proxy\"";
    let rig = rig(&double, more);
    let node = rig.run();
    rig.in_step(&double).await;
    let workload = Workload::start();
    for place in [Place::Unix, Place::Tcp] {
        // Of a foreign trust domain, listed by name, with a bundle that the node has.
        let svid = Broker::svid_of(&known.ca, &known.trust_domain, Duration::from_hours(1));
        let mut foreign = Broker::with(&rig, Some(svid)).connect(place).await;
        let answer = subscribe(&mut foreign, pid(workload.pid())).await;
        let code = answer.err().map_or(Code::Ok, |status| status.code());
        let expected = match place {
            Place::Unix => Code::Ok,
            Place::Tcp => Code::PermissionDenied,
        };
        assert_eq!(code, expected);
        let nobody = Broker::with(&rig, None);
        let svid = Broker::svid_of(&unknown.ca, &unknown.trust_domain, Duration::from_hours(1));
        let of_unknown = Broker::with(&rig, Some(svid));
        // From another authority of the right name.
        let forged = Foreign::new("example.org", double.shared.now());
        let svid = Broker::svid_of(&forged.ca, &forged.trust_domain, Duration::from_hours(1));
        let forged = Broker::with(&rig, Some(svid));
        for broker in [nobody, of_unknown, forged] {
            assert!(!broker.is_let_in(place).await);
        }
    }
    // The bundle that is withdrawn counts at once, on connections that are open too.
    let svid = Broker::svid_of(&known.ca, &known.trust_domain, Duration::from_hours(1));
    let mut foreign = Broker::with(&rig, Some(svid)).connect(Place::Unix).await;
    subscribe(&mut foreign, pid(workload.pid())).await.unwrap();
    double.change(|mind| mind.foreign.remove(&known.trust_domain));
    rig.in_step(&double).await;
    let (code, _) = refused(&mut foreign, pid(workload.pid())).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(node.stop().await);
}

/// BEP-02, BEP-07: what was good at the handshake is not good for ever.
#[tokio::test]
async fn an_expired_broker_is_sent_to_get_a_fresh_svid() {
    let double = Double::start().await;
    enlist(&double);
    let rig = rig(&double, "");
    let clock = SteppedClock::new();
    let node = rig.run_by(clock.clone());
    rig.in_step(&double).await;
    let workload = Workload::start();
    let svid = double.shared.mind().cas[0].svid("/proxy", Duration::from_mins(10));
    let broker = Broker::with(&rig, Some(svid));
    let mut open = broker.connect(Place::Unix).await;
    subscribe(&mut open, pid(workload.pid())).await.unwrap();
    clock.step(11 * 60);
    let (code, _) = refused(&mut open, pid(workload.pid())).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(!broker.is_let_in(Place::Unix).await);
    assert!(node.stop().await);
}

/// BEP-04: brokers know the node by its exact ID, whose SVID is renewed under them.
#[tokio::test]
async fn the_server_shows_the_nodes_own_svid_as_it_is_renewed() {
    let double = Double::start().await;
    enlist(&double);
    double.change(|mind| mind.node_ttl = Duration::from_secs(4));
    let rig = rig(&double, "");
    let node = rig.run();
    let before = rig.in_step(&double).await;
    let broker = Broker::of(&rig, &double, "/proxy");
    let shown = broker.server_serial(Place::Unix).await;
    assert!(!broker.knows_as(ServerId::Other, Place::Unix).await);
    let after = rig
        .info(|info| info.serial_number != before.serial_number)
        .await;
    assert_ne!(after.serial_number, shown);
    within("the new certificate is shown", async {
        // The watch that the server follows is set before the node says so of itself, and the
        // server's task runs in its own time.
        while broker.server_serial(Place::Unix).await == shown {}
    })
    .await;
    assert!(node.stop().await);
}

/// BRK-03, BEP-05, BEP-11.
#[tokio::test]
async fn reflection_wants_the_header_and_lists_the_standard() {
    let double = Double::start().await;
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    for place in [Place::Unix, Place::Tcp] {
        let broker = Broker::of(&rig, &double, "/proxy").connect(place).await;
        assert_eq!(
            reflected(broker.channel.clone(), true).await.unwrap(),
            ["spiffe.broker.API"]
        );
        let status = reflected(broker.channel, false).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let service = muster_proto_methods();
    assert_eq!(
        service,
        [
            "SubscribeToX509SVID",
            "SubscribeToX509Bundles",
            "FetchJWTSVID",
            "SubscribeToJWTBundles"
        ]
    );
    assert!(node.stop().await);
}

fn muster_proto_methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(muster_proto::FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter().find(|f| f.package() == "spiffe.broker");
    let service = &file.unwrap().service[0];
    service.method.iter().map(|m| m.name().to_owned()).collect()
}

/// BEP-14, below TLS.
#[tokio::test]
async fn any_authority_is_accepted_on_the_unix_socket() {
    let double = Double::start().await;
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let broker = Broker::of(&rig, &double, "/proxy");
    for authority in ["localhost", "", "/run/b.sock", "%2Frun%2Fb.sock", "a b"] {
        assert!(broker.is_answered(authority).await, "{authority:?}");
    }
    assert!(node.stop().await);
}

/// On the Unix socket each byte has its sender, below TLS as well: what an heir of the connection
/// writes is never read. What the connecting process writes is, and gets TLS's answer.
#[tokio::test]
async fn another_process_cannot_speak_on_a_brokers_connection() {
    use std::io::{Read as _, Write as _};
    let double = Double::start().await;
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let connect = || {
        let socket = std::os::unix::net::UnixStream::connect(rig.path("broker/b.sock")).unwrap();
        socket.set_read_timeout(Some(crate::rig::PATIENCE)).unwrap();
        socket
    };
    let read = |mut socket: std::os::unix::net::UnixStream| {
        tokio::task::spawn_blocking(move || {
            let mut answer = Vec::new();
            // A connection that is cut while it has unread bytes is reset.
            let _cut = socket.read_to_end(&mut answer).is_err();
            answer
        })
    };
    let mut own = connect();
    own.write_all(b"this is not TLS at all").unwrap();
    assert!(!read(own).await.unwrap().is_empty(), "an alert");

    let lent = connect();
    let mut heir = Command::new("/bin/sh")
        .args(["-c", "echo this is not TLS at all >&0"])
        .stdin(std::os::fd::OwnedFd::from(lent.try_clone().unwrap()))
        .spawn()
        .unwrap();
    heir.wait().unwrap();
    assert!(read(lent).await.unwrap().is_empty(), "nothing");
    assert!(node.stop().await);
}

/// BEP-10: the folder is made for the owner and its group, and so is the socket.
#[tokio::test]
async fn workloads_of_other_users_cannot_reach_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let double = Double::start().await;
    let rig = rig(&double, "");
    let node = rig.run();
    rig.in_step(&double).await;
    let mode = |name: &str| {
        let metadata = std::fs::metadata(rig.path(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("broker"), mode("broker/b.sock")), (0o750, 0o770));
    assert!(node.stop().await);
}

/// BEP-06: what passes is UNAVAILABLE.
#[tokio::test]
async fn an_overloaded_node_says_so() {
    let double = Double::start().await;
    enlist(&double);
    let mut rig = rig(&double, "");
    rig.more = rig.more.replace("hold", "max_calls = 1\nhold");
    let node = rig.run();
    rig.in_step(&double).await;
    let workload = Workload::start();
    let mut broker = unix(&rig, &double).await;
    let first = subscribe(&mut broker, pid(workload.pid())).await.unwrap();
    let (code, _) = refused(&mut broker, pid(workload.pid())).await;
    assert_eq!(code, Code::Unavailable);
    drop(first);
    assert!(node.stop().await);
}
