//! How the node gets its own SVID: by attestation once, then by renewal with the one it holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_attest::node::join_token::{self, JoinTokenNode};
use muster_attest::node::plugin::MAX_ROUNDS;
use muster_crypto::{KeyError, KeyType, PrivateKey, Purpose};
use muster_model::{Bundle, SpiffeId, Timestamp};
use muster_plugin::node::{NodeAttestError, NodeAttestor, Proof};
use muster_policy::NodeRefusal;
use muster_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use muster_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, RenewAgentRequest, attest_agent_request,
    attest_agent_response,
};
use muster_proto::spire::api::server::bundle::v1::GetBundleRequest;
use muster_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use muster_proto::spire::api::types;
use muster_rt::files;
use muster_svid::bundle_file;
use muster_svid::x509::{
    Certificate, DraftError, Role, SvidError, VerifyError, X509Svid, build_csr, verify,
};
use muster_tls::Rejected;
use muster_wire::trace::TraceId;
use muster_wire::{bundle as wire_bundle, status as wire_status};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::config::{FirstTrust, Join, Token};
use crate::material::is_node_of;
use crate::state::{State, StateError};
use crate::upstream::{MESSAGE_MAX, Upstream, UpstreamError};

/// The longest that one exchange with the server may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(30);
/// The node's own key; the workloads' type is the operator's choice, this one is not seen by them.
const KEY_TYPE: KeyType = KeyType::EcP256;

