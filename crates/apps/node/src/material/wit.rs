//! WIT-SVIDs as the roster sees them.

use std::sync::Arc;

use muster_crypto::{PrivateKey, PublicKey, Secret};
use muster_model::{SpiffeId, Timestamp, WitAuthority};
use muster_roster::WitMaterial;
use muster_svid::lifetime::renew_jwt_at;
use muster_svid::wit::{ParsedWit, WitError};

/// A WIT-SVID that the node holds for an entry, with the key to which it is bound.
pub(crate) struct HeldWit {
    pub(crate) token: String,
    /// The private key, JWK (WIT-18).
    pub(crate) key: Secret<String>,
    spiffe_id: SpiffeId,
    token_id: String,
    key_id: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
    renew_at: Timestamp,
    /// SubjectPublicKeyInfo of the key that verified the token on arrival.
    verified_with: Option<Arc<[u8]>>,
}

/// Why a WIT-SVID that the server sent is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeldWitError {
    /// It has not the form of one.
    #[error(transparent)]
    Wit(#[from] WitError),
    /// It is bound to another key than the one that was sent.
    #[error("the token is bound to another key than the one that was sent")]
    OtherKey,
    /// A claim that our servers always set.
    #[error("the token's claim {0:?} is missing or of the wrong type")]
    Claim(&'static str),
    /// The key has no JWK.
    #[error("the workload's key: {0}")]
    Key(#[from] muster_crypto::KeyError),
}

impl HeldWit {
    /// Reads a token that the server signed for `key` and checks it against the keys that are known
    /// now; `node` spreads renewals.
    pub(crate) fn new(
        token: String,
        key: &PrivateKey,
        authorities: &[WitAuthority],
        node: &SpiffeId,
    ) -> Result<Self, HeldWitError> {
        let wit = ParsedWit::parse(&token)?;
        // WIT-18: what the workload gets belongs together.
        if wit.confirmation != *key.public_key() {
            return Err(HeldWitError::OtherKey);
        }
        let issued_at = wit.issued_at().ok_or(HeldWitError::Claim("iat"))?;
        let token_id = wit.token_id().ok_or(HeldWitError::Claim("jti"))?.to_owned();
        let seed = format!("{node} {token_id}");
        Ok(Self {
            key: key.to_private_jwk()?,
            spiffe_id: wit.spiffe_id.clone(),
            token_id,
            key_id: wit.key_id.clone(),
            issued_at,
            expires_at: wit.expires_at,
            renew_at: renew_jwt_at(issued_at, wit.expires_at, seed.as_bytes()),
            verified_with: signing(&wit, authorities).map(|key| key.public_key.clone()),
            token,
        })
    }
}

impl WitMaterial for HeldWit {
    fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    fn token_id(&self) -> &str {
        &self.token_id
    }

    fn authority_id(&self) -> &str {
        &self.key_id
    }

    fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    fn verified_by<'a>(&self, authorities: &'a [WitAuthority]) -> Option<&'a WitAuthority> {
        authorities
            .iter()
            .find(|a| a.key_id == self.key_id && self.verified_with.as_ref() == Some(&a.public_key))
            .or_else(|| signing(&ParsedWit::parse(&self.token).ok()?, authorities))
    }
}

fn signing<'a>(wit: &ParsedWit<'_>, authorities: &'a [WitAuthority]) -> Option<&'a WitAuthority> {
    authorities.iter().find(|authority| {
        authority.key_id == wit.key_id
            && PublicKey::from_spki_der(&authority.public_key)
                .is_ok_and(|key| wit.is_signed_by(&key))
    })
}
