//! Certificate signing requests (PKCS #10, RFC 2986).

use muster_crypto::{KeyError, PrivateKey, PublicKey, der};
use muster_model::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::draft::{DraftError, Subject};
use super::unsigned::rcgen_algorithm;

/// The longest request that is read, in bytes.
pub const MAX_CSR_LEN: usize = 32 * 1024;

/// Why bytes are not a signing request that we accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`MAX_CSR_LEN`].
    #[error("the signing request has {0} bytes, more than {MAX_CSR_LEN}")]
    TooLong(usize),
    /// Not DER of a PKCS #10 request, or something follows it.
    #[error("not a well-formed PKCS #10 signing request")]
    Malformed,
    /// The key in it cannot be used.
    #[error("the signing request's key: {0}")]
    Key(#[from] KeyError),
    /// Its own signature is not one of its key: the sender does not hold the key.
    #[error("the signing request is not signed with its own key")]
    BadSignature,
}

/// A signing request whose own signature was verified. What it asks for is a wish, not a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRequest {
    /// The key, which the sender holds.
    pub public_key: PublicKey,
    /// URI names, in order.
    pub uri_names: Vec<String>,
    /// DNS names, in order.
    pub dns_names: Vec<String>,
    /// The subject: of each attribute that occurs several times, the first.
    pub subject: Subject,
}

impl SigningRequest {
    /// Reads a request, DER, and verifies that it is signed with the key that it names: on every
    /// call, also where SPIRE only parses (spire-behaviour 2.4).
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_LEN {
            return Err(CsrError::TooLong(der.len()));
        }
        let (rest, csr) =
            X509CertificationRequest::from_der(der).map_err(|_asn1| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let info = &csr.certification_request_info;
        let public_key = PublicKey::from_spki_der(info.subject_pki.raw)?;
        verify_own_signature(der, &public_key)?;

        let mut uri_names = Vec::new();
        let mut dns_names = Vec::new();
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in &names.general_names {
                if let GeneralName::URI(uri) = name {
                    uri_names.push((*uri).to_owned());
                } else if let GeneralName::DNSName(dns) = name {
                    dns_names.push((*dns).to_owned());
                }
            }
        }
        Ok(Self {
            public_key,
            uri_names,
            dns_names,
            subject: read_subject(&info.subject),
        })
    }
}

/// Builds a request: subject C=US, O=SPIRE as SPIRE's agents send it, and the ID as URI name if
/// one is given. Signed with the key itself.
pub fn build_csr(key: &PrivateKey, id: Option<&SpiffeId>) -> Result<Vec<u8>, DraftError> {
    let encoding = |error: rcgen::Error| DraftError::Encoding(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = Subject::default_svid().to_name();
    if let Some(id) = id {
        let name = Ia5String::try_from(id.as_str()).map_err(encoding)?;
        params.subject_alt_names = vec![SanType::URI(name)];
    }
    let request = params
        .serialize_request(&RequestKey(key))
        .map_err(encoding)?;
    Ok(request.der().to_vec())
}

/// Our key under rcgen's traits.
struct RequestKey<'a>(&'a PrivateKey);

impl rcgen::SigningKey for RequestKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0
            .sign_default(message)
            .map_err(|_key| rcgen::Error::RemoteKeyError)
    }
}

impl rcgen::PublicKeyData for RequestKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().bit_string()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen_algorithm(self.0.algorithm())
    }
}

/// Verifies with webpki's algorithms, which know every pair of key and digest in use: OpenSSL
/// signs requests of P-384 keys with SHA-256, for example.
fn verify_own_signature(csr: &[u8], key: &PublicKey) -> Result<(), CsrError> {
    let parts = || {
        let mut parts = der::Reader::new(der::Reader::new(csr).value(der::SEQUENCE)?);
        let message = parts.element(der::SEQUENCE)?;
        let algorithm = parts.value(der::SEQUENCE)?;
        let (0, signature) = parts.value(der::BIT_STRING)?.split_first()? else {
            return None;
        };
        let mut spki = der::Reader::new(der::Reader::new(key.spki_der()).value(der::SEQUENCE)?);
        Some((message, algorithm, signature, spki.value(der::SEQUENCE)?))
    };
    let (message, algorithm, signature, key_algorithm) = parts().ok_or(CsrError::Malformed)?;
    let verified = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|a| {
            a.signature_alg_id().as_ref() == algorithm
                && a.public_key_alg_id().as_ref() == key_algorithm
        })
        .any(|a| {
            a.verify_signature(key.bit_string(), message, signature)
                .is_ok()
        });
    verified.then_some(()).ok_or(CsrError::BadSignature)
}

fn read_subject(name: &X509Name<'_>) -> Subject {
    fn first<'a>(
        mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
    ) -> Option<String> {
        values
            .next()
            .and_then(|value| value.as_str().ok())
            .map(str::to_owned)
    }
    Subject {
        country: first(name.iter_country()),
        organization: first(name.iter_organization()),
        organizational_unit: first(name.iter_organizational_unit()),
        common_name: first(name.iter_common_name()),
    }
}

#[cfg(test)]
mod tests {
    use muster_crypto::KeyType;
    use proptest::prelude::*;

    use super::*;

    fn request(key: &PrivateKey) -> Vec<u8> {
        let id = SpiffeId::parse("spiffe://example.org/w").unwrap();
        build_csr(key, Some(&id)).unwrap()
    }

    #[test]
    fn what_is_built_is_read() {
        for key_type in [
            KeyType::EcP256,
            KeyType::EcP384,
            KeyType::Ed25519,
            KeyType::Rsa2048,
        ] {
            let key = PrivateKey::generate(key_type).unwrap();
            let read = SigningRequest::parse(&request(&key)).unwrap();
            assert_eq!(&read.public_key, key.public_key());
            assert_eq!(read.uri_names, ["spiffe://example.org/w"]);
            assert_eq!(read.subject, Subject::default_svid());
        }
    }

    #[test]
    fn a_request_signed_with_another_key_is_refused() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut der = request(&key);
        let at = der.len() - 1;
        der[at] ^= 1;
        assert_eq!(SigningRequest::parse(&der), Err(CsrError::BadSignature));
        der.push(0);
        assert_eq!(SigningRequest::parse(&der), Err(CsrError::Malformed));
        assert_eq!(
            SigningRequest::parse(&vec![0; MAX_CSR_LEN + 1]),
            Err(CsrError::TooLong(MAX_CSR_LEN + 1))
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(SigningRequest::parse(&bytes).is_err());
        }

        #[test]
        fn never_panics_near_a_request(at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
            let key = PrivateKey::generate(KeyType::EcP256).unwrap();
            let mut der = request(&key);
            let at = at.index(der.len());
            der[at] = to;
            let _ignored = SigningRequest::parse(&der);
            der.truncate(cut.index(der.len()));
            prop_assert!(SigningRequest::parse(&der).is_err());
        }
    }
}
