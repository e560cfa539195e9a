//! AttestAgent: a node proves itself and receives its SVID.

mod plugin;

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Decision, Event};
use muster_crypto::{PublicKey, digest};
use muster_model::{Joined, SpiffeId, Timestamp};
use muster_policy as policy;
use muster_proto::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response,
};
use muster_proto::spire::api::types;
use muster_roll::Roll;
use muster_roll::node::{self as lifecycle, Attested, TokenUse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::api::node_svid::{self, Signed};
use crate::api::svid::parse_csr;
use crate::errors;
use crate::metrics;
use crate::operation::Operation;
use crate::server::Server;

/// How long a node may take from opening the stream to its last word.
const DEADLINE: Duration = Duration::from_mins(1);
/// How much of an attestor's name is repeated, in characters.
const MAX_KIND: usize = 64;
const JOIN_TOKEN: &str = "join_token";
const UNKNOWN_TOKEN: &str = "failed to attest: join token does not exist or has already been used";
const EXPIRED_TOKEN: &str = "failed to attest: join token expired";
const BANNED: &str = "failed to attest: agent is banned";

/// Answers one attestation stream.
pub(super) fn start(
    server: Arc<Server>,
    op: Operation<policy::AttestAgent>,
    requests: Streaming<AttestAgentRequest>,
) -> ReceiverStream<Result<AttestAgentResponse, Status>> {
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let outcome =
            match tokio::time::timeout(DEADLINE, attest(&server, op, requests, answers.clone()))
                .await
            {
                Ok(outcome) => outcome,
                Err(_) => Err(Status::deadline_exceeded(format!(
                    "the attestation took longer than {} s",
                    DEADLINE.as_secs()
                ))),
            };
        let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
        metrics::answered(<policy::AttestAgent as policy::Action>::ROW.method, code);
        // The node may be gone already.
        drop(answers.send(outcome).await);
    });
    ReceiverStream::new(receiver)
}

async fn attest(
    server: &Arc<Server>,
    op: Operation<policy::AttestAgent>,
    mut requests: Streaming<AttestAgentRequest>,
    answers: mpsc::Sender<Result<AttestAgentResponse, Status>>,
) -> Result<AttestAgentResponse, Status> {
    let first = requests.message().await?.and_then(|message| message.step);
    let Some(attest_agent_request::Step::Params(params)) = first else {
        return Err(Status::invalid_argument("malformed param: missing params"));
    };
    let data = params
        .data
        .ok_or_else(|| Status::invalid_argument("malformed param: missing attestation data"))?;
    let csr = params
        .params
        .ok_or_else(|| Status::invalid_argument("malformed param: missing X509-SVID parameters"))?;
    let csr = parse_csr(&csr.csr)?;
    match data.r#type.as_str() {
        "" => Err(Status::invalid_argument(
            "malformed param: missing attestation data type",
        )),
        JOIN_TOKEN => {
            let token = std::str::from_utf8(&data.payload).map_err(|_| {
                Status::invalid_argument("failed to attest: the join token is not text")
            })?;
            join(server, op, token, &csr.public_key).await
        }
        other => {
            let found = server.node_attestors.iter().find(|one| one.kind() == other);
            let Some(attestor) = found.map(Arc::clone) else {
                return Err(Status::failed_precondition(no_such_attestor(server, other)));
            };
            let challenges = plugin::Challenges::new(requests, answers);
            plugin::attest(
                server,
                op,
                &*attestor,
                &data.payload,
                challenges,
                &csr.public_key,
            )
            .await
        }
    }
}

fn no_such_attestor(server: &Server, kind: &str) -> String {
    let kind: String = kind.chars().take(MAX_KIND).collect();
    let mut have = format!("\"{JOIN_TOKEN}\"");
    for attestor in &server.node_attestors {
        have.extend([", \"", attestor.kind(), "\""]);
    }
    format!(
        "error getting node attestor: could not find node attestor type \"{kind}\"; this server has {have}"
    )
}