/// Why the node has no SVID, or no new one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// There is nothing to join with.
    #[error(
        "the node has no SVID and no join token; make one with `muster token create` and set join.token_file or join.token, or set join.plugin"
    )]
    NoToken,
    /// There is nothing to know the server by.
    #[error(
        "the node has no bundle to know its server by; write one with `muster bundle show` and set join.bundle, or set join.insecure_bootstrap = true to believe whoever answers"
    )]
    NoTrust,
    /// The token's file cannot be read.
    #[error("join.token_file {path}: {why}")]
    TokenFile {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The bundle's file cannot be used.
    #[error("join.bundle {path}: {why}")]
    BundleFile {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The server said no; asking again does not help.
    #[error("the server refused the node: {0}")]
    Refused(String),
    /// The node's own attestor has nothing to show.
    #[error("the node cannot be attested: {0}")]
    NoProof(String),
    /// The server was not there, or had no answer; it may have one later.
    #[error("{0}")]
    Unavailable(String),
    /// What the server answered is not what was asked for.
    #[error("the server's answer is not believed: {0}")]
    Lie(Lie),
    /// The node's own files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The node's own keys.
    #[error("the node cannot make a key or a request: {0}")]
    Key(String),
    /// The node's own connection.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// In what way an answer is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lie {
    #[error("there is no SVID in it")]
    NoSvid,
    #[error("its SVID: {0}")]
    Svid(#[from] SvidError),
    #[error("its chain: {0}")]
    Chain(#[from] VerifyError),
    #[error("{0} is not a node of this trust domain")]
    NotANode(SpiffeId),
    #[error("it names {found}, and the node is {expected}")]
    OtherNode { expected: SpiffeId, found: SpiffeId },
    #[error("its bundle cannot be read: {0}")]
    Bundle(String),
    #[error("it ended without a result")]
    NoResult,
    #[error("there are more than {MAX_ROUNDS} challenges in it")]
    NoEnd,
}

impl AskError {
    /// What it comes to for a node that is being attested by the attestor `kind`.
    pub(crate) fn of_attesting(self, kind: &str) -> JoinError {
        match self {
            Self::Server(status) => refused(&status, kind),
            Self::Join(error) => error,
        }
    }

    /// Whether the server does not take the SVID that the node showed, and why.
    ///
    /// A handshake that failed for the SVID's age is believed only if the node's own clock agrees:
    /// in TLS 1.2 whoever sits on the path can say so as well.
    pub(crate) fn refusal(&self, upstream: &Upstream, state: &State) -> Option<NodeRefusal> {
        let Self::Server(status) = self else {
            return None;
        };
        let now = upstream.clock().now().wall;
        let expired = state.svid().is_some_and(|svid| svid.is_expired_at(now));
        wire_status::node_refusal(status).or_else(|| match upstream.rejected() {
            Some(Rejected::OursExpired) if expired => Some(NodeRefusal::Expired),
            Some(Rejected::OursExpired | Rejected::OursUnknown | Rejected::TheirsUnknown)
            | None => None,
        })
    }
}

impl JoinError {
    /// Whether trying again later can help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Lie(_) => true,
            Self::NoToken
            | Self::NoTrust
            | Self::TokenFile { .. }
            | Self::BundleFile { .. }
            | Self::Refused(_)
            | Self::NoProof(_)
            | Self::State(_)
            | Self::Key(_)
            | Self::Upstream(_) => false,
        }
    }
}

impl From<KeyError> for JoinError {
    fn from(error: KeyError) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<DraftError> for JoinError {
    fn from(error: DraftError) -> Self {
        Self::Key(error.to_string())
    }
}

/// The attestor that the configuration names: `plugin`, if there is one, else a token.
pub(crate) fn attestor(
    join: &Join,
    plugin: Option<&Arc<dyn NodeAttestor>>,
) -> Result<Arc<dyn NodeAttestor>, JoinError> {
    if let Some(plugin) = plugin {
        return Ok(plugin.clone());
    }
    match &join.token {
        None => Err(JoinError::NoToken),
        Some(Token::Given(token)) => {
            Ok(Arc::new(JoinTokenNode::new(token.expose(Purpose::Compare))))
        }
        Some(Token::File(path)) => {
            let content = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(|e| {
                JoinError::TokenFile {
                    path: path.display().to_string(),
                    why: e.to_string(),
                }
            })?);
            Ok(Arc::new(JoinTokenNode::new(&content)))
        }
    }
}

/// Loads what the node knows its server by: the bundle it kept, else the one it is given.
/// Returns whether there is one.
pub(crate) fn load_trust(
    state: &State,
    join: &Join,
    upstream: &Upstream,
) -> Result<bool, JoinError> {
    if let Some(bundle) = state.bundle()? {
        upstream.trust().set(bundle);
        return Ok(true);
    }
    match &join.trust {
        FirstTrust::Bundle(path) => {
            let bundle = read_bundle(path, upstream).map_err(|why| JoinError::BundleFile {
                path: path.display().to_string(),
                why,
            })?;
            upstream.trust().set(bundle);
            Ok(true)
        }
        FirstTrust::Insecure => Ok(false),
        FirstTrust::Nothing => Err(JoinError::NoTrust),
    }
}

/// Reads a bundle file: PEM certificates, or a SPIFFE bundle document.
fn read_bundle(path: &Path, upstream: &Upstream) -> Result<Bundle, String> {
    let content = std::fs::read(path).map_err(|e| e.to_string())?;
    let trust_domain = upstream.trust_domain().clone();
    let bundle = bundle_file::read(&content, trust_domain).map_err(|e| e.to_string())?;
    if bundle.x509_authorities.is_empty() {
        return Err("there is no X.509 authority in it".to_owned());
    }
    Ok(bundle)
}

/// The end of a certificate's validity.
pub(crate) fn not_after(der: &[u8]) -> Option<Timestamp> {
    Certificate::parse(der).ok().map(|c| c.not_after)
}

/// Attests the node: makes a key, keeps it, proves itself, checks the answer, keeps the SVID.
///
/// Persist before publish: the key is durable before its CSR leaves, and the SVID before it is
/// shown to anyone.
pub(crate) async fn attest(
    upstream: &Upstream,
    state: &mut State,
    attestor: &dyn NodeAttestor,
) -> Result<(), AskError> {
    let channel = match upstream.trust().bundle() {
        Some(_) => upstream.channel(),
        None => upstream
            .insecure()
            .map_err(|error| JoinError::from(UpstreamError::from(error)))?,
    };
    // The key of an attempt before: if the server used up the token for it, it takes it once more.
    let csr = match state.pending() {
        Some(key) => build_csr(key, None).map_err(JoinError::from)?,
        None => new_key(state)?,
    };
    let (svid, reattests) = timed(exchange(&channel, attestor, csr)).await?;
    if upstream.trust().bundle().is_none() {
        upstream
            .trust()
            .set(fetch_bundle(&channel, upstream).await?);
    }
    Ok(adopt(upstream, state, svid.as_ref(), None, reattests)?)
}

/// Renews the node's SVID with the one it holds; a new key each time.
pub(crate) async fn renew(upstream: &Upstream, state: &mut State) -> Result<(), AskError> {
    let id = state
        .svid()
        .map(|svid| svid.spiffe_id.clone())
        .ok_or(JoinError::NoToken)?;
    let csr = new_key(state)?;
    let request = RenewAgentRequest {
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    let mut client = AgentClient::new(upstream.channel());
    let trace = TraceId::new();
    tracing::debug!(trace_id = %trace, node_id = %id, "renewing the node's SVID");
    let asked = client.renew_agent(trace.request(request));
    let renewed = tokio::time::timeout(RPC_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_elapsed| Err(timeout()))
        .map_err(AskError::Server)?;
    let svid = renewed.into_inner().svid;
    Ok(adopt(upstream, state, svid.as_ref(), Some(&id), false)?)
}

/// Why an attestation or a renewal failed: the server's own word is told apart, for it may say that the node is
/// finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{}", crate::words::status(.0))]
    Server(Status),
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// A new key on the disk, and a CSR for it.
fn new_key(state: &mut State) -> Result<Vec<u8>, JoinError> {
    let key = PrivateKey::generate(KEY_TYPE)?;
    let csr = build_csr(&key, None)?;
    state.keep_pending(key)?;
    Ok(csr)
}

/// Proves the node to the server; its SVID, and whether it will prove itself again for the next one.
async fn exchange(
    channel: &Channel,
    attestor: &dyn NodeAttestor,
    csr: Vec<u8>,
) -> Result<(Option<types::X509svid>, bool), AskError> {
    let Proof {
        payload,
        mut answers,
    } = attestor.begin().await.map_err(attestor_failed)?;
    let (requests, receiver) = mpsc::channel(1);
    let first = attest_agent_request::Step::Params(attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: attestor.kind().to_owned(),
            payload: payload.into(),
        }),
        params: Some(AgentX509svidParams { csr: csr.into() }),
    });
    let closed = |_closed| JoinError::Lie(Lie::NoResult);
    requests
        .send(AttestAgentRequest { step: Some(first) })
        .await
        .map_err(closed)?;
    let mut client = AgentClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX);
    let trace = TraceId::new();
    tracing::debug!(trace_id = %trace, attestor = attestor.kind(), "attesting the node");
    let mut steps = client
        .attest_agent(trace.request(ReceiverStream::new(receiver)))
        .await
        .map_err(AskError::Server)?
        .into_inner();
    // One more than the challenges that a plugin may send: the last is the result.
    for _round in 0..=MAX_ROUNDS {
        let step = steps.message().await.map_err(AskError::Server)?;
        match step.and_then(|a| a.step) {
            Some(attest_agent_response::Step::Result(result)) => {
                return Ok((result.svid, result.reattestable));
            }
            Some(attest_agent_response::Step::Challenge(challenge)) => {
                let response = answers.respond(&challenge).await.map_err(attestor_failed)?;
                let step = attest_agent_request::Step::ChallengeResponse(response.into());
                requests
                    .send(AttestAgentRequest { step: Some(step) })
                    .await
                    .map_err(closed)?;
            }
            None => return Err(JoinError::Lie(Lie::NoResult).into()),
        }
    }
    Err(JoinError::Lie(Lie::NoEnd).into())
}

