//! The node's stream: what concerns it, as it happens, and after a break.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers of a test fail by panicking"
)]

use muster_proto::muster::node::v1::{WatchRequest, WatchResponse};
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest,
};
use muster_proto::spire::api::types;
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use tonic::Streaming;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

async fn create(server: &ServerProcess, parent: types::Spiffeid, path: &str) -> String {
    let entry = types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        }),
        parent_id: Some(parent),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let mut results = server
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    results.remove(0).entry.unwrap().id
}

async fn delete(server: &ServerProcess, id: &str) {
    let request = BatchDeleteEntryRequest {
        ids: vec![id.into()],
    };
    server.entries().batch_delete_entry(request).await.unwrap();
}

async fn watch(node: &TestNode, from: Option<&WatchResponse>) -> Streaming<WatchResponse> {
    let request = from.map_or_else(WatchRequest::default, |step| WatchRequest {
        revision: step.revision,
        digest: step.digest.clone(),
        node_version: String::new(),
    });
    node.views()
        .await
        .watch(request)
        .await
        .unwrap()
        .into_inner()
}

async fn step(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    stream.message().await.unwrap().expect("a step")
}

#[tokio::test]
async fn a_node_hears_what_concerns_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let bundle = server.bundle().await;
    let node = TestNode::attest(server.address(), &bundle, &server.join_token().await)
        .await
        .unwrap();
    let me = muster_wire::id::write(node.id());

    let mut stream = watch(&node, None).await;
    let first = step(&mut stream).await;
    assert!(first.replace && first.complete && first.entries.is_empty());
    assert_eq!(first.bundles.len(), 1, "the own bundle comes with the view");

    let other = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/elsewhere".into(),
    };
    create(&server, other, "/not-mine").await;
    let mine = create(&server, me.clone(), "/mine").await;
    let news = step(&mut stream).await;
    assert!(!news.replace);
    let ids: Vec<&str> = news.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(
        ids,
        [mine.as_str()],
        "the first step since is about the node's own entry"
    );

    // Nested: an entry under an entry of the node.
    let nested = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/mine".into(),
    };
    let below = create(&server, nested, "/mine/below").await;
    assert_eq!(step(&mut stream).await.entries[0].id, below);

    // The parent goes, and what stood below it.
    delete(&server, &mine).await;
    let gone = step(&mut stream).await;
    let mut removed = gone.removed_entries.clone();
    removed.sort();
    let mut both = vec![mine, below];
    both.sort();
    assert_eq!(removed, both);
    assert_eq!(
        gone.digest, first.digest,
        "the view is what it was at first, and so is its digest"
    );
}

#[tokio::test]
async fn after_a_break_a_node_gets_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await;
    let node = TestNode::attest(
        server.address(),
        &server.bundle().await,
        &server.join_token().await,
    )
    .await
    .unwrap();
    let me = muster_wire::id::write(node.id());
    let kept = create(&server, me.clone(), "/kept").await;
    let dropped = create(&server, me.clone(), "/dropped").await;
    let before = step(&mut watch(&node, None).await).await;
    assert_eq!(before.entries.len(), 2);

    // Nothing happened: nothing is sent again.
    let same = step(&mut watch(&node, Some(&before)).await).await;
    assert!(!same.replace && same.complete && same.entries.is_empty() && same.bundles.is_empty());

    delete(&server, &dropped).await;
    let added = create(&server, me, "/added").await;
    let missed = step(&mut watch(&node, Some(&before)).await).await;
    assert!(!missed.replace, "a short break costs only what changed");
    assert_eq!(missed.removed_entries, [dropped]);
    assert_eq!(
        missed
            .entries
            .iter()
            .map(|e| e.id.as_str())
            .collect::<Vec<_>>(),
        [added.as_str()]
    );

    // A revision that the server never had: start over.
    let ahead = WatchResponse {
        revision: missed.revision + 1000,
        ..missed
    };
    let all = step(&mut watch(&node, Some(&ahead)).await).await;
    assert!(all.replace);
    let mut ids: Vec<&str> = all.entries.iter().map(|e| e.id.as_str()).collect();
    ids.sort_unstable();
    let mut expected = vec![kept.as_str(), added.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
}
