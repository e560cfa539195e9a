//! Reading certificates, as far as Muster needs to know them.

use std::fmt;

use muster_crypto::{KeyError, PublicKey, digest};
use muster_model::{IdError, SerialNumber, SpiffeId, Timestamp};
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// The longest certificate that is read, in bytes: an RSA-8192 key, a 2048-byte ID and a hundred
/// long DNS names fit.
const MAX_CERTIFICATE_LEN: usize = 64 * 1024;

/// Why bytes are not a certificate, or not one that we look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not DER of an X.509 certificate of version 3, or something follows it.
    #[error("not a well-formed X.509 certificate")]
    Malformed,
    /// Longer than 64 KiB.
    #[error("the certificate has {0} bytes, more than 64 KiB")]
    TooLong(usize),
    /// An extension that we read is malformed or stands there twice.
    #[error("the certificate's {0} extension is malformed or doubled")]
    Extension(&'static str),
    /// Not exactly one URI SAN (X509V-01, X509V-02).
    #[error("the certificate has {0} URI names, an SVID has exactly one")]
    UriCount(usize),
    /// The URI SAN is no SPIFFE ID (X509V-02).
    #[error("the certificate's URI name is not a SPIFFE ID: {0}")]
    NotASpiffeId(#[from] IdError),
}

/// The key usages that matter to SVIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    /// digitalSignature.
    pub digital_signature: bool,
    /// keyCertSign.
    pub key_cert_sign: bool,
    /// cRLSign.
    pub crl_sign: bool,
}

/// What a certificate says. Reading it judges nothing: see [`super::verify`].
#[derive(Clone)]
pub struct Certificate {
    /// The serial number, in decimal.
    pub serial: SerialNumber,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid, that second included.
    pub not_after: Timestamp,
    /// URI names, in order.
    pub uri_names: Vec<String>,
    /// DNS names, in order.
    pub dns_names: Vec<String>,
    /// Whether BasicConstraints say cA.
    pub is_ca: bool,
    /// KeyUsage, if the extension is there.
    pub key_usage: Option<KeyUsage>,
    /// Whether, if ExtendedKeyUsage is there, it allows a TLS server and a TLS client.
    pub extended_key_usage: Option<(bool, bool)>,
    /// SubjectKeyIdentifier.
    pub subject_key_id: Option<Vec<u8>>,
    /// AuthorityKeyIdentifier, its key identifier.
    pub authority_key_id: Option<Vec<u8>>,
    /// The common name, if it is text.
    pub common_name: Option<String>,
    pub(super) subject_raw: Vec<u8>,
    pub(super) issuer_raw: Vec<u8>,
    plain_names: bool,
    spki: Vec<u8>,
}

