//! Drafting certificates in SPIRE's shapes (spire-behaviour 2.4; X509I group).

use std::fmt;
use std::time::Duration;

use muster_crypto::PublicKey;
use muster_model::{SerialNumber, SpiffeId, Timestamp, TrustDomain};
use pki_types::CertificateDer;
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose, SanType,
};
use x509_parser::time::ASN1Time;

use super::certificate::{Certificate, CertificateError, is_printable};
use super::unsigned::{Placeholder, Unsigned};
use crate::lifetime::BACKDATE;

/// `serialNumber` of X.520: an attribute of a name, not the certificate's serial number.
const OID_SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// A distinguished name, as far as configuration and CSRs choose it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// C.
    pub country: Option<String>,
    /// O.
    pub organization: Option<String>,
    /// OU.
    pub organizational_unit: Option<String>,
    /// CN.
    pub common_name: Option<String>,
}

impl Subject {
    /// C=US, O=SPIFFE: SPIRE's CA.
    pub fn default_ca() -> Self {
        Self::of("US", "SPIFFE")
    }

    /// C=US, O=SPIRE: SPIRE's SVIDs.
    pub fn default_svid() -> Self {
        Self::of("US", "SPIRE")
    }

    /// Whether no attribute is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn of(country: &str, organization: &str) -> Self {
        Self {
            country: Some(country.into()),
            organization: Some(organization.into()),
            ..Self::default()
        }
    }

    pub(super) fn to_name(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        for (kind, value) in [
            (DnType::CountryName, &self.country),
            (DnType::OrganizationName, &self.organization),
            (DnType::OrganizationalUnitName, &self.organizational_unit),
            (DnType::CommonName, &self.common_name),
        ] {
            if let Some(value) = value {
                name.push(kind, directory_string(value));
            }
        }
        name
    }
}

/// Why a certificate cannot be drafted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The authority cannot be read.
    #[error("the authority's certificate: {0}")]
    Authority(#[from] CertificateError),
    /// The authority's certificate is not one of a CA (X509I-05).
    #[error("the authority's certificate lacks cA or keyCertSign")]
    NotAnAuthority,
    /// The authority's subject cannot be written again byte for byte, so that children would not
    /// chain to it (X509I-16).
    #[error("the authority's subject name has a form that cannot be reproduced as an issuer")]
    SubjectNotReproducible,
    /// The authority has expired, or expires before the certificate would begin to live.
    #[error("the authority expired at {0:?}")]
    AuthorityExpired(Timestamp),
    /// A workload's SPIFFE ID has a path (X509I-03).
    #[error("{0} has no path: it names a trust domain, not a workload")]
    NoPath(SpiffeId),
    /// The authority is that of another trust domain.
    #[error("{id} is not in the authority's trust domain {authority}")]
    ForeignTrustDomain {
        /// Whose certificate was asked for.
        id: SpiffeId,
        /// The authority's trust domain.
        authority: TrustDomain,
    },
    /// A DNS name has characters outside ASCII.
    #[error("the DNS name {0:?} is not ASCII: write it in punycode")]
    DnsName(String),
    /// The time is outside what X.509 can write.
    #[error("the validity is outside the years that X.509 can write")]
    Time,
    /// The encoder refused.
    #[error("the certificate cannot be encoded: {0}")]
    Encoding(String),
}

/// What a self-signed CA certificate is to say.
#[derive(Clone, Copy, Debug)]
pub struct CaParams<'a> {
    /// The trust domain, whose own ID is the URI SAN (X509I-06).
    pub trust_domain: &'a TrustDomain,
    /// The subject, to which the serial number is added so that no two CAs share a name.
    pub subject: &'a Subject,
    /// The CA's key, which also signs.
    pub public_key: &'a PublicKey,
    /// The serial number, random (X509I-19).
    pub serial: [u8; 16],
    /// Lifetime from now.
    pub ttl: Duration,
}

