//! JSON Web Signatures in compact serialization, by the strict rules of JWT-SVID (JWTV-01 to -05).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::{KeyAlgorithm, KeyError, PublicKey, SignatureScheme};

/// The longest token that is read, in bytes: room for a header and a payload of 64 KiB each
/// (JWTI-17), encoded.
pub const MAX_JWS_LEN: usize = 192 * 1024;

/// The nine algorithms that a JWT-SVID may have (JWT-SVID 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JwsAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
}

impl JwsAlgorithm {
    const ALL: [Self; 9] = [
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// The value of `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// From the value of `alg`; exact, so that `none`, HS256 and EdDSA are refused (JWTV-01).
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }

    /// How the signature is made.
    pub const fn scheme(self) -> SignatureScheme {
        match self {
            Self::Es256 => SignatureScheme::EcdsaP256Sha256,
            Self::Es384 => SignatureScheme::EcdsaP384Sha384,
            Self::Es512 => SignatureScheme::EcdsaP521Sha512,
            Self::Rs256 => SignatureScheme::RsaPkcs1Sha256,
            Self::Rs384 => SignatureScheme::RsaPkcs1Sha384,
            Self::Rs512 => SignatureScheme::RsaPkcs1Sha512,
            Self::Ps256 => SignatureScheme::RsaPssSha256,
            Self::Ps384 => SignatureScheme::RsaPssSha384,
            Self::Ps512 => SignatureScheme::RsaPssSha512,
        }
    }

    /// The algorithm with which a key signs tokens: ES256, ES384, ES512 or RS256
    /// (spire-behaviour 2.5). Ed25519 has none.
    pub const fn for_key(key: KeyAlgorithm) -> Option<Self> {
        match key {
            KeyAlgorithm::EcP256 => Some(Self::Es256),
            KeyAlgorithm::EcP384 => Some(Self::Es384),
            KeyAlgorithm::EcP521 => Some(Self::Es512),
            KeyAlgorithm::Rsa { .. } => Some(Self::Rs256),
            KeyAlgorithm::Ed25519 => None,
        }
    }
}

/// Why a text is not a signed token, or not one that we accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`MAX_JWS_LEN`].
    #[error("the token is longer than {MAX_JWS_LEN} bytes")]
    TooLong,
    /// Not three parts divided by dots; JSON serialization among them (JWTV-03).
    #[error("a token has three parts divided by dots")]
    Parts,
    /// A part is not unpadded base64url (JWTV-03).
    #[error("the token's {0} is not unpadded base64url")]
    Encoding(&'static str),
    /// The header is not a JSON object with members of the right type.
    #[error("the token's header is not a JSON object with text members alg, kid and typ")]
    Header,
    /// `alg` is missing or none of the nine (JWTV-01).
    #[error("the token's algorithm is not one of RS, ES, PS with 256, 384, 512")]
    Algorithm,
    /// The header has `crit`: it wants something understood that we do not know (JWTV-05).
    #[error("the token's header has critical members, which are not supported")]
    Critical,
    /// `alg` does not fit the type and curve of the key (JWTV-02).
    #[error("the token's algorithm does not fit the key")]
    KeyMismatch,
    /// The signature is not one of the key.
    #[error("the token's signature does not verify")]
    BadSignature,
}

/// The members of a header that are looked at; key material in a header never is (JWTV-05).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwsHeader {
    /// `alg`.
    pub algorithm: JwsAlgorithm,
    /// `kid`.
    pub key_id: Option<String>,
    /// `typ`.
    pub typ: Option<String>,
}

/// A token taken apart, its signature not yet verified.
pub struct ParsedJws<'a> {
    /// The header.
    pub header: JwsHeader,
    /// The payload's bytes.
    pub payload: Vec<u8>,
    signing_input: &'a str,
    signature: Vec<u8>,
}

impl<'a> ParsedJws<'a> {
    /// Takes a compact token apart.
    pub fn parse(token: &'a str) -> Result<Self, JwsError> {
        if token.len() > MAX_JWS_LEN {
            return Err(JwsError::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::Parts)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Parts)?;
        if payload.contains('.') || header.is_empty() {
            return Err(JwsError::Parts);
        }
        let header = parse_header(&decode(header, "header")?)?;
        Ok(Self {
            header,
            payload: decode(payload, "payload")?,
            signing_input,
            signature: decode(signature, "signature")?,
        })
    }

    /// Verifies the signature with `key`, after checking that the algorithm fits it.
    pub fn verify(&self, key: &PublicKey) -> Result<(), JwsError> {
        let scheme = self.header.algorithm.scheme();
        if !scheme.fits(key.algorithm()) {
            return Err(JwsError::KeyMismatch);
        }
        let signature = scheme
            .from_jws(&self.signature)
            .map_err(|_shape| JwsError::BadSignature)?;
        match key.verify(scheme, self.signing_input.as_bytes(), &signature) {
            Ok(()) => Ok(()),
            Err(KeyError::SchemeMismatch { .. }) => Err(JwsError::KeyMismatch),
            Err(
                KeyError::Malformed(_)
                | KeyError::UnsupportedAlgorithm
                | KeyError::RsaSize(_)
                | KeyError::BadSignature
                | KeyError::Provider(_),
            ) => Err(JwsError::BadSignature),
        }
    }
}

