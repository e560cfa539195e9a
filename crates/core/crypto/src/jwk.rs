//! JSON Web Keys, public ones (RFC 7517, RFC 7518 section 6, RFC 8037).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::{KeyAlgorithm, KeyError, PublicKey, der, digest};

/// Why a JSON value is not a key that we can use. In a bundle such an entry is passed over and
/// the rest is kept (BND-08).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// The entry is not a JSON object.
    #[error("a JWK is a JSON object")]
    NotAnObject,
    /// A member that the key type needs is missing or has the wrong JSON type.
    #[error("the JWK member {0:?} is missing or of the wrong type")]
    Member(&'static str),
    /// The key type or curve is none that we know.
    #[error("the JWK has an unknown key type or curve")]
    UnknownKeyType,
    /// A member is not unpadded base64url, or not at the full width of the field (BND-10).
    #[error("the JWK member {0:?} is not unpadded base64url of the right length")]
    Encoding(&'static str),
    /// The members do not make a good key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A public key with the members by which SPIFFE bundles use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    /// The key.
    pub key: PublicKey,
    /// `kid`.
    pub key_id: Option<String>,
    /// `use`; in a SPIFFE bundle `x509-svid`, `jwt-svid` or `wit-svid` (BND-07).
    pub usage: Option<String>,
    /// `x5c`: standard base64 of certificates, DER. Texts, because only the reader of an
    /// `x509-svid` entry has to understand them.
    pub certificates: Vec<String>,
}

impl Jwk {
    /// Reads one key; members that are not understood are passed over (RFC 7517, 4).
    pub fn from_value(value: &Value) -> Result<Self, JwkError> {
        let members = value.as_object().ok_or(JwkError::NotAnObject)?;
        let key = read_key(members)?;
        Ok(Self {
            key,
            key_id: optional_text(members, "kid")?,
            usage: optional_text(members, "use")?,
            certificates: certificates(members)?,
        })
    }

    /// Writes the key and those of the other members that are set; nothing else (BND-09).
    pub fn to_value(&self) -> Value {
        let mut members = public_jwk_members(&self.key);
        if let Some(kid) = &self.key_id {
            members.insert("kid".into(), kid.as_str().into());
        }
        if let Some(usage) = &self.usage {
            members.insert("use".into(), usage.as_str().into());
        }
        if !self.certificates.is_empty() {
            members.insert("x5c".into(), self.certificates.clone().into());
        }
        Value::Object(members)
    }
}

/// The members that make up the key itself: `kty` and, by type, `crv`, `x`, `y`, or `n`, `e`.
///
/// EC coordinates are written at the full width of the field (RFC 7518, 6.2.1.2; BND-10).
pub fn public_jwk_members(key: &PublicKey) -> Map<String, Value> {
    let mut members = Map::new();
    let mut put = |name: &str, value: String| {
        members.insert(name.to_owned(), Value::String(value));
    };
    let raw = key.bit_string();
    let ec = |curve: &str, put: &mut dyn FnMut(&str, String)| {
        // One byte 04, then two coordinates at full width.
        let coordinates = raw.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        put("kty", "EC".into());
        put("crv", curve.into());
        put("x", URL_SAFE_NO_PAD.encode(x));
        put("y", URL_SAFE_NO_PAD.encode(y));
    };
    match key.algorithm() {
        KeyAlgorithm::EcP256 => ec("P-256", &mut put),
        KeyAlgorithm::EcP384 => ec("P-384", &mut put),
        KeyAlgorithm::EcP521 => ec("P-521", &mut put),
        KeyAlgorithm::Ed25519 => {
            put("kty", "OKP".into());
            put("crv", "Ed25519".into());
            put("x", URL_SAFE_NO_PAD.encode(raw));
        }
        KeyAlgorithm::Rsa { .. } => {
            // A PublicKey was checked: both numbers are there.
            let mut reader = der::Reader::new(
                der::Reader::new(raw)
                    .value(der::SEQUENCE)
                    .unwrap_or_default(),
            );
            let modulus = reader.unsigned_integer().unwrap_or_default();
            let exponent = reader.unsigned_integer().unwrap_or_default();
            put("kty", "RSA".into());
            put("n", URL_SAFE_NO_PAD.encode(modulus));
            put("e", URL_SAFE_NO_PAD.encode(exponent));
        }
    }
    members
}

/// The SHA-256 thumbprint of the key (RFC 7638), unpadded base64url.
pub fn jwk_thumbprint(key: &PublicKey) -> String {
    // RFC 7638 wants exactly these members, ordered by name and without white space. The map of
    // serde_json may be in order of insertion, if some other crate of the program asks for that.
    let ordered: BTreeMap<String, Value> = public_jwk_members(key).into_iter().collect();
    let canonical = Value::from_iter(ordered).to_string();
    URL_SAFE_NO_PAD.encode(digest::sha256(canonical.as_bytes()))
}

fn read_key(members: &Map<String, Value>) -> Result<PublicKey, JwkError> {
    match text(members, "kty")? {
        "EC" => {
            let (algorithm, width) = match text(members, "crv")? {
                "P-256" => (KeyAlgorithm::EcP256, 32),
                "P-384" => (KeyAlgorithm::EcP384, 48),
                "P-521" => (KeyAlgorithm::EcP521, 66),
                _ => return Err(JwkError::UnknownKeyType),
            };
            let mut point = vec![4];
            for name in ["x", "y"] {
                let coordinate = bytes(members, name)?;
                if coordinate.len() != width {
                    return Err(JwkError::Encoding(name));
                }
                point.extend_from_slice(&coordinate);
            }
            Ok(PublicKey::from_ec_point(algorithm, &point)?)
        }
        "RSA" => Ok(PublicKey::from_rsa(
            &bytes(members, "n")?,
            &bytes(members, "e")?,
        )?),
        "OKP" => match text(members, "crv")? {
            "Ed25519" => Ok(PublicKey::from_ed25519(&bytes(members, "x")?)?),
            _ => Err(JwkError::UnknownKeyType),
        },
        _ => Err(JwkError::UnknownKeyType),
    }
}

fn text<'a>(members: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, JwkError> {
    members
        .get(name)
        .and_then(Value::as_str)
        .ok_or(JwkError::Member(name))
}