async fn timed<T>(work: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
    tokio::time::timeout(RPC_TIMEOUT, work)
        .await
        .unwrap_or_else(|_elapsed| Err(AskError::Server(timeout())))
}

fn timeout() -> Status {
    Status::deadline_exceeded(format!(
        "the server did not answer within {} s",
        RPC_TIMEOUT.as_secs()
    ))
}

fn attestor_failed(error: NodeAttestError) -> JoinError {
    match error {
        NodeAttestError::Unavailable(why) => JoinError::Unavailable(why),
        NodeAttestError::Refused(why) | NodeAttestError::Malformed(why) => JoinError::NoProof(why),
    }
}

/// What the server's status means for the attestation. Codes that speak of the request itself are
/// final; the rest may pass.
fn refused(status: &Status, kind: &str) -> JoinError {
    let remedy = if kind == join_token::KIND {
        "make a new token with `muster token create`".to_owned()
    } else {
        format!(
            "see that the server has a [[node.plugin]] called {kind}, and that it admits this machine"
        )
    };
    match status.code() {
        Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::NotFound
        | Code::AlreadyExists => {
            JoinError::Refused(format!("{}; {remedy}", crate::words::status(status)))
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => JoinError::Unavailable(crate::words::status(status)),
    }
}

/// The server's bundle, for a node that had none.
async fn fetch_bundle(channel: &Channel, upstream: &Upstream) -> Result<Bundle, JoinError> {
    let mut client = BundleClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX);
    let request = GetBundleRequest::default();
    let answer = tokio::time::timeout(RPC_TIMEOUT, client.get_bundle(request))
        .await
        .unwrap_or_else(|_elapsed| Err(timeout()))
        .map_err(|status| JoinError::Unavailable(crate::words::status(&status)))?
        .into_inner();
    let bundle = wire_bundle::read(&answer, not_after)
        .map_err(|e| JoinError::Lie(Lie::Bundle(e.to_string())))?;
    if bundle.trust_domain != *upstream.trust_domain() || bundle.x509_authorities.is_empty() {
        let why = format!("it is not one of {}", upstream.trust_domain());
        return Err(JoinError::Lie(Lie::Bundle(why)));
    }
    Ok(bundle)
}

