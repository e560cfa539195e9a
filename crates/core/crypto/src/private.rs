//! Private keys.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{self as lc, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding};

use crate::{KeyAlgorithm, KeyError, KeyType, PublicKey, Purpose, Secret, SignatureScheme};

/// A private key, ready to sign; the provider wipes it on drop. Share it behind an `Arc`.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<rsa::KeyPair>),
}

impl PrivateKey {
    /// Makes a new key. RSA takes tenths of seconds to seconds; the others microseconds.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let failed = |_unspecified| KeyError::Provider("generate a key");
        let pair = match key_type {
            KeyType::EcP256 => Pair::Ec(
                EcdsaKeyPair::generate(&lc::ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyType::EcP384 => Pair::Ec(
                EcdsaKeyPair::generate(&lc::ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyType::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            KeyType::Rsa2048 => Pair::Rsa(Box::new(
                rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?,
            )),
            KeyType::Rsa4096 => Pair::Rsa(Box::new(
                rsa::KeyPair::generate(KeySize::Rsa4096).map_err(failed)?,
            )),
        };
        Ok(Self::of(pair))
    }

    /// Reads a PKCS #8 PrivateKeyInfo (RFC 5958), unencrypted.
    pub fn from_pkcs8_der(der: &Secret<Vec<u8>>) -> Result<Self, KeyError> {
        let der = der.expose(Purpose::Sign).as_slice();
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&lc::ECDSA_P256_SHA256_ASN1_SIGNING, der) {
            return Ok(Self::of(Pair::Ec(pair)));
        }
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&lc::ECDSA_P384_SHA384_ASN1_SIGNING, der) {
            return Ok(Self::of(Pair::Ec(pair)));
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self::of(Pair::Ed25519(pair)));
        }
        if let Ok(pair) = rsa::KeyPair::from_pkcs8(der) {
            return Ok(Self::of(Pair::Rsa(Box::new(pair))));
        }
        Err(KeyError::Malformed(
            "PKCS #8 private key of a supported algorithm",
        ))
    }

    /// Writes the key as PKCS #8, version 1: what SPIFFE clients in every language can read.
    pub fn to_pkcs8_der(&self) -> Result<Secret<Vec<u8>>, KeyError> {
        let failed = |_unspecified| KeyError::Provider("encode a private key");
        let bytes = match &self.pair {
            Pair::Ec(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                der.as_ref().to_vec()
            }
        };
        Ok(Secret::new(bytes))
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// What the key is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.public.algorithm()
    }

    /// Signs with the scheme that this kind of key uses by default; see [`PrivateKey::sign`].
    pub fn sign_default(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign(self.public.default_scheme(), message)
    }

    /// Signs `message` (not its digest). The signature is in the X.509 view (ECDSA: ASN.1); for
    /// tokens rewrite it with [`SignatureScheme::to_jws`].
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_unspecified| KeyError::Provider("sign");
        let mismatch = || KeyError::SchemeMismatch {
            scheme,
            key: self.algorithm(),
        };
        if !scheme.fits(self.algorithm()) {
            return Err(mismatch());
        }
        match &self.pair {
            // The provider takes its own randomness and ignores the generator it is handed.
            Pair::Ec(pair) => Ok(pair
                .sign(&SystemRandom::new(), message)
                .map_err(failed)?
                .as_ref()
                .to_vec()),
            Pair::Ed25519(pair) => Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let padding = rsa_encoding(scheme).ok_or_else(mismatch)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
        }
    }

    fn of(pair: Pair) -> Self {
        let public = match &pair {
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                // An uncompressed point has one byte and two coordinates.
                let algorithm = if point.len() == 65 {
                    KeyAlgorithm::EcP256
                } else {
                    KeyAlgorithm::EcP384
                };
                PublicKey::of_pair(algorithm, point)
            }
            Pair::Ed25519(pair) => {
                PublicKey::of_pair(KeyAlgorithm::Ed25519, pair.public_key().as_ref())
            }
            Pair::Rsa(pair) => PublicKey::of_pair(
                KeyAlgorithm::Rsa {
                    bits: pair.public_modulus_len() * 8,
                },
                pair.public_key().as_ref(),
            ),
        };
        Self { pair, public }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.algorithm())
    }
}

