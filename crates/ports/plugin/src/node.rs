//! The node attestor port, in its two halves: the node proves, the server concludes.
//!
//! The exchange is SPIRE's AttestAgent stream: a payload, then any number of challenges and
//! responses.

use async_trait::async_trait;
use muster_model::{Selector, SpiffeId};

/// Why an attestation did not succeed. The texts are for the log of the half that made them.
#[derive(Debug, thiserror::Error)]
pub enum NodeAttestError {
    /// The evidence is well-formed and not accepted; trying the same again will not help.
    #[error("{0}")]
    Refused(String),
    /// The evidence cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// Something needed for the decision is away; the node may try again.
    #[error("{0}")]
    Unavailable(String),
}

/// What the server concluded about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAttestation {
    /// `spiffe://TD/spire/agent/...`.
    pub id: SpiffeId,
    /// What else is known about the node.
    pub selectors: Vec<Selector>,
    /// Whether the node can prove itself again at any time.
    pub can_reattest: bool,
}

/// The other end of an attestation, as the server's half sees it.
#[async_trait]
pub trait NodeChallenge: Send {
    /// Sends a challenge and awaits the node's response.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError>;
}

/// The server's half of a node attestor.
#[async_trait]
pub trait ServerNodeAttestor: Send + Sync + 'static {
    /// The attestor's name on the wire, such as `x509pop`.
    fn kind(&self) -> &'static str;

    /// Concludes from `payload`, asking the node through `challenge` as often as needed.
    async fn attest(
        &self,
        payload: &[u8],
        challenge: &mut dyn NodeChallenge,
    ) -> Result<NodeAttestation, NodeAttestError>;
}

/// The node's half of a node attestor.
#[async_trait]
pub trait NodeAttestor: Send + Sync + 'static {
    /// The attestor's name on the wire.
    fn kind(&self) -> &'static str;

    /// Begins one attestation. It may be given up at any point.
    async fn begin(&self) -> Result<Proof, NodeAttestError>;
}

/// One attestation, from the node's side.
pub struct Proof {
    /// The first message: what the node has to show. It may be a secret.
    pub payload: Vec<u8>,
    /// Who answers the server's challenges.
    pub answers: Box<dyn NodeAnswers>,
}

/// Answers the challenges of one attestation.
#[async_trait]
pub trait NodeAnswers: Send {
    /// Answers a challenge of the server.
    async fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError>;
}
