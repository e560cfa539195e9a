//! Nodes: joining, renewing, being banned and evicted, and what they may call.
#![expect(clippy::unnecessary_wraps, reason = "the messages want an Option")]

use muster_crypto::{KeyType, PrivateKey};
use muster_policy::NodeRefusal;
use muster_proto::muster::node::v1::WatchRequest;
use muster_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest, ListAgentsRequest,
};
use muster_proto::spire::api::server::entry::v1::{
    GetAuthorizedEntriesRequest, ListEntriesRequest,
};
use muster_proto::spire::api::types;
use muster_testkit::{ServerConfig, ServerProcess, TestNode};
use muster_wire::status::node_refusal;
use tonic::Code;

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

async fn server(dir: &tempfile::TempDir) -> ServerProcess {
    ServerProcess::start(SERVER, ServerConfig::new(dir.path())).await
}

fn wire_id(node: &TestNode) -> Option<types::Spiffeid> {
    Some(muster_wire::id::write(node.id()))
}

async fn try_authorized(node: &TestNode) -> Result<usize, tonic::Status> {
    let answer = node
        .entries()
        .await
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await?;
    Ok(answer.into_inner().entries.len())
}

#[tokio::test]
async fn a_token_admits_one_node_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let bundle = server.bundle().await;
    let token = server.join_token().await;
    let node = TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap();
    assert_eq!(
        node.id().as_str(),
        format!("spiffe://example.org/spire/agent/join_token/{token}")
    );
    assert_eq!(try_authorized(&node).await.unwrap(), 0);

    let again = TestNode::attest(server.address(), &bundle, &token)
        .await
        .err()
        .unwrap();
    assert_eq!(
        again.message(),
        "failed to attest: join token does not exist or has already been used"
    );
    let guessed = TestNode::attest(server.address(), &bundle, "guess")
        .await
        .err()
        .unwrap();
    assert_eq!(
        guessed.message(),
        again.message(),
        "a used token and an unknown one are answered alike"
    );

    let listed = server
        .agents()
        .list_agents(ListAgentsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .agents;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].x509svid_serial_number, node.svid.serial.as_str());
    assert!(!listed[0].can_reattest && !listed[0].banned);
}

#[tokio::test]
async fn a_token_with_an_alias_gives_the_node_a_second_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let alias = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/my-node".into(),
    };
    let request = CreateJoinTokenRequest {
        ttl: 60,
        token: "chosen".into(),
        agent_id: Some(alias),
    };
    let token = server
        .agents()
        .create_join_token(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(token.value, "chosen");
    let twice = server
        .agents()
        .create_join_token(request)
        .await
        .err()
        .unwrap();
    assert_eq!(twice.code(), Code::AlreadyExists);
    let node = TestNode::attest(server.address(), &server.bundle().await, "chosen")
        .await
        .unwrap();
    assert_eq!(
        try_authorized(&node).await.unwrap(),
        1,
        "the alias entry is the node's"
    );
    let zero = CreateJoinTokenRequest {
        ttl: 0,
        ..Default::default()
    };
    assert_eq!(
        server
            .agents()
            .create_join_token(zero)
            .await
            .err()
            .unwrap()
            .code(),
        Code::InvalidArgument
    );
    let slash = CreateJoinTokenRequest {
        ttl: 1,
        token: "a/b".into(),
        agent_id: None,
    };
    assert_eq!(
        server
            .agents()
            .create_join_token(slash)
            .await
            .err()
            .unwrap()
            .code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn the_old_certificate_is_good_until_the_new_one_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let old = TestNode::attest(
        server.address(),
        &server.bundle().await,
        &server.join_token().await,
    )
    .await
    .unwrap();
    let new = old.renew().await.unwrap();
    try_authorized(&old).await.unwrap();
    try_authorized(&new).await.unwrap();
    let refused = try_authorized(&old).await.unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::NotActive));
    try_authorized(&new).await.unwrap();
}

