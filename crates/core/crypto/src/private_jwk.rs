//! Private JSON Web Keys (RFC 7517; RFC 7518 sections 6.2.2 and 6.3.2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::{
    JwsAlgorithm, KeyAlgorithm, KeyError, PrivateKey, Purpose, Secret, der, public_jwk_members,
};

/// OCTET STRING.
const OCTET_STRING: u8 = 0x04;
/// The private members of an RSA key, in the order of PKCS #1 (RFC 8017, A.1.2).
const RSA_MEMBERS: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];

const MALFORMED: KeyError = KeyError::Malformed("PKCS #8 private key of an EC or RSA key");

impl PrivateKey {
    /// The key as a private JWK, JSON: the public members, `alg`, and for EC `d` at the full width
    /// of the field, for RSA `d` with both primes and what follows from them (WIT-18).
    ///
    /// # Errors
    ///
    /// A key for which SPIFFE knows no token algorithm (Ed25519) is not written.
    pub fn to_private_jwk(&self) -> Result<Secret<String>, KeyError> {
        let algorithm =
            JwsAlgorithm::for_key(self.algorithm()).ok_or(KeyError::UnsupportedAlgorithm)?;
        let stored = self.to_pkcs8_der()?;
        let inner = private_part(stored.expose(Purpose::WorkloadApi)).ok_or(MALFORMED)?;
        let private = match self.algorithm() {
            KeyAlgorithm::EcP256 => ec_members(inner, 32)?,
            KeyAlgorithm::EcP384 => ec_members(inner, 48)?,
            KeyAlgorithm::EcP521 => ec_members(inner, 66)?,
            KeyAlgorithm::Rsa { .. } => rsa_members(inner)?,
            KeyAlgorithm::Ed25519 => return Err(KeyError::UnsupportedAlgorithm),
        };
        // Put together by hand: a JSON value would leave copies of the numbers behind. All of it is
        // base64url and names of our own, so nothing has to be escaped. The room is made first, so
        // that no smaller copy is left behind either.
        let mut text = String::with_capacity(
            256 + private.iter().map(|(_, v)| v.len() + 8).sum::<usize>() + 1024,
        );
        text.push_str("{\"alg\":\"");
        text.push_str(algorithm.as_str());
        text.push('"');
        for (name, value) in public_jwk_members(self.public_key()) {
            push(&mut text, &name, value.as_str().unwrap_or_default());
        }
        for (name, value) in &private {
            push(&mut text, name, value);
        }
        text.push('}');
        Ok(Secret::new(text))
    }
}

fn push(text: &mut String, name: &str, value: &str) {
    for part in [",\"", name, "\":\"", value, "\""] {
        text.push_str(part);
    }
}

/// What the key's own syntax says: the OCTET STRING of a PrivateKeyInfo (RFC 5208).
fn private_part(pkcs8: &[u8]) -> Option<&[u8]> {
    let mut info = der::Reader::new(der::Reader::new(pkcs8).value(der::SEQUENCE)?);
    info.unsigned_integer()?;
    info.element(der::SEQUENCE)?;
    der::Reader::new(info.value(OCTET_STRING)?).value(der::SEQUENCE)
}

