//! What the machine has to know of signed material; the bytes and keys are none of its business.

use muster_model::{JwtAuthority, SerialNumber, SpiffeId, Timestamp, WitAuthority, X509Authority};

/// An X509-SVID with its key, as far as the machine decides about it.
pub trait X509Material {
    /// The identity that the leaf proves.
    fn spiffe_id(&self) -> &SpiffeId;
    /// The leaf's serial number.
    fn serial(&self) -> &SerialNumber;
    /// Key identifier of the authority that signed the leaf, lower-case hex.
    fn authority_id(&self) -> &str;
    /// Start of validity.
    fn not_before(&self) -> Timestamp;
    /// End of validity.
    fn not_after(&self) -> Timestamp;
    /// When to renew: decided once from the lifetime, spread by a hash.
    fn renew_at(&self) -> Timestamp;
    /// The one of `authorities` to which the whole chain verifies, by cryptography.
    fn verified_by<'a>(&self, authorities: &'a [X509Authority]) -> Option<&'a X509Authority>;
}

/// A JWT-SVID, as far as the machine decides about it.
pub trait JwtMaterial {
    /// The token's `sub`.
    fn spiffe_id(&self) -> &SpiffeId;
    /// The token's `iat`.
    fn issued_at(&self) -> Timestamp;
    /// The token's `exp`.
    fn expires_at(&self) -> Timestamp;
    /// When to renew: decided once from the lifetime, spread by a hash.
    fn renew_at(&self) -> Timestamp;
    /// Whether the token's `aud` has all of `audience`.
    fn covers(&self, audience: &[String]) -> bool;
    /// The one of `authorities` whose key signed the token, by `kid` and by cryptography.
    fn verified_by<'a>(&self, authorities: &'a [JwtAuthority]) -> Option<&'a JwtAuthority>;
}

/// A WIT-SVID with its key, as far as the machine decides about it.
pub trait WitMaterial {
    /// The token's `sub`.
    fn spiffe_id(&self) -> &SpiffeId;
    /// The token's `jti`.
    fn token_id(&self) -> &str;
    /// `kid` of the authority that signed the token.
    fn authority_id(&self) -> &str;
    /// The token's `iat`.
    fn issued_at(&self) -> Timestamp;
    /// The token's `exp`.
    fn expires_at(&self) -> Timestamp;
    /// When to renew: decided once from the lifetime, spread by a hash.
    fn renew_at(&self) -> Timestamp;
    /// The one of `authorities` whose key signed the token, by `kid` and by cryptography.
    fn verified_by<'a>(&self, authorities: &'a [WitAuthority]) -> Option<&'a WitAuthority>;
}
