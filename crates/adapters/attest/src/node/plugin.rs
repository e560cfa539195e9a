//! Node attestors in programs of their own, both halves.
//!
//! Whatever the server's half concludes, the node's ID is below the plugin's own name, and so are its
//! selectors: no plugin can admit a node as another attestor's.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use muster_model::{SpiffeId, TrustDomain};
use muster_plugin::node::{
    NodeAnswers, NodeAttestError, NodeAttestation, NodeAttestor, NodeChallenge, Proof,
    ServerNodeAttestor,
};
use muster_proto::muster::plugin::v1::node_attestor_client::NodeAttestorClient;
use muster_proto::muster::plugin::v1::server_node_attestor_client::ServerNodeAttestorClient;
use muster_proto::muster::plugin::v1::{
    ConcludeBegin, ConcludeRequest, ConcludeResponse, Conclusion, ProveBegin, ProveRequest,
    ProveResponse, conclude_request, conclude_response, prove_request, prove_response,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::join_token;
use crate::plugin::{
    BadPluginName, Host, MAX_MESSAGE, PluginName, PluginOptions, selectors, words,
};

/// How long a plugin may take for each of its messages, its start included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many attestations a plugin is asked for at once.
const AT_ONCE: usize = 256;
/// The largest payload, challenge or response, in bytes.
pub const MAX_PART: usize = 64 * 1024;
/// The most challenges in one attestation.
pub const MAX_ROUNDS: usize = 16;
/// How its socket is called after its name. No name has a dot, so no workload attestor's is the
/// same.
const ENDING: &str = ".node.sock";

/// The name of a node attestor's plugin: none that Muster itself has.
pub fn name(text: &str) -> Result<PluginName, BadPluginName> {
    PluginName::parse_beside(text, &[join_token::KIND])
}

/// The node's half, in another program.
#[derive(Debug)]
pub struct PluginNode {
    host: Host,
    trust_domain: TrustDomain,
}

impl PluginNode {
    /// The attestor that `options` tell of, for a node of `trust_domain`. A program is started at
    /// once, within a Tokio runtime; its socket is made in `folder`, which only the node may enter.
    /// It ends with this value.
    pub fn new(options: PluginOptions, folder: &Path, trust_domain: TrustDomain) -> Self {
        Self {
            host: Host::new(options, folder, ENDING, AT_ONCE),
            trust_domain,
        }
    }

    async fn open(&self) -> Result<Talk<ProveRequest, ProveResponse>, NodeAttestError> {
        let channel = self
            .host
            .channel()
            .await
            .map_err(NodeAttestError::Unavailable)?;
        let begin = prove_request::Step::Begin(ProveBegin {
            trust_domain: self.trust_domain.as_str().to_owned(),
        });
        let (questions, stream) = first(ProveRequest { step: Some(begin) })?;
        let answers = NodeAttestorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .prove(stream)
            .await
            .map_err(|status| failed(&status))?
            .into_inner();
        Ok(Talk { questions, answers })
    }
}

#[async_trait]
impl NodeAttestor for PluginNode {
    fn kind(&self) -> &'static str {
        self.host.name()
    }

    async fn begin(&self) -> Result<Proof, NodeAttestError> {
        let mut talk = in_time(self.open()).await?;
        match talk.hear().await?.and_then(|message| message.step) {
            Some(prove_response::Step::Payload(payload)) => Ok(Proof {
                payload: bounded("payload", payload.into())?,
                answers: Box::new(talk),
            }),
            Some(prove_response::Step::Response(_)) | None => {
                Err(nonsense("the plugin does not begin with a payload"))
            }
        }
    }
}

#[async_trait]
impl NodeAnswers for Talk<ProveRequest, ProveResponse> {
    async fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        let step = prove_request::Step::Challenge(challenge.to_vec().into());
        self.say(ProveRequest { step: Some(step) }).await?;
        match self.hear().await?.and_then(|message| message.step) {
            Some(prove_response::Step::Response(response)) => bounded("response", response.into()),
            Some(prove_response::Step::Payload(_)) | None => {
                Err(nonsense("the plugin has no response to the challenge"))
            }
        }
    }
}

/// The server's half, in another program.
#[derive(Debug)]
pub struct PluginServer {
    host: Host,
    trust_domain: TrustDomain,
}

impl PluginServer {
    /// The attestor that `options` tell of, for nodes of `trust_domain`. A program is started at
    /// once, within a Tokio runtime; its socket is made in `folder`, which only the server may enter.
    /// It ends with this value.
    pub fn new(options: PluginOptions, folder: &Path, trust_domain: TrustDomain) -> Self {
        Self {
            host: Host::new(options, folder, ENDING, AT_ONCE),
            trust_domain,
        }
    }

