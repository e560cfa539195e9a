//! The double's keys: real certificates and real tokens.

use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey, PublicKey, random};
use muster_model::{Bundle, JwtAuthority, SpiffeId, Timestamp, TrustDomain, X509Authority};
use muster_svid::jwt::{self, JwtParams};
use muster_svid::x509::{CaParams, Certificate, Issuer, LeafParams, Subject, draft_ca};

pub(crate) struct Ca {
    key: PrivateKey,
    issuer: Issuer,
    pub(crate) authority: X509Authority,
}

impl Ca {
    pub(crate) fn new(trust_domain: &TrustDomain, now: Timestamp) -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let draft = draft_ca(
            &CaParams {
                trust_domain,
                subject: &Subject::default_ca(),
                public_key: key.public_key(),
                serial: random::serial(),
                ttl: Duration::from_hours(24),
            },
            now,
        )
        .unwrap();
        let signature = key.sign(draft.scheme(), draft.tbs()).unwrap();
        let der = draft.assemble(&signature);
        let authority = X509Authority {
            expires_at: Certificate::parse(&der).unwrap().not_after,
            der: der.clone().into(),
            tainted: false,
        };
        Self {
            key,
            issuer: Issuer::from_certificate(&der).unwrap(),
            authority,
        }
    }

    pub(crate) fn sign(
        &self,
        spiffe_id: &SpiffeId,
        public_key: &PublicKey,
        ttl: Duration,
        now: Timestamp,
    ) -> Vec<u8> {
        let leaf = LeafParams {
            spiffe_id,
            public_key,
            dns_names: &[],
            subject: None,
            serial: random::serial(),
            ttl,
        };
        let draft = self.issuer.draft_leaf(&leaf, now).unwrap();
        let signature = self.key.sign(draft.scheme(), draft.tbs()).unwrap();
        draft.assemble(&signature)
    }
}

pub(crate) struct JwtKey {
    key: PrivateKey,
    pub(crate) key_id: String,
}

impl JwtKey {
    pub(crate) fn new() -> Self {
        Self {
            key: PrivateKey::generate(KeyType::EcP256).unwrap(),
            key_id: random::alphanumeric(32),
        }
    }

    pub(crate) fn authority(&self) -> JwtAuthority {
        JwtAuthority {
            key_id: self.key_id.clone(),
            public_key: self.key.public_key().spki_der().into(),
            expires_at: None,
            tainted: false,
        }
    }

    pub(crate) fn sign(
        &self,
        spiffe_id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: Timestamp,
    ) -> String {
        let draft = jwt::draft(
            &JwtParams {
                spiffe_id,
                audience,
                key_id: &self.key_id,
                public_key: self.key.public_key(),
                key_expires_at: None,
                ttl,
                issuer: Some("the double"),
                token_id: None,
            },
            now,
        )
        .unwrap();
        let signature = self
            .key
            .sign(draft.scheme(), draft.signing_input())
            .unwrap();
        draft.assemble(&signature).unwrap().token
    }
}

/// A foreign trust domain with one authority of each kind.
pub(crate) struct Foreign {
    pub(crate) ca: Ca,
    pub(crate) jwt: JwtKey,
    pub(crate) trust_domain: TrustDomain,
}

impl Foreign {
    pub(crate) fn new(name: &str, now: Timestamp) -> Self {
        let trust_domain = TrustDomain::parse(name).unwrap();
        Self {
            ca: Ca::new(&trust_domain, now),
            jwt: JwtKey::new(),
            trust_domain,
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle {
            x509_authorities: vec![self.ca.authority.clone()],
            jwt_authorities: vec![self.jwt.authority()],
            sequence_number: 1,
            ..Bundle::empty(self.trust_domain.clone())
        }
    }
}
