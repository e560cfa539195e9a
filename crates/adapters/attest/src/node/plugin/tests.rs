//! Both halves against a program that says what a test wants.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use muster_proto::muster::plugin::v1::node_attestor_server as node_half;
use muster_proto::muster::plugin::v1::server_node_attestor_server as server_half;
use tokio::net::UnixListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response};

use super::*;
use crate::plugin::Place;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// What the server's half says to the request of that number, of those bytes.
type Script = dyn Fn(usize, &[u8]) -> Result<conclude_response::Step, Status> + Send + Sync;

#[derive(Clone)]
struct Double(Arc<Script>);

#[tonic::async_trait]
impl server_half::ServerNodeAttestor for Double {
    type ConcludeStream = Answers<ConcludeResponse>;

    async fn conclude(
        &self,
        request: Request<Streaming<ConcludeRequest>>,
    ) -> Result<Response<Self::ConcludeStream>, Status> {
        let script = self.0.clone();
        let mut number = 0;
        let answers = request.into_inner().map(move |message| {
            let said = match message?.step {
                Some(conclude_request::Step::Begin(begin)) => {
                    assert_eq!(begin.trust_domain, "example.org");
                    begin.payload
                }
                Some(conclude_request::Step::Response(response)) => response,
                None => return Err(Status::invalid_argument("nothing")),
            };
            number += 1;
            let step = Some(script(number, &said)?);
            Ok(ConcludeResponse { step })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl node_half::NodeAttestor for Double {
    type ProveStream = Answers<ProveResponse>;

    async fn prove(
        &self,
        request: Request<Streaming<ProveRequest>>,
    ) -> Result<Response<Self::ProveStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let step = match message?.step {
                Some(prove_request::Step::Begin(begin)) => {
                    prove_response::Step::Payload(begin.trust_domain.into_bytes().into())
                }
                Some(prove_request::Step::Challenge(challenge)) => {
                    let reversed: Vec<u8> = challenge.iter().rev().copied().collect();
                    prove_response::Step::Response(reversed.into())
                }
                None => return Err(Status::invalid_argument("nothing")),
            };
            Ok(ProveResponse { step: Some(step) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A program that listens as long as this is there, and where.
struct Program {
    _folder: tempfile::TempDir,
    options: PluginOptions,
}

fn program(
    script: impl Fn(usize, &[u8]) -> Result<conclude_response::Step, Status> + Send + Sync + 'static,
) -> Program {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("p.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let double = Double(Arc::new(script));
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(server_half::ServerNodeAttestorServer::new(double.clone()))
            .add_service(node_half::NodeAttestorServer::new(double))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    let options = PluginOptions {
        name: name("proof").unwrap(),
        place: Place::Socket(socket),
    };
    Program {
        _folder: folder,
        options,
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// A node that answers with what it is asked, backwards.
struct Backwards;

#[async_trait]
impl NodeChallenge for Backwards {
    async fn challenge(&mut self, mut challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        challenge.reverse();
        Ok(challenge)
    }
}

async fn attest(program: &Program, payload: &[u8]) -> Result<NodeAttestation, NodeAttestError> {
    let server = PluginServer::new(program.options.clone(), Path::new("/"), trust_domain());
    server.attest(payload, &mut Backwards).await
}

#[expect(clippy::unnecessary_wraps, reason = "a script may fail")]
fn conclude(id: &str, values: &[&str]) -> Result<conclude_response::Step, Status> {
    Ok(conclude_response::Step::Conclusion(Conclusion {
        spiffe_id: id.to_owned(),
        selector_values: values.iter().map(|&value| value.to_owned()).collect(),
        can_reattest: true,
    }))
}

const GOOD: &str = "spiffe://example.org/spire/agent/proof/a";

#[tokio::test]
async fn challenges_go_to_and_fro_until_there_is_a_conclusion() {
    let program = program(|number, said| match number {
        1 => {
            assert_eq!(said, b"payload");
            Ok(conclude_response::Step::Challenge("abc".into()))
        }
        2 => {
            assert_eq!(said, b"cba");
            conclude(GOOD, &["b", "a", "b"])
        }
        _ => unreachable!(),
    });
    let found = attest(&program, b"payload").await.unwrap();
    assert_eq!(found.id.as_str(), GOOD);
    let shown: Vec<String> = found.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["proof:a", "proof:b"]);
    assert!(found.can_reattest);
}

#[tokio::test]
async fn the_nodes_half_has_a_payload_and_responses() {
    let program = program(|_, _| conclude(GOOD, &[]));
    let node = PluginNode::new(program.options.clone(), Path::new("/"), trust_domain());
    assert_eq!(node.kind(), "proof");
    let mut proof = node.begin().await.unwrap();
    assert_eq!(proof.payload, b"example.org");
    assert_eq!(proof.answers.respond(b"abc").await.unwrap(), b"cba");
    assert_eq!(proof.answers.respond(b"de").await.unwrap(), b"ed");
}

#[tokio::test]
async fn a_plugin_names_only_nodes_of_its_own() {
    for id in [
        "spiffe://other.org/spire/agent/proof/a",
        "spiffe://example.org/spire/agent/proof",
        "spiffe://example.org/spire/agent/proofs/a",
        "spiffe://example.org/spire/agent/join_token/a",
        "spiffe://example.org/spire/server",
        "spiffe://example.org/web",
        "spiffe://example.org/spire/agent/proof/",
        "spiffe://example.org/spire/agent/proof/../join_token/a",
        "/spire/agent/proof/a",
        "",
    ] {
        let program = program(move |_, _| conclude(id, &[]));
        let refused = attest(&program, b"").await;
        assert!(
            matches!(refused, Err(NodeAttestError::Unavailable(_))),
            "{id}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn what_a_plugin_says_is_bounded() {
    let too_many = program(|_, _| Ok(conclude_response::Step::Challenge("?".into())));
    let error = attest(&too_many, b"").await.unwrap_err().to_string();
    assert!(error.contains("more than 16 times"), "{error}");

    let too_large = program(|_, _| {
        Ok(conclude_response::Step::Challenge(
            vec![0; MAX_PART + 1].into(),
        ))
    });
    let error = attest(&too_large, b"").await.unwrap_err().to_string();
    assert!(error.contains("65537 bytes"), "{error}");

    let long = "x".repeat(5_000);
    let bad_value = program(move |_, _| conclude(GOOD, &[&long]));
    let error = attest(&bad_value, b"").await.unwrap_err().to_string();
    assert!(error.contains("5000 bytes"), "{error}");
}

#[tokio::test]
async fn what_a_node_says_is_bounded_before_the_plugin_hears_it() {
    let program = program(|_, _| unreachable!());
    let refused = attest(&program, &vec![0; MAX_PART + 1]).await;
    assert!(matches!(refused, Err(NodeAttestError::Malformed(_))));
}

#[tokio::test]
async fn a_status_says_whether_to_come_again() {
    for (code, word) in [
        (Code::InvalidArgument, "Malformed"),
        (Code::PermissionDenied, "Refused"),
        (Code::NotFound, "Refused"),
        (Code::Unavailable, "Unavailable"),
        (Code::Unknown, "Unavailable"),
    ] {
        let program = program(move |_, _| Err(Status::new(code, "why")));
        let error = format!("{:?}", attest(&program, b"").await.unwrap_err());
        assert!(error.starts_with(word) && error.contains("why"), "{error}");
    }
}

#[tokio::test]
async fn a_plugin_that_is_not_there_may_come_back() {
    let mut gone = program(|_, _| unreachable!());
    gone.options.place = Place::Socket("/nowhere/p.sock".into());
    let refused = attest(&gone, b"").await;
    assert!(matches!(refused, Err(NodeAttestError::Unavailable(_))));
    let node = PluginNode::new(gone.options, Path::new("/"), trust_domain());
    assert!(matches!(
        node.begin().await.err(),
        Some(NodeAttestError::Unavailable(_))
    ));
}

#[test]
fn musters_own_name_is_taken() {
    assert_eq!(name("join_token"), Err(BadPluginName::BuiltIn));
    assert!(name("x509pop").is_ok());
}
