//! CA certificates below an authority, and what is signed with them.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test says what it expects"
)]

use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, Timestamp, TrustDomain, X509Authority};
use muster_svid::x509::{
    CaParams, DownstreamParams, DraftError, Issuer, LeafParams, Role, Subject, VerifyError,
    draft_ca, verify,
};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

struct Authority {
    key: PrivateKey,
    issuer: Issuer,
}

impl Authority {
    fn root() -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let ca = CaParams {
            trust_domain: &domain(),
            subject: &Subject::default_ca(),
            public_key: key.public_key(),
            serial: [0xff; 16],
            ttl: DAY,
        };
        let draft = draft_ca(&ca, NOW).unwrap();
        let signature = key.sign(draft.scheme(), draft.tbs()).unwrap();
        let issuer = Issuer::from_certificate(&draft.assemble(&signature)).unwrap();
        Self { key, issuer }
    }

    /// Wants to live longer than the authority.
    fn leaf(&self) -> Vec<u8> {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let leaf = LeafParams {
            spiffe_id: &domain().with_path("/w").unwrap(),
            public_key: key.public_key(),
            dns_names: &[],
            subject: None,
            serial: [7; 16],
            ttl: 2 * DAY,
        };
        let draft = self.issuer.draft_leaf(&leaf, NOW).unwrap();
        assert_eq!(draft.not_after, self.issuer.certificate().not_after);
        let signature = self.key.sign(draft.scheme(), draft.tbs()).unwrap();
        draft.assemble(&signature)
    }

    fn bundle(&self) -> Bundle {
        Bundle {
            x509_authorities: vec![X509Authority {
                der: self.issuer.der().into(),
                expires_at: NOW.plus(DAY),
                tainted: false,
            }],
            ..Bundle::empty(domain())
        }
    }
}

/// The downstream column of spire-behaviour 2.4, and that what is signed below verifies (X509I-06,
/// X509I-08, X509I-18).
#[test]
fn a_downstream_authority_has_spires_shape() {
    let upper = Authority::root();
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let draft = |ttl| {
        let params = DownstreamParams {
            public_key: key.public_key(),
            serial: [9; 16],
            ttl,
            depth: 1,
        };
        upper.issuer.draft_downstream(&params, NOW).unwrap()
    };
    assert_eq!(draft(365 * DAY).not_after, NOW.plus(DAY));
    let draft = draft(HOUR);
    assert_eq!(draft.not_after, NOW.plus(HOUR));
    let signature = upper.key.sign(draft.scheme(), draft.tbs()).unwrap();
    let lower_der = draft.assemble(&signature);

    let (_, ca) = X509Certificate::from_der(&lower_der).unwrap();
    assert_eq!(
        ca.subject().to_string(),
        "C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber=340282366920938463463374607431768211455"
    );
    let mut seen = vec![];
    for extension in ca.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(b) => {
                assert!(b.ca && b.path_len_constraint.is_none() && extension.critical);
                seen.push("bc");
            }
            ParsedExtension::KeyUsage(u) => {
                assert!(u.flags == 0b110_0000 && extension.critical);
                seen.push("ku");
            }
            ParsedExtension::SubjectKeyIdentifier(k) => {
                assert_eq!(k.0, key.public_key().key_identifier());
                seen.push("ski");
            }
            ParsedExtension::AuthorityKeyIdentifier(k) => {
                let parent = upper.key.public_key().key_identifier();
                assert_eq!(k.key_identifier.as_ref().unwrap().0, parent);
                seen.push("aki");
            }
            ParsedExtension::SubjectAlternativeName(s) => {
                assert_eq!(s.general_names.len(), 1);
                assert_eq!(s.general_names[0].to_string(), "URI(spiffe://example.org)");
                seen.push("san");
            }
            other => panic!("unexpected extension {other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["aki", "bc", "ku", "san", "ski"]);

    let lower = Authority {
        issuer: Issuer::from_certificate(&lower_der).unwrap(),
        key,
    };
    let leaf = lower.leaf();
    let chain = [leaf.as_slice(), lower_der.as_slice()];
    assert!(verify(&chain, &upper.bundle(), Role::Client, NOW).is_ok());
    let alone = verify(&chain[..1], &upper.bundle(), Role::Client, NOW);
    assert_eq!(alone, Err(VerifyError::UnknownAuthority));
    // A server below the one below.
    let third = PrivateKey::generate(KeyType::EcP256).unwrap();
    let params = DownstreamParams {
        public_key: third.public_key(),
        serial: [10; 16],
        ttl: HOUR,
        depth: 2,
    };
    let draft = lower.issuer.draft_downstream(&params, NOW).unwrap();
    let signature = lower.key.sign(draft.scheme(), draft.tbs()).unwrap();
    let der = draft.assemble(&signature);
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    assert!(
        ca.subject()
            .to_string()
            .contains("O=SPIFFE, OU=DOWNSTREAM-2, serial")
    );
    let ended = upper.issuer.draft_downstream(&params, NOW.plus(DAY));
    assert!(matches!(ended, Err(DraftError::AuthorityExpired(_))));
}
