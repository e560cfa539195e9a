//! Keys, signatures, JWK and JWS: every cryptographic operation of Muster that is not TLS itself.
//!
//! Start at [`PrivateKey`] and [`PublicKey`]; [`SignatureScheme`] says how the two meet.
//! [`Secret`] holds every byte that must not be seen, and [`random`] is the one door of entropy:
//! whoever needs a random number outside this crate is given one as an argument.
//!
//! Deliberately not here: certificates and tokens (`core/svid`), key storage (`adapters/keys`),
//! TLS (`edge/tls`). This is the only crate that names `aws-lc-rs`, so that the provider can be
//! exchanged in one place.

pub mod der;
pub mod digest;
mod jwk;
mod jws;
pub mod pkcs12;
mod private;
mod private_jwk;
mod public;
pub mod random;
mod scheme;
mod seal;
mod secret;

pub use jwk::{Jwk, JwkError, jwk_thumbprint, public_jwk_members};
pub use jws::{JwsAlgorithm, JwsError, JwsHeader, MAX_JWS_LEN, ParsedJws};
pub use private::PrivateKey;
pub use public::{KeyAlgorithm, PublicKey};
pub use scheme::{KeyType, SignatureScheme, UnknownKeyType};
pub use seal::{BrokenSeal, SEALING_KEY_LEN, SealingKey};
pub use secret::{Purpose, Secret};

/// Why a key could not be made, read or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are not a DER structure of the expected kind.
    #[error("not a well-formed {0}")]
    Malformed(&'static str),
    /// The key's algorithm or curve is none that Muster uses.
    #[error("the key's algorithm is not supported: use EC P-256 or P-384, Ed25519 or RSA")]
    UnsupportedAlgorithm,
    /// The RSA modulus is outside 2048 to 8192 bits.
    #[error("an RSA key has 2048 to 8192 bits, this one has {0}")]
    RsaSize(usize),
    /// The scheme does not belong to the type of the key (JWTV-02).
    #[error("{scheme} does not fit a key of type {key}")]
    SchemeMismatch {
        /// The scheme that was asked for.
        scheme: SignatureScheme,
        /// The key that was to be used.
        key: KeyAlgorithm,
    },
    /// The signature is not one of this key over this message.
    #[error("the signature does not verify")]
    BadSignature,
    /// The provider could not generate or sign; it gives no reason.
    #[error("the cryptographic provider could not {0}")]
    Provider(&'static str),
}
