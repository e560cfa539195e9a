//! Nodes that another program attests: whom the server admits on its word, and whom it does not.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are tests, which the lint does not see"
)]

use std::path::Path;
use std::pin::Pin;

use futures::Stream;
use muster_crypto::{KeyType, PrivateKey};
use muster_policy::NodeRefusal;
use muster_proto::muster::plugin::v1::server_node_attestor_server::{
    ServerNodeAttestor, ServerNodeAttestorServer,
};
use muster_proto::muster::plugin::v1::{
    ConcludeRequest, ConcludeResponse, Conclusion, conclude_request, conclude_response,
};
use muster_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, BanAgentRequest, DeleteAgentRequest, GetAgentRequest,
    attest_agent_request, attest_agent_response,
};
use muster_proto::spire::api::types;
use muster_svid::x509::build_csr;
use muster_testkit::{ServerConfig, ServerProcess};
use muster_wire::status::node_refusal;
use tokio::net::UnixListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};

const SERVER: &str = env!("CARGO_BIN_EXE_muster-server");

/// A program that believes everything: `again NAME` and `once NAME` are nodes, `say ID` is any ID,
/// and all else is refused in words that are nobody's business.
struct Credulous;

#[tonic::async_trait]
impl ServerNodeAttestor for Credulous {
    type ConcludeStream = Pin<Box<dyn Stream<Item = Result<ConcludeResponse, Status>> + Send>>;

    async fn conclude(
        &self,
        request: Request<Streaming<ConcludeRequest>>,
    ) -> Result<Response<Self::ConcludeStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let Some(conclude_request::Step::Begin(begin)) = message?.step else {
                return Err(Status::invalid_argument("not a first message"));
            };
            let payload = String::from_utf8(begin.payload.to_vec()).unwrap();
            let (how, name) = payload.split_once(' ').unwrap_or_default();
            let spiffe_id = match how {
                "again" | "once" => format!("spiffe://example.org/spire/agent/belief/{name}"),
                "say" => name.to_owned(),
                _ => return Err(Status::permission_denied("the inner reason")),
            };
            Ok(ConcludeResponse {
                step: Some(conclude_response::Step::Conclusion(Conclusion {
                    spiffe_id,
                    selector_values: vec![format!("name:{name}")],
                    can_reattest: how == "again",
                })),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn server(dir: &Path) -> ServerProcess {
    let socket = dir.join("plugin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(ServerNodeAttestorServer::new(Credulous))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    let plugin = format!(
        "[[node.plugin]]\nname = \"belief\"\nsocket = \"{}\"",
        socket.display()
    );
    ServerProcess::start(SERVER, ServerConfig::new(dir).with(&plugin)).await
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

/// Whether the node counts as one that attests again, if it is admitted.
async fn attest(
    server: &ServerProcess,
    kind: &str,
    payload: &str,
    key: &PrivateKey,
) -> Result<bool, Status> {
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: kind.to_owned(),
            payload: payload.to_owned().into(),
        }),
        params: Some(AgentX509svidParams {
            csr: build_csr(key, None).unwrap().into(),
        }),
    };
    let request = AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    };
    let mut answers = server
        .agents()
        .attest_agent(tokio_stream::once(request))
        .await?
        .into_inner();
    match answers.message().await?.unwrap().step.unwrap() {
        attest_agent_response::Step::Result(result) => Ok(result.reattestable),
        attest_agent_response::Step::Challenge(_) => panic!("nothing is asked"),
    }
}

fn id(name: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: format!("/spire/agent/belief/{name}"),
    }
}

async fn node(server: &ServerProcess, name: &str) -> types::Agent {
    let request = GetAgentRequest {
        id: Some(id(name)),
        output_mask: None,
    };
    let found = server.agents().get_agent(request).await;
    found.unwrap().into_inner()
}

#[tokio::test]
async fn a_node_that_attests_again_is_admitted_as_often_as_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    assert!(attest(&server, "belief", "again a", &key()).await.unwrap());
    let first = node(&server, "a").await;
    assert_eq!(first.attestation_type, "belief");
    assert!(first.can_reattest);
    let selectors: Vec<_> = first
        .selectors
        .iter()
        .map(|s| (&*s.r#type, &*s.value))
        .collect();
    assert_eq!(selectors, [("belief", "name:a")]);
    assert!(attest(&server, "belief", "again a", &key()).await.unwrap());
    let second = node(&server, "a").await;
    assert_ne!(first.x509svid_serial_number, second.x509svid_serial_number);

    let ban = BanAgentRequest { id: Some(id("a")) };
    server.agents().ban_agent(ban).await.unwrap();
    let banned = attest(&server, "belief", "again a", &key())
        .await
        .unwrap_err();
    assert_eq!(banned.code(), Code::PermissionDenied);
    assert_eq!(banned.message(), "failed to attest: agent is banned");
    assert_eq!(node_refusal(&banned), Some(NodeRefusal::Banned));
}

#[tokio::test]
async fn an_attestation_that_is_good_once_gives_a_name_to_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    let first = key();
    assert!(!attest(&server, "belief", "once b", &first).await.unwrap());
    let other = attest(&server, "belief", "once b", &key())
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied);
    assert!(other.message().contains("muster node evict"), "{other}");
    // Its SVID may not have reached its disk.
    assert!(!attest(&server, "belief", "once b", &first).await.unwrap());

    let evict = DeleteAgentRequest { id: Some(id("b")) };
    server.agents().delete_agent(evict).await.unwrap();
    assert!(!attest(&server, "belief", "once b", &key()).await.unwrap());
}

#[tokio::test]
async fn a_refusal_says_where_its_reason_is_and_not_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    let refused = attest(&server, "belief", "nonsense", &key())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "failed to attest: belief refuses the node; the server's log says why"
    );
    let unknown = attest(&server, "magic", "again a", &key())
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition);
    assert!(unknown.message().contains("\"magic\""), "{unknown}");
    assert!(
        unknown.message().contains("\"join_token\", \"belief\""),
        "{unknown}"
    );
    let large = attest(&server, "belief", &"x".repeat(100_000), &key())
        .await
        .unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_plugin_admits_nobody_in_anothers_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    for name in [
        "spiffe://example.org/spire/agent/join_token/x",
        "spiffe://example.org/spire/server",
        "spiffe://example.org/web",
        "spiffe://other.org/spire/agent/belief/x",
    ] {
        let refused = attest(&server, "belief", &format!("say {name}"), &key()).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable, "{name}");
    }
    let own = "say spiffe://example.org/spire/agent/belief/x";
    assert!(attest(&server, "belief", own, &key()).await.is_ok());
}