    async fn open(
        &self,
        payload: Vec<u8>,
    ) -> Result<Talk<ConcludeRequest, ConcludeResponse>, NodeAttestError> {
        let channel = self
            .host
            .channel()
            .await
            .map_err(NodeAttestError::Unavailable)?;
        let begin = conclude_request::Step::Begin(ConcludeBegin {
            trust_domain: self.trust_domain.as_str().to_owned(),
            payload: payload.into(),
        });
        let (questions, stream) = first(ConcludeRequest { step: Some(begin) })?;
        let answers = ServerNodeAttestorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .conclude(stream)
            .await
            .map_err(|status| failed(&status))?
            .into_inner();
        Ok(Talk { questions, answers })
    }
}

#[async_trait]
impl ServerNodeAttestor for PluginServer {
    fn kind(&self) -> &'static str {
        self.host.name()
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenge: &mut dyn NodeChallenge,
    ) -> Result<NodeAttestation, NodeAttestError> {
        let payload = from_node("payload", payload.to_vec())?;
        let _place = in_time(async { Ok(self.host.place().await) }).await?;
        let mut talk = in_time(self.open(payload)).await?;
        for _round in 0..=MAX_ROUNDS {
            match talk.hear().await?.and_then(|message| message.step) {
                Some(conclude_response::Step::Challenge(question)) => {
                    let question = bounded("challenge", question.into())?;
                    let response = from_node("response", challenge.challenge(question).await?)?;
                    let step = conclude_request::Step::Response(response.into());
                    talk.say(ConcludeRequest { step: Some(step) }).await?;
                }
                Some(conclude_response::Step::Conclusion(conclusion)) => {
                    return believed(self.host.name(), &self.trust_domain, conclusion);
                }
                None => return Err(nonsense("the plugin ends without a conclusion")),
            }
        }
        Err(NodeAttestError::Unavailable(format!(
            "the plugin asks more than {MAX_ROUNDS} times"
        )))
    }
}

/// What a plugin concluded, if it is within what it may conclude.
fn believed(
    name: &'static str,
    trust_domain: &TrustDomain,
    conclusion: Conclusion,
) -> Result<NodeAttestation, NodeAttestError> {
    let wrong = |why: String| NodeAttestError::Unavailable(format!("the plugin concludes {why}"));
    let shown: String = conclusion.spiffe_id.chars().take(200).collect();
    let id = SpiffeId::parse(&conclusion.spiffe_id)
        .map_err(|error| wrong(format!("the ID {shown:?}, which is none: {error}")))?;
    let own = format!("/spire/agent/{name}/");
    if id.trust_domain() != trust_domain || !id.path().starts_with(&own) {
        return Err(wrong(format!(
            "the ID {shown:?}; it may name only nodes below spiffe://{trust_domain}{own}"
        )));
    }
    let selectors =
        selectors(name, conclusion.selector_values).map_err(NodeAttestError::Unavailable)?;
    Ok(NodeAttestation {
        id,
        selectors,
        can_reattest: conclusion.can_reattest,
    })
}

/// One attestation with a plugin.
struct Talk<Q, A> {
    questions: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

impl<Q, A> Talk<Q, A> {
    async fn say(&mut self, question: Q) -> Result<(), NodeAttestError> {
        in_time(async {
            let said = self.questions.send(question).await;
            said.map_err(|_closed| nonsense("the plugin does not listen any more"))
        })
        .await
    }

    async fn hear(&mut self) -> Result<Option<A>, NodeAttestError> {
        let answers = &mut self.answers;
        in_time(async { answers.message().await.map_err(|status| failed(&status)) }).await
    }
}

/// The plugin's questions, the first of which is there before anyone waits for an answer: gRPC in
/// some languages says nothing before that.
fn first<Q>(question: Q) -> Result<(mpsc::Sender<Q>, ReceiverStream<Q>), NodeAttestError> {
    let (questions, receiver) = mpsc::channel(1);
    questions
        .try_send(question)
        .map_err(|_full| nonsense("the plugin cannot be asked"))?;
    Ok((questions, ReceiverStream::new(receiver)))
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, NodeAttestError>>,
) -> Result<T, NodeAttestError> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_elapsed| {
        Err(NodeAttestError::Unavailable(format!(
            "the plugin does not answer within {} s",
            PATIENCE.as_secs()
        )))
    })
}

/// A part of a plugin's making, if it is not too large.
fn bounded(what: &str, part: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
    if part.len() > MAX_PART {
        return Err(NodeAttestError::Unavailable(format!(
            "the plugin's {what} has {} bytes, and at most {MAX_PART} are taken",
            part.len()
        )));
    }
    Ok(part)
}

/// A part of a node's making, if it is not too large.
fn from_node(what: &str, part: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
    if part.len() > MAX_PART {
        return Err(NodeAttestError::Malformed(format!(
            "the node's {what} has {} bytes, and at most {MAX_PART} are taken",
            part.len()
        )));
    }
    Ok(part)
}

fn nonsense(why: &str) -> NodeAttestError {
    NodeAttestError::Unavailable(why.to_owned())
}

/// What a plugin's status comes to.
fn failed(status: &Status) -> NodeAttestError {
    let words = words(status);
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => NodeAttestError::Malformed(words),
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists => NodeAttestError::Refused(words),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => NodeAttestError::Unavailable(words),
    }
}

#[cfg(test)]
mod tests;
