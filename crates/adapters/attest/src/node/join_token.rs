//! Attestation by a one-time token that the server made: the node's half.
//!
//! The payload is the token itself, and the server asks nothing further.

use std::fmt;

use async_trait::async_trait;
use muster_plugin::node::{NodeAnswers, NodeAttestError, NodeAttestor, Proof};
use zeroize::Zeroizing;

/// The attestor's name on the wire.
pub const KIND: &str = "join_token";

/// Shows a join token. The server takes it once.
pub struct JoinTokenNode {
    token: Zeroizing<String>,
}

impl JoinTokenNode {
    /// Will show `token`, without blanks around it.
    pub fn new(token: &str) -> Self {
        Self {
            token: Zeroizing::new(token.trim().to_owned()),
        }
    }
}

impl fmt::Debug for JoinTokenNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenNode").finish_non_exhaustive()
    }
}

#[async_trait]
impl NodeAttestor for JoinTokenNode {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn begin(&self) -> Result<Proof, NodeAttestError> {
        if self.token.is_empty() {
            return Err(NodeAttestError::Malformed(
                "the join token is empty; make one with `muster token create`".to_owned(),
            ));
        }
        Ok(Proof {
            payload: self.token.as_bytes().to_vec(),
            answers: Box::new(NoAnswers),
        })
    }
}

struct NoAnswers;

#[async_trait]
impl NodeAnswers for NoAnswers {
    async fn respond(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        Err(NodeAttestError::Refused(
            "the server sent a challenge, and join_token has none; is it a server of this trust domain?"
                .to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shows_the_token_and_nothing_else() {
        let node = JoinTokenNode::new(" abc-123\n");
        assert_eq!(node.kind(), "join_token");
        let mut proof = node.begin().await.unwrap();
        assert_eq!(proof.payload, b"abc-123");
        assert!(matches!(
            proof.answers.respond(b"?").await,
            Err(NodeAttestError::Refused(_))
        ));
        assert!(matches!(
            JoinTokenNode::new("").begin().await.err(),
            Some(NodeAttestError::Malformed(_))
        ));
    }

    #[test]
    fn does_not_show_the_token_to_logs() {
        assert!(!format!("{:?}", JoinTokenNode::new("abc-123")).contains("abc"));
    }
}
