//! Certificates: the shapes that are issued, and the peers that are refused.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "a test says what it expects"
)]

use std::process::{Command, Stdio};
use std::time::Duration;

use muster_crypto::{KeyType, PrivateKey};
use muster_model::{Bundle, SpiffeId, Timestamp, TrustDomain, X509Authority};
use muster_svid::x509::{
    CaParams, Certificate, CertificateError, DraftError, Issuer, LeafParams, Role, Subject,
    SvidError, VerifyError, X509Svid, draft_ca, verify,
};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    domain().with_path(path).unwrap()
}

struct Authority {
    key: PrivateKey,
    issuer: Issuer,
}

fn authority(key_type: KeyType) -> Authority {
    let key = PrivateKey::generate(key_type).unwrap();
    let draft = draft_ca(
        &CaParams {
            trust_domain: &domain(),
            subject: &Subject::default_ca(),
            public_key: key.public_key(),
            serial: [0xff; 16],
            ttl: DAY,
        },
        NOW,
    )
    .unwrap();
    let signature = key.sign(draft.scheme(), draft.tbs()).unwrap();
    let issuer = Issuer::from_certificate(&draft.assemble(&signature)).unwrap();
    Authority { key, issuer }
}

impl Authority {
    fn leaf(&self, key: &PrivateKey, dns_names: &[String], ttl: Duration) -> Vec<u8> {
        let draft = self
            .issuer
            .draft_leaf(
                &LeafParams {
                    spiffe_id: &id("/w"),
                    public_key: key.public_key(),
                    dns_names,
                    subject: None,
                    serial: [7; 16],
                    ttl,
                },
                NOW,
            )
            .unwrap();
        let signature = self.key.sign(draft.scheme(), draft.tbs()).unwrap();
        draft.assemble(&signature)
    }

    fn bundle(&self) -> Bundle {
        bundle_of(self.issuer.der())
    }
}

fn bundle_of(root: &[u8]) -> Bundle {
    Bundle {
        x509_authorities: vec![X509Authority {
            der: root.into(),
            expires_at: NOW.plus(DAY),
            tainted: false,
        }],
        ..Bundle::empty(domain())
    }
}

