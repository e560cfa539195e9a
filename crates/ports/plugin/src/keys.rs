//! The key manager port: keys that sign without being handed out.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use muster_crypto::{KeyAlgorithm, KeyType, PublicKey, SignatureScheme};

/// The name of a key: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, such as `x509-CA-A`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

/// The text is not a key's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key ID: use 1 to 128 letters, digits, '.', '_' and '-'")]
pub struct InvalidKeyId(pub String);

impl KeyId {
    /// Parses a key's name.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
            return Err(InvalidKeyId(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key manager did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyManagerError {
    /// There is no key of that name. Asking again does not help.
    #[error("the key manager has no key {0}")]
    NotFound(KeyId),
    /// The scheme is not one of the key. Asking again does not help.
    #[error("key {id} of type {key} cannot sign with {scheme}")]
    SchemeMismatch {
        /// The key's name.
        id: KeyId,
        /// What the key is.
        key: KeyAlgorithm,
        /// The scheme that was asked for.
        scheme: SignatureScheme,
    },
    /// The key manager cannot make keys of that type. Asking again does not help.
    #[error("the key manager cannot make keys of type {0}")]
    UnsupportedType(KeyType),
    /// What the key manager kept cannot be used; an operator has to look.
    #[error("{0}")]
    Broken(String),
    /// The key manager could not do it now; it may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

/// A public key and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// The key's name.
    pub id: KeyId,
    /// The key.
    pub public_key: PublicKey,
}

/// Makes keys, keeps them and signs with them; the private halves stay inside.
///
/// Keys that a manager has acknowledged survive for as long as the manager promises: a process in
/// memory, a restart on disk. [`conformance::run`] states the rest as tests.
#[async_trait]
pub trait KeyManager: Send + Sync + 'static {
    /// Makes a key under this name and answers with its public half. A key that had the name
    /// before is gone; if the call fails, it is still there.
    async fn generate(&self, id: &KeyId, key_type: KeyType) -> Result<PublicKey, KeyManagerError>;

    /// The public halves of all keys, in the order of their names.
    async fn list(&self) -> Result<Vec<NamedKey>, KeyManagerError>;

    /// The public half of one key.
    async fn public_key(&self, id: &KeyId) -> Result<PublicKey, KeyManagerError>;

    /// Signs `message` (not its digest). The signature is in the X.509 view (ECDSA: ASN.1), which
    /// [`SignatureScheme::to_jws`] rewrites for tokens.
    async fn sign(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyManagerError>;

    /// Destroys a key; one that is not there is no error.
    async fn remove(&self, id: &KeyId) -> Result<(), KeyManagerError>;
}

/// What every key manager must do: adapters run it in their tests.
pub mod conformance {
    use muster_crypto::{KeyType, SignatureScheme};

    use super::{KeyId, KeyManager, KeyManagerError};

    /// Runs the suite on fresh key managers from `make`; the error says what was broken.
    pub async fn run<K: KeyManager>(make: impl Fn() -> K) -> Result<(), String> {
        starts_empty(&make()).await?;
        signs_with_each_type(&make()).await?;
        replaces_a_key(&make()).await?;
        keeps_keys_apart(&make()).await?;
        refuses_with_a_reason(&make()).await?;
        removes(&make()).await
    }

    fn id(text: &str) -> Result<KeyId, String> {
        KeyId::parse(text).map_err(|e| e.to_string())
    }

    fn must<T>(what: &str, result: Result<T, KeyManagerError>) -> Result<T, String> {
        result.map_err(|e| format!("{what}: {e}"))
    }

    fn hold(what: &str, condition: bool) -> Result<(), String> {
        condition.then_some(()).ok_or_else(|| what.to_owned())
    }

    async fn starts_empty(keys: &impl KeyManager) -> Result<(), String> {
        let list = must("list", keys.list().await)?;
        hold("a fresh key manager has no keys", list.is_empty())
    }

    async fn signs_with_each_type(keys: &impl KeyManager) -> Result<(), String> {
        // RSA-4096 is the same code as RSA-2048 and takes seconds to make.
        for key_type in [
            KeyType::EcP256,
            KeyType::EcP384,
            KeyType::Ed25519,
            KeyType::Rsa2048,
        ] {
            let id = id(key_type.as_str())?;
            let public = match keys.generate(&id, key_type).await {
                Err(KeyManagerError::UnsupportedType(_)) if key_type != KeyType::EcP256 => continue,
                result => must("generate", result)?,
            };
            hold(
                "the key has the type that was asked for",
                public.key_type() == Some(key_type),
            )?;
            let scheme = key_type.default_scheme();
            let signature = must("sign", keys.sign(&id, scheme, b"message").await)?;
            hold(
                "the signature verifies with the public key",
                public.verify(scheme, b"message", &signature).is_ok(),
            )?;
            let named = must("public_key", keys.public_key(&id).await)?;
            hold("public_key answers as generate did", named == public)?;
        }
        Ok(())
    }

    async fn replaces_a_key(keys: &impl KeyManager) -> Result<(), String> {
        let id = id("x509-CA-A")?;
        let first = must("generate", keys.generate(&id, KeyType::EcP256).await)?;
        let second = must("generate", keys.generate(&id, KeyType::EcP384).await)?;
        hold("a new key differs from the old one", first != second)?;
        let scheme = SignatureScheme::EcdsaP384Sha384;
        let signature = must("sign", keys.sign(&id, scheme, b"m").await)?;
        hold(
            "the new key signs",
            second.verify(scheme, b"m", &signature).is_ok(),
        )?;
        let list = must("list", keys.list().await)?;
        hold("the old key is gone", list.len() == 1)
    }

    async fn keeps_keys_apart(keys: &impl KeyManager) -> Result<(), String> {
        let (a, b) = (id("b")?, id("a")?);
        let first = must("generate", keys.generate(&a, KeyType::EcP256).await)?;
        let second = must("generate", keys.generate(&b, KeyType::EcP256).await)?;
        let list = must("list", keys.list().await)?;
        let found: Vec<_> = list
            .iter()
            .map(|key| (key.id.as_str(), key.public_key.clone()))
            .collect();
        hold(
            "keys are listed in the order of their names",
            found == [("a", second), ("b", first)],
        )
    }

    async fn refuses_with_a_reason(keys: &impl KeyManager) -> Result<(), String> {
        let missing = id("missing")?;
        let scheme = SignatureScheme::EcdsaP256Sha256;
        hold(
            "signing with a key that is not there is NotFound",
            keys.sign(&missing, scheme, b"m").await
                == Err(KeyManagerError::NotFound(missing.clone())),
        )?;
        hold(
            "the public half of a key that is not there is NotFound",
            keys.public_key(&missing).await == Err(KeyManagerError::NotFound(missing)),
        )?;
        let present = id("present")?;
        must("generate", keys.generate(&present, KeyType::EcP256).await)?;
        let wrong = keys
            .sign(&present, SignatureScheme::RsaPkcs1Sha256, b"m")
            .await;
        hold(
            "a scheme that does not fit is SchemeMismatch",
            matches!(wrong, Err(KeyManagerError::SchemeMismatch { .. })),
        )
    }

    async fn removes(keys: &impl KeyManager) -> Result<(), String> {
        let id = id("x")?;
        must("generate", keys.generate(&id, KeyType::EcP256).await)?;
        must("remove", keys.remove(&id).await)?;
        must("remove again", keys.remove(&id).await)?;
        let list = must("list", keys.list().await)?;
        hold("a removed key is gone", list.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids() {
        assert!(KeyId::parse("x509-CA-A").is_ok());
        for bad in ["", "a/b", "a b", &"x".repeat(129)] {
            assert!(KeyId::parse(bad).is_err(), "{bad}");
        }
    }
}