impl Certificate {
    /// Reads one certificate, DER, with nothing behind it.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLong(der.len()));
        }
        let (rest, cert) =
            X509Certificate::from_der(der).map_err(|_asn1| CertificateError::Malformed)?;
        if !rest.is_empty() || cert.version().0 != 2 {
            return Err(CertificateError::Malformed);
        }
        let bad = |name| move |_x509| CertificateError::Extension(name);
        let names = cert
            .subject_alternative_name()
            .map_err(bad("SubjectAlternativeName"))?;
        let mut uri_names = Vec::new();
        let mut dns_names = Vec::new();
        for name in names.iter().flat_map(|n| &n.value.general_names) {
            if let GeneralName::URI(uri) = name {
                uri_names.push((*uri).to_owned());
            } else if let GeneralName::DNSName(dns) = name {
                dns_names.push((*dns).to_owned());
            } else if let GeneralName::Invalid(..) = name {
                return Err(CertificateError::Extension("SubjectAlternativeName"));
            }
        }
        let key_usage = cert.key_usage().map_err(bad("KeyUsage"))?;
        let extended = cert.extended_key_usage().map_err(bad("ExtendedKeyUsage"))?;
        let basic = cert.basic_constraints().map_err(bad("BasicConstraints"))?;
        let (mut subject_key_id, mut authority_key_id) = (None, None);
        for extension in cert.extensions() {
            use x509_parser::extensions::ParsedExtension as P;
            if let P::SubjectKeyIdentifier(id) = extension.parsed_extension() {
                subject_key_id = Some(id.0.to_vec());
            } else if let P::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
                authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
        }
        Ok(Self {
            serial: SerialNumber::from_be_bytes(cert.raw_serial()),
            not_before: Timestamp::from_unix_seconds(cert.validity().not_before.timestamp()),
            not_after: Timestamp::from_unix_seconds(cert.validity().not_after.timestamp()),
            uri_names,
            dns_names,
            is_ca: basic.is_some_and(|b| b.value.ca),
            key_usage: key_usage.map(|u| KeyUsage {
                digital_signature: u.value.digital_signature(),
                key_cert_sign: u.value.key_cert_sign(),
                crl_sign: u.value.crl_sign(),
            }),
            extended_key_usage: extended.map(|e| (e.value.server_auth, e.value.client_auth)),
            subject_key_id,
            authority_key_id,
            common_name: cert
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            subject_raw: cert.subject().as_raw().to_vec(),
            issuer_raw: cert.issuer().as_raw().to_vec(),
            plain_names: is_plain(cert.subject()),
            spki: cert.public_key().raw.to_vec(),
        })
    }

    /// The SPIFFE ID: the one URI name.
    pub fn spiffe_id(&self) -> Result<SpiffeId, CertificateError> {
        match self.uri_names.as_slice() {
            [one] => Ok(SpiffeId::parse(one)?),
            names => Err(CertificateError::UriCount(names.len())),
        }
    }

    /// The key; it may be of a kind that we do not support.
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_spki_der(&self.spki)
    }

    /// SubjectKeyIdentifier in lower-case hexadecimal: the ID of an X.509 authority.
    pub fn subject_key_id_hex(&self) -> Option<String> {
        self.subject_key_id.as_deref().map(digest::hex)
    }

    /// The subject as text, last part first (RFC 2253), with the names of attributes that Go, and
    /// so SPIRE, writes; empty when it cannot be read.
    pub fn subject_text(&self) -> String {
        let Ok((_, name)) = X509Name::from_der(&self.subject_raw) else {
            return String::new();
        };
        let parts = name.iter_rdn().map(|part| {
            let attributes = part.iter().map(|attribute| {
                let oid = attribute.attr_type().to_id_string();
                let name = attribute_name(&oid);
                format!("{name}={}", escaped(attribute.as_str().unwrap_or_default()))
            });
            attributes.collect::<Vec<_>>().join("+")
        });
        let mut parts: Vec<String> = parts.collect();
        parts.reverse();
        parts.join(",")
    }

    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.subject_raw == self.issuer_raw
    }

    /// Whether the certificate is one of an authority: cA and keyCertSign (X509I-05).
    pub fn can_sign_certificates(&self) -> bool {
        self.is_ca && self.key_usage.is_some_and(|u| u.key_cert_sign)
    }

    /// Whether each part of the subject has exactly one attribute.
    pub(super) fn names_are_plain(&self) -> bool {
        self.plain_names
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.serial)
            .field("uri_names", &self.uri_names)
            .field("is_ca", &self.is_ca)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The short name of an attribute (RFC 4519, in capitals), or its number.
fn attribute_name(oid: &str) -> &str {
    match oid {
        "2.5.4.3" => "CN",
        "2.5.4.5" => "SERIALNUMBER",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.17" => "POSTALCODE",
        _ => oid,
    }
}

/// A value of a name, with what has a meaning in RFC 2253 escaped.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, character) in value.chars().enumerate() {
        let special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (character == ' ' && (at == 0 || at == last))
            || (character == '#' && at == 0);
        if special {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// Whether rcgen can write the name again: each part has one attribute, of a string type and with
/// characters that its DER writer does not panic at.
fn is_plain(name: &X509Name<'_>) -> bool {
    name.iter_rdn().all(|part| {
        let mut attributes = part.iter();
        let Some(attribute) = attributes.next() else {
            return false;
        };
        let value = attribute.attr_value();
        let characters_are_plain = match value.tag() {
            Tag::PrintableString => std::str::from_utf8(value.data).is_ok_and(is_printable),
            Tag::Ia5String => value.data.is_ascii(),
            Tag::Utf8String => std::str::from_utf8(value.data).is_ok(),
            _ => false,
        };
        // The first two arcs share a byte: 0 to 2, then 0 to 39.
        let type_is_plain = attribute
            .attr_type()
            .as_bytes()
            .first()
            .is_some_and(|arcs| *arcs < 120);
        characters_are_plain && type_is_plain && attributes.next().is_none()
    })
}

/// The characters of PrintableString (X.680, 41.4), but for `?`, at which yasna panics.
pub(super) fn is_printable(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=".contains(&b))
}
