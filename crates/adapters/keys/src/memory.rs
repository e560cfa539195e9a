//! Keys that live as long as the process.

use async_trait::async_trait;
use muster_crypto::{KeyType, PublicKey, SignatureScheme};
use muster_plugin::keys::{KeyId, KeyManager, KeyManagerError, NamedKey};
use tokio::sync::Mutex;

use crate::ring::{KeyRing, generate};

/// A key manager in memory: for nodes that attest anew at each start, and for tests.
#[derive(Default)]
pub struct MemoryKeys {
    ring: KeyRing,
    /// One change at a time; readers do not wait for it.
    changing: Mutex<()>,
}

impl MemoryKeys {
    /// A key manager without keys.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl KeyManager for MemoryKeys {
    async fn generate(&self, id: &KeyId, key_type: KeyType) -> Result<PublicKey, KeyManagerError> {
        let key = generate(key_type).await?;
        let public = key.public_key().clone();
        let _changing = self.changing.lock().await;
        let mut keys = (*self.ring.snapshot()).clone();
        keys.insert(id.clone(), key);
        self.ring.replace(keys);
        Ok(public)
    }

    async fn list(&self) -> Result<Vec<NamedKey>, KeyManagerError> {
        Ok(self.ring.list())
    }

    async fn public_key(&self, id: &KeyId) -> Result<PublicKey, KeyManagerError> {
        self.ring.public_key(id)
    }

    async fn sign(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyManagerError> {
        self.ring.sign(id, scheme, message).await
    }

    async fn remove(&self, id: &KeyId) -> Result<(), KeyManagerError> {
        let _changing = self.changing.lock().await;
        let mut keys = (*self.ring.snapshot()).clone();
        keys.remove(id);
        self.ring.replace(keys);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_promise() {
        muster_plugin::keys::conformance::run(MemoryKeys::new)
            .await
            .unwrap();
    }
}
