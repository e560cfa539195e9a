//! JWT-SVIDs: drafted, assembled, validated (JWTI and JWTV groups).

use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_crypto::{JwsAlgorithm, JwsError, KeyError, ParsedJws, PublicKey, SignatureScheme};
use muster_model::{Bundle, IdError, SpiffeId, Timestamp, TrustDomain};
use serde::Serialize;
use serde_json::{Map, Value};

/// How far ahead of our clock `nbf` may be. `exp` has no leeway: like the Java, Python and Rust
/// clients, we accept a token up to the second before it expires and not after (JWTV-07, -08).
const NOT_BEFORE_LEEWAY: Duration = Duration::from_mins(1);

/// The longest header and the longest payload that are issued, in bytes before encoding: the Rust
/// client reads no longer ones (JWTI-17).
const MAX_PART_LEN: usize = 64 * 1024;

/// A JWT-SVID that we hold.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// The token; it is a bearer secret, so `Debug` leaves it out.
    pub token: String,
    /// Whose token it is.
    pub spiffe_id: SpiffeId,
    /// For whom it is, as `aud` says.
    pub audience: Vec<String>,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What a token is to say.
#[derive(Clone, Copy, Debug)]
pub struct JwtParams<'a> {
    /// The identity, `sub` (JWTI-05).
    pub spiffe_id: &'a SpiffeId,
    /// For whom the token is, `aud`; empty texts are passed over, as SPIRE does (JWTI-08).
    pub audience: &'a [String],
    /// The signing key's name in the bundle, `kid` (JWTI-02).
    pub key_id: &'a str,
    /// The signing key.
    pub public_key: &'a PublicKey,
    /// When the signing key's life ends, which no token outlives (JWTI-15); `None` is never.
    pub key_expires_at: Option<Timestamp>,
    /// Lifetime from now.
    pub ttl: Duration,
    /// `iss`, if configured.
    pub issuer: Option<&'a str>,
    /// The 16 bytes of a UUID for `jti`, if the entry wants one (spire-behaviour 2.5).
    pub token_id: Option<[u8; 16]>,
}

/// Why a token cannot be drafted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtDraftError {
    /// No audience is left (JWTI-06).
    #[error("a JWT-SVID needs at least one audience that is not empty")]
    NoAudience,
    /// A workload's SPIFFE ID has a path (JWTV-14).
    #[error("{0} has no path: it names a trust domain, not a workload")]
    NoPath(SpiffeId),
    /// The key is of a kind that no JWT algorithm of SPIFFE fits (JWTI-03).
    #[error("a key of type {0} cannot sign tokens: use EC P-256, EC P-384 or RSA")]
    KeyType(muster_crypto::KeyAlgorithm),
    /// The token would have expired when it is made.
    #[error(
        "the token would expire at {0:?}, before it is issued: the signing key has expired or the lifetime is under a second"
    )]
    Expired(Timestamp),
    /// The header or the claims are longer than clients read (JWTI-17).
    #[error(
        "the token would carry {0} bytes in one part, more than {MAX_PART_LEN}: ask for fewer or shorter audiences"
    )]
    TooLong(usize),
    /// The signature does not have the shape of the algorithm.
    #[error("the signature: {0}")]
    Signature(#[from] KeyError),
    /// The claims cannot be written as JSON.
    #[error("the claims cannot be written as JSON: {0}")]
    Json(String),
}

/// A token that is complete but for its signature.
#[derive(Clone, Debug)]
pub struct UnsignedJwt {
    signing_input: String,
    algorithm: JwsAlgorithm,
    spiffe_id: SpiffeId,
    audience: Vec<String>,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a [String],
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    sub: &'a str,
}

