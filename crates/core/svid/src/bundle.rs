//! Bundles as documents: the SPIFFE bundle (BND group) and the Workload API's key set.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_crypto::{Jwk, JwkError, PublicKey};
use muster_model::{Bundle, JwtAuthority, Timestamp, TrustDomain, WitAuthority, X509Authority};
use serde_json::{Map, Value};

use crate::x509::{Certificate, CertificateError};

/// The longest document that is read, in bytes; the Rust client has the same bound.
pub const MAX_BUNDLE_LEN: usize = 4 * 1024 * 1024;

const USE_X509: &str = "x509-svid";
const USE_JWT: &str = "jwt-svid";
const USE_WIT: &str = "wit-svid";

/// Why a document is not a bundle that we take. Nothing of such a document is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Longer than [`MAX_BUNDLE_LEN`].
    #[error("the bundle document has {0} bytes, more than {MAX_BUNDLE_LEN}")]
    TooLong(usize),
    /// Not a JSON object with an array `keys` (BND-01, BND-02).
    #[error("a bundle is a JSON object with an array \"keys\"")]
    NotAKeySet,
    /// `spiffe_sequence` or `spiffe_refresh_hint` is not an integer of its range.
    #[error("the bundle's {0:?} is not an integer in range")]
    Number(&'static str),
    /// A key of a known type is malformed.
    #[error("key {index} of the bundle: {reason}")]
    Key {
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        reason: JwkError,
    },
    /// An `x509-svid` entry's certificate is malformed.
    #[error("the certificate of key {index} of the bundle: {reason}")]
    Certificate {
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        reason: CertificateError,
    },
    /// An `x509-svid` entry's key is not that of its certificate (BND-11).
    #[error("key {index} of the bundle is not the key of its certificate")]
    CertificateKey {
        /// Its place in `keys`, from 0.
        index: usize,
    },
    /// A `jwt-svid` or `wit-svid` entry has no `kid` (BND-12, WIT-16).
    #[error("key {index} of the bundle has no kid, and a key for tokens needs one")]
    NoKeyId {
        /// Its place in `keys`, from 0.
        index: usize,
    },
}

/// The SPIFFE bundle document of a trust domain. An authority whose key is of a kind that we
/// cannot write is left out: Go's reader fails the whole document for one such key (BND-08).
pub fn encode_spiffe(bundle: &Bundle) -> Vec<u8> {
    let x509 = bundle.x509_authorities.iter().filter_map(|authority| {
        let certificate = Certificate::parse(&authority.der).ok()?;
        Some(Jwk {
            key: certificate.public_key().ok()?,
            key_id: None,
            usage: Some(USE_X509.into()),
            certificates: vec![STANDARD.encode(&authority.der)],
        })
    });
    let jwt = jwt_keys(bundle).map(|jwk| Jwk {
        usage: Some(USE_JWT.into()),
        ..jwk
    });
    // WIT-16, BND-07: a use and a kid of its own.
    let wit = wit_keys(bundle).map(|jwk| Jwk {
        usage: Some(USE_WIT.into()),
        ..jwk
    });
    let mut document = Map::new();
    document.insert(
        "keys".into(),
        x509.chain(jwt).chain(wit).map(|k| k.to_value()).collect(),
    );
    document.insert("spiffe_sequence".into(), bundle.sequence_number.into());
    if bundle.refresh_hint > 0 {
        document.insert("spiffe_refresh_hint".into(), bundle.refresh_hint.into());
    }
    Value::Object(document).to_string().into_bytes()
}

/// The JWT keys alone, as FetchJWTBundles sends them: no `use`, no SPIFFE members, `keys` always
/// there (spire-behaviour 2.12; WAPI-44).
pub fn encode_jwks(bundle: &Bundle) -> Vec<u8> {
    let keys: Value = jwt_keys(bundle).map(|key| key.to_value()).collect();
    let document = Map::from_iter([("keys".to_owned(), keys)]);
    Value::Object(document).to_string().into_bytes()
}

/// The WIT keys alone, as FetchWITBundles sends them; each with its `kid` (WIT-19). They carry
/// their use, so that a reader that takes every key of a set as a JWT key takes none of these.
pub fn encode_wit_jwks(authorities: &[WitAuthority]) -> String {
    let keys: Value = authorities
        .iter()
        .filter_map(wit_key)
        .map(|key| {
            Jwk {
                usage: Some(USE_WIT.into()),
                ..key
            }
            .to_value()
        })
        .collect();
    Value::Object(Map::from_iter([("keys".to_owned(), keys)])).to_string()
}

fn wit_keys(bundle: &Bundle) -> impl Iterator<Item = Jwk> + '_ {
    bundle.wit_authorities.iter().filter_map(wit_key)
}

fn wit_key(authority: &WitAuthority) -> Option<Jwk> {
    Some(Jwk {
        key: PublicKey::from_spki_der(&authority.public_key).ok()?,
        key_id: Some(authority.key_id.clone()),
        usage: None,
        certificates: Vec::new(),
    })
}

fn jwt_keys(bundle: &Bundle) -> impl Iterator<Item = Jwk> + '_ {
    bundle.jwt_authorities.iter().filter_map(|authority| {
        Some(Jwk {
            key: PublicKey::from_spki_der(&authority.public_key).ok()?,
            key_id: Some(authority.key_id.clone()),
            usage: None,
            certificates: Vec::new(),
        })
    })
}

