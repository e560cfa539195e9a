//! The keys that a manager holds, and signing with them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use muster_crypto::{KeyAlgorithm, KeyError, KeyType, PrivateKey, PublicKey, SignatureScheme};
use muster_plugin::keys::{KeyId, KeyManagerError, NamedKey};

/// Keys by name; a snapshot is cheap, the keys are shared.
pub(crate) type Keys = BTreeMap<KeyId, Arc<PrivateKey>>;

/// A set of keys that is read by many and replaced as a whole.
#[derive(Default)]
pub(crate) struct KeyRing(RwLock<Arc<Keys>>);

impl KeyRing {
    pub(crate) fn new(keys: Keys) -> Self {
        Self(RwLock::new(Arc::new(keys)))
    }

    pub(crate) fn snapshot(&self) -> Arc<Keys> {
        // Only whole maps are ever stored: a thread that panicked left a good one behind.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    pub(crate) fn list(&self) -> Vec<NamedKey> {
        self.snapshot()
            .iter()
            .map(|(id, key)| NamedKey {
                id: id.clone(),
                public_key: key.public_key().clone(),
            })
            .collect()
    }

    pub(crate) fn public_key(&self, id: &KeyId) -> Result<PublicKey, KeyManagerError> {
        Ok(self.find(id)?.public_key().clone())
    }

    /// Signs; RSA, which takes milliseconds, away from the threads that serve.
    pub(crate) async fn sign(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyManagerError> {
        let key = self.find(id)?;
        let result = if matches!(key.algorithm(), KeyAlgorithm::Rsa { .. }) {
            let message = message.to_vec();
            blocking(move || key.sign(scheme, &message)).await?
        } else {
            key.sign(scheme, message)
        };
        result.map_err(|error| sign_error(id, &error))
    }

    fn find(&self, id: &KeyId) -> Result<Arc<PrivateKey>, KeyManagerError> {
        self.snapshot()
            .get(id)
            .cloned()
            .ok_or_else(|| KeyManagerError::NotFound(id.clone()))
    }
}

/// Makes a key; RSA, which takes seconds, away from the threads that serve.
pub(crate) async fn generate(key_type: KeyType) -> Result<Arc<PrivateKey>, KeyManagerError> {
    let result = match key_type {
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            blocking(move || PrivateKey::generate(key_type)).await?
        }
        KeyType::EcP256 | KeyType::EcP384 | KeyType::Ed25519 => PrivateKey::generate(key_type),
    };
    result
        .map(Arc::new)
        .map_err(|e| KeyManagerError::Unavailable(e.to_string()))
}

/// Runs `work` where blocking harms nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, KeyManagerError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| KeyManagerError::Unavailable(format!("the key manager's work ended: {e}")))
}

fn sign_error(id: &KeyId, error: &KeyError) -> KeyManagerError {
    match error {
        KeyError::SchemeMismatch { scheme, key } => KeyManagerError::SchemeMismatch {
            id: id.clone(),
            key: *key,
            scheme: *scheme,
        },
        KeyError::Malformed(_)
        | KeyError::UnsupportedAlgorithm
        | KeyError::RsaSize(_)
        | KeyError::BadSignature
        | KeyError::Provider(_) => KeyManagerError::Unavailable(format!("key {id}: {error}")),
    }
}
