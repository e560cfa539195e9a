//! Attestation by a program: its node's half, a secret that is never sent, and what the double
//! makes of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use muster_crypto::digest;
use muster_model::SpiffeId;
use muster_policy::NodeRefusal;
use muster_proto::muster::plugin::v1::{
    ProveRequest, ProveResponse, node_attestor_server, prove_request, prove_response,
};
use muster_proto::spire::api::server::agent::v1 as agent;
use muster_proto::spire::api::types;
use muster_wire::status as wire_status;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::double::id;
use crate::services::{Answers, Services};

pub(crate) const NAME: &str = "proof";
/// Who the test's machine is.
pub(crate) const NODE: &str = "/spire/agent/proof/machine-1";
const PAYLOAD: &str = "machine-1";
const SECRET: &str = "what only machine-1 knows";
/// How often a node is asked.
const ROUNDS: usize = 2;

/// What becomes of nodes that prove themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Whether they are to do so again.
    pub(crate) again: bool,
    /// What they are told instead of being admitted.
    pub(crate) refused: Option<Status>,
    admitted: BTreeSet<SpiffeId>,
}

impl Verdict {
    /// Whether the node was admitted as one that proves itself again.
    pub(crate) fn admitted_again(&self, node: &SpiffeId) -> bool {
        self.again && self.admitted.contains(node)
    }
}

pub(crate) fn banned() -> Status {
    wire_status::node_refused("banned".to_owned(), NodeRefusal::Banned)
}

fn respond(challenge: &[u8]) -> Vec<u8> {
    digest::sha256(&[SECRET.as_bytes(), challenge].concat()).to_vec()
}

/// The node's half: a program that listens at `socket` until the test ends.
pub(crate) fn listen(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(node_attestor_server::NodeAttestorServer::new(Machine))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
}

struct Machine;

#[tonic::async_trait]
impl node_attestor_server::NodeAttestor for Machine {
    type ProveStream = Answers<ProveResponse>;

    async fn prove(
        &self,
        request: Request<Streaming<ProveRequest>>,
    ) -> Result<Response<Self::ProveStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let step = match message?.step.unwrap() {
                prove_request::Step::Begin(begin) => {
                    assert_eq!(begin.trust_domain, "example.org");
                    prove_response::Step::Payload(PAYLOAD.into())
                }
                prove_request::Step::Challenge(challenge) => {
                    prove_response::Step::Response(respond(&challenge).into())
                }
            };
            Ok(ProveResponse { step: Some(step) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Services {
    /// Answers a node that proves itself.
    pub(crate) fn proven(
        &self,
        data: types::AttestationData,
        csr: Bytes,
        mut steps: Streaming<agent::AttestAgentRequest>,
    ) -> Answers<agent::AttestAgentResponse> {
        self.0.mind().photograph("AttestAgent");
        let (answers, receiver) = mpsc::channel(1);
        let services = self.clone();
        tokio::spawn(async move {
            let outcome = services
                .ask(&data.payload, &csr, &mut steps, &answers)
                .await;
            // The node may be gone already.
            drop(answers.send(outcome).await);
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    async fn ask(
        &self,
        payload: &[u8],
        csr: &[u8],
        steps: &mut Streaming<agent::AttestAgentRequest>,
        answers: &mpsc::Sender<Result<agent::AttestAgentResponse, Status>>,
    ) -> Result<agent::AttestAgentResponse, Status> {
        use agent::attest_agent_request::Step;
        use agent::attest_agent_response::{Result as Admitted, Step as Answer};
        let answer = |step| agent::AttestAgentResponse { step: Some(step) };
        assert_eq!(payload, PAYLOAD.as_bytes());
        for _ in 0..ROUNDS {
            let challenge: [u8; 32] = muster_crypto::random::bytes();
            let asked = answer(Answer::Challenge(challenge.to_vec().into()));
            answers.send(Ok(asked)).await.unwrap();
            let Some(Step::ChallengeResponse(response)) =
                steps.message().await?.and_then(|message| message.step)
            else {
                return Err(Status::invalid_argument("no response"));
            };
            assert_eq!(response, respond(&challenge));
        }
        let mut mind = self.0.mind();
        if let Some(refused) = &mind.proof.refused {
            return Err(refused.clone());
        }
        mind.refusal = None;
        let node = id(NODE);
        mind.proof.admitted.insert(node.clone());
        let svid = Some(self.sign_node(&mut mind, &node, csr, Duration::ZERO));
        let reattestable = mind.proof.again;
        Ok(answer(Answer::Result(Admitted { svid, reattestable })))
    }
}