/// What a leaf certificate is to say: of a workload, a node or a server.
#[derive(Clone, Copy, Debug)]
pub struct LeafParams<'a> {
    /// The identity, the one URI SAN (X509I-01).
    pub spiffe_id: &'a SpiffeId,
    /// The workload's key.
    pub public_key: &'a PublicKey,
    /// DNS SANs, in this order; the first becomes the common name, if `subject` has none.
    pub dns_names: &'a [String],
    /// The subject; `None` is [`Subject::default_svid`].
    pub subject: Option<&'a Subject>,
    /// The serial number, random (X509I-19).
    pub serial: [u8; 16],
    /// Lifetime from now; cut to the authority's own (X509I-18).
    pub ttl: Duration,
}

/// Drafts a self-signed CA certificate.
pub fn draft_ca(ca: &CaParams<'_>, now: Timestamp) -> Result<Unsigned, DraftError> {
    let mut name = ca.subject.to_name();
    name.push(
        DnType::CustomDnType(OID_SERIAL_NUMBER.to_vec()),
        directory_string(SerialNumber::from_be_bytes(&ca.serial).as_str()),
    );
    let validity = Validity::new(now, ca.ttl, Timestamp::MAX);
    let mut params = validity.params(ca.serial)?;
    params.distinguished_name = name;
    params.subject_alt_names = vec![uri(&ca.trust_domain.id())?];
    // No path length: a nested authority may sign below (X509I-08).
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = key_identifier(ca.public_key);

    let key = Placeholder(ca.public_key.clone());
    let shell = params.self_signed(&key).map_err(|e| encoding(&e))?;
    validity.open(shell.der(), ca.public_key, &ca.serial)
}

/// An authority that drafts certificates: everything about it that is the same for each of them
/// is worked out once. Cheap to share behind an `Arc`.
pub struct Issuer {
    pub(super) certificate: Certificate,
    der: Vec<u8>,
    pub(super) public_key: PublicKey,
    pub(super) name: rcgen::Issuer<'static, Placeholder>,
}

impl Issuer {
    /// The authority of a CA certificate, DER.
    pub fn from_certificate(der: &[u8]) -> Result<Self, DraftError> {
        let certificate = Certificate::parse(der)?;
        if !certificate.can_sign_certificates() || !certificate.names_are_plain() {
            return Err(DraftError::NotAnAuthority);
        }
        let public_key = certificate
            .public_key()
            .map_err(|_key| DraftError::NotAnAuthority)?;
        let name = rcgen::Issuer::from_ca_cert_der(
            &CertificateDer::from(der),
            Placeholder(public_key.clone()),
        )
        .map_err(|_name| DraftError::SubjectNotReproducible)?;
        let issuer = Self {
            certificate,
            der: der.to_vec(),
            public_key,
            name,
        };
        issuer.check_name()?;
        Ok(issuer)
    }

    /// The CA certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The CA certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Drafts a leaf certificate of a workload, a node or a server.
    pub fn draft_leaf(
        &self,
        leaf: &LeafParams<'_>,
        now: Timestamp,
    ) -> Result<Unsigned, DraftError> {
        if leaf.spiffe_id.path().is_empty() {
            return Err(DraftError::NoPath(leaf.spiffe_id.clone()));
        }
        if let Ok(own) = self.certificate.spiffe_id()
            && own.trust_domain() != leaf.spiffe_id.trust_domain()
        {
            return Err(DraftError::ForeignTrustDomain {
                id: leaf.spiffe_id.clone(),
                authority: own.trust_domain().clone(),
            });
        }
        if self.certificate.not_after <= now {
            return Err(DraftError::AuthorityExpired(self.certificate.not_after));
        }
        let mut names = Vec::with_capacity(1 + leaf.dns_names.len());
        names.push(uri(leaf.spiffe_id)?);
        for name in leaf.dns_names {
            let name = Ia5String::try_from(name.as_str())
                .map_err(|_ascii| DraftError::DnsName(name.clone()))?;
            names.push(SanType::DnsName(name));
        }
        self.draft(leaf, names, now)
    }

