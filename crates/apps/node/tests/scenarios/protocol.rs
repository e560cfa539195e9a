//! The endpoint itself: headers, codes, ends of streams, hostile input.

use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{HeaderMap, Request};
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_proto::workload::{
    JwtBundlesRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest,
    X509BundlesRequest, X509svidRequest,
};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower::{Service, ServiceExt};

use crate::double::Double;
use crate::jwt::ask;
use crate::rig::{Rig, fetch_x509, next, uid, within};
use crate::x509::check;

const METHODS: [&str; 7] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
    "FetchWITSVID",
    "FetchWITBundles",
];

/// One request as it is on the wire; the status and whether it was in the response's own headers.
async fn raw(
    channel: &mut Channel,
    path: &str,
    values: &[&str],
    body: &'static [u8],
) -> (Code, String, bool) {
    let mut request = Request::builder()
        .method("POST")
        .uri(path)
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    for value in values {
        request = request.header("workload.spiffe.io", *value);
    }
    let body = Body::new(FullBody(Some(Bytes::from_static(body))));
    let request = request.body(body).unwrap();
    let response = within("a response", async {
        channel.ready().await.unwrap().call(request).await.unwrap()
    })
    .await;
    let status = |map: &HeaderMap| Status::from_header_map(map);
    if let Some(found) = status(response.headers()) {
        return (found.code(), found.message().to_owned(), true);
    }
    let mut body = response.into_body();
    let trailers = within("trailers", async {
        loop {
            let frame = std::future::poll_fn(|cx| {
                http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)
            })
            .await
            .unwrap()
            .unwrap();
            if let Ok(trailers) = frame.into_trailers() {
                return trailers;
            }
        }
    })
    .await;
    let found = status(&trailers).unwrap();
    (found.code(), found.message().to_owned(), false)
}

struct FullBody(Option<Bytes>);

impl http_body::Body for FullBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

const EMPTY: &[u8] = &[0, 0, 0, 0, 0];

/// WEP-04, WEP-05, WIT-01: on each of the seven RPCs, before anything else.
#[tokio::test]
async fn the_security_header_comes_first() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut channel = rig.channel().await;
    for method in METHODS {
        let path = format!("http://x/SpiffeWorkloadAPI/{method}");
        for values in [&[][..], &["True"], &["1"], &[""], &["true", "true"]] {
            let (code, message, trailers_only) = raw(&mut channel, &path, values, EMPTY).await;
            assert_eq!(code, Code::InvalidArgument, "{method} {values:?}");
            assert_eq!(message, "security header missing from request");
            // WAPI-16.
            assert!(trailers_only, "{method} {values:?}");
        }
    }
    assert!(node.stop().await);
}

/// WEP-12, WAPI-02, WIT-01.
#[tokio::test]
async fn what_is_not_there_is_unimplemented() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut channel = rig.channel().await;
    for path in [
        "SpiffeWorkloadAPI/Nope",
        "SpiffeWorkloadAPI/FetchWITSVID",
        "SpiffeWorkloadAPI/FetchWITBundles",
        "Nope/Nope",
        "spire.api.server.agent.v1.Agent/ListAgents",
    ] {
        let uri = format!("http://x/{path}");
        let (code, _, trailers_only) = raw(&mut channel, &uri, &["true"], EMPTY).await;
        assert_eq!((code, trailers_only), (Code::Unimplemented, true), "{path}");
    }
    let mut client = rig.client().await;
    let request = WitsvidRequest::default();
    assert_eq!(
        client.fetch_witsvid(request).await.unwrap_err().code(),
        Code::Unimplemented
    );
    let status = client
        .fetch_wit_bundles(WitBundlesRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(node.stop().await);
}

#[tokio::test]
async fn hostile_requests_get_an_answer_and_cost_little() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut channel = rig.channel().await;
    let path = "http://x/SpiffeWorkloadAPI/FetchJWTSVID";
    for (body, what) in [
        (&b"\x00\x00\x00\x00\x02\xff\xff"[..], "not protobuf"),
        (&b"\x00\xff\xff\xff\xff"[..], "a length of four gigabytes"),
        (&b"\x01\x00\x00\x00\x00"[..], "compressed"),
        (&b"\x00\x00"[..], "cut short"),
        (&b""[..], "no message"),
    ] {
        let (code, _, _) = raw(&mut channel, path, &["true"], body).await;
        assert_ne!(code, Code::Ok, "{what}");
        assert_ne!(code, Code::PermissionDenied, "{what}");
    }
    let mut client = rig.client().await;
    let large = "x".repeat(300 * 1024);
    let request = ValidateJwtsvidRequest {
        audience: "a".into(),
        svid: large,
    };
    assert!(client.validate_jwtsvid(request).await.is_err());
    fetch_x509(&mut client).await.expect("others are served");
    assert!(node.stop().await);
}

