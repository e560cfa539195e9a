//! From what a caller has to Envoy's messages: PEM, inline.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use muster_crypto::Purpose;
use muster_model::TrustDomain;
use muster_proto::envoy::config::core::v3::{
    DataSource, TypedExtensionConfig, data_source::Specifier,
};
use muster_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
    spiffe_cert_validator_config,
};
use muster_roster::X509Update;
use prost::Message;
use prost_types::Any;
use zeroize::Zeroizing;

use super::machine::TYPE_URL;
use super::names::{Item, Offer, Validator, What, version_of};
use super::withdrawn::Nobody;
use crate::events::map_key;
use crate::material::HeldX509;

/// Envoy's name for its SPIFFE validator.
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
/// Characters on a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

type Update = X509Update<HeldX509>;

/// What an update offers. The own trust domain is `own`.
pub(crate) fn offer(update: &Update, own: &TrustDomain) -> Offer {
    Offer {
        identities: update
            .identities
            .iter()
            .map(|identity| {
                let version = version_of(&identity.svid.chain);
                (identity.spiffe_id.as_str().to_owned(), version)
            })
            .collect(),
        own: map_key(own),
        bundles: bundles(update, own)
            .map(|(domain, der)| (map_key(domain), version_of(der)))
            .collect(),
    }
}

/// Writes what stands behind a name. Nothing if the item is not of this update.
pub(crate) fn write(name: &str, item: &Item, update: &Update, own: &TrustDomain) -> Option<Any> {
    let content = match &item.what {
        What::Identity(n) => {
            let held = &update.identities.get(*n)?.svid.svid;
            certificate(held.chain.iter().map(AsRef::as_ref), &held.key)
        }
        What::Bundle(id) => {
            let (domain, der) = bundles(update, own).find(|(td, _)| map_key(td) == *id)?;
            bundle(item.validator, domain, der)
        }
        What::AllBundles => secret::Type::ValidationContext(by_domain(bundles(update, own))),
    };
    Some(secret(name, content))
}

/// Writes what takes the place of what stood behind a name.
pub(crate) fn write_withdrawn(
    name: &str,
    item: &Item,
    update: &Update,
    own: &TrustDomain,
    nobody: &Nobody,
) -> Option<Any> {
    let nobodys = bundles(update, own).map(|(domain, _)| (domain, nobody.authority.as_slice()));
    let content = match &item.what {
        What::Identity(_) => certificate([nobody.certificate.as_slice()], &nobody.key),
        What::Bundle(id) => {
            let (domain, der) = { nobodys }.find(|(td, _)| map_key(td) == *id)?;
            bundle(item.validator, domain, der)
        }
        What::AllBundles => secret::Type::ValidationContext(by_domain(nobodys)),
    };
    Some(secret(name, content))
}

fn secret(name: &str, content: secret::Type) -> Any {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(content),
    };
    Any {
        type_url: TYPE_URL.to_owned(),
        value: secret.encode_to_vec(),
    }
}

fn certificate<'a>(
    chain: impl IntoIterator<Item = &'a [u8]>,
    key: &muster_crypto::Secret<Vec<u8>>,
) -> secret::Type {
    let mut certificates = String::new();
    for der in chain {
        pem("CERTIFICATE", der, &mut certificates);
    }
    let mut text = Zeroizing::new(String::new());
    pem("PRIVATE KEY", key.expose(Purpose::WorkloadApi), &mut text);
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(certificates)),
        private_key: Some(inline_secret(text)),
    })
}

fn bundle(validator: Validator, domain: &TrustDomain, der: &[u8]) -> secret::Type {
    secret::Type::ValidationContext(match validator {
        Validator::Plain => CertificateValidationContext {
            trusted_ca: Some(inline(authorities(der))),
            custom_validator_config: None,
        },
        Validator::Spiffe => by_domain([(domain, der)]),
    })
}

fn bundles<'a>(
    update: &'a Update,
    own: &'a TrustDomain,
) -> impl Iterator<Item = (&'a TrustDomain, &'a [u8])> {
    let foreign = update.federated.iter().map(|(td, der)| (td, &**der));
    std::iter::once((own, &*update.bundle)).chain(foreign)
}

/// The configuration of Envoy's SPIFFE validator.
fn by_domain<'a>(
    bundles: impl IntoIterator<Item = (&'a TrustDomain, &'a [u8])>,
) -> CertificateValidationContext {
    let config = SpiffeCertValidatorConfig {
        trust_domains: bundles
            .into_iter()
            .map(|(domain, der)| spiffe_cert_validator_config::TrustDomain {
                name: domain.as_str().to_owned(),
                trust_bundle: Some(inline(authorities(der))),
            })
            .collect(),
    };
    CertificateValidationContext {
        trusted_ca: None,
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(Any {
                type_url: VALIDATOR_TYPE_URL.to_owned(),
                value: config.encode_to_vec(),
            }),
        }),
    }
}

fn inline(text: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(Bytes::from(text))),
    }
}

/// Wiped when the message is dropped. The copies that encoding makes of it are not ours to wipe.
fn inline_secret(text: Zeroizing<String>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(Bytes::from_owner(text))),
    }
}

/// Concatenated DER as PEM.
fn authorities(mut der: &[u8]) -> String {
    let mut text = String::new();
    while let Some((element, rest)) = first_element(der) {
        pem("CERTIFICATE", element, &mut text);
        der = rest;
    }
    text
}

/// Splits off the first DER element: tag, length (X.690, section 8.1.3), content.
fn first_element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = usize::from(*der.get(1)?);
    let (header, length) = if first < 0x80 {
        (2, first)
    } else {
        let count = first & 0x7f;
        let bytes = der
            .get(2..2 + count)
            .filter(|b| (1..=4).contains(&b.len()))?;
        let length = bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        (2 + count, length)
    };
    der.split_at_checked(header.checked_add(length)?)
}

/// Appends a block of PEM. Room is made for it at once, so that no part of a key is left behind in
/// memory that was outgrown.
fn pem(label: &str, der: &[u8], into: &mut String) {
    let body = Zeroizing::new(STANDARD.encode(der));
    into.reserve(body.len() + body.len() / LINE + 2 * label.len() + 40);
    into.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = body.as_str();
    // Base64 is ASCII: every place is a boundary.
    while let Some((line, after)) = rest.split_at_checked(LINE) {
        into.extend([line, "\n"]);
        rest = after;
    }
    if !rest.is_empty() {
        into.extend([rest, "\n"]);
    }
    into.extend(["-----END ", label, "-----\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_der_becomes_blocks() {
        let mut long = vec![0x30, 0x82, 0x01, 0x00];
        long.resize(4 + 256, 7);
        let der = [&[0x30, 1, 9][..], &long].concat();
        let text = authorities(&der);
        let read = muster_svid::pem::certificates(text.as_bytes()).unwrap();
        assert_eq!(read, [vec![0x30, 1, 9], long]);
        assert!(text.lines().all(|line| line.len() <= LINE));
        for cut in [
            &[0x30][..],
            &[0x30, 2, 1],
            &[0x30, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(authorities(cut), "");
        }
    }
}
