//! What takes the place of secrets that are withdrawn.
//!
//! A proxy keeps its secrets when a stream ends, and Envoy passes over names that are removed: it
//! would go on with an identity that its process has lost until the certificate expires, and keep
//! the key for longer. So the last answer of such a stream replaces all that the proxy was given:
//! its certificates by one that nobody vouches for, its bundles by one that vouches for nobody.

use std::time::Duration;

use muster_crypto::{KeyError, KeyType, PrivateKey, Secret, random};
use muster_model::{IdError, Timestamp, TrustDomain};
use muster_svid::x509::{CaParams, DraftError, Issuer, LeafParams, Subject, Unsigned, draft_ca};

/// The version of every secret that took the place of another. No content has it, so that a proxy
/// which comes back with an identity gets that.
pub(crate) const VERSION: &str = "withdrawn";
/// What the authority calls itself, for whoever finds it in a proxy.
const NAME: &str = "identity withdrawn";
/// Whom the certificate names: a proxy may want a SPIFFE ID in it.
const PATH: &str = "/withdrawn";
const TTL: Duration = Duration::from_secs(1);

/// An authority that is known nowhere and a certificate that it signed, both expired in 1970 and new
/// for each answer. Nobody has the authority's key.
pub(crate) struct Nobody {
    /// The authority's certificate, DER.
    pub(crate) authority: Vec<u8>,
    /// The certificate, DER.
    pub(crate) certificate: Vec<u8>,
    /// The certificate's key, PKCS #8, DER.
    pub(crate) key: Secret<Vec<u8>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmade {
    #[error("no key for what takes the place of withdrawn secrets")]
    Key(#[from] KeyError),
    #[error("no certificate for what takes the place of withdrawn secrets")]
    Draft(#[from] DraftError),
    #[error("no name for what takes the place of withdrawn secrets")]
    Name(#[from] IdError),
}

impl Nobody {
    /// Makes one that has the form of this trust domain's.
    pub(crate) fn of(own: &TrustDomain) -> Result<Self, Unmade> {
        let signer = PrivateKey::generate(KeyType::EcP256)?;
        let subject = Subject {
            common_name: Some(NAME.to_owned()),
            ..Subject::default()
        };
        let ca = CaParams {
            trust_domain: own,
            subject: &subject,
            public_key: signer.public_key(),
            serial: random::serial(),
            ttl: TTL,
        };
        let authority = signed(&signer, draft_ca(&ca, Timestamp::EPOCH)?)?;
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let leaf = LeafParams {
            spiffe_id: &own.with_path(PATH)?,
            public_key: key.public_key(),
            dns_names: &[],
            subject: None,
            serial: random::serial(),
            ttl: TTL,
        };
        let issuer = Issuer::from_certificate(&authority)?;
        let certificate = signed(&signer, issuer.draft_leaf(&leaf, Timestamp::EPOCH)?)?;
        Ok(Self {
            authority,
            certificate,
            key: key.to_pkcs8_der()?,
        })
    }
}

fn signed(signer: &PrivateKey, unsigned: Unsigned) -> Result<Vec<u8>, KeyError> {
    let signature = signer.sign(unsigned.scheme(), unsigned.tbs())?;
    Ok(unsigned.assemble(&signature))
}

#[cfg(test)]
mod tests {
    use muster_svid::x509::Certificate;

    use super::*;

    #[test]
    fn nobody_is_valid_and_each_is_another() {
        let own = TrustDomain::parse("example.org").unwrap();
        let (one, other) = (Nobody::of(&own).unwrap(), Nobody::of(&own).unwrap());
        let public = |der: &[u8]| {
            let key = Certificate::parse(der).unwrap().public_key().unwrap();
            key.spki_der().to_vec()
        };
        for (der, others) in [
            (&one.authority, &other.authority),
            (&one.certificate, &other.certificate),
        ] {
            let read = Certificate::parse(der).unwrap();
            assert_eq!(read.not_after, Timestamp::from_unix_seconds(1));
            assert_ne!(public(der), public(others));
        }
        // What the proxy is given the key of could sign nothing that the bundle vouches for.
        let key = PrivateKey::from_pkcs8_der(&one.key).unwrap();
        assert_eq!(key.public_key().spki_der(), public(&one.certificate));
        assert_ne!(public(&one.certificate), public(&one.authority));
    }
}
