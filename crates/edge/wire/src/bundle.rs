//! Bundles on SPIRE's API.

use muster_model::{
    Bundle, JwtAuthority, Revision, Timestamp, TrustDomain, WitAuthority, X509Authority,
};
use muster_proto::spire::api::types;

/// Why a bundle message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireBundleError {
    /// The trust domain's name is malformed.
    #[error("trust domain \"{name}\" is malformed: {why}")]
    TrustDomain {
        /// The name as received.
        name: String,
        /// What is wrong.
        why: muster_model::IdError,
    },
    /// A root certificate does not parse.
    #[error("X.509 authority {index} of \"{trust_domain}\" is not a certificate")]
    Certificate {
        /// Position in the list, from 0.
        index: usize,
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// A JWT key has no ID.
    #[error("JWT authority {index} of \"{trust_domain}\" has no key ID")]
    KeyId {
        /// Position in the list, from 0.
        index: usize,
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// A WIT key has no ID (WIT-16).
    #[error("WIT authority {index} of \"{trust_domain}\" has no key ID")]
    WitKeyId {
        /// Position in the list, from 0.
        index: usize,
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
}

/// Writes the fields of a bundle that `mask` wants; no mask wants all.
///
/// The trust domain is always written.
pub fn write(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let wants = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    let mut message = types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        ..types::Bundle::default()
    };
    if wants(|m| m.x509_authorities) {
        message.x509_authorities = bundle
            .x509_authorities
            .iter()
            .map(|a| types::X509Certificate {
                asn1: a.der.to_vec().into(),
                tainted: a.tainted,
            })
            .collect();
    }
    if wants(|m| m.jwt_authorities) {
        message.jwt_authorities = bundle.jwt_authorities.iter().map(write_jwt_key).collect();
    }
    if wants(|m| m.wit_authorities) {
        message.wit_authorities = bundle.wit_authorities.iter().map(write_wit_key).collect();
    }
    if wants(|m| m.refresh_hint) {
        message.refresh_hint = bundle.refresh_hint;
    }
    if wants(|m| m.sequence_number) {
        message.sequence_number = bundle.sequence_number;
    }
    message
}

fn write_jwt_key(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: authority.public_key.to_vec().into(),
        key_id: authority.key_id.clone(),
        expires_at: authority.expires_at.map_or(0, Timestamp::unix_seconds),
        tainted: authority.tainted,
    }
}

fn write_wit_key(authority: &WitAuthority) -> types::WitKey {
    types::WitKey {
        public_key: authority.public_key.to_vec().into(),
        key_id: authority.key_id.clone(),
        expires_at: authority.expires_at.map_or(0, Timestamp::unix_seconds),
        tainted: authority.tainted,
    }
}

/// Reads a bundle. `expiry` reads the end of a certificate's validity from its DER.
pub fn read(
    message: &types::Bundle,
    expiry: impl Fn(&[u8]) -> Option<Timestamp>,
) -> Result<Bundle, WireBundleError> {
    let trust_domain = TrustDomain::from_name_or_id(&message.trust_domain).map_err(|why| {
        WireBundleError::TrustDomain {
            name: message.trust_domain.clone(),
            why,
        }
    })?;
    let mut bundle = Bundle::empty(trust_domain.clone());
    for (index, certificate) in message.x509_authorities.iter().enumerate() {
        let expires_at = expiry(&certificate.asn1).ok_or_else(|| WireBundleError::Certificate {
            index,
            trust_domain: trust_domain.clone(),
        })?;
        bundle.x509_authorities.push(X509Authority {
            der: certificate.asn1.as_ref().into(),
            expires_at,
            tainted: certificate.tainted,
        });
    }
    for (index, key) in message.jwt_authorities.iter().enumerate() {
        if key.key_id.is_empty() {
            return Err(WireBundleError::KeyId {
                index,
                trust_domain: trust_domain.clone(),
            });
        }
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: key.key_id.clone(),
            public_key: key.public_key.as_ref().into(),
            expires_at: (key.expires_at != 0).then(|| Timestamp::from_unix_seconds(key.expires_at)),
            tainted: key.tainted,
        });
    }
    for (index, key) in message.wit_authorities.iter().enumerate() {
        if key.key_id.is_empty() {
            return Err(WireBundleError::WitKeyId {
                index,
                trust_domain: trust_domain.clone(),
            });
        }
        bundle.wit_authorities.push(WitAuthority {
            key_id: key.key_id.clone(),
            public_key: key.public_key.as_ref().into(),
            expires_at: (key.expires_at != 0).then(|| Timestamp::from_unix_seconds(key.expires_at)),
            tainted: key.tainted,
        });
    }
    bundle.refresh_hint = message.refresh_hint;
    bundle.sequence_number = message.sequence_number;
    bundle.changed_at = Revision::default();
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        Bundle {
            x509_authorities: vec![X509Authority {
                der: [1, 2, 3][..].into(),
                expires_at: Timestamp::MAX,
                tainted: true,
            }],
            jwt_authorities: vec![JwtAuthority {
                key_id: "k".into(),
                public_key: [4][..].into(),
                expires_at: None,
                tainted: false,
            }],
            wit_authorities: vec![WitAuthority {
                key_id: "w".into(),
                public_key: [5][..].into(),
                expires_at: Some(Timestamp::from_unix_seconds(1_800_000_000)),
                tainted: true,
            }],
            refresh_hint: 300,
            sequence_number: 7,
            ..Bundle::empty(TrustDomain::parse("example.org").unwrap())
        }
    }

    #[test]
    fn written_and_read_again() {
        assert_eq!(
            read(&write(&bundle(), None), |_| Some(Timestamp::MAX)),
            Ok(bundle())
        );
    }

    #[test]
    fn a_mask_selects_fields() {
        let message = write(
            &bundle(),
            Some(&types::BundleMask {
                sequence_number: true,
                ..Default::default()
            }),
        );
        assert_eq!(message.sequence_number, 7);
        assert!(message.x509_authorities.is_empty() && message.jwt_authorities.is_empty());
        assert!(message.wit_authorities.is_empty());
        assert_eq!(message.refresh_hint, 0);
    }

    #[test]
    fn faults_name_their_place() {
        let message = write(&bundle(), None);
        assert!(matches!(
            read(&message, |_| None),
            Err(WireBundleError::Certificate { index: 0, .. })
        ));
    }
}