/// Checks a new SVID in every respect, keeps it, and shows it from then on.
fn adopt(
    upstream: &Upstream,
    state: &mut State,
    answer: Option<&types::X509svid>,
    expected: Option<&SpiffeId>,
    reattests: bool,
) -> Result<(), JoinError> {
    let answer = answer.ok_or(JoinError::Lie(Lie::NoSvid))?;
    let bundle = upstream.trust().bundle().ok_or(JoinError::NoTrust)?;
    let key = state.pending().ok_or(JoinError::Lie(Lie::NoSvid))?;
    let now = upstream.clock().now().wall;
    let svid = check(answer, key, &bundle, expected, now).map_err(JoinError::Lie)?;
    let file = state.bundle_file();
    file.write(&bundle)?;
    // Persist before publish.
    state.keep_svid(svid.clone(), reattests)?;
    upstream.show(&svid)?;
    Ok(())
}

fn check(
    answer: &types::X509svid,
    key: &PrivateKey,
    bundle: &Arc<Bundle>,
    expected: Option<&SpiffeId>,
    now: Timestamp,
) -> Result<X509Svid, Lie> {
    let chain = answer.cert_chain.iter().map(|der| der.to_vec()).collect();
    let svid = X509Svid::new(chain, key)?;
    // A clock that is a little behind the server's is no reason to refuse what it just signed.
    verify(&svid.chain, bundle, Role::Client, now.max(svid.not_before))?;
    if !is_node_of(&svid.spiffe_id, &bundle.trust_domain) {
        return Err(Lie::NotANode(svid.spiffe_id));
    }
    match expected {
        Some(expected) if *expected != svid.spiffe_id => Err(Lie::OtherNode {
            expected: expected.clone(),
            found: svid.spiffe_id,
        }),
        _ => Ok(svid),
    }
}

/// Reads a join token's or bundle's file only when it is there; used by the configuration check.
pub(crate) fn check_files(join: &Join) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(Token::File(path)) = &join.token
        && let Err(error) = files::read_private(path)
    {
        warnings.push(format!("join.token_file: {error}"));
    }
    if let FirstTrust::Bundle(path) = &join.trust
        && let Err(error) = std::fs::metadata(path)
    {
        warnings.push(format!("join.bundle {}: {error}", path.display()));
    }
    warnings
}
