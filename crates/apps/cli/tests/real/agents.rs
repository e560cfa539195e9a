//! Agent classes as an operator meets them, and what becomes of a workload that watches.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_proto::muster::agent::v1::ClassStepRequest;
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use muster_proto::workload::{X509svidRequest, X509svidResponse};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Streaming};

use crate::common::{Dev, blocks, muster, said};

/// The longest that anything here should take; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);

const CLASS: &[&str] = &[
    "agent",
    "class",
    "create",
    "reader",
    "--purpose",
    "research",
    "--owner",
    "mailto:olga@example.org",
    "--sponsor",
    "mailto:sam@example.org",
    "--risk-tier",
    "1",
    "--data-ceiling",
    "2",
    "--valid-until",
    "90d",
    "--review-by",
    "30d",
];

/// `docs/agents.md` is run from top to bottom.
#[test]
fn the_page_about_agents_is_true() {
    let page = include_str!("../../../../../docs/agents.md");
    let dev = Dev::start(&["--no-demo"]);
    let place = dev.scratch();
    let class = blocks(page, "toml");
    assert_eq!(class.len(), 1);
    std::fs::write(place.join("class.toml"), class[0]).unwrap();
    let commands = blocks(page, "sh").join("\n");
    assert!(commands.lines().count() > 15, "{commands}");
    let binary = Path::new(env!("CARGO_BIN_EXE_muster"));
    let run = std::process::Command::new("sh")
        .args(["-eu", "-c", &commands])
        .current_dir(place)
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", binary.parent().unwrap().display()),
        )
        .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
        .env("NODE", dev.ready["node_id"].as_str().unwrap())
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let classes = dev.json(&["agent", "class", "list"]);
    let standing: Vec<(&str, &str)> = classes["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| {
            (
                class["name"].as_str().unwrap(),
                class["lifecycle"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        standing,
        [("invoice-reader", "active"), ("mail-sorter", "retired")]
    );
    let reviewed = dev.json(&["agent", "class", "show", "invoice-reader"]);
    assert_eq!(reviewed["last_reviewed_by"], "mailto:ida@example.org");
    assert_eq!(reviewed["spec"]["sponsor"], "mailto:tina@example.org");
}

#[test]
fn what_is_wrong_is_told_where_it_is_and_with_its_exit_code() {
    let dev = Dev::start(&["--no-demo"]);
    dev.json(CLASS);
    let again = dev.ask(CLASS);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(said(&again).contains("is there already"), "{again:?}");
    let missing = dev.ask(&["agent", "class", "show", "nobody"]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    let missing = dev.ask(&["agent", "show", "spiffe://example.org/nobody"]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    let late = dev.ask(&[
        "agent",
        "class",
        "update",
        "reader",
        "--team",
        "x",
        "--at-version",
        "9",
    ]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(said(&late).contains("version 1"), "{late:?}");
    let silent = dev.ask(&["agent", "class", "retire", "reader"]);
    assert!(said(&silent).contains("say why"), "{silent:?}");

    // A file with faults: all of them, each with its place; and nothing is written.
    let file = dev.scratch().join("class.toml");
    std::fs::write(
        &file,
        "name = \"x\"\npurposes = [\"fun\"]\nowner = \"olga\"\n",
    )
    .unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let wrong = dev.ask(&["agent", "class", "create", "--file", file.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let told = said(&wrong);
    assert!(
        told.contains("class.toml:2:13") && told.contains("class.toml:3:9"),
        "{told}"
    );
    let classes = dev.json(&["agent", "class", "list"]);
    assert_eq!(classes["classes"].as_array().unwrap().len(), 1);

    let unknown = [
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/x",
        "--parent-id",
        "spiffe://example.org/n",
        "--selector",
        "unix:uid:1",
        "--class",
        "nobody",
    ];
    let refused = dev.ask(&unknown);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).contains("create it first"), "{refused:?}");
    // Completions and help need no server.
    assert!(
        muster()
            .args(["agent", "--help"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

type Stream = Streaming<X509svidResponse>;

/// Asks until the workload has an identity: a class that was just let in is on its way.
async fn identified(socket: &Path) -> (X509svidResponse, Stream) {
    let channel = muster_peer::connect(socket).await.unwrap();
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut stream = client.fetch_x509svid(request).await.unwrap().into_inner();
    let first = tokio::time::timeout(PATIENCE, stream.message()).await;
    (first.unwrap().unwrap().unwrap(), stream)
}

/// A real server, a real node, and a workload that watches its identity: when the suspension is
/// acknowledged, the stream ends milliseconds later; when the class is back, so is the identity.
#[test]
fn a_suspended_class_ends_the_streams_of_its_workloads_at_once() {
    let dev = Dev::start(&["--no-demo"]);
    dev.json(CLASS);
    let node = dev.ready["node_id"].as_str().unwrap();
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    dev.json(&[
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/agent/reader/1",
        "--parent-id",
        node,
        "--selector",
        &uid,
    ]);
    // Proposed: written down, and nothing more.
    let denied = dev.ask(&["workload", "fetch", "x509"]);
    assert_eq!(denied.status.code(), Some(5), "{denied:?}");
    dev.json(&["agent", "class", "approve", "reader"]);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut took: Vec<Duration> = runtime.block_on(async {
        let server = muster_peer::connect(&dev.path("server_admin_socket"))
            .await
            .unwrap();
        let mut api = RegistryClient::new(server);
        let step = || ClassStepRequest {
            name: "reader".into(),
            reason: "a test".into(),
            version: None,
        };
        let mut took = Vec::new();
        for _ in 0..11 {
            let (first, mut stream) = identified(&dev.path("workload_socket")).await;
            assert_eq!(
                first.svids[0].spiffe_id,
                "spiffe://example.org/agent/reader/1"
            );
            api.suspend_class(step()).await.unwrap();
            let acknowledged = instant();
            let end = tokio::time::timeout(PATIENCE, stream.message())
                .await
                .unwrap();
            took.push(acknowledged.elapsed());
            assert_eq!(end.err().unwrap().code(), Code::PermissionDenied);
            api.reinstate_class(step()).await.unwrap();
        }
        took
    });
    took.sort();
    // A machine that is busy with other things has its pauses; the middle shows what it takes.
    assert!(took[5] < Duration::from_millis(250), "{took:?}");

    let agents = dev.json(&["agent", "list", "--class", "reader"]);
    assert_eq!(agents["agents"][0]["state"], "active", "{agents}");
    let one = "spiffe://example.org/agent/reader/1";
    dev.json(&["agent", "quarantine", one, "--reason", "odd"]);
    let denied = dev.ask(&["workload", "fetch", "x509"]);
    assert_eq!(denied.status.code(), Some(5), "{denied:?}");
    dev.json(&["agent", "release", one]);
    assert_eq!(dev.json(&["agent", "show", one])["state"], "active");
}

#[expect(clippy::disallowed_methods, reason = "a test that measures")]
fn instant() -> Instant {
    Instant::now()
}