/// WAPI-14, WAPI-15: no stream ends with OK or CANCELLED.
#[tokio::test]
async fn streams_end_with_unavailable_when_the_node_stops() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = rig.client().await;
    let (_, mut svids) = fetch_x509(&mut client).await.unwrap();
    let mut x509 = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut jwt = client
        .fetch_jwt_bundles(JwtBundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    next(&mut x509).await.unwrap();
    next(&mut jwt).await.unwrap();
    assert!(node.stop().await);
    assert_eq!(
        next(&mut svids).await.err().expect("the end").code(),
        Code::Unavailable
    );
    assert_eq!(next(&mut x509).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(next(&mut jwt).await.unwrap_err().code(), Code::Unavailable);
}

/// The stream of another process: run by the test below.
#[tokio::test]
async fn child_that_watches() {
    let Ok(socket) = std::env::var("MUSTER_TEST_WATCH") else {
        return;
    };
    let channel = muster_peer::connect(&socket).await.unwrap();
    let mut client =
        SpiffeWorkloadApiClient::with_interceptor(channel, |mut r: tonic::Request<()>| {
            r.metadata_mut()
                .insert("workload.spiffe.io", "true".parse().unwrap());
            Ok(r)
        });
    let mut stream = client
        .fetch_x509svid(X509svidRequest {})
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_process_that_opened_it() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = rig.run();
    rig.in_step(&double).await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "protocol::child_that_watches", "--nocapture"])
        .env("MUSTER_TEST_WATCH", rig.workload_socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    rig.info(|info| info.streams == 1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    rig.info(|info| info.streams == 0).await;
    assert!(node.stop().await);
}

/// WAPI-52: what cannot be found out now is no denial.
#[tokio::test]
async fn a_caller_that_cannot_be_attested_is_put_off() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    // Every executable is larger than that, and the attestor has no other answer than an error.
    rig.more = "[attest.unix]\ndiscover_path = true\nsize_limit = 1".into();
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let status = fetch_x509(&mut client).await.err().expect("a refusal");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "workload attestation failed")
    );
    let status = client
        .fetch_jwtsvid(ask(&["a"], ""))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(node.stop().await);
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_nothing_else() {
    let double = Double::start().await;
    let rig = Rig::new(&double);
    let node = rig.run();
    let mut client = ServerReflectionClient::new(rig.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("a list");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    // WAPI-02, WEP-13.
    assert_eq!(
        names,
        [
            "SpiffeWorkloadAPI",
            "envoy.service.secret.v3.SecretDiscoveryService",
            "grpc.health.v1.Health",
            "muster.agent.v1.Tasks"
        ]
    );
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_node_with_too_many_calls_says_so() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[workload_api]\nmax_calls = 2".into();
    let node = rig.run();
    let mut client = rig.client().await;
    let first = fetch_x509(&mut client).await.unwrap();
    let _second = fetch_x509(&mut client).await.unwrap();
    // WEP-11.
    let status = client
        .fetch_jwtsvid(ask(&["a"], ""))
        .await
        .err()
        .expect("a refusal");
    assert_eq!(status.code(), Code::Unavailable);
    drop(first);
    rig.info(|info| info.streams == 1).await;
    within("a place is free again", async {
        while client.fetch_jwtsvid(ask(&["a"], "")).await.is_err() {}
    })
    .await;
    assert!(node.stop().await);
}

/// A system bus that is down is no denial: what is not known may be what the caller has. Some clients
/// never ask again after PERMISSION_DENIED.
#[tokio::test]
async fn an_attestor_that_is_away_denies_nobody() {
    let double = Double::start().await;
    double.add_entry("a", "/pay", &[&uid(), "systemd:id:pay.service"]);
    let mut rig = Rig::new(&double);
    let bus = rig.path("nobody.sock").display().to_string();
    rig.more = format!("[workload_api]\nhold = \"0s\"\n[attest.systemd]\nbus_socket = \"{bus}\"\n");
    let node = rig.run();
    rig.in_step(&double).await;
    let mut client = rig.client().await;
    let status = fetch_x509(&mut client).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("attestor"), "{status}");
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = crate::explain::explain(&rig, own).await;
    assert_eq!(answer.refusals[0].reason, "attestor_away");
    // Whoever needs nothing of it is served.
    double.add_entry("b", "/plain", &[&uid()]);
    rig.in_step(&double).await;
    let (answer, _stream) = fetch_x509(&mut client).await.unwrap();
    assert_eq!(check(&answer).len(), 1);
    assert!(node.stop().await);
}
