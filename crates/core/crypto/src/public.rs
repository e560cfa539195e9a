//! Public keys.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{self as lc, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm};

use crate::{KeyError, KeyType, SignatureScheme, der, digest};

/// What a public key is. Wider than [`KeyType`]: others may use keys that Muster does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// An EC key on NIST P-256.
    EcP256,
    /// An EC key on NIST P-384.
    EcP384,
    /// An EC key on NIST P-521.
    EcP521,
    /// An Ed25519 key.
    Ed25519,
    /// An RSA key with a modulus of this many bits.
    Rsa {
        /// Bits of the modulus, 2048 to 8192.
        bits: usize,
    },
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("ec-p256"),
            Self::EcP384 => f.write_str("ec-p384"),
            Self::EcP521 => f.write_str("ec-p521"),
            Self::Ed25519 => f.write_str("ed25519"),
            Self::Rsa { bits } => write!(f, "rsa-{bits}"),
        }
    }
}

/// A public key that was checked when it was read; cheap to clone.
#[derive(Clone)]
pub struct PublicKey(Arc<Inner>);

struct Inner {
    algorithm: KeyAlgorithm,
    spki: Vec<u8>,
    /// Where in `spki` the content of the BIT STRING is, without its count of unused bits.
    key: Range<usize>,
    /// Parsed when the key is read, or, for our own keys, when it first verifies.
    parsed: OnceLock<ParsedPublicKey>,
}

// Complete AlgorithmIdentifiers (RFC 3279 2.3, RFC 5480 2.1.1, RFC 8410 3).
const ALG_EC_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const ALG_EC_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];
const ALG_EC_P521: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x23,
];
const ALG_ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const ALG_RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

const MALFORMED: KeyError = KeyError::Malformed("SubjectPublicKeyInfo");

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) and checks that the key is good: a point
    /// on its curve, or an RSA modulus of 2048 to 8192 bits.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let mut outer = der::Reader::new(spki);
        let mut body = der::Reader::new(outer.value(der::SEQUENCE).ok_or(MALFORMED)?);
        let algorithm = body.element(der::SEQUENCE).ok_or(MALFORMED)?;
        let bits = body.value(der::BIT_STRING).ok_or(MALFORMED)?;
        let Some((0, key)) = bits.split_first() else {
            return Err(MALFORMED);
        };
        if !outer.is_empty() || !body.is_empty() {
            return Err(MALFORMED);
        }
        let public = match algorithm {
            ALG_EC_P256 => Self::from_ec_point(KeyAlgorithm::EcP256, key),
            ALG_EC_P384 => Self::from_ec_point(KeyAlgorithm::EcP384, key),
            ALG_EC_P521 => Self::from_ec_point(KeyAlgorithm::EcP521, key),
            ALG_ED25519 => Self::from_ed25519(key),
            ALG_RSA => {
                let mut outer = der::Reader::new(key);
                let mut body = der::Reader::new(outer.value(der::SEQUENCE).ok_or(MALFORMED)?);
                let modulus = body.unsigned_integer().ok_or(MALFORMED)?;
                let exponent = body.unsigned_integer().ok_or(MALFORMED)?;
                if !outer.is_empty() || !body.is_empty() {
                    return Err(MALFORMED);
                }
                Self::from_rsa(modulus, exponent)
            }
            _ => Err(KeyError::UnsupportedAlgorithm),
        }?;
        // What was read is what is written again: no second encoding of one key.
        (public.spki_der() == spki)
            .then_some(public)
            .ok_or(MALFORMED)
    }

    /// From an uncompressed point (SEC 1, 2.3.3).
    pub(crate) fn from_ec_point(algorithm: KeyAlgorithm, point: &[u8]) -> Result<Self, KeyError> {
        if point.first() != Some(&4) {
            return Err(KeyError::Malformed("uncompressed EC point"));
        }
        Self::assemble(algorithm, point).checked()
    }

    pub(crate) fn from_ed25519(key: &[u8]) -> Result<Self, KeyError> {
        if key.len() != 32 {
            return Err(KeyError::Malformed("Ed25519 public key"));
        }
        Self::assemble(KeyAlgorithm::Ed25519, key).checked()
    }

    /// From the magnitudes of modulus and exponent.
    pub(crate) fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let modulus = der::trim_leading_zeros(modulus);
        let top = modulus.first().ok_or(MALFORMED)?;
        let bits = modulus.len() * 8 - top.leading_zeros() as usize;
        if !(2048..=8192).contains(&bits) {
            return Err(KeyError::RsaSize(bits));
        }
        let key = der::tlv(
            der::SEQUENCE,
            &[
                &der::unsigned_integer(modulus),
                &der::unsigned_integer(exponent),
            ],
        );
        Self::assemble(KeyAlgorithm::Rsa { bits }, &key).checked()
    }

    /// The public half of a key pair that the provider made: nothing left to check.
    pub(crate) fn of_pair(algorithm: KeyAlgorithm, key: &[u8]) -> Self {
        Self::assemble(algorithm, key)
    }

    fn assemble(algorithm: KeyAlgorithm, key: &[u8]) -> Self {
        let identifier = match algorithm {
            KeyAlgorithm::EcP256 => ALG_EC_P256,
            KeyAlgorithm::EcP384 => ALG_EC_P384,
            KeyAlgorithm::EcP521 => ALG_EC_P521,
            KeyAlgorithm::Ed25519 => ALG_ED25519,
            KeyAlgorithm::Rsa { .. } => ALG_RSA,
        };
        let bits = der::tlv(der::BIT_STRING, &[&[0], key]);
        let spki = der::tlv(der::SEQUENCE, &[identifier, &bits]);
        // The key is the tail of the structure.
        let range = spki.len() - key.len()..spki.len();
        Self(Arc::new(Inner {
            algorithm,
            spki,
            key: range,
            parsed: OnceLock::new(),
        }))
    }

    fn checked(self) -> Result<Self, KeyError> {
        self.parsed()?;
        Ok(self)
    }

    /// What the key is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.0.algorithm
    }

    /// The type under which Muster makes such keys, if it does.
    pub fn key_type(&self) -> Option<KeyType> {
        match self.0.algorithm {
            KeyAlgorithm::EcP256 => Some(KeyType::EcP256),
            KeyAlgorithm::EcP384 => Some(KeyType::EcP384),
            KeyAlgorithm::Ed25519 => Some(KeyType::Ed25519),
            KeyAlgorithm::Rsa { bits: 2048 } => Some(KeyType::Rsa2048),
            KeyAlgorithm::Rsa { bits: 4096 } => Some(KeyType::Rsa4096),
            KeyAlgorithm::EcP521 | KeyAlgorithm::Rsa { .. } => None,
        }
    }

    /// The scheme with which the private half signs certificates and tokens by default.
    pub fn default_scheme(&self) -> SignatureScheme {
        match self.0.algorithm {
            KeyAlgorithm::EcP256 => SignatureScheme::EcdsaP256Sha256,
            KeyAlgorithm::EcP384 => SignatureScheme::EcdsaP384Sha384,
            KeyAlgorithm::EcP521 => SignatureScheme::EcdsaP521Sha512,
            KeyAlgorithm::Ed25519 => SignatureScheme::Ed25519,
            KeyAlgorithm::Rsa { .. } => SignatureScheme::RsaPkcs1Sha256,
        }
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// The content of the `subjectPublicKey` BIT STRING: an EC point, 32 bytes of Ed25519, or a
    /// PKCS #1 RSAPublicKey.
    pub fn bit_string(&self) -> &[u8] {
        self.0.spki.get(self.0.key.clone()).unwrap_or_default()
    }

    /// The key identifier of RFC 5280, 4.2.1.2, method 1: SHA-1 over [`PublicKey::bit_string`].
    pub fn key_identifier(&self) -> [u8; 20] {
        digest::sha1(self.bit_string())
    }

    /// Verifies a signature in the X.509 view (ECDSA: ASN.1).
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        if !scheme.fits(self.0.algorithm) {
            return Err(KeyError::SchemeMismatch {
                scheme,
                key: self.0.algorithm,
            });
        }
        let result = if scheme == self.default_scheme() {
            self.parsed()?.verify_sig(message, signature)
        } else {
            UnparsedPublicKey::new(verification(scheme), self.bit_string())
                .verify(message, signature)
        };
        result.map_err(|_unspecified| KeyError::BadSignature)
    }

    fn parsed(&self) -> Result<&ParsedPublicKey, KeyError> {
        if let Some(parsed) = self.0.parsed.get() {
            return Ok(parsed);
        }
        let parsed = ParsedPublicKey::new(verification(self.default_scheme()), self.bit_string())
            .map_err(|_rejected| KeyError::Malformed("public key of its algorithm"))?;
        Ok(self.0.parsed.get_or_init(|| parsed))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}
impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PublicKey({}, {})",
            self.0.algorithm,
            digest::hex(&self.key_identifier())
        )
    }
}

fn verification(scheme: SignatureScheme) -> &'static dyn VerificationAlgorithm {
    match scheme {
        SignatureScheme::EcdsaP256Sha256 => &lc::ECDSA_P256_SHA256_ASN1,
        SignatureScheme::EcdsaP384Sha384 => &lc::ECDSA_P384_SHA384_ASN1,
        SignatureScheme::EcdsaP521Sha512 => &lc::ECDSA_P521_SHA512_ASN1,
        SignatureScheme::RsaPkcs1Sha256 => &lc::RSA_PKCS1_2048_8192_SHA256,
        SignatureScheme::RsaPkcs1Sha384 => &lc::RSA_PKCS1_2048_8192_SHA384,
        SignatureScheme::RsaPkcs1Sha512 => &lc::RSA_PKCS1_2048_8192_SHA512,
        SignatureScheme::RsaPssSha256 => &lc::RSA_PSS_2048_8192_SHA256,
        SignatureScheme::RsaPssSha384 => &lc::RSA_PSS_2048_8192_SHA384,
        SignatureScheme::RsaPssSha512 => &lc::RSA_PSS_2048_8192_SHA512,
        SignatureScheme::Ed25519 => &lc::ED25519,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PrivateKey;

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let good = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut spki = good.public_key().spki_der().to_vec();
        *spki.last_mut().unwrap() ^= 1;
        assert!(PublicKey::from_spki_der(&spki).is_err());
    }

    #[test]
    fn trailing_bytes_and_weak_keys_are_refused() {
        let good = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut spki = good.public_key().spki_der().to_vec();
        spki.push(0);
        assert_eq!(PublicKey::from_spki_der(&spki), Err(MALFORMED));
        assert_eq!(
            PublicKey::from_rsa(&[0xff; 128], &[1, 0, 1]),
            Err(KeyError::RsaSize(1024))
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ignored = PublicKey::from_spki_der(&bytes);
        }

        #[test]
        fn never_panics_near_a_key(at in 0usize..91, to: u8) {
            let mut spki = der::tlv(
                der::SEQUENCE,
                &[ALG_EC_P256, &der::tlv(der::BIT_STRING, &[&[0, 4], &[9; 64]])],
            );
            if let Some(byte) = spki.get_mut(at) {
                *byte = to;
            }
            let _ignored = PublicKey::from_spki_der(&spki);
        }
    }
}
