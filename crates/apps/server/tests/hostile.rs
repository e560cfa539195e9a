//! Bad input: a clear error or a bounded wait, and the server goes on serving.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail by panicking"
)]

use std::time::Duration;

use muster_proto::muster::node::v1::WatchRequest;
use muster_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, CountEntriesRequest,
    GetAuthorizedEntriesRequest, ListEntriesResponse,
};
use muster_proto::spire::api::types;
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn server(dir: &tempfile::TempDir) -> ServerProcess {
    ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await
}

async fn node(server: &ServerProcess) -> TestNode {
    TestNode::attest(
        server.address(),
        &server.bundle().await,
        &server.join_token().await,
    )
    .await
    .unwrap()
}

fn entry(parent: types::Spiffeid, n: usize) -> types::Entry {
    types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: format!("/w/{n}"),
        }),
        parent_id: Some(parent),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_thousand_half_open_connections_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let node = timeout(PATIENCE, node(&server))
        .await
        .expect("a node joins beside a thousand silent connections");
    node.entries()
        .await
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap();
    // And they do not stay: the handshake has a deadline.
    let mut byte = [0];
    let closed = timeout(PATIENCE, silent[0].read(&mut byte))
        .await
        .expect("a silent connection is closed");
    assert_eq!(closed.unwrap_or(0), 0);
}

#[tokio::test]
async fn silent_connections_to_the_admin_socket_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let mut silent = Vec::new();
    for _ in 0..1500 {
        silent.push(
            UnixStream::connect(server.config().admin_socket())
                .await
                .unwrap(),
        );
    }
    let channel = timeout(
        PATIENCE,
        muster_peer::connect(server.config().admin_socket()),
    )
    .await
    .unwrap()
    .unwrap();
    let mut client =
        muster_proto::spire::api::server::entry::v1::entry_client::EntryClient::new(channel);
    let counted = timeout(
        PATIENCE,
        client.count_entries(Request::new(CountEntriesRequest::default())),
    )
    .await
    .unwrap();
    assert_eq!(counted.unwrap().into_inner().count, 0);
}

#[tokio::test]
async fn bytes_that_are_not_a_protocol_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 512],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x7f",
    ] {
        let mut tcp = TcpStream::connect(server.address()).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        let mut unix = UnixStream::connect(server.config().admin_socket())
            .await
            .unwrap();
        // The server may be quicker to close than we are to write.
        drop(unix.write_all(garbage).await);
    }
    node(&server).await;
}

/// A message whose first field is bytes where the server expects a message.
#[derive(Clone, PartialEq, prost::Message)]
struct Malformed {
    #[prost(bytes, tag = "1")]
    junk: Vec<u8>,
}

#[tokio::test]
async fn malformed_and_oversized_messages_are_refused_with_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let mut raw = tonic::client::Grpc::new(server.channel());
    raw.ready().await.unwrap();
    let path = PathAndQuery::from_static("/spire.api.server.entry.v1.Entry/ListEntries");
    let codec = tonic_prost::ProstCodec::<Malformed, ListEntriesResponse>::default();
    let malformed = raw
        .unary(
            Request::new(Malformed {
                junk: vec![0xff; 16],
            }),
            path,
            codec,
        )
        .await;
    assert_eq!(malformed.unwrap_err().code(), Code::Internal);

    let parent = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/node".into(),
    };
    let large = types::Entry {
        hint: "x".repeat(6 << 20),
        ..entry(parent, 1)
    };
    let request = BatchCreateEntryRequest {
        entries: vec![large],
        output_mask: None,
    };
    let oversized = server
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap_err();
    assert_eq!(oversized.code(), Code::OutOfRange, "{oversized}");

    let unknown = PathAndQuery::from_static("/spire.api.server.entry.v1.Entry/Nope");
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Malformed, ListEntriesResponse>::default();
    let unknown = raw
        .unary(Request::new(Malformed { junk: Vec::new() }), unknown, codec)
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}

/// Whoever calls a service that is not there, as `spire-server federation` does, is told which.
#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    for (path, remedy) in [
        (
            "/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",
            "federation between servers is not built",
        ),
        ("/no.such.Service/Call", "docs/api.md"),
    ] {
        let mut raw = tonic::client::Grpc::new(server.channel());
        raw.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let refused = raw
            .unary(Request::new(()), PathAndQuery::from_static(path), codec)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        let told = refused.message();
        assert!(told.contains(path) && told.contains(remedy), "{told}");
    }
}

/// A node that does not read its stream holds up nobody, and is up to date once it reads again.
#[tokio::test]
async fn a_slow_reader_holds_up_nobody_and_ends_up_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (slow, quick) = (node(&server).await, node(&server).await);
    let parents = [&slow, &quick].map(|n| muster_wire::id::write(n.id()));
    let mut unread = slow
        .views()
        .await
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut read = quick
        .views()
        .await
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(read.message().await.unwrap().unwrap().complete);

    let mut kept = 0;
    for round in 0..40 {
        let entries = (0..50)
            .map(|n| entry(parents[0].clone(), round * 50 + n))
            .collect();
        let request = BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        let results = server
            .entries()
            .batch_create_entry(request)
            .await
            .unwrap()
            .into_inner()
            .results;
        let ids: Vec<String> = results.into_iter().map(|r| r.entry.unwrap().id).collect();
        kept += 1;
        server
            .entries()
            .batch_delete_entry(BatchDeleteEntryRequest {
                ids: ids[1..].to_vec(),
            })
            .await
            .unwrap();
    }
    let request = BatchCreateEntryRequest {
        entries: vec![entry(parents[1].clone(), 9999)],
        output_mask: None,
    };
    server.entries().batch_create_entry(request).await.unwrap();
    let step = timeout(PATIENCE, read.message())
        .await
        .expect("the quick node hears at once")
        .unwrap()
        .unwrap();
    assert_eq!(step.entries.len(), 1);

    // What the slow one reads now adds up to what it may see.
    let mut held = std::collections::BTreeSet::new();
    while held.len() != kept {
        let step = timeout(PATIENCE, unread.message())
            .await
            .expect("more is to come")
            .unwrap()
            .unwrap();
        held.extend(step.entries.into_iter().map(|e| e.id));
        for gone in step.removed_entries {
            held.remove(&gone);
        }
    }
}