#[tokio::test]
async fn a_ban_holds_for_open_connections_and_streams_and_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let bundle = server.bundle().await;
    let token = server.join_token().await;
    let node = TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap();
    let mut open = node.entries().await;
    open.get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap();
    let mut stream = node
        .views()
        .await
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().unwrap().complete);

    server
        .agents()
        .ban_agent(BanAgentRequest { id: wire_id(&node) })
        .await
        .unwrap();
    let ended = stream.message().await.unwrap_err();
    assert_eq!(node_refusal(&ended), Some(NodeRefusal::Banned));
    let refused = open
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::Banned));
    assert!(
        refused
            .message()
            .starts_with("authorization denied for method ")
    );
    let listed = server
        .agents()
        .list_agents(ListAgentsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .agents;
    assert!(listed[0].banned && listed[0].x509svid_serial_number.is_empty());

    server
        .agents()
        .delete_agent(DeleteAgentRequest { id: wire_id(&node) })
        .await
        .unwrap();
    let refused = try_authorized(&node).await.unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::NotAttested));
    let gone = server
        .agents()
        .delete_agent(DeleteAgentRequest { id: wire_id(&node) })
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn a_node_may_not_administer() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let node = TestNode::attest(
        server.address(),
        &server.bundle().await,
        &server.join_token().await,
    )
    .await
    .unwrap();
    let refused = node
        .entries()
        .await
        .list_entries(ListEntriesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(node_refusal(&refused), None);
    // And the admin socket is no node.
    let refused = server
        .entries()
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_the_certificate_that_was_shown_takes_the_place_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let bundle = server.bundle().await;
    let token = server.join_token().await;
    let old = TestNode::attest(server.address(), &bundle, &token)
        .await
        .unwrap();
    // A renewal whose answer was lost is replaced by the next one.
    let lost = old.renew().await.unwrap();
    let new = old.renew().await.unwrap();
    let refused = try_authorized(&lost).await.unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::NotActive));
    // Many first uses at once are one promotion, and none of them is refused.
    let uses = (0..8).map(|_| try_authorized(&new));
    for outcome in futures::future::join_all(uses).await {
        outcome.unwrap();
    }
    let refused = try_authorized(&old).await.unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::NotActive));
}

#[tokio::test]
async fn a_used_token_gives_the_same_key_another_svid_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (address, bundle) = (server.address(), server.bundle().await);
    let token = server.join_token().await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    // The answer never reached the node's disk.
    let lost = TestNode::attest_with(address, &bundle, &token, &key)
        .await
        .unwrap();
    let node = TestNode::attest_with(address, &bundle, &token, &key)
        .await
        .unwrap();
    assert_eq!(lost.id(), node.id());
    assert_eq!(try_authorized(&node).await.unwrap(), 0);
    let refused = try_authorized(&lost).await.unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::NotActive));
    // Another key is refused as ever, and so is the same one once the node is gone.
    let other = TestNode::attest(address, &bundle, &token)
        .await
        .err()
        .unwrap();
    assert_eq!(other.code(), Code::InvalidArgument);
    let evict = DeleteAgentRequest { id: wire_id(&node) };
    server.agents().delete_agent(evict).await.unwrap();
    let evicted = TestNode::attest_with(address, &bundle, &token, &key).await;
    assert_eq!(evicted.err().unwrap().code(), Code::InvalidArgument);
}

/// Waits until a node's SVID has expired by the clock of this machine.
async fn expired(node: &TestNode) {
    let clock = muster_rt::SystemClock::new();
    // TLS counts in whole seconds.
    let end = node.svid.not_after.plus(std::time::Duration::from_secs(1));
    while muster_rt::Clock::now(&clock).wall <= end {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_expired_node_renews_within_the_grace_and_does_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path())
        .with("[svid]\nnode_ttl = \"2s\"\n[node]\nrenew_grace = \"1h\"");
    let server = ServerProcess::start(SERVER, config).await;
    let token = server.join_token().await;
    let node = TestNode::attest(server.address(), &server.bundle().await, &token)
        .await
        .unwrap();
    expired(&node).await;
    let refused = try_authorized(&node).await.unwrap_err();
    assert_eq!(node_refusal(&refused), Some(NodeRefusal::Expired));
    let renewed = node.renew().await.unwrap();
    assert_eq!(renewed.id(), node.id());
    assert_eq!(try_authorized(&renewed).await.unwrap(), 0);
    // The renewed one was seen: the old key is good for nothing now.
    let again = node.renew().await.err().unwrap();
    assert_eq!(node_refusal(&again), Some(NodeRefusal::Expired));
    let ban = BanAgentRequest {
        id: wire_id(&renewed),
    };
    server.agents().ban_agent(ban).await.unwrap();
    expired(&renewed).await;
    assert!(renewed.renew().await.is_err(), "a ban is not forgiven");
}

#[tokio::test]
async fn without_a_grace_an_expired_node_is_not_even_heard() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path()).with("[svid]\nnode_ttl = \"2s\"");
    let server = ServerProcess::start(SERVER, config).await;
    let token = server.join_token().await;
    let node = TestNode::attest(server.address(), &server.bundle().await, &token)
        .await
        .unwrap();
    expired(&node).await;
    let serial = node.svid.serial.clone();
    // The handshake itself fails, which the harness takes ill.
    let outcome = tokio::spawn(async move { node.renew().await.map(|_| ()) }).await;
    assert!(!matches!(outcome, Ok(Ok(()))), "{outcome:?}");
    let request = ListAgentsRequest::default();
    let listed = server.agents().list_agents(request).await.unwrap();
    let row = &listed.into_inner().agents[0];
    assert_eq!(row.x509svid_serial_number, serial.as_str());
}