/// Drafts a token: header `alg`, `kid`, `typ: JWT` and claims as spire-behaviour 2.5 has them.
pub fn draft(jwt: &JwtParams<'_>, now: Timestamp) -> Result<UnsignedJwt, JwtDraftError> {
    let audience: Vec<String> = jwt
        .audience
        .iter()
        .filter(|a| !a.is_empty())
        .cloned()
        .collect();
    if audience.is_empty() {
        return Err(JwtDraftError::NoAudience);
    }
    if jwt.spiffe_id.path().is_empty() {
        return Err(JwtDraftError::NoPath(jwt.spiffe_id.clone()));
    }
    let key = jwt.public_key.algorithm();
    let algorithm = JwsAlgorithm::for_key(key).ok_or(JwtDraftError::KeyType(key))?;
    let issued_at = now.floor_to_second();
    let expires_at = now
        .plus(jwt.ttl)
        .min(jwt.key_expires_at.unwrap_or(Timestamp::MAX))
        .floor_to_second();
    if expires_at <= issued_at {
        return Err(JwtDraftError::Expired(expires_at));
    }
    let header = Header {
        alg: algorithm.as_str(),
        kid: jwt.key_id,
        typ: "JWT",
    };
    let claims = Claims {
        aud: &audience,
        exp: expires_at.unix_seconds(),
        iat: issued_at.unix_seconds(),
        iss: jwt.issuer,
        jti: jwt.token_id.map(|id| URL_SAFE_NO_PAD.encode(id)),
        sub: jwt.spiffe_id.as_str(),
    };
    let signing_input = format!("{}.{}", encode(&header)?, encode(&claims)?);
    Ok(UnsignedJwt {
        signing_input,
        algorithm,
        spiffe_id: jwt.spiffe_id.clone(),
        audience,
        issued_at,
        expires_at,
    })
}

fn encode(part: &impl Serialize) -> Result<String, JwtDraftError> {
    let json = serde_json::to_vec(part).map_err(|e| JwtDraftError::Json(e.to_string()))?;
    if json.len() > MAX_PART_LEN {
        return Err(JwtDraftError::TooLong(json.len()));
    }
    Ok(URL_SAFE_NO_PAD.encode(json))
}

impl UnsignedJwt {
    /// The bytes to be signed.
    pub fn signing_input(&self) -> &[u8] {
        self.signing_input.as_bytes()
    }

    /// How they are to be signed.
    pub fn scheme(&self) -> SignatureScheme {
        self.algorithm.scheme()
    }

