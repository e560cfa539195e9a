//! A bundle as operators have it in a file: PEM certificates, or a SPIFFE bundle document.

use muster_model::{Bundle, TrustDomain, X509Authority};

use crate::bundle::{BundleError, decode_spiffe};
use crate::pem;
use crate::x509::{Certificate, CertificateError};

/// Why a file is not a bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleFileError {
    /// A JSON document that is no SPIFFE bundle.
    #[error(transparent)]
    Document(#[from] BundleError),
    /// Not PEM.
    #[error("the PEM text is malformed: {0}")]
    Pem(String),
    /// A PEM block is no certificate.
    #[error("certificate {index}: {reason}")]
    Certificate {
        /// Its place, from 1.
        index: usize,
        /// What is wrong with it.
        reason: CertificateError,
    },
    /// Neither a certificate nor a document.
    #[error("it has no certificate; give PEM certificates or a SPIFFE bundle document")]
    Empty,
}

/// Reads the bundle of `trust_domain`. PEM has no JWT keys and no sequence number.
pub fn read(content: &[u8], trust_domain: TrustDomain) -> Result<Bundle, BundleFileError> {
    if content.trim_ascii_start().starts_with(b"{") {
        return Ok(decode_spiffe(trust_domain, content)?);
    }
    let mut bundle = Bundle::empty(trust_domain);
    let ders = pem::certificates(content).map_err(BundleFileError::Pem)?;
    for (place, der) in ders.into_iter().enumerate() {
        let certificate =
            Certificate::parse(&der).map_err(|reason| BundleFileError::Certificate {
                index: place + 1,
                reason,
            })?;
        bundle.x509_authorities.push(X509Authority {
            expires_at: certificate.not_after,
            der: der.into(),
            tainted: false,
        });
    }
    if bundle.x509_authorities.is_empty() {
        return Err(BundleFileError::Empty);
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_their_reason() {
        let check = |content: &str, expected: &str| {
            let domain = TrustDomain::parse("other.test").unwrap();
            let error = read(content.as_bytes(), domain).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check("", "no certificate");
        check(" {\"keys\": 1}", "array");
        check(
            "-----BEGIN CERTIFICATE-----\nAQI=\n-----END CERTIFICATE-----",
            "certificate 1",
        );
        check("-----BEGIN CERTIFICATE-----\nAQI=\n", "END");
    }
}
