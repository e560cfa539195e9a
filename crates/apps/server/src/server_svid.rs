//! The server's own SVID: in memory, renewed around half its life, and at once when its authority
//! is tainted or revoked.

use std::sync::Arc;
use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::Timestamp;
use muster_svid::lifetime;
use muster_svid::x509::X509Svid;
use muster_tls::Identity;

use crate::authority::has_id;
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

/// The SVID that the server shows.
pub(crate) struct OwnSvid {
    renew_at: Timestamp,
    /// The authority that signed it: lower-case hex of its subject key identifier.
    pub authority_id: String,
    /// DER certificates, the leaf first.
    pub chain: Arc<[Vec<u8>]>,
}

/// Signs a new SVID, and shows it from the next handshake on.
pub(crate) async fn renew(
    server: &Server,
    identity: &Identity,
    key_type: KeyType,
) -> Result<Arc<OwnSvid>, ServerSvidError> {
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
    let authority_id = signed.authority_id;
    let svid = X509Svid::new(signed.chain, &key).map_err(|e| broken(&e))?;
    identity.set(&svid).map_err(|e| broken(&e))?;
    tracing::debug!(spiffe_id = %svid.spiffe_id, serial_number = %svid.serial, "server SVID renewed");
    let renew_at = lifetime::renew_at(
        svid.not_before,
        svid.not_after,
        svid.serial.as_str().as_bytes(),
    );
    let own = Arc::new(OwnSvid {
        renew_at,
        authority_id,
        chain: svid.chain,
    });
    server.own_svid.store(Some(Arc::clone(&own)));
    Ok(own)
}

/// Renews for ever.
pub(crate) async fn run(
    server: Arc<Server>,
    identity: Identity,
    key_type: KeyType,
    mut own: Arc<OwnSvid>,
) {
    loop {
        let left = own.renew_at.since(server.clock.now().wall);
        if left > Duration::ZERO && has_good_authority(&server, &own) {
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK)) => {}
                () = server.own_authority.notified() => {}
            }
            continue;
        }
        if left > Duration::ZERO {
            tracing::warn!(
                authority_id = own.authority_id,
                "Server SVID signed using a tainted authority, forcing rotation of the Server SVID"
            );
        }
        match renew(&server, &identity, key_type).await {
            // The authority that signs is in the bundle and cannot be tainted, so this comes to rest.
            Ok(next) => own = next,
            Err(error) => {
                tracing::error!(%error, "trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Whether the bundle has the authority of the server's SVID, untainted. Where there is none at all
/// a new SVID would be no better.
fn has_good_authority(server: &Server, own: &OwnSvid) -> bool {
    let roll = server.roll.snapshot();
    roll.own_bundle().is_none_or(|bundle| {
        let mut roots = bundle.x509_authorities.iter();
        roots.any(|root| !root.tainted && has_id(root, &own.authority_id))
    })
}