    /// The token, with a signature in the X.509 view (ECDSA: ASN.1), as key managers give it. The
    /// signature is not verified here.
    pub fn assemble(self, signature: &[u8]) -> Result<JwtSvid, JwtDraftError> {
        let signature = self.algorithm.scheme().to_jws(signature)?;
        let mut token = self.signing_input;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(JwtSvid {
            token,
            spiffe_id: self.spiffe_id,
            audience: self.audience,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        })
    }
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// The token's form, algorithm or signature (JWTV-01 to JWTV-03, JWTV-05).
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// `typ` is neither `JWT` nor `JOSE` (JWTV-04).
    #[error("the token's type is neither JWT nor JOSE")]
    Type,
    /// There is no `kid`; every issuer of SPIFFE tokens sets it (JWTV-12).
    #[error("the token does not name its key: kid is missing")]
    NoKeyId,
    /// The payload is not a JSON object.
    #[error("the token's claims are not a JSON object")]
    Claims,
    /// A claim is missing or of the wrong type (JWTV-06, JWTV-07, JWTV-09).
    #[error("the claim {0:?} is missing or of the wrong type")]
    Claim(&'static str),
    /// `sub` is no SPIFFE ID (JWTV-09).
    #[error("the claim \"sub\" is not a SPIFFE ID: {0}")]
    Subject(#[from] IdError),
    /// The token is for somebody else (JWTV-06).
    #[error("the token is not for the audience {0:?}")]
    Audience(String),
    /// `exp` has come (JWTV-07).
    #[error("the token has expired")]
    Expired,
    /// `nbf` is more than a minute ahead (JWTV-08).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// There is no bundle for the trust domain of `sub` (JWTV-10).
    #[error("there is no bundle for the trust domain {0}")]
    NoBundle(TrustDomain),
    /// The bundle has no live key of that name (JWTV-10, JWTV-11).
    #[error("the bundle of trust domain {trust_domain} has no JWT key {key_id:?}")]
    UnknownKey {
        /// The trust domain of `sub`.
        trust_domain: TrustDomain,
        /// `kid`.
        key_id: String,
    },
}

/// A token that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedJwt {
    /// `sub`.
    pub spiffe_id: SpiffeId,
    /// All claims, with `aud` as a list whichever way it was written.
    pub claims: Map<String, Value>,
    /// `exp`.
    pub expires_at: Timestamp,
}

/// Validates a token for `audience`, with the bundle that `bundle_of` gives for the trust domain
/// of its `sub`, and no other.
pub fn validate<B: Borrow<Bundle>>(
    token: &str,
    audience: &str,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
    now: Timestamp,
) -> Result<ValidatedJwt, JwtError> {
    let jws = ParsedJws::parse(token)?;
    if !matches!(jws.header.typ.as_deref(), None | Some("JWT" | "JOSE")) {
        return Err(JwtError::Type);
    }
    let key_id = jws
        .header
        .key_id
        .clone()
        .filter(|kid| !kid.is_empty())
        .ok_or(JwtError::NoKeyId)?;
    let mut claims: Map<String, Value> =
        serde_json::from_slice(&jws.payload).map_err(|_json| JwtError::Claims)?;
    let subject = claims
        .get("sub")
        .and_then(Value::as_str)
        .ok_or(JwtError::Claim("sub"))?;
    let spiffe_id = SpiffeId::parse(subject)?;

    let trust_domain = spiffe_id.trust_domain();
    let bundle = bundle_of(trust_domain).ok_or_else(|| JwtError::NoBundle(trust_domain.clone()))?;
    let key = find_key(bundle.borrow(), trust_domain, &key_id, now)?;
    jws.verify(&key)?;

    let expires_at = numeric_date(&claims, "exp")?.ok_or(JwtError::Claim("exp"))?;
    if expires_at <= now {
        return Err(JwtError::Expired);
    }
    if let Some(not_before) = numeric_date(&claims, "nbf")?
        && not_before > now.plus(NOT_BEFORE_LEEWAY)
    {
        return Err(JwtError::NotYetValid);
    }
    let audiences = read_audience(&claims)?;
    if audience.is_empty() || !audiences.iter().any(|a| a == audience) {
        return Err(JwtError::Audience(audience.to_owned()));
    }
    claims.insert("aud".into(), audiences.into());
    Ok(ValidatedJwt {
        spiffe_id,
        claims,
        expires_at,
    })
}

fn find_key(
    bundle: &Bundle,
    trust_domain: &TrustDomain,
    key_id: &str,
    now: Timestamp,
) -> Result<PublicKey, JwtError> {
    bundle
        .jwt_authorities
        .iter()
        // A lookup that hands out another domain's bundle must not make its keys ours.
        .filter(|_| bundle.trust_domain == *trust_domain)
        .filter(|key| key.expires_at.is_none_or(|end| now < end))
        .find(|key| key.key_id == key_id)
        .and_then(|key| PublicKey::from_spki_der(&key.public_key).ok())
        .ok_or_else(|| JwtError::UnknownKey {
            trust_domain: trust_domain.clone(),
            key_id: key_id.to_owned(),
        })
}

/// A NumericDate: seconds, which others may write with a fraction (RFC 7519, 2).
pub(crate) fn numeric_date(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<Timestamp>, JwtError> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    if let Some(whole) = value.as_i64() {
        return Ok(Some(Timestamp::from_unix_seconds(whole)));
    }
    let fraction = value.as_f64().ok_or(JwtError::Claim(name))?;
    if !fraction.is_finite() || fraction.abs() > 1e15 {
        return Err(JwtError::Claim(name));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked above: milliseconds of 1e15 seconds fit, and a fraction of one is dropped"
    )]
    Ok(Some(Timestamp::from_unix_millis(
        (fraction * 1000.0) as i64,
    )))
}

/// `aud`, one text or a list of texts (RFC 7519, 4.1.3).
fn read_audience(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    const MISSING: JwtError = JwtError::Claim("aud");
    let list = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many
            .iter()
            .map(|a| a.as_str().map(str::to_owned).ok_or(MISSING))
            .collect::<Result<_, _>>()?,
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            return Err(MISSING);
        }
    };
    if list.is_empty() {
        return Err(MISSING);
    }
    Ok(list)
}
