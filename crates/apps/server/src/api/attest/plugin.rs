//! A node that another program attests for the server.
//!
//! The program says who the node is, within its own part of the names; the roll says whether that
//! node may come in. Why the program refuses a node is for the server's log and the audit log: whoever
//! asks is nobody yet.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_audit::{Decision, Event, Record};
use muster_crypto::{PublicKey, digest};
use muster_model::{Joined, Node, Timestamp};
use muster_plugin::node::{NodeAttestError, NodeAttestation, NodeChallenge, ServerNodeAttestor};
use muster_policy as policy;
use muster_proto::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response,
};
use muster_roll::node::{self as lifecycle, Attested};
use muster_wire::status;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{BANNED, Signed, admitted, sign};
use crate::errors;
use crate::operation::Operation;
use crate::server::Server;

/// How long a node may take for each response: it holds one of the program's places meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node's end of an attestation.
pub(super) struct Challenges {
    requests: Streaming<AttestAgentRequest>,
    answers: mpsc::Sender<Result<AttestAgentResponse, Status>>,
}

impl Challenges {
    pub(super) fn new(
        requests: Streaming<AttestAgentRequest>,
        answers: mpsc::Sender<Result<AttestAgentResponse, Status>>,
    ) -> Self {
        Self { requests, answers }
    }

    async fn ask(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        let step = attest_agent_response::Step::Challenge(challenge.into());
        let asked = self
            .answers
            .send(Ok(AttestAgentResponse { step: Some(step) }));
        asked.await.map_err(|_gone| gone())?;
        let answer = self.requests.message().await.map_err(|_reset| gone())?;
        match answer.and_then(|message| message.step) {
            Some(attest_agent_request::Step::ChallengeResponse(response)) => Ok(response.into()),
            Some(attest_agent_request::Step::Params(_)) | None => Err(NodeAttestError::Malformed(
                "the node does not respond to the challenge".to_owned(),
            )),
        }
    }
}

#[async_trait]
impl NodeChallenge for Challenges {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        timeout(PATIENCE, self.ask(challenge))
            .await
            .unwrap_or_else(|_elapsed| {
                Err(NodeAttestError::Unavailable(format!(
                    "the node does not respond within {} s",
                    PATIENCE.as_secs()
                )))
            })
    }
}

fn gone() -> NodeAttestError {
    NodeAttestError::Unavailable("the node went away".to_owned())
}

/// Attests a node by `attestor`.
pub(super) async fn attest(
    server: &Arc<Server>,
    op: Operation<policy::AttestAgent>,
    attestor: &dyn ServerNodeAttestor,
    payload: &[u8],
    mut challenges: Challenges,
    public_key: &PublicKey,
) -> Result<AttestAgentResponse, Status> {
    let kind = attestor.kind();
    let concluded = attestor.attest(payload, &mut challenges).await;
    let NodeAttestation {
        id,
        selectors,
        can_reattest,
    } = match concluded {
        Ok(attestation) => attestation,
        Err(error) => {
            let evidence = digest::hex(&digest::sha256(payload));
            return Err(refused(server, &op, kind, evidence, &error));
        }
    };
    let key = digest::hex(&digest::sha256(public_key.spki_der()));
    let refuse = |why: Why| {
        let error = NodeAttestError::Refused(why.to_string());
        drop(refused(server, &op, kind, id.to_string(), &error));
        why.status()
    };
    // A look before the signature; the transaction looks again.
    let before = op.roll.node(&id).map(AsRef::as_ref);
    may_come_in(before, can_reattest, &key, op.now).map_err(refuse)?;
    let Signed {
        svid,
        issued,
        record: admission,
    } = sign(server, &op, &id, public_key, kind).await?;
    let admission = admission.with("reattestable", can_reattest.to_string());
    let node = id.clone();
    let (permit, now) = (op.permit, op.now);
    let written = server.roll.write(move |roll, transaction| {
        let before = roll.node(&node).map(AsRef::as_ref);
        let at = may_come_in(before, can_reattest, &key, now)?;
        let attested = Attested {
            id: node,
            attestation_type: kind.to_owned(),
            selectors: selectors.into_iter().collect(),
            can_reattest,
            joined: Some(Joined { key, at }),
        };
        let row =
            lifecycle::after_attest(before, attested, issued).map_err(|_banned| Why::Banned)?;
        transaction.audit(admission);
        transaction.put_node(&permit, row);
        Ok::<_, Why>(())
    });
    let outcome = written.await.map_err(|error| errors::write(&error))?;
    outcome.map_err(Why::status)?;
    tracing::info!(node_id = %id, attestor = kind, can_reattest, "node attested");
    Ok(admitted(svid, can_reattest))
}

/// Why a node that has proven itself is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("{BANNED}")]
    Banned,
    #[error(
        "failed to attest: the node is attested already, and this attestor attests a node once; \
         `muster node evict` lets it attest again"
    )]
    Once,
}

impl Why {
    fn status(self) -> Status {
        match self {
            Self::Banned => status::node_refused(self.to_string(), policy::NodeRefusal::Banned),
            Self::Once => Status::permission_denied(self.to_string()),
        }
    }
}

/// Whether a node of that row, if there is one, may be admitted, and as of when it counts as joined.
///
/// An attestor whose nodes cannot attest again tells who was first, and everyone later may be
/// somebody else with the same evidence. As with a join token, the holder of the same key may come
/// once more within minutes: its SVID may not have reached its disk.
fn may_come_in(
    before: Option<&Node>,
    can_reattest: bool,
    key: &str,
    now: Timestamp,
) -> Result<Timestamp, Why> {
    lifecycle::may_attest(before).map_err(|_banned| Why::Banned)?;
    if can_reattest || before.is_none() {
        return Ok(now);
    }
    let joined = lifecycle::may_join_again(before, key, now).ok_or(Why::Once)?;
    Ok(joined.at)
}

/// Notes why there is no attestation, and says as much of it as a stranger is told.
fn refused(
    server: &Server,
    op: &Operation<policy::AttestAgent>,
    kind: &'static str,
    subject: String,
    error: &NodeAttestError,
) -> Status {
    tracing::warn!(attestor = kind, %error, "a node is not attested");
    let mut note: Record = op.record(Event::NodeAttested, subject);
    note.decision = Decision::Refused;
    server.refusals.note(
        note.with("attestation_type", kind)
            .with("reason", error.to_string()),
    );
    let told = |what: &str| format!("failed to attest: {kind} {what}; the server's log says why");
    match error {
        NodeAttestError::Refused(_) => Status::permission_denied(told("refuses the node")),
        NodeAttestError::Malformed(_) => {
            Status::invalid_argument(told("cannot read what the node sent"))
        }
        NodeAttestError::Unavailable(_) => {
            Status::unavailable(told("could not come to a conclusion"))
        }
    }
}
