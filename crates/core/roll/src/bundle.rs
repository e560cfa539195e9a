//! How authorities enter and leave a bundle (spire-behaviour 2.2; BND-03).

use std::time::Duration;

use muster_model::{Bundle, JwtAuthority, Timestamp, X509Authority};

/// How long an expired authority stays: a day, so that a verifier with a slow clock or an old
/// chain still finds it.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why authorities cannot leave a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    /// Every root has expired.
    #[error(
        "prune bundle: all X.509 roots have expired, and a bundle without a root verifies nothing; \
         prepare and activate a new X.509 authority first"
    )]
    LastX509,
    /// Every JWT key has expired.
    #[error(
        "prune bundle: all JWT keys have expired, and a bundle without a key verifies nothing; \
         prepare and activate a new JWT authority first"
    )]
    LastJwt,
}

/// What pruning did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The bundle without what had expired, one sequence number later.
    pub bundle: Bundle,
    /// How many roots left.
    pub x509_removed: usize,
    /// How many JWT keys left.
    pub jwt_removed: usize,
}

/// The bundle with one more root; `None` when it has that certificate already.
pub fn with_x509_authority(bundle: &Bundle, authority: X509Authority) -> Option<Bundle> {
    if bundle
        .x509_authorities
        .iter()
        .any(|known| known.der == authority.der)
    {
        return None;
    }
    let mut bundle = next(bundle);
    bundle.x509_authorities.push(authority);
    Some(bundle)
}

/// The bundle with one more JWT key; `None` when it has a key of that ID already, because a key ID
/// is never given to another key.
pub fn with_jwt_authority(bundle: &Bundle, authority: JwtAuthority) -> Option<Bundle> {
    if bundle
        .jwt_authorities
        .iter()
        .any(|known| known.key_id == authority.key_id)
    {
        return None;
    }
    let mut bundle = next(bundle);
    bundle.jwt_authorities.push(authority);
    Some(bundle)
}

/// The bundle without the authorities that expired more than a day ago; `None` when there are
/// none. If no root or no JWT key would be left where there was one, nothing is removed at all.
pub fn pruned(bundle: &Bundle, now: Timestamp) -> Result<Option<Pruned>, PruneError> {
    let gone = |at: Timestamp| at.plus(GRACE) < now;
    let mut left = next(bundle);
    left.x509_authorities
        .retain(|authority| !gone(authority.expires_at));
    left.jwt_authorities
        .retain(|authority| !authority.expires_at.is_some_and(gone));
    let x509_removed = bundle.x509_authorities.len() - left.x509_authorities.len();
    let jwt_removed = bundle.jwt_authorities.len() - left.jwt_authorities.len();
    if x509_removed > 0 && left.x509_authorities.is_empty() {
        return Err(PruneError::LastX509);
    }
    if jwt_removed > 0 && left.jwt_authorities.is_empty() {
        return Err(PruneError::LastJwt);
    }
    Ok((x509_removed + jwt_removed > 0).then_some(Pruned {
        bundle: left,
        x509_removed,
        jwt_removed,
    }))
}

/// The same content under the next sequence number.
fn next(bundle: &Bundle) -> Bundle {
    Bundle {
        sequence_number: bundle.sequence_number.saturating_add(1),
        ..bundle.clone()
    }
}
