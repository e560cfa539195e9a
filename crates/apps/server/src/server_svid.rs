//! The server's own SVID: in memory, renewed around half its life.

use std::sync::Arc;
use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::Timestamp;
use muster_svid::lifetime;
use muster_svid::x509::X509Svid;
use muster_tls::Identity;

use crate::server::Server;
use crate::signer::Leaf;

/// How soon a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the civil clock is looked at, so that a step of it is noticed.
const LOOK: Duration = Duration::from_secs(5);

/// Why the server has no SVID.
#[derive(Debug, thiserror::Error)]
#[error("the server's own SVID could not be made: {0}")]
pub(crate) struct ServerSvidError(String);

/// Signs a new SVID, shows it from the next handshake on, and says when to renew it.
pub(crate) async fn renew(
    server: &Server,
    identity: &Identity,
    key_type: KeyType,
) -> Result<Timestamp, ServerSvidError> {
    let broken = |error: &dyn std::fmt::Display| ServerSvidError(error.to_string());
    // An RSA key takes long to make.
    let key = tokio::task::spawn_blocking(move || PrivateKey::generate(key_type))
        .await
        .map_err(|e| broken(&e))?
        .map_err(|e| broken(&e))?;
    let spiffe_id = server.trust_domain.server_id();
    let leaf = Leaf {
        spiffe_id: &spiffe_id,
        public_key: key.public_key(),
        dns_names: &[],
        subject: None,
        ttl: server.lifetimes.x509_ttl,
    };
    let signed = server
        .signer
        .sign_x509(&leaf, server.clock.now().wall)
        .await
        .map_err(|e| broken(&e))?;
    let svid = X509Svid::new(signed.chain, &key).map_err(|e| broken(&e))?;
    identity.set(&svid).map_err(|e| broken(&e))?;
    tracing::debug!(spiffe_id = %svid.spiffe_id, serial_number = %svid.serial, "server SVID renewed");
    Ok(lifetime::renew_at(
        svid.not_before,
        svid.not_after,
        svid.serial.as_str().as_bytes(),
    ))
}

/// Renews for ever.
pub(crate) async fn run(
    server: Arc<Server>,
    identity: Identity,
    key_type: KeyType,
    mut renew_at: Timestamp,
) {
    loop {
        let left = renew_at.since(server.clock.now().wall);
        if left > Duration::ZERO {
            tokio::time::sleep(left.min(LOOK)).await;
            continue;
        }
        match renew(&server, &identity, key_type).await {
            Ok(next) => renew_at = next,
            Err(error) => {
                tracing::error!(%error, "trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
