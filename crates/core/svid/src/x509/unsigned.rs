//! The seam between building a certificate and signing it.
//!
//! rcgen signs while it builds, and its signer is synchronous; the keys of an authority may sit in
//! an HSM across the network. So rcgen builds with a key that signs nothing, the shell around the
//! empty signature is opened again, and the true signature is put in when it has come.

use muster_crypto::{KeyAlgorithm, PublicKey, SignatureScheme, der};
use muster_model::{SerialNumber, Timestamp};

/// A certificate that is complete but for its signature.
#[derive(Clone, Debug)]
pub struct Unsigned {
    tbs: Vec<u8>,
    algorithm: Vec<u8>,
    scheme: SignatureScheme,
    /// The serial number that the certificate will have.
    pub serial: SerialNumber,
    /// From when it will be valid.
    pub not_before: Timestamp,
    /// Until when it will be valid.
    pub not_after: Timestamp,
}

impl Unsigned {
    /// Opens the shell that rcgen made with a [`Placeholder`]; `None` if it has no such shape.
    pub(super) fn open(
        shell: &[u8],
        scheme: SignatureScheme,
        serial: &[u8; 16],
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Option<Self> {
        let mut parts = der::Reader::new(der::Reader::new(shell).value(der::SEQUENCE)?);
        Some(Self {
            tbs: parts.element(der::SEQUENCE)?.to_vec(),
            algorithm: parts.element(der::SEQUENCE)?.to_vec(),
            scheme,
            serial: SerialNumber::from_be_bytes(serial),
            not_before,
            not_after,
        })
    }

    /// The bytes to be signed: the TBSCertificate, DER.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// How they are to be signed; the certificate already says so.
    pub fn scheme(&self) -> SignatureScheme {
        self.scheme
    }

    /// The certificate, DER, with a signature in the X.509 view (ECDSA: ASN.1). The signature is
    /// not verified here.
    pub fn assemble(self, signature: &[u8]) -> Vec<u8> {
        let signature = der::tlv(der::BIT_STRING, &[&[0], signature]);
        der::tlv(der::SEQUENCE, &[&self.tbs, &self.algorithm, &signature])
    }
}

/// Stands where rcgen wants a key; signs nothing.
pub(super) struct Placeholder(pub(super) PublicKey);

impl rcgen::SigningKey for Placeholder {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

impl rcgen::PublicKeyData for Placeholder {
    fn der_bytes(&self) -> &[u8] {
        self.0.bit_string()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen_algorithm(self.0.algorithm())
    }
}

/// rcgen's word for a key and the scheme that it signs with by default.
pub(super) fn rcgen_algorithm(key: KeyAlgorithm) -> &'static rcgen::SignatureAlgorithm {
    match key {
        KeyAlgorithm::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyAlgorithm::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeyAlgorithm::EcP521 => &rcgen::PKCS_ECDSA_P521_SHA512,
        KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
        KeyAlgorithm::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
    }
}