/// The columns of spire-behaviour 2.4, read by a parser that we did not write (X509I-05, X509I-06,
/// X509I-09, -10, X509I-12, X509I-14, ID-18, X509I-16).
#[test]
fn a_ca_has_spires_shape() {
    let authority = authority(KeyType::EcP256);
    let (rest, ca) = X509Certificate::from_der(authority.issuer.der()).unwrap();
    assert!(rest.is_empty());
    assert_eq!(ca.version().0, 2);
    assert_eq!(
        ca.subject().to_string(),
        "C=US, O=SPIFFE, serialNumber=340282366920938463463374607431768211455"
    );
    // As Go writes it, and so SPIRE's debug service.
    assert_eq!(
        Certificate::parse(authority.issuer.der())
            .unwrap()
            .subject_text(),
        "SERIALNUMBER=340282366920938463463374607431768211455,O=SPIFFE,C=US"
    );
    assert_eq!(ca.subject().as_raw(), ca.issuer().as_raw());
    assert_eq!(
        ca.validity().not_before.timestamp(),
        NOW.unix_seconds() - 10
    );
    assert_eq!(
        ca.validity().not_after.timestamp(),
        NOW.plus(DAY).unix_seconds()
    );
    let mut seen = vec![];
    for extension in ca.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(b) => {
                assert!(b.ca && b.path_len_constraint.is_none() && extension.critical);
                seen.push("bc");
            }
            ParsedExtension::KeyUsage(u) => {
                // keyCertSign and cRLSign alone (X509I-05, X509I-12), critical (X509I-10).
                assert_eq!(u.flags, 0b110_0000);
                assert!(extension.critical);
                seen.push("ku");
            }
            ParsedExtension::SubjectKeyIdentifier(k) => {
                assert_eq!(k.0, authority.key.public_key().key_identifier());
                seen.push("ski");
            }
            ParsedExtension::SubjectAlternativeName(s) => {
                assert_eq!(s.general_names.len(), 1);
                assert_eq!(s.general_names[0].to_string(), "URI(spiffe://example.org)");
                seen.push("san");
            }
            // No AKI, no EKU, nothing else.
            other => panic!("unexpected extension {other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["bc", "ku", "san", "ski"]);
}

#[test]
fn a_leaf_has_spires_shape() {
    let authority = authority(KeyType::EcP256);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let names = ["b.example.org".to_owned(), "a.example.org".to_owned()];
    let der = authority.leaf(&key, &names, HOUR);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.version().0, 2);
    assert_eq!(
        leaf.subject().to_string(),
        "C=US, O=SPIRE, CN=b.example.org"
    );
    let mut seen = vec![];
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            // X509I-07: there, critical, an empty SEQUENCE.
            ParsedExtension::BasicConstraints(b) => {
                assert!(!b.ca && extension.critical);
                assert_eq!(extension.value, [0x30, 0]);
                seen.push("bc");
            }
            // X509I-10, X509I-11.
            ParsedExtension::KeyUsage(u) => {
                assert!(u.digital_signature() && u.key_encipherment() && u.key_agreement());
                assert_eq!(u.flags.count_ones(), 3);
                assert!(extension.critical);
                seen.push("ku");
            }
            // X509I-13.
            ParsedExtension::ExtendedKeyUsage(e) => {
                assert!(e.server_auth && e.client_auth && !extension.critical);
                seen.push("eku");
            }
            ParsedExtension::SubjectKeyIdentifier(k) => {
                assert_eq!(k.0, key.public_key().key_identifier());
                seen.push("ski");
            }
            // X509I-16.
            ParsedExtension::AuthorityKeyIdentifier(a) => {
                let expected = authority.key.public_key().key_identifier();
                assert_eq!(a.key_identifier.as_ref().unwrap().0, expected);
                seen.push("aki");
            }
            // X509I-01, X509I-02.
            ParsedExtension::SubjectAlternativeName(s) => {
                let names: Vec<_> = s.general_names.iter().map(ToString::to_string).collect();
                assert_eq!(
                    names,
                    [
                        "URI(spiffe://example.org/w)",
                        "DNSName(b.example.org)",
                        "DNSName(a.example.org)"
                    ]
                );
                assert!(!extension.critical);
                seen.push("san");
            }
            other => panic!("unexpected extension {other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["aki", "bc", "eku", "ku", "san", "ski"]);
}

/// X509I-04: a name that is empty makes the alternative name critical (RFC 5280, 4.1.2.6).
#[test]
fn a_leaf_without_a_subject_has_a_critical_name() {
    let authority = authority(KeyType::EcP256);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let params = LeafParams {
        spiffe_id: &id("/w"),
        public_key: key.public_key(),
        dns_names: &[],
        subject: Some(&Subject::default()),
        serial: [7; 16],
        ttl: HOUR,
    };
    let draft = authority.issuer.draft_leaf(&params, NOW).unwrap();
    let signature = authority.key.sign(draft.scheme(), draft.tbs()).unwrap();
    let der = draft.assemble(&signature);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().as_raw(), [0x30, 0]);
    let name = leaf.extensions().iter().find(|extension| {
        matches!(
            extension.parsed_extension(),
            ParsedExtension::SubjectAlternativeName(_)
        )
    });
    assert!(name.unwrap().critical);
    assert!(verify(&[&der], &authority.bundle(), Role::Server, NOW).is_ok());
}

/// ID-14: the longest ID stands in a certificate, and comes back from it.
#[test]
fn the_longest_id_has_a_certificate() {
    let authority = authority(KeyType::EcP256);
    let longest = id(&format!(
        "/{}",
        "p".repeat(2048 - "spiffe://example.org/".len())
    ));
    let params = LeafParams {
        spiffe_id: &longest,
        public_key: authority.key.public_key(),
        dns_names: &[],
        subject: None,
        serial: [7; 16],
        ttl: HOUR,
    };
    let draft = authority.issuer.draft_leaf(&params, NOW).unwrap();
    let signature = authority.key.sign(draft.scheme(), draft.tbs()).unwrap();
    let leaf = draft.assemble(&signature);
    let svid = verify(&[&leaf], &authority.bundle(), Role::Client, NOW).unwrap();
    assert_eq!(svid.spiffe_id, longest);
}

/// X509I-15: a chain is good from its first second to its last. X509I-19: the serial number is
/// positive and has at most 20 octets.
#[test]
fn a_leaf_is_good_all_its_life() {
    let authority = authority(KeyType::EcP256);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let leaf = authority.leaf(&key, &[], HOUR);
    let second = Duration::from_secs(1);
    let (from, to) = (NOW.minus(Duration::from_secs(10)), NOW.plus(HOUR));
    for (at, good) in [
        (from.minus(second), false),
        (from, true),
        (NOW, true),
        (to, true),
        (to.plus(second), false),
    ] {
        let result = verify(&[&leaf], &authority.bundle(), Role::Server, at);
        assert_eq!(result.is_ok(), good, "{at:?} {result:?}");
    }
    for der in [authority.issuer.der(), leaf.as_slice()] {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let serial = certificate.raw_serial();
        assert!(serial.len() <= 20 && serial[0] < 0x80, "{serial:?}");
    }
}

