//! Bundles: what the signatures of a trust domain are verified with.

use std::fmt;
use std::sync::Arc;

use crate::{Revision, Timestamp, TrustDomain};

/// A root certificate of a trust domain.
#[derive(Clone, PartialEq, Eq)]
pub struct X509Authority {
    /// The certificate, DER.
    pub der: Arc<[u8]>,
    /// When the certificate expires.
    pub expires_at: Timestamp,
    /// Whether an operator declared its key compromised: still served, no longer signed with.
    pub tainted: bool,
}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Authority")
            .field("der_len", &self.der.len())
            .field("expires_at", &self.expires_at)
            .field("tainted", &self.tainted)
            .finish()
    }
}

/// A key that verifies the JWT-SVIDs of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    /// The `kid` by which tokens name the key; unique in the bundle, never reused.
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Arc<[u8]>,
    /// When the key stops signing and verifying; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Whether an operator declared the key compromised.
    pub tainted: bool,
}

/// A key that verifies the WIT-SVIDs of a trust domain, and nothing else (X509V-10, BND-16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitAuthority {
    /// The `kid` by which tokens name the key; unique among all keys of the bundle, JWT keys
    /// included, and never reused (WIT-05, WIT-16).
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Arc<[u8]>,
    /// When the key stops signing and verifying; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Whether an operator declared the key compromised.
    pub tainted: bool,
}

/// All that verifies a trust domain's SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle it is; the published document does not carry this name (BND-17).
    pub trust_domain: TrustDomain,
    /// Roots, oldest first.
    pub x509_authorities: Vec<X509Authority>,
    /// JWT keys, oldest first.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// WIT keys, oldest first; none where the profile is off.
    pub wit_authorities: Vec<WitAuthority>,
    /// How often consumers should look again, in seconds; 0 is unset.
    pub refresh_hint: i64,
    /// Grows with each change of the content (BND-03).
    pub sequence_number: u64,
    /// The transaction that last wrote the bundle.
    pub changed_at: Revision,
}

impl Bundle {
    /// A bundle with nothing in it.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            wit_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: 0,
            changed_at: Revision::default(),
        }
    }

    /// The roots as the Workload API writes them: DER, one after the other (WAPI-27).
    pub fn x509_concatenated(&self) -> Vec<u8> {
        self.x509_authorities
            .iter()
            .flat_map(|a| a.der.iter().copied())
            .collect()
    }
}