/// An SVID for a node that attested as one of `kind`.
async fn sign(
    server: &Server,
    op: &Operation<policy::AttestAgent>,
    id: &SpiffeId,
    public_key: &PublicKey,
    kind: &'static str,
) -> Result<Signed, Status> {
    let mut signed = node_svid::sign(server, op, id, public_key, Event::NodeAttested).await?;
    signed.record = signed.record.with("attestation_type", kind);
    Ok(signed)
}

fn admitted(svid: types::X509svid, reattestable: bool) -> AttestAgentResponse {
    AttestAgentResponse {
        step: Some(attest_agent_response::Step::Result(
            attest_agent_response::Result {
                svid: Some(svid),
                reattestable,
            },
        )),
    }
}

/// A node with a join token: presenting it uses it up, in the transaction that admits the node.
async fn join(
    server: &Arc<Server>,
    op: Operation<policy::AttestAgent>,
    token: &str,
    public_key: &PublicKey,
) -> Result<AttestAgentResponse, Status> {
    let id = server
        .trust_domain
        .with_path(&format!("/spire/agent/{JOIN_TOKEN}/{token}"))
        .map_err(|_| Status::invalid_argument(UNKNOWN_TOKEN))?;
    // A look before the signature, so that guessing costs the server nothing; the transaction
    // looks again.
    let key = digest::hex(&digest::sha256(public_key.spki_der()));
    let known = lifecycle::redeem(&op.roll, token, op.now);
    if known == TokenUse::Unknown && again(&op.roll, &id, &key, op.now).is_none() {
        return Err(refuse(server, &op, token, UNKNOWN_TOKEN));
    }
    // The name is the token's, so that one token has one place.
    let Signed {
        svid,
        issued,
        record: mut admission,
    } = sign(server, &op, &id, public_key, JOIN_TOKEN).await?;

    let refused = refusal(&op, token, EXPIRED_TOKEN);
    let value = token.to_owned();
    let node = id.clone();
    let written = server.roll.write(move |roll, transaction| {
        // The first use counts, however often it is repeated.
        let mut first_use = op.now;
        match lifecycle::redeem(roll, &value, op.now) {
            TokenUse::Unknown => {
                first_use = again(roll, &node, &key, op.now).ok_or(UNKNOWN_TOKEN)?;
                admission = admission.with("again", "same key");
            }
            TokenUse::Expired => {
                transaction.audit(refused);
                transaction.delete_join_token(&op.permit, value);
                return Err(EXPIRED_TOKEN);
            }
            TokenUse::Good => {}
        }
        let attested = Attested {
            id: node.clone(),
            attestation_type: JOIN_TOKEN.to_owned(),
            selectors: muster_model::SelectorSet::new(),
            can_reattest: false,
            joined: Some(Joined { key, at: first_use }),
        };
        let row = lifecycle::after_attest(roll.node(&node).map(AsRef::as_ref), attested, issued)
            .map_err(|_| BANNED)?;
        transaction.audit(admission);
        transaction.delete_join_token(&op.permit, value);
        transaction.put_node(&op.permit, row);
        Ok(())
    });
    let outcome = written.await.map_err(|error| errors::write(&error))?;
    outcome.map_err(|why| {
        if why == BANNED {
            Status::permission_denied(why)
        } else {
            Status::invalid_argument(why)
        }
    })?;
    tracing::info!(node_id = %id, "node attested by join token");
    Ok(admitted(svid, false))
}

/// When the token of node `id` was first used, if the holder of the key may use it again.
fn again(roll: &Roll, id: &SpiffeId, key: &str, now: Timestamp) -> Option<Timestamp> {
    let node = roll.node(id).map(AsRef::as_ref);
    lifecycle::may_join_again(node, key, now).map(|joined| joined.at)
}

fn refusal(op: &Operation<policy::AttestAgent>, token: &str, why: &str) -> muster_audit::Record {
    let digest = digest::hex(&digest::sha256(token.as_bytes()));
    let mut refused = op.record(Event::NodeAttested, digest);
    refused.decision = Decision::Refused;
    refused
        .with("attestation_type", JOIN_TOKEN)
        .with("reason", why)
}

fn refuse(
    server: &Server,
    op: &Operation<policy::AttestAgent>,
    token: &str,
    why: &'static str,
) -> Status {
    server.refusals.note(refusal(op, token, why));
    Status::invalid_argument(why)
}