/// X509I-18: no leaf outlives its authority.
#[test]
fn a_leaf_ends_with_its_authority() {
    let authority = authority(KeyType::EcP256);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let leaf = Certificate::parse(&authority.leaf(&key, &[], 10 * DAY)).unwrap();
    assert_eq!(leaf.not_after, authority.issuer.certificate().not_after);
}

#[test]
fn drafts_that_are_refused() {
    let authority = authority(KeyType::EcP256);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let draft = |id: &SpiffeId, dns: &[String], now| {
        authority
            .issuer
            .draft_leaf(
                &LeafParams {
                    spiffe_id: id,
                    public_key: key.public_key(),
                    dns_names: dns,
                    subject: None,
                    serial: [7; 16],
                    ttl: HOUR,
                },
                now,
            )
            .err()
            .unwrap()
    };
    // X509I-03.
    let bare = domain().id();
    assert_eq!(draft(&bare, &[], NOW), DraftError::NoPath(bare.clone()));
    let foreign = SpiffeId::parse("spiffe://other.org/w").unwrap();
    assert_eq!(
        draft(&foreign, &[], NOW),
        DraftError::ForeignTrustDomain {
            id: foreign.clone(),
            authority: domain()
        }
    );
    assert_eq!(
        draft(&id("/w"), &["bücher.example".into()], NOW),
        DraftError::DnsName("bücher.example".into())
    );
    let end = authority.issuer.certificate().not_after;
    assert_eq!(
        draft(&id("/w"), &[], end),
        DraftError::AuthorityExpired(end)
    );
    let leaf = authority.leaf(&key, &[], HOUR);
    assert_eq!(
        Issuer::from_certificate(&leaf).err().unwrap(),
        DraftError::NotAnAuthority
    );
}

/// Subjects come from CSRs: no text of theirs upsets the encoder.
#[test]
fn subjects_of_any_characters() {
    let authority = authority(KeyType::EcP256);
    for text in [
        "who?",
        "b\u{fc}cher",
        "a@b",
        "a*&\"",
        "",
        "\u{0}",
        "\u{1f600}",
    ] {
        let subject = Subject {
            organization: Some(text.into()),
            ..Subject::default()
        };
        let draft = authority
            .issuer
            .draft_leaf(
                &LeafParams {
                    spiffe_id: &id("/w"),
                    public_key: authority.key.public_key(),
                    dns_names: &[],
                    subject: Some(&subject),
                    serial: [7; 16],
                    ttl: HOUR,
                },
                NOW,
            )
            .unwrap();
        assert!(Certificate::parse(&draft.assemble(&[1])).is_ok(), "{text}");
    }
}

/// X509I-15, X509I-17.
#[test]
fn every_kind_of_key_issues_and_verifies() {
    for key_type in [
        KeyType::EcP256,
        KeyType::EcP384,
        KeyType::Ed25519,
        KeyType::Rsa2048,
    ] {
        let authority = authority(key_type);
        let key = PrivateKey::generate(key_type).unwrap();
        let leaf = authority.leaf(&key, &[], HOUR);
        for role in [Role::Client, Role::Server] {
            let svid = verify(&[&leaf], &authority.bundle(), role, NOW).unwrap();
            assert_eq!(svid.spiffe_id, id("/w"));
            assert_eq!(svid.public_key.as_ref(), Some(key.public_key()));
        }
        openssl_accepts(authority.issuer.der(), &leaf);
    }
}

