//! Key types and signature schemes, and the two ways to write an ECDSA signature.

use std::fmt;
use std::str::FromStr;

use crate::{KeyAlgorithm, KeyError, der};

/// A type of key that Muster generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KeyType {
    /// ECDSA on NIST P-256: the default, understood everywhere (X509I-17).
    #[default]
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// Ed25519: X.509 only, and java-spiffe cannot load it.
    Ed25519,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 4096 bits.
    Rsa4096,
}

impl KeyType {
    /// Every type, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::EcP256,
        Self::EcP384,
        Self::Ed25519,
        Self::Rsa2048,
        Self::Rsa4096,
    ];

    /// The name in configuration files and key stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// The scheme with which a key of this type signs certificates and, where JWT knows one,
    /// tokens (spire-behaviour 2.4 and 2.5: ES256, ES384, RS256).
    pub const fn default_scheme(self) -> SignatureScheme {
        match self {
            Self::EcP256 => SignatureScheme::EcdsaP256Sha256,
            Self::EcP384 => SignatureScheme::EcdsaP384Sha384,
            Self::Ed25519 => SignatureScheme::Ed25519,
            Self::Rsa2048 | Self::Rsa4096 => SignatureScheme::RsaPkcs1Sha256,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no key type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key type: use ec-p256, ec-p384, ed25519, rsa-2048 or rsa-4096")]
pub struct UnknownKeyType(pub String);

impl FromStr for KeyType {
    type Err = UnknownKeyType;
    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        Self::ALL
            .into_iter()
            .find(|t| t.as_str() == text)
            .ok_or_else(|| UnknownKeyType(text.to_owned()))
    }
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// ECDSA on P-256 with SHA-256; ES256.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384; ES384.
    EcdsaP384Sha384,
    /// ECDSA on P-521 with SHA-512; ES512. Verified only: Muster makes no P-521 keys.
    EcdsaP521Sha512,
    /// RSA PKCS #1 v1.5 with SHA-256; RS256.
    RsaPkcs1Sha256,
    /// RSA PKCS #1 v1.5 with SHA-384; RS384.
    RsaPkcs1Sha384,
    /// RSA PKCS #1 v1.5 with SHA-512; RS512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256; PS256.
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384; PS384.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512; PS512.
    RsaPssSha512,
    /// Ed25519; no JWS algorithm that SPIFFE allows (JWTI-03).
    Ed25519,
}

impl SignatureScheme {
    /// Whether a key of this kind can sign or verify with the scheme (JWTV-02).
    pub const fn fits(self, key: KeyAlgorithm) -> bool {
        match self {
            Self::EcdsaP256Sha256 => matches!(key, KeyAlgorithm::EcP256),
            Self::EcdsaP384Sha384 => matches!(key, KeyAlgorithm::EcP384),
            Self::EcdsaP521Sha512 => matches!(key, KeyAlgorithm::EcP521),
            Self::Ed25519 => matches!(key, KeyAlgorithm::Ed25519),
            Self::RsaPkcs1Sha256
            | Self::RsaPkcs1Sha384
            | Self::RsaPkcs1Sha512
            | Self::RsaPssSha256
            | Self::RsaPssSha384
            | Self::RsaPssSha512 => matches!(key, KeyAlgorithm::Rsa { .. }),
        }
    }

    /// Rewrites a signature from the X.509 view (ECDSA: ASN.1 SEQUENCE of two INTEGERs) to the
    /// JWS view (ECDSA: two numbers at full width, RFC 7518 3.4). Others are the same in both.
    pub fn to_jws(self, signature: &[u8]) -> Result<Vec<u8>, KeyError> {
        const MALFORMED: KeyError = KeyError::Malformed("ASN.1 ECDSA signature");
        let Some(width) = self.ecdsa_width() else {
            return Ok(signature.to_vec());
        };
        let mut outer = der::Reader::new(signature);
        let mut inner = der::Reader::new(outer.value(der::SEQUENCE).ok_or(MALFORMED)?);
        let r = inner.unsigned_integer().ok_or(MALFORMED)?;
        let s = inner.unsigned_integer().ok_or(MALFORMED)?;
        if !inner.is_empty() || !outer.is_empty() || r.len() > width || s.len() > width {
            return Err(MALFORMED);
        }
        let mut out = Vec::with_capacity(2 * width);
        for number in [r, s] {
            out.resize(out.len() + width - number.len(), 0);
            out.extend_from_slice(number);
        }
        Ok(out)
    }

    /// The reverse of [`SignatureScheme::to_jws`].
    pub fn from_jws(self, signature: &[u8]) -> Result<Vec<u8>, KeyError> {
        let Some(width) = self.ecdsa_width() else {
            return Ok(signature.to_vec());
        };
        if signature.len() != 2 * width {
            return Err(KeyError::Malformed("fixed-width ECDSA signature"));
        }
        let (r, s) = signature.split_at(width);
        Ok(der::tlv(
            der::SEQUENCE,
            &[&der::unsigned_integer(r), &der::unsigned_integer(s)],
        ))
    }

    /// Bytes of one ECDSA number; `None` for other schemes.
    const fn ecdsa_width(self) -> Option<usize> {
        match self {
            Self::EcdsaP256Sha256 => Some(32),
            Self::EcdsaP384Sha384 => Some(48),
            Self::EcdsaP521Sha512 => Some(66),
            Self::RsaPkcs1Sha256
            | Self::RsaPkcs1Sha384
            | Self::RsaPkcs1Sha512
            | Self::RsaPssSha256
            | Self::RsaPssSha384
            | Self::RsaPssSha512
            | Self::Ed25519 => None,
        }
    }
}

impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
            Self::EcdsaP384Sha384 => "ECDSA P-384 with SHA-384",
            Self::EcdsaP521Sha512 => "ECDSA P-521 with SHA-512",
            Self::RsaPkcs1Sha256 => "RSA PKCS#1 with SHA-256",
            Self::RsaPkcs1Sha384 => "RSA PKCS#1 with SHA-384",
            Self::RsaPkcs1Sha512 => "RSA PKCS#1 with SHA-512",
            Self::RsaPssSha256 => "RSA-PSS with SHA-256",
            Self::RsaPssSha384 => "RSA-PSS with SHA-384",
            Self::RsaPssSha512 => "RSA-PSS with SHA-512",
            Self::Ed25519 => "Ed25519",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_types_by_name() {
        for key_type in KeyType::ALL {
            assert_eq!(key_type.to_string().parse(), Ok(key_type));
        }
        assert!("ec-p521".parse::<KeyType>().is_err());
        assert!("EC-P256".parse::<KeyType>().is_err());
    }

    #[test]
    fn signatures_of_the_wrong_shape() {
        let scheme = SignatureScheme::EcdsaP256Sha256;
        assert!(scheme.from_jws(&[0; 63]).is_err());
        assert!(scheme.to_jws(&[0x30, 0]).is_err());
        let too_wide = der::tlv(
            der::SEQUENCE,
            &[
                &der::unsigned_integer(&[1; 33]),
                &der::unsigned_integer(&[1]),
            ],
        );
        assert!(scheme.to_jws(&too_wide).is_err());
    }

    proptest! {
        #[test]
        fn both_views_hold_the_same_signature(bytes in prop::collection::vec(any::<u8>(), 64)) {
            let scheme = SignatureScheme::EcdsaP256Sha256;
            let x509 = scheme.from_jws(&bytes).unwrap();
            prop_assert_eq!(scheme.to_jws(&x509).unwrap(), bytes);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
            let _ignored = SignatureScheme::EcdsaP384Sha384.to_jws(&bytes);
            let _ignored = SignatureScheme::EcdsaP521Sha512.from_jws(&bytes);
        }
    }
}