type Members = Vec<(&'static str, Zeroizing<String>)>;

/// ECPrivateKey (RFC 5915): the number comes second.
fn ec_members(key: &[u8], width: usize) -> Result<Members, KeyError> {
    let mut reader = der::Reader::new(key);
    reader.unsigned_integer().ok_or(MALFORMED)?;
    let number = der::trim_leading_zeros(reader.value(OCTET_STRING).ok_or(MALFORMED)?);
    let missing = width.checked_sub(number.len()).ok_or(MALFORMED)?;
    let mut full = Zeroizing::new(Vec::with_capacity(width));
    full.resize(missing, 0);
    full.extend_from_slice(number);
    Ok(vec![("d", Zeroizing::new(URL_SAFE_NO_PAD.encode(&*full)))])
}

/// RSAPrivateKey: version, n, e, then the private numbers.
fn rsa_members(key: &[u8]) -> Result<Members, KeyError> {
    let mut reader = der::Reader::new(key);
    for _public in 0..3 {
        reader.unsigned_integer().ok_or(MALFORMED)?;
    }
    RSA_MEMBERS
        .into_iter()
        .map(|name| {
            let number = reader.unsigned_integer().ok_or(MALFORMED)?;
            Ok((name, Zeroizing::new(URL_SAFE_NO_PAD.encode(number))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use crate::{Jwk, KeyType};

    fn jwk(key: &PrivateKey) -> Map<String, Value> {
        let secret = key.to_private_jwk().unwrap();
        serde_json::from_str(secret.expose(Purpose::Compare)).unwrap()
    }

    fn bytes(jwk: &Map<String, Value>, name: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap()
    }

    /// PKCS #8 of what a JWK says, written anew.
    fn read_back(jwk: &Map<String, Value>, key: &PrivateKey) -> PrivateKey {
        let inner = if jwk["kty"] == "RSA" {
            let numbers: Vec<Vec<u8>> = ["n", "e", "d", "p", "q", "dp", "dq", "qi"]
                .iter()
                .map(|name| der::unsigned_integer(&bytes(jwk, name)))
                .collect();
            let mut parts: Vec<&[u8]> = vec![&[2, 1, 0]];
            parts.extend(numbers.iter().map(Vec::as_slice));
            der::tlv(der::SEQUENCE, &parts)
        } else {
            let d = der::tlv(OCTET_STRING, &[&bytes(jwk, "d")]);
            let point = der::tlv(der::BIT_STRING, &[&[0], key.public_key().bit_string()]);
            let public = der::tlv(0xa1, &[&point]);
            der::tlv(der::SEQUENCE, &[&[2, 1, 1], &d, &public])
        };
        let stored = key.to_pkcs8_der().unwrap();
        let mut info = der::Reader::new(
            der::Reader::new(stored.expose(Purpose::Compare))
                .value(der::SEQUENCE)
                .unwrap(),
        );
        info.unsigned_integer().unwrap();
        let algorithm = info.element(der::SEQUENCE).unwrap();
        let octets = der::tlv(OCTET_STRING, &[&inner]);
        let pkcs8 = der::tlv(der::SEQUENCE, &[&[2, 1, 0], algorithm, &octets]);
        PrivateKey::from_pkcs8_der(&Secret::new(pkcs8)).unwrap()
    }

    /// WIT-18: sign with the private JWK, verify with its public half.
    #[test]
    fn the_private_jwk_is_the_key() {
        for (key_type, algorithm) in [
            (KeyType::EcP256, "ES256"),
            (KeyType::EcP384, "ES384"),
            (KeyType::Rsa2048, "RS256"),
        ] {
            let key = PrivateKey::generate(key_type).unwrap();
            let members = jwk(&key);
            assert_eq!(members["alg"], algorithm);
            let public = Jwk::from_value(&Value::Object(members.clone())).unwrap();
            assert_eq!(&public.key, key.public_key());
            let again = read_back(&members, &key);
            let signature = again.sign_default(b"message").unwrap();
            let scheme = key.public_key().default_scheme();
            assert_eq!(
                key.public_key().verify(scheme, b"message", &signature),
                Ok(())
            );
        }
    }

    /// WIT-18: a number with a zero at its head keeps it.
    #[test]
    fn numbers_have_full_width() {
        for _ in 0..600 {
            let key = PrivateKey::generate(KeyType::EcP256).unwrap();
            let members = jwk(&key);
            for name in ["x", "y", "d"] {
                assert_eq!(members[name].as_str().unwrap().len(), 43);
            }
        }
    }

    #[test]
    fn an_ed25519_key_has_none() {
        let key = PrivateKey::generate(KeyType::Ed25519).unwrap();
        assert_eq!(
            key.to_private_jwk().unwrap_err(),
            KeyError::UnsupportedAlgorithm
        );
    }
}