    fn draft(
        &self,
        leaf: &LeafParams<'_>,
        names: Vec<SanType>,
        now: Timestamp,
    ) -> Result<Unsigned, DraftError> {
        let validity = Validity::new(now, leaf.ttl, self.certificate.not_after);
        let mut params = validity.params(leaf.serial)?;
        let mut name = match leaf.subject {
            Some(subject) => subject.to_name(),
            None => Subject::default_svid().to_name(),
        };
        if let Some(first) = leaf.dns_names.first()
            && name.get(&DnType::CommonName).is_none()
        {
            name.push(DnType::CommonName, directory_string(first));
        }
        params.distinguished_name = name;
        params.subject_alt_names = names;
        // Present and empty: Python and Rust clients refuse a leaf without it (X509I-07).
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_identifier(leaf.public_key);

        let key = Placeholder(leaf.public_key.clone());
        let shell = params
            .signed_by(&key, &self.name)
            .map_err(|e| encoding(&e))?;
        validity.open(shell.der(), &self.public_key, &leaf.serial)
    }

    /// Drafts once and looks whether the issuer's name came out as it stands in the certificate.
    fn check_name(&self) -> Result<(), DraftError> {
        let probe = LeafParams {
            spiffe_id: &TrustDomain::parse("probe")
                .and_then(|domain| domain.with_path("/probe"))
                .map_err(|_id| DraftError::SubjectNotReproducible)?,
            public_key: &self.public_key,
            dns_names: &[],
            subject: None,
            serial: [1; 16],
            ttl: Duration::ZERO,
        };
        let probe = self.draft(&probe, vec![], self.certificate.not_before)?;
        let probe = Certificate::parse(&probe.assemble(&[]))?;
        (probe.issuer_raw == self.certificate.subject_raw)
            .then_some(())
            .ok_or(DraftError::SubjectNotReproducible)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issuer").field(&self.certificate).finish()
    }
}

pub(super) struct Validity {
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Validity {
    pub(super) fn new(now: Timestamp, ttl: Duration, latest: Timestamp) -> Self {
        Self {
            not_before: now.minus(BACKDATE).floor_to_second(),
            not_after: now.plus(ttl).min(latest).floor_to_second(),
        }
    }

    pub(super) fn params(&self, serial: [u8; 16]) -> Result<CertificateParams, DraftError> {
        let time = |at: Timestamp| {
            ASN1Time::from_timestamp(at.unix_seconds())
                .map(|t| t.to_datetime())
                .map_err(|_range| DraftError::Time)
        };
        let mut params = CertificateParams::default();
        params.not_before = time(self.not_before)?;
        params.not_after = time(self.not_after)?;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        Ok(params)
    }

    pub(super) fn open(
        &self,
        shell: &[u8],
        signer: &PublicKey,
        serial: &[u8; 16],
    ) -> Result<Unsigned, DraftError> {
        Unsigned::open(
            shell,
            signer.default_scheme(),
            serial,
            self.not_before,
            self.not_after,
        )
        .ok_or_else(|| DraftError::Encoding("the builder's output has no certificate shape".into()))
    }
}

/// SKI and AKI are SHA-1 of the key, as SPIRE has them: authority IDs are their hexadecimal.
pub(super) fn key_identifier(key: &PublicKey) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(key.key_identifier().to_vec())
}

pub(super) fn uri(id: &SpiffeId) -> Result<SanType, DraftError> {
    Ia5String::try_from(id.as_str())
        .map(SanType::URI)
        .map_err(|e| encoding(&e))
}

/// PrintableString where the characters allow it, as Go writes names; else UTF8String.
pub(super) fn directory_string(text: &str) -> DnValue {
    match PrintableString::try_from(text) {
        Ok(printable) if is_printable(text) => DnValue::PrintableString(printable),
        Ok(_) | Err(_) => DnValue::Utf8String(text.to_owned()),
    }
}

pub(super) fn encoding(error: &rcgen::Error) -> DraftError {
    DraftError::Encoding(error.to_string())
}