/// Reads a SPIFFE bundle document; whose it is, the caller must know (BND-17).
///
/// Unknown members, key types and uses are passed over (BND-06, BND-08); an `x509-svid` entry
/// without a certificate is passed over, of several the first counts (BND-15).
pub fn decode_spiffe(trust_domain: TrustDomain, document: &[u8]) -> Result<Bundle, BundleError> {
    let (members, keys) = read_key_set(document)?;
    let mut bundle = Bundle::empty(trust_domain);
    if let Some(sequence) = members.get("spiffe_sequence") {
        bundle.sequence_number = sequence
            .as_u64()
            .ok_or(BundleError::Number("spiffe_sequence"))?;
    }
    if let Some(hint) = members.get("spiffe_refresh_hint") {
        bundle.refresh_hint = hint
            .as_i64()
            .filter(|seconds| *seconds >= 0)
            .ok_or(BundleError::Number("spiffe_refresh_hint"))?;
    }
    for (index, value) in keys.iter().enumerate() {
        match value.get("use").and_then(Value::as_str) {
            Some(USE_X509) => {
                if let Some(authority) = read_x509(index, value)? {
                    bundle.x509_authorities.push(authority);
                }
            }
            Some(USE_JWT) => {
                if let Some(authority) = read_jwt(index, value)? {
                    add_jwt(&mut bundle.jwt_authorities, authority);
                }
            }
            // BND-16: a key serves its own use and no other.
            Some(USE_WIT) => {
                if let Some(authority) = read_wit(index, value)? {
                    add_wit(&mut bundle.wit_authorities, authority);
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(bundle)
}

/// Reads a key set of the Workload API: JWT keys, `use` absent or `jwt-svid`.
pub fn decode_jwks(document: &[u8]) -> Result<Vec<JwtAuthority>, BundleError> {
    let (_members, keys) = read_key_set(document)?;
    let mut authorities = Vec::with_capacity(keys.len());
    for (index, value) in keys.iter().enumerate() {
        if matches!(
            value.get("use").map(Value::as_str),
            None | Some(Some(USE_JWT))
        ) && let Some(authority) = read_jwt(index, value)?
        {
            add_jwt(&mut authorities, authority);
        }
    }
    Ok(authorities)
}

/// Reads a WIT key set of the Workload API: `use` absent or `wit-svid`.
pub fn decode_wit_jwks(document: &[u8]) -> Result<Vec<WitAuthority>, BundleError> {
    let (_members, keys) = read_key_set(document)?;
    let mut authorities = Vec::with_capacity(keys.len());
    for (index, value) in keys.iter().enumerate() {
        if matches!(
            value.get("use").map(Value::as_str),
            None | Some(Some(USE_WIT))
        ) && let Some(authority) = read_wit(index, value)?
        {
            add_wit(&mut authorities, authority);
        }
    }
    Ok(authorities)
}

fn read_key_set(document: &[u8]) -> Result<(Map<String, Value>, Vec<Value>), BundleError> {
    if document.len() > MAX_BUNDLE_LEN {
        return Err(BundleError::TooLong(document.len()));
    }
    let mut members: Map<String, Value> =
        serde_json::from_slice(document).map_err(|_json| BundleError::NotAKeySet)?;
    match members.remove("keys") {
        Some(Value::Array(keys)) => Ok((members, keys)),
        Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_),
        )
        | None => Err(BundleError::NotAKeySet),
    }
}

fn read_x509(index: usize, value: &Value) -> Result<Option<X509Authority>, BundleError> {
    let Some(jwk) = read_key(index, value)? else {
        return Ok(None);
    };
    let Some(first) = jwk.certificates.first() else {
        return Ok(None);
    };
    let malformed = |reason| BundleError::Certificate { index, reason };
    let der = STANDARD
        .decode(first)
        .map_err(|_base64| malformed(CertificateError::Malformed))?;
    let certificate = Certificate::parse(&der).map_err(malformed)?;
    if certificate.public_key().ok().as_ref() != Some(&jwk.key) {
        return Err(BundleError::CertificateKey { index });
    }
    Ok(Some(X509Authority {
        der: der.into(),
        expires_at: certificate.not_after,
        tainted: false,
    }))
}

fn read_jwt(index: usize, value: &Value) -> Result<Option<JwtAuthority>, BundleError> {
    let Some(jwk) = read_key(index, value)? else {
        return Ok(None);
    };
    let key_id = jwk
        .key_id
        .filter(|kid| !kid.is_empty())
        .ok_or(BundleError::NoKeyId { index })?;
    Ok(Some(JwtAuthority {
        key_id,
        public_key: Arc::from(jwk.key.spki_der()),
        expires_at: None::<Timestamp>,
        tainted: false,
    }))
}

fn read_wit(index: usize, value: &Value) -> Result<Option<WitAuthority>, BundleError> {
    // The entry has the same form; which of the two it is, its use says.
    Ok(read_jwt(index, value)?.map(|key| WitAuthority {
        key_id: key.key_id,
        public_key: key.public_key,
        expires_at: key.expires_at,
        tainted: key.tainted,
    }))
}

/// `None` is a key of a type or curve that we do not know (BND-08).
fn read_key(index: usize, value: &Value) -> Result<Option<Jwk>, BundleError> {
    match Jwk::from_value(value) {
        Ok(jwk) => Ok(Some(jwk)),
        Err(JwkError::UnknownKeyType | JwkError::Member("kty") | JwkError::NotAnObject) => Ok(None),
        Err(reason @ (JwkError::Member(_) | JwkError::Encoding(_) | JwkError::Key(_))) => {
            Err(BundleError::Key { index, reason })
        }
    }
}

/// Of two keys with one name the later one stands, as in Go's and Rust's readers (BND-14).
fn add_jwt(authorities: &mut Vec<JwtAuthority>, authority: JwtAuthority) {
    authorities.retain(|known| known.key_id != authority.key_id);
    authorities.push(authority);
}

fn add_wit(authorities: &mut Vec<WitAuthority>, authority: WitAuthority) {
    authorities.retain(|known| known.key_id != authority.key_id);
    authorities.push(authority);
}
