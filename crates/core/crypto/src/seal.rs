//! Sealing: bytes that only the holder of a key can read, and nobody can change unnoticed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::{KeyError, Purpose, Secret, random};

/// The length of a sealing key, in bytes.
pub const SEALING_KEY_LEN: usize = 32;

/// The seal is broken: another key, other associated data, or changed bytes; which one cannot be
/// told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken: other key, other owner, or changed bytes")]
pub struct BrokenSeal;

/// A key that seals, AES-256-GCM with a random nonce each time (NIST SP 800-38D; good for 2^32
/// seals, of which a node that seals once a second needs 136 years).
pub struct SealingKey(Secret<Vec<u8>>);

impl SealingKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; SEALING_KEY_LEN]);
        random::fill(&mut *bytes);
        Self(Secret::new(bytes.to_vec()))
    }

    /// A key that was kept; `None` if it has another length than [`SEALING_KEY_LEN`].
    pub fn from_bytes(bytes: Secret<Vec<u8>>) -> Option<Self> {
        (bytes.expose(Purpose::Seal).len() == SEALING_KEY_LEN).then_some(Self(bytes))
    }

    /// The bytes, to be kept where only the owner reads them.
    pub fn bytes(&self) -> &Secret<Vec<u8>> {
        &self.0
    }

    /// Seals `plain` and binds it to `owner`, which is not in the result and must be the same when
    /// it is opened. The result is the nonce, the ciphertext and the tag.
    pub fn seal(&self, owner: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_unspecified| KeyError::Provider("seal");
        let key = self.key().map_err(failed)?;
        let mut sealed = Zeroizing::new(plain.to_vec());
        let nonce = key
            .seal_in_place_append_tag(Aad::from(owner), &mut *sealed)
            .map_err(failed)?;
        Ok([&nonce.as_ref()[..], &sealed].concat())
    }

    /// Opens what [`SealingKey::seal`] made.
    pub fn open(&self, owner: &[u8], sealed: &[u8]) -> Result<Secret<Vec<u8>>, BrokenSeal> {
        let broken = |_unspecified| BrokenSeal;
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN).ok_or(BrokenSeal)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(broken)?;
        let mut plain = Zeroizing::new(rest.to_vec());
        let opened = self
            .key()
            .map_err(broken)?
            .open_in_place(nonce, Aad::from(owner), &mut plain)
            .map_err(broken)?;
        Ok(Secret::new(opened.to_vec()))
    }

    fn key(&self) -> Result<RandomizedNonceKey, aws_lc_rs::error::Unspecified> {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.expose(Purpose::Seal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_and_the_owner_open_it() {
        let key = SealingKey::generate();
        let sealed = key.seal(b"node", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        assert_ne!(sealed, key.seal(b"node", b"secret").unwrap());
        let opened = key.open(b"node", &sealed).unwrap();
        assert_eq!(opened.expose(Purpose::Seal), b"secret");

        let kept = Secret::new(key.bytes().expose(Purpose::Seal).clone());
        let again = SealingKey::from_bytes(kept).unwrap();
        assert!(again.open(b"node", &sealed).is_ok());
        assert_eq!(key.open(b"other", &sealed).err(), Some(BrokenSeal));
        let other = SealingKey::generate();
        assert_eq!(other.open(b"node", &sealed).err(), Some(BrokenSeal));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(b"node", &changed).is_err(), "byte {at}");
            assert!(key.open(b"node", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(SealingKey::from_bytes(Secret::new(vec![0; 31])).is_none());
    }
}
