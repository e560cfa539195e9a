//! CA certificates below an authority: those of downstream servers (spire-behaviour 2.4; X509I-08).

use std::time::Duration;

use muster_crypto::PublicKey;
use muster_model::Timestamp;
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{BasicConstraints, DistinguishedName, DnType, DnValue, IsCa, KeyUsagePurpose};
use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::draft::{DraftError, Issuer, Validity, directory_string, encoding, key_identifier, uri};
use super::unsigned::{Placeholder, Unsigned};

/// `organizationName` and `organizationalUnitName` of X.520, as DER has them.
const OID_ORGANIZATION: [u8; 3] = [0x55, 4, 10];
const OID_UNIT: [u8; 3] = [0x55, 4, 11];

/// What the CA certificate of a downstream server is to say.
#[derive(Clone, Copy, Debug)]
pub struct DownstreamParams<'a> {
    /// The downstream server's key.
    pub public_key: &'a PublicKey,
    /// The serial number, random (X509I-19).
    pub serial: [u8; 16],
    /// Lifetime from now; cut to the authority's own (X509I-18).
    pub ttl: Duration,
    /// How many authorities are above it, this one included: 1 below a root.
    pub depth: usize,
}

impl Issuer {
    /// Drafts the CA certificate of a downstream server of the same trust domain. Its name is the
    /// authority's own with the organizational unit `DOWNSTREAM-<depth>`, as SPIRE names them.
    pub fn draft_downstream(
        &self,
        ca: &DownstreamParams<'_>,
        now: Timestamp,
    ) -> Result<Unsigned, DraftError> {
        if self.certificate.not_after <= now {
            return Err(DraftError::AuthorityExpired(self.certificate.not_after));
        }
        let validity = Validity::new(now, ca.ttl, self.certificate.not_after);
        let mut params = validity.params(ca.serial)?;
        params.distinguished_name = self.downstream_name(ca.depth)?;
        // The trust domain is the authority's own, whatever was asked for (X509I-06).
        let own = self.certificate.spiffe_id()?;
        params.subject_alt_names = vec![uri(&own.trust_domain().id())?];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_identifier(ca.public_key);

        let key = Placeholder(ca.public_key.clone());
        let shell = params
            .signed_by(&key, &self.name)
            .map_err(|e| encoding(&e))?;
        validity.open(shell.der(), &self.public_key, &ca.serial)
    }

    fn downstream_name(&self, depth: usize) -> Result<DistinguishedName, DraftError> {
        let unreadable = || DraftError::SubjectNotReproducible;
        let (_, own) =
            X509Name::from_der(&self.certificate.subject_raw).map_err(|_asn1| unreadable())?;
        let unit = directory_string(&format!("DOWNSTREAM-{depth}"));
        let mut name = DistinguishedName::new();
        for attribute in own.iter_attributes() {
            let oid = attribute.attr_type();
            if oid.as_bytes() == OID_UNIT {
                continue;
            }
            let arcs: Vec<u64> = oid.iter().map(Iterator::collect).ok_or_else(unreadable)?;
            let value = attribute.attr_value();
            let text = std::str::from_utf8(value.data).map_err(|_utf8| unreadable())?;
            let value = match value.tag() {
                Tag::PrintableString => {
                    PrintableString::try_from(text).map(DnValue::PrintableString)
                }
                Tag::Ia5String => Ia5String::try_from(text).map(DnValue::Ia5String),
                _ => Ok(DnValue::Utf8String(text.to_owned())),
            };
            name.push(
                DnType::CustomDnType(arcs),
                value.map_err(|_characters| unreadable())?,
            );
            if oid.as_bytes() == OID_ORGANIZATION {
                name.push(DnType::OrganizationalUnitName, unit.clone());
            }
        }
        // An authority without an organization: the unit comes last. Elsewhere it is there already.
        name.push(DnType::OrganizationalUnitName, unit);
        Ok(name)
    }
}