fn rsa_encoding(scheme: SignatureScheme) -> Option<&'static dyn RsaEncoding> {
    match scheme {
        SignatureScheme::RsaPkcs1Sha256 => Some(&lc::RSA_PKCS1_SHA256),
        SignatureScheme::RsaPkcs1Sha384 => Some(&lc::RSA_PKCS1_SHA384),
        SignatureScheme::RsaPkcs1Sha512 => Some(&lc::RSA_PKCS1_SHA512),
        SignatureScheme::RsaPssSha256 => Some(&lc::RSA_PSS_SHA256),
        SignatureScheme::RsaPssSha384 => Some(&lc::RSA_PSS_SHA384),
        SignatureScheme::RsaPssSha512 => Some(&lc::RSA_PSS_SHA512),
        SignatureScheme::EcdsaP256Sha256
        | SignatureScheme::EcdsaP384Sha384
        | SignatureScheme::EcdsaP521Sha512
        | SignatureScheme::Ed25519 => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schemes(key_type: KeyType) -> Vec<SignatureScheme> {
        match key_type {
            KeyType::EcP256 | KeyType::EcP384 | KeyType::Ed25519 => {
                vec![key_type.default_scheme()]
            }
            KeyType::Rsa2048 | KeyType::Rsa4096 => vec![
                SignatureScheme::RsaPkcs1Sha256,
                SignatureScheme::RsaPkcs1Sha384,
                SignatureScheme::RsaPkcs1Sha512,
                SignatureScheme::RsaPssSha256,
                SignatureScheme::RsaPssSha384,
                SignatureScheme::RsaPssSha512,
            ],
        }
    }

    /// RSA-4096 takes seconds without optimisation and runs the same code as RSA-2048.
    const TESTED: [KeyType; 4] = [
        KeyType::EcP256,
        KeyType::EcP384,
        KeyType::Ed25519,
        KeyType::Rsa2048,
    ];

    #[test]
    fn every_type_signs_survives_storage_and_verifies() {
        for key_type in TESTED {
            let key = PrivateKey::generate(key_type).unwrap();
            assert_eq!(key.public_key().key_type(), Some(key_type));
            let stored = key.to_pkcs8_der().unwrap();
            let again = PrivateKey::from_pkcs8_der(&stored).unwrap();
            assert_eq!(again.public_key(), key.public_key());
            let read = PublicKey::from_spki_der(key.public_key().spki_der()).unwrap();
            assert_eq!(&read, key.public_key());
            for scheme in schemes(key_type) {
                let signature = again.sign(scheme, b"message").unwrap();
                assert_eq!(read.verify(scheme, b"message", &signature), Ok(()));
                assert_eq!(
                    read.verify(scheme, b"massage", &signature),
                    Err(KeyError::BadSignature)
                );
            }
        }
    }

    #[test]
    fn a_scheme_of_another_key_type_is_refused() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let expected = KeyError::SchemeMismatch {
            scheme: SignatureScheme::RsaPkcs1Sha256,
            key: KeyAlgorithm::EcP256,
        };
        assert_eq!(
            key.sign(SignatureScheme::RsaPkcs1Sha256, b"m"),
            Err(expected.clone())
        );
        assert_eq!(
            key.public_key()
                .verify(SignatureScheme::RsaPkcs1Sha256, b"m", b"s"),
            Err(expected)
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(ec-p256)");
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
            prop_assert!(PrivateKey::from_pkcs8_der(&Secret::new(bytes)).is_err());
        }
    }
}