fn parse_header(bytes: &[u8]) -> Result<JwsHeader, JwsError> {
    let members: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|_json| JwsError::Header)?;
    let text = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(JwsError::Header),
    };
    let algorithm = text("alg")?
        .and_then(JwsAlgorithm::parse)
        .ok_or(JwsError::Algorithm)?;
    if members.contains_key("crit") {
        return Err(JwsError::Critical);
    }
    Ok(JwsHeader {
        algorithm,
        key_id: text("kid")?.map(str::to_owned),
        typ: text("typ")?.map(str::to_owned),
    })
}

fn decode(part: &str, name: &'static str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_invalid| JwsError::Encoding(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{KeyType, PrivateKey};

    fn token(key: &PrivateKey, header: &str) -> String {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode("{}")
        );
        let scheme = key.public_key().default_scheme();
        let signature = scheme
            .to_jws(&key.sign(scheme, input.as_bytes()).unwrap())
            .unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn fault(token: &str) -> JwsError {
        ParsedJws::parse(token).err().unwrap()
    }

    #[test]
    fn good_tokens_verify_and_tampered_ones_do_not() {
        for (key_type, alg) in [
            (KeyType::EcP256, "ES256"),
            (KeyType::EcP384, "ES384"),
            (KeyType::Rsa2048, "RS256"),
        ] {
            let key = PrivateKey::generate(key_type).unwrap();
            let good = token(&key, &format!(r#"{{"alg":"{alg}","kid":"k"}}"#));
            let parsed = ParsedJws::parse(&good).unwrap();
            assert_eq!(parsed.header.key_id.as_deref(), Some("k"));
            assert_eq!(parsed.verify(key.public_key()), Ok(()));
            let tampered = good
                .replacen("e30", "e31", 1)
                .replacen(".e31.", ".e30K.", 1);
            if let Ok(parsed) = ParsedJws::parse(&tampered) {
                assert_eq!(parsed.verify(key.public_key()), Err(JwsError::BadSignature));
            }
        }
    }

    /// The algorithms that others use and our own keys do not sign with by default.
    #[test]
    fn tokens_of_others() {
        use aws_lc_rs::signature::{self as lc, EcdsaKeyPair, KeyPair as _};
        let pair = EcdsaKeyPair::generate(&lc::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        let key = PublicKey::from_ec_point(KeyAlgorithm::EcP521, pair.public_key().as_ref());
        let input = format!("{}.e30", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES512"}"#));
        let signature = pair
            .sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes())
            .unwrap();
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature));
        let parsed = ParsedJws::parse(&token).unwrap();
        assert_eq!(parsed.verify(&key.unwrap()), Ok(()));

        let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        for (alg, scheme) in [
            ("RS384", SignatureScheme::RsaPkcs1Sha384),
            ("PS256", SignatureScheme::RsaPssSha256),
            ("PS512", SignatureScheme::RsaPssSha512),
        ] {
            let input = format!(
                "{}.e30",
                URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#))
            );
            let signature = rsa.sign(scheme, input.as_bytes()).unwrap();
            let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature));
            let parsed = ParsedJws::parse(&token).unwrap();
            assert_eq!(parsed.verify(rsa.public_key()), Ok(()), "{alg}");
        }
    }

    /// JWTV-01: the nine and nothing else.
    #[test]
    fn algorithms() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        for alg in [
            "none", "None", "HS256", "HS512", "EdDSA", "ES256K", "es256", "",
        ] {
            let token = token(&key, &format!(r#"{{"alg":"{alg}"}}"#));
            assert_eq!(fault(&token), JwsError::Algorithm, "{alg}");
        }
        assert_eq!(fault(&token(&key, "{}")), JwsError::Algorithm);
        assert_eq!(fault(&token(&key, r#"{"alg":1}"#)), JwsError::Header);
    }

    /// JWTV-02: no algorithm confusion.
    #[test]
    fn the_algorithm_fits_the_key() {
        let ec = PrivateKey::generate(KeyType::EcP256).unwrap();
        let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let es = token(&ec, r#"{"alg":"ES256"}"#);
        let rs = token(&rsa, r#"{"alg":"RS256"}"#);
        let es384 = token(&ec, r#"{"alg":"ES384"}"#);
        for (token, key) in [(&es, &rsa), (&rs, &ec), (&es384, &ec)] {
            let parsed = ParsedJws::parse(token).unwrap();
            assert_eq!(parsed.verify(key.public_key()), Err(JwsError::KeyMismatch));
        }
    }

    /// JWTV-03 and JWTV-05.
    #[test]
    fn shapes() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let good = token(&key, r#"{"alg":"ES256"}"#);
        let (two, _) = good.rsplit_once('.').unwrap();
        for bad in [
            two,
            &format!("{good}.e30"),
            "",
            ".",
            "..",
            "{\"payload\":1}",
        ] {
            assert_eq!(fault(bad), JwsError::Parts, "{bad}");
        }
        assert_eq!(fault(&format!("{good}=")), JwsError::Encoding("signature"));
        assert_eq!(
            fault(&token(
                &key,
                r#"{"alg":"ES256","crit":["b64"],"b64":false}"#
            )),
            JwsError::Critical
        );
        assert_eq!(fault(&"a".repeat(MAX_JWS_LEN + 1)), JwsError::TooLong);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,200}") {
            let _ignored = ParsedJws::parse(&text);
        }

        #[test]
        fn never_panics_in_three_parts(a in "[A-Za-z0-9_=-]{0,60}", b in "[A-Za-z0-9_-]{0,60}", c in "[A-Za-z0-9_-]{0,90}") {
            let _ignored = ParsedJws::parse(&format!("{a}.{b}.{c}"));
        }
    }
}