/// OpenSSL's opinion, where it is installed; it is no condition of the test.
fn openssl_accepts(root: &[u8], leaf: &[u8]) {
    if Command::new("openssl")
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pem = |name: &str, der: &[u8]| {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = body
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        let path = folder.path().join(name);
        let text = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-attime"])
        .arg(NOW.unix_seconds().to_string())
        .arg("-CAfile")
        .arg(pem("root.pem", root))
        .arg(pem("leaf.pem", leaf))
        .output()
        .unwrap();
    // A root without AKI is what SPIRE has, and what x509_strict demands of others only.
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// X509I-16: two authorities of the same subject in one bundle both verify.
#[test]
fn generations_of_authorities() {
    let (old, new) = (authority(KeyType::EcP256), authority(KeyType::EcP256));
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut bundle = old.bundle();
    bundle
        .x509_authorities
        .extend(new.bundle().x509_authorities);
    for authority in [&old, &new] {
        let leaf = authority.leaf(&key, &[], HOUR);
        assert!(verify(&[&leaf], &bundle, Role::Server, NOW).is_ok());
    }
}

#[test]
fn an_svid_holds_a_key_that_belongs_to_it() {
    let authority = authority(KeyType::EcP256);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let other = PrivateKey::generate(KeyType::EcP256).unwrap();
    let leaf = authority.leaf(&key, &[], HOUR);
    let svid = X509Svid::new(vec![leaf.clone()], &key).unwrap();
    assert_eq!(svid.spiffe_id, id("/w"));
    assert!(svid.is_expired_at(NOW.plus(HOUR)) && !svid.is_expired_at(NOW));
    assert!(X509Svid::load(vec![leaf.clone()], key.to_pkcs8_der().unwrap()).is_ok());
    assert_eq!(
        X509Svid::load(vec![leaf], other.to_pkcs8_der().unwrap()).err(),
        Some(SvidError::KeyMismatch)
    );
    assert_eq!(
        X509Svid::new(vec![], &key).err(),
        Some(SvidError::EmptyChain)
    );
    assert_eq!(
        X509Svid::new(vec![authority.issuer.der().to_vec()], &authority.key).err(),
        Some(SvidError::Leaf(VerifyError::NoPath))
    );
}

/// Certificates that Muster would never issue, made with rcgen alone.
struct Forge {
    key: KeyPair,
    params: CertificateParams,
    root: Vec<u8>,
}

fn forge() -> Forge {
    let key = KeyPair::generate().unwrap();
    let mut params = base("root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().der().to_vec();
    Forge { key, params, root }
}

fn time(at: Timestamp) -> x509_parser::time::ASN1Time {
    x509_parser::time::ASN1Time::from_timestamp(at.unix_seconds()).unwrap()
}

fn base(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(NOW.minus(HOUR)).to_datetime();
    params.not_after = time(NOW.plus(HOUR)).to_datetime();
    params
}

fn good_leaf() -> CertificateParams {
    let mut params = base("leaf");
    params.subject_alt_names = vec![uri("spiffe://example.org/w")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

impl Forge {
    fn sign(&self, params: &CertificateParams) -> Vec<u8> {
        self.sign_for(params, &KeyPair::generate().unwrap())
    }

    fn sign_for(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }

    fn fault(&self, change: impl FnOnce(&mut CertificateParams)) -> VerifyError {
        let mut params = good_leaf();
        change(&mut params);
        let leaf = self.sign(&params);
        verify(&[leaf], &bundle_of(&self.root), Role::Client, NOW)
            .err()
            .unwrap()
    }

    /// An intermediate authority under this one.
    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Forge {
        let key = KeyPair::generate().unwrap();
        let mut params = base(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let root = self.sign_for(&params, &key);
        Forge { key, params, root }
    }
}

#[test]
fn the_forge_makes_good_ones_too() {
    let forge = forge();
    let leaf = forge.sign(&good_leaf());
    assert!(verify(&[leaf], &bundle_of(&forge.root), Role::Client, NOW).is_ok());
    let middle = forge.below("middle", |_| {});
    let leaf = middle.sign(&good_leaf());
    let chain = [leaf, middle.root];
    assert!(verify(&chain, &bundle_of(&forge.root), Role::Server, NOW).is_ok());
}

/// X509V-01 to X509V-06.
#[test]
fn leaves_that_are_refused() {
    let forge = forge();
    let uris = |n| VerifyError::Certificate(CertificateError::UriCount(n));
    assert_eq!(
        forge.fault(|p| p.subject_alt_names.push(uri("https://x"))),
        uris(2)
    );
    assert_eq!(forge.fault(|p| p.subject_alt_names.clear()), uris(0));
    for bad in [
        "https://example.org/w",
        "spiffe://Example.org/w",
        "spiffe://example.org/w/",
    ] {
        assert!(
            matches!(
                forge.fault(|p| p.subject_alt_names = vec![uri(bad)]),
                VerifyError::Certificate(CertificateError::NotASpiffeId(_))
            ),
            "{bad}"
        );
    }
    assert_eq!(
        forge.fault(|p| p.subject_alt_names = vec![uri("spiffe://example.org")]),
        VerifyError::NoPath
    );
    assert_eq!(
        forge.fault(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        VerifyError::IsCa
    );
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert_eq!(
            forge.fault(|p| p.key_usages.push(usage)),
            VerifyError::SigningUsage
        );
    }
    assert_eq!(
        forge.fault(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        VerifyError::NoDigitalSignature
    );
    assert_eq!(
        forge.fault(|p| p.key_usages.clear()),
        VerifyError::NoDigitalSignature
    );
    assert_eq!(
        forge.fault(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        VerifyError::ExtendedKeyUsage(Role::Client)
    );
}

/// X509V-07.
#[test]
fn paths_that_are_refused() {
    let forge = forge();
    let bundle = bundle_of(&forge.root);
    assert_eq!(
        forge.fault(|p| p.not_after = time(NOW.minus(Duration::from_secs(1))).to_datetime()),
        VerifyError::Expired
    );
    assert_eq!(
        forge.fault(|p| p.not_before = time(NOW.plus(Duration::from_secs(1))).to_datetime()),
        VerifyError::NotYetValid
    );
    assert!(matches!(
        forge.fault(|p| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 9], vec![5, 0]);
            unknown.set_criticality(true);
            p.custom_extensions = vec![unknown];
        }),
        VerifyError::Path(_)
    ));
    let other = self::forge();
    let leaf = other.sign(&good_leaf());
    assert!(matches!(
        verify(&[leaf], &bundle, Role::Client, NOW),
        Err(VerifyError::UnknownAuthority | VerifyError::Path(_))
    ));
    // A length of path that does not suffice.
    let short = forge.below("short", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below = short.below("below", |_| {});
    let leaf = below.sign(&good_leaf());
    let chain = [leaf, below.root, short.root];
    assert!(verify(&chain, &bundle, Role::Client, NOW).is_err());
    // Signers that may not sign: no cA, no keyCertSign.
    for change in [
        (|p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa) as fn(&mut _),
        |p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        |p: &mut CertificateParams| p.key_usages.clear(),
    ] {
        let bad = forge.below("bad", change);
        let leaf = bad.sign(&good_leaf());
        assert!(verify(&[leaf, bad.root], &bundle, Role::Client, NOW).is_err());
    }
    assert_eq!(
        verify::<Vec<u8>>(&[], &bundle, Role::Client, NOW),
        Err(VerifyError::Empty)
    );
    let leaf = forge.sign(&good_leaf());
    assert_eq!(
        verify(&vec![leaf; 17], &bundle, Role::Client, NOW),
        Err(VerifyError::ChainTooLong(17))
    );
}

/// X509V-08 and X509V-09, and a root that has itself expired.
#[test]
fn only_the_own_domains_living_roots_count() {
    let forge = forge();
    let leaf = forge.sign(&good_leaf());
    let mut foreign = bundle_of(&forge.root);
    foreign.trust_domain = TrustDomain::parse("other.org").unwrap();
    assert_eq!(
        verify(&[&leaf], &foreign, Role::Client, NOW),
        Err(VerifyError::ForeignBundle(domain()))
    );
    assert_eq!(
        verify(&[&leaf], &Bundle::empty(domain()), Role::Client, NOW),
        Err(VerifyError::NoBundle(domain()))
    );
    let mut long_leaf = good_leaf();
    long_leaf.not_after = time(NOW.plus(3 * HOUR)).to_datetime();
    let leaf = forge.sign(&long_leaf);
    assert!(
        verify(
            &[leaf],
            &bundle_of(&forge.root),
            Role::Client,
            NOW.plus(2 * HOUR)
        )
        .is_err()
    );
    // A leaf in the place of a root makes nobody an authority.
    let leaf = forge.sign(&good_leaf());
    assert!(verify(&[&leaf], &bundle_of(&leaf), Role::Client, NOW).is_err());
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Certificate::parse(&bytes).is_err());
    }

    #[test]
    fn reading_never_panics_near_a_certificate(at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
        let authority = authority(KeyType::EcP256);
        let mut der = authority.issuer.der().to_vec();
        let at = at.index(der.len());
        der[at] = to;
        let _ignored = Certificate::parse(&der);
        let _ignored = Issuer::from_certificate(&der);
        let _ignored = verify(&[&der], &authority.bundle(), Role::Client, NOW);
        der.truncate(cut.index(der.len()));
        prop_assert!(Certificate::parse(&der).is_err());
    }
}
