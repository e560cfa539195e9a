//! Nodes: attested machines, and the tokens by which they join.

use std::fmt;

use crate::{Revision, SelectorSet, SpiffeId, Timestamp};

/// The serial number of an X.509 certificate in decimal, as SPIRE's API writes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber(String);

impl SerialNumber {
    /// From the big-endian bytes of the certificate's INTEGER.
    pub fn from_be_bytes(bytes: &[u8]) -> Self {
        // Schoolbook conversion: serials have at most 20 bytes.
        let mut digits: Vec<u8> = vec![0];
        for &byte in bytes {
            let mut carry = u32::from(byte);
            for digit in digits.iter_mut().rev() {
                let value = u32::from(*digit) * 256 + carry;
                *digit = u8::try_from(value % 10).unwrap_or(0);
                carry = value / 10;
            }
            while carry > 0 {
                digits.insert(0, u8::try_from(carry % 10).unwrap_or(0));
                carry /= 10;
            }
        }
        Self(digits.iter().map(|d| char::from(b'0' + d)).collect())
    }

    /// From decimal text that was stored before; `None` if it is not a number.
    pub fn from_decimal(text: &str) -> Option<Self> {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| Self(text.into()))
    }

    /// The decimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which certificate speaks for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeStanding {
    /// The node may speak with the certificate of this serial, and with the next once it has
    /// been issued: the old one stays good until the new one is first seen.
    Active {
        /// Serial of the certificate in use.
        serial: SerialNumber,
        /// When the certificate in use expires.
        expires_at: Timestamp,
        /// Serial and expiry of a renewed certificate that the node has not used yet.
        next: Option<(SerialNumber, Timestamp)>,
    },
    /// An operator banned the node: no certificate of it is good, and it may not attest again.
    Banned,
}

/// The use of a join token: within bounded time the same key may use it again, for a node that was
/// stopped before its SVID reached its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// SHA-256 of the SubjectPublicKeyInfo whose holder used the token, lower-case hex.
    pub key: String,
    /// When it was first used.
    pub at: Timestamp,
}

/// An attested node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `spiffe://TD/spire/agent/...`.
    pub id: SpiffeId,
    /// The node attestor's name, such as `join_token`.
    pub attestation_type: String,
    /// Which certificate speaks for the node.
    pub standing: NodeStanding,
    /// Whether the node can attest again by itself; if not, it renews with its certificate.
    pub can_reattest: bool,
    /// What the node was attested as.
    pub selectors: SelectorSet,
    /// The version that the node's daemon last reported, or empty.
    pub agent_version: String,
    /// How the node joined, where that was by a token that is used up now.
    pub joined: Option<Joined>,
    /// The transaction that last wrote the node.
    pub changed_at: Revision,
}

impl Node {
    /// Whether an operator banned the node.
    pub fn is_banned(&self) -> bool {
        self.standing == NodeStanding::Banned
    }
}

/// A one-time secret by which a node proves that an operator wanted it.
///
/// The token is itself the last segment of the node's ID in SPIRE's scheme, so it is a name as
/// well as a secret; it loses its power when it is used. It still does not show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The text that the node presents.
    pub value: String,
    /// When the token stops being good.
    pub expires_at: Timestamp,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_in_decimal() {
        let check = |bytes: &[u8], decimal: &str| {
            assert_eq!(SerialNumber::from_be_bytes(bytes).as_str(), decimal);
        };
        check(&[], "0");
        check(&[0], "0");
        check(&[255], "255");
        check(&[1, 0], "256");
        check(&[0xff; 16], "340282366920938463463374607431768211455");
        assert_eq!(SerialNumber::from_decimal("12x"), None);
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token = JoinToken {
            value: "hunter2".into(),
            expires_at: Timestamp::EPOCH,
        };
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
