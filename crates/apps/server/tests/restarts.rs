//! What survives: restarts, kills, and what keeps a server from starting.

use muster_proto::muster::node::v1::WatchRequest;
use muster_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, CountEntriesRequest};
use muster_proto::spire::api::types;
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use tonic::Code;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

fn entry(n: usize) -> types::Entry {
    types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: format!("/w/{n}"),
        }),
        parent_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: "/node".into(),
        }),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_restart_keeps_authorities_entries_and_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let request = BatchCreateEntryRequest {
        entries: (0..10).map(entry).collect(),
        output_mask: None,
    };
    server.entries().batch_create_entry(request).await.unwrap();
    let config = server.config().clone();
    assert!(
        server.stop().await.success(),
        "a server that is asked to end ends well"
    );

    let server = ServerProcess::start(SERVER, config).await;
    assert_eq!(server.bundle().await, bundle);
    let count = server
        .entries()
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .count;
    assert_eq!(count, 10);
    let node = node.at(server.address());
    let mut stream = node
        .views()
        .await
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(
        stream.message().await.unwrap().unwrap().complete,
        "the node of before is still one"
    );
}

/// Killed at a random moment under load, a server has everything that it acknowledged.
#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    for round in 0..3 {
        let (acknowledged, mut acknowledgements) = tokio::sync::mpsc::unbounded_channel();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let (mut client, acknowledged) = (server.entries(), acknowledged.clone());
            writers.spawn(async move {
                for n in 0..10_000 {
                    let number = (round * 10 + writer) * 100_000 + n;
                    let request = BatchCreateEntryRequest {
                        entries: vec![entry(number)],
                        output_mask: None,
                    };
                    let Ok(answer) = client.batch_create_entry(request).await else {
                        return;
                    };
                    let result = answer.into_inner().results.remove(0);
                    assert_eq!(Code::from_i32(result.status.unwrap().code), Code::Ok);
                    if acknowledged.send(result.entry.unwrap().id).is_err() {
                        return;
                    }
                }
            });
        }
        drop(acknowledged);
        // Some hundred acknowledged writes, then the end comes while more are under way.
        let mut ids = Vec::new();
        while ids.len() < 200 * (round + 1) {
            ids.push(acknowledgements.recv().await.expect("an acknowledgement"));
        }
        server.kill();
        while let Some(id) = acknowledgements.recv().await {
            ids.push(id);
        }
        while writers.join_next().await.is_some() {}

        server = ServerProcess::start(SERVER, server.config().clone()).await;
        for id in ids {
            let request = muster_proto::spire::api::server::entry::v1::GetEntryRequest {
                id,
                output_mask: None,
            };
            server
                .entries()
                .get_entry(request)
                .await
                .expect("an acknowledged entry");
        }
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_roll_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let other = tempfile::tempdir().unwrap();
    let database = format!(
        "[store]\npath = \"{}/server/roll.sqlite\"",
        dir.path().display()
    );
    let second =
        ServerProcess::try_start(SERVER, ServerConfig::new(other.path()).with(&database)).await;
    let (status, log) = second.err().expect("the second server must not serve");
    assert!(!status.success());
    assert!(log.contains("in use by another server"), "{log}");
}

#[tokio::test]
async fn a_roll_of_another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    server.stop().await;
    let file = dir.path().join("server.toml");
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("example.org", "other.org");
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new(SERVER)
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("belongs to trust domain"), "{log}");
}

/// Lifetimes of seconds: the next root is in the bundle before anything is signed by it, on every
/// step of the stream.
#[tokio::test]
async fn authorities_rotate_and_are_known_before_they_sign() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path())
        .with("[authority]\nttl = \"6s\"\n[svid]\nx509_ttl = \"2s\"\nnode_ttl = \"5s\"");
    let server = ServerProcess::start(SERVER, config).await;
    let node = TestNode::attest(
        server.address(),
        &server.bundle().await,
        &server.join_token().await,
    )
    .await
    .unwrap();
    let mut stream = node
        .views()
        .await
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut known = stream.message().await.unwrap().unwrap().bundles.remove(0);
    let first = known.clone();
    assert_eq!(
        (first.x509_authorities.len(), first.jwt_authorities.len()),
        (1, 1)
    );
    // The node's own certificate ends with the first authority; what it was told until then is
    // enough: a second root and a second key, before the first ones' end.
    while known.x509_authorities.len() < 2 || known.jwt_authorities.len() < 2 {
        known = stream.message().await.unwrap().unwrap().bundles.remove(0);
        assert!(known.sequence_number > first.sequence_number);
    }
    let signs_now = server.svids();
    let csr = muster_svid::x509::build_csr(
        &muster_crypto::PrivateKey::generate(muster_crypto::KeyType::EcP256).unwrap(),
        Some(&muster_model::SpiffeId::parse("spiffe://example.org/x").unwrap()),
    )
    .unwrap();
    let mut client = signs_now;
    let request = muster_proto::spire::api::server::svid::v1::MintX509svidRequest {
        csr: csr.into(),
        ttl: 1,
    };
    let svid = client
        .mint_x509svid(request)
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    let bundle = muster_wire::bundle::read(&known, |der| {
        muster_svid::x509::Certificate::parse(der)
            .ok()
            .map(|c| c.not_after)
    })
    .unwrap();
    let leaf = muster_svid::x509::Certificate::parse(&svid.cert_chain[0]).unwrap();
    let chain: Vec<&[u8]> = svid.cert_chain.iter().map(AsRef::as_ref).collect();
    muster_svid::x509::verify(
        &chain,
        &bundle,
        muster_svid::x509::Role::Client,
        leaf.not_before,
    )
    .unwrap();
}
