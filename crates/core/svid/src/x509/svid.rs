//! An X509-SVID that we hold: the chain and its key.

use std::fmt;
use std::sync::Arc;

use muster_crypto::{KeyError, PrivateKey, Secret};
use muster_model::{SerialNumber, SpiffeId, Timestamp};

use super::certificate::{Certificate, CertificateError};
use super::verify::{VerifyError, check_leaf};

/// Why a chain and a key do not make an SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate in the chain.
    #[error("the chain is empty")]
    EmptyChain,
    /// The leaf is no good X509-SVID.
    #[error("the leaf certificate: {0}")]
    Leaf(#[from] VerifyError),
    /// A further certificate of the chain cannot be read.
    #[error("a certificate of the chain: {0}")]
    Chain(#[from] CertificateError),
    /// The key cannot be used.
    #[error("the private key: {0}")]
    Key(#[from] KeyError),
    /// The key is not that of the leaf.
    #[error("the private key does not belong to the leaf certificate")]
    KeyMismatch,
}

/// An identity with what proves it; cheap to clone, the key is shared.
#[derive(Clone)]
pub struct X509Svid {
    /// Whose SVID it is.
    pub spiffe_id: SpiffeId,
    /// The certificates, DER, leaf first, without the self-signed root.
    pub chain: Arc<[Vec<u8>]>,
    /// The key, PKCS #8 DER, as the Workload API hands it out (WAPI-24).
    pub key: Arc<Secret<Vec<u8>>>,
    /// From when the leaf is valid.
    pub not_before: Timestamp,
    /// Until when the leaf is valid.
    pub not_after: Timestamp,
    /// The leaf's serial number.
    pub serial: SerialNumber,
}

impl X509Svid {
    /// From a chain that was just signed for `key`.
    pub fn new(chain: Vec<Vec<u8>>, key: &PrivateKey) -> Result<Self, SvidError> {
        let pkcs8 = Arc::new(key.to_pkcs8_der()?);
        Self::assemble(chain, pkcs8, key)
    }

    /// From a chain and a PKCS #8 key that were kept, which are checked against each other.
    pub fn load(chain: Vec<Vec<u8>>, pkcs8: Secret<Vec<u8>>) -> Result<Self, SvidError> {
        let key = PrivateKey::from_pkcs8_der(&pkcs8)?;
        Self::assemble(chain, Arc::new(pkcs8), &key)
    }

    fn assemble(
        chain: Vec<Vec<u8>>,
        pkcs8: Arc<Secret<Vec<u8>>>,
        key: &PrivateKey,
    ) -> Result<Self, SvidError> {
        let (leaf, above) = chain.split_first().ok_or(SvidError::EmptyChain)?;
        let leaf = Certificate::parse(leaf).map_err(VerifyError::Certificate)?;
        let spiffe_id = check_leaf(&leaf)?;
        if leaf.public_key()? != *key.public_key() {
            return Err(SvidError::KeyMismatch);
        }
        for certificate in above {
            Certificate::parse(certificate)?;
        }
        Ok(Self {
            spiffe_id,
            chain: chain.into(),
            key: pkcs8,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
        })
    }

    /// The chain as the Workload API writes it: DER, one after the other.
    pub fn chain_concatenated(&self) -> Vec<u8> {
        self.chain.concat()
    }

    /// Whether the SVID can no longer be used at `now`.
    pub fn is_expired_at(&self, now: Timestamp) -> bool {
        self.not_after <= now
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