fn optional_text(
    members: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<String>, JwkError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(JwkError::Member(name)),
    }
}

/// The texts of `x5c`. The first is the one that counts, so it must be a text: passing over it would
/// make the second the first (BND-15).
fn certificates(members: &Map<String, Value>) -> Result<Vec<String>, JwkError> {
    let list = members.get("x5c").and_then(Value::as_array);
    let mut values = list.into_iter().flatten();
    let Some(first) = values.next() else {
        return Ok(Vec::new());
    };
    let first = first.as_str().ok_or(JwkError::Member("x5c"))?;
    Ok(std::iter::once(first)
        .chain(values.filter_map(Value::as_str))
        .map(str::to_owned)
        .collect())
}

fn bytes(members: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, JwkError> {
    URL_SAFE_NO_PAD
        .decode(text(members, name)?)
        .map_err(|_invalid| JwkError::Encoding(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{KeyType, PrivateKey};

    #[test]
    fn every_key_returns_from_json() {
        for key_type in [
            KeyType::EcP256,
            KeyType::EcP384,
            KeyType::Ed25519,
            KeyType::Rsa2048,
        ] {
            let key = PrivateKey::generate(key_type).unwrap();
            let jwk = Jwk {
                key: key.public_key().clone(),
                key_id: Some("k".into()),
                usage: Some("jwt-svid".into()),
                certificates: vec![],
            };
            assert_eq!(Jwk::from_value(&jwk.to_value()), Ok(jwk));
        }
    }

    /// The example of RFC 7638, 3.1.
    #[test]
    fn thumbprint_known_answer() {
        let jwk = Jwk::from_value(&json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"
        })).unwrap();
        assert_eq!(
            jwk_thumbprint(&jwk.key),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    /// A coordinate with a zero at its head keeps it (BND-10).
    #[test]
    fn coordinates_have_full_width() {
        for _ in 0..600 {
            let key = PrivateKey::generate(KeyType::EcP256).unwrap();
            let members = public_jwk_members(key.public_key());
            assert_eq!(members["x"].as_str().unwrap().len(), 43);
            assert_eq!(members["y"].as_str().unwrap().len(), 43);
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        let check = |value: Value, expected: JwkError| {
            assert_eq!(Jwk::from_value(&value), Err(expected), "{value}");
        };
        check(json!([]), JwkError::NotAnObject);
        check(json!({}), JwkError::Member("kty"));
        check(json!({"kty": "AKP", "pub": ""}), JwkError::UnknownKeyType);
        check(
            json!({"kty": "EC", "crv": "secp256k1"}),
            JwkError::UnknownKeyType,
        );
        check(
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            JwkError::Encoding("x"),
        );
        check(
            json!({"kty": "RSA", "n": "AQAB=", "e": "AQAB"}),
            JwkError::Encoding("n"),
        );
    }

    proptest! {
        #[test]
        fn never_panics(kty in "(EC|RSA|OKP|X)", crv in "(P-256|P-384|Ed25519|X)", x in ".{0,90}", y in "[A-Za-z0-9_-]{0,90}") {
            let _ignored = Jwk::from_value(&json!({"kty": kty, "crv": crv, "x": y, "y": x, "n": y, "e": x}));
        }
    }
}
