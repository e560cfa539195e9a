//! What takes the place of secrets that are withdrawn.
//!
//! A proxy keeps its secrets when a stream ends, and Envoy passes over names that are removed: it
//! would go on with an identity that its process has lost until the certificate expires, and keep
//! the key for longer. So the last answer of such a stream replaces all that the proxy was given:
//! its certificates by one that nobody vouches for, its bundles by one that vouches for nobody.

use muster_crypto::{KeyError, KeyType, PrivateKey, Secret, random};
use muster_model::{Timestamp, TrustDomain};
use muster_svid::x509::{CaParams, DraftError, Subject, draft_ca};

/// The version of every secret that took the place of another. No content has it, so that a proxy
/// which comes back with an identity gets that.
pub(crate) const VERSION: &str = "withdrawn";
/// What the certificate calls itself, for whoever finds it in a proxy.
const NAME: &str = "identity withdrawn";

/// A certificate that signed itself, is known nowhere, and expired in 1970. Its key is the proxy's
/// alone, and new for each answer.
pub(crate) struct Nobody {
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub(crate) key: Secret<Vec<u8>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmade {
    #[error("no key for what takes the place of withdrawn secrets")]
    Key(#[from] KeyError),
    #[error("no certificate for what takes the place of withdrawn secrets")]
    Draft(#[from] DraftError),
}

impl Nobody {
    /// Makes one, in the form of an authority of this trust domain: proxies read nothing else.
    pub(crate) fn of(own: &TrustDomain) -> Result<Self, Unmade> {
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let subject = Subject {
            common_name: Some(NAME.to_owned()),
            ..Subject::default()
        };
        let ca = CaParams {
            trust_domain: own,
            subject: &subject,
            public_key: key.public_key(),
            serial: random::serial(),
            ttl: std::time::Duration::from_secs(1),
        };
        let unsigned = draft_ca(&ca, Timestamp::EPOCH)?;
        let signature = key.sign(unsigned.scheme(), unsigned.tbs())?;
        Ok(Self {
            certificate: unsigned.assemble(&signature),
            key: key.to_pkcs8_der()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use muster_svid::x509::Certificate;

    use super::*;

    #[test]
    fn nobody_is_valid_now_and_is_another_each_time() {
        let own = TrustDomain::parse("example.org").unwrap();
        let (one, other) = (Nobody::of(&own).unwrap(), Nobody::of(&own).unwrap());
        let read = Certificate::parse(&one.certificate).unwrap();
        assert!(read.not_after <= Timestamp::from_unix_seconds(1));
        assert_ne!(
            read.public_key().unwrap().spki_der(),
            Certificate::parse(&other.certificate)
                .unwrap()
                .public_key()
                .unwrap()
                .spki_der()
        );
        let key = PrivateKey::from_pkcs8_der(&one.key).unwrap();
        assert_eq!(
            key.public_key().spki_der(),
            read.public_key().unwrap().spki_der()
        );
    }
}
