//! WIT-SVIDs: drafted, assembled, validated (WIT group).
//!
//! The profile is Incubating; what is implemented is the text of `spiffe/spiffe` at [`REVISION`]
//! (WIT-02). A WIT-SVID names a workload *and* the public key whose private half only the workload
//! has. It proves nothing by itself: [`validate`] gives an [`UnprovenWit`], and only
//! [`UnprovenWit::prove`], with a signature by that key, gives an identity (WIT-13).

use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_crypto::{
    Jwk, JwkError, JwsAlgorithm, JwsError, KeyError, ParsedJws, PublicKey, SignatureScheme,
    public_jwk_members,
};
use muster_model::{Bundle, IdError, SpiffeId, Timestamp, TrustDomain};
use serde::Serialize;
use serde_json::{Map, Value};

/// The revision of `spiffe/spiffe` whose WIT-SVID text and Workload API section 7 are implemented
/// (WIT-02).
pub const REVISION: &str = "665a28f3 (2026-07-01)";

/// The value of `typ`.
pub const TYPE: &str = "wit+jwt";

/// How far ahead of our clock `nbf` may be (WIT-12). `exp` has no leeway, as for JWT-SVIDs.
const NOT_BEFORE_LEEWAY: Duration = Duration::from_mins(1);

/// Members that no public key has (RFC 7518, 6.2.2, 6.3.2 and 6.4.1; WIT-07).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What a token is to say.
#[derive(Clone, Copy, Debug)]
pub struct WitParams<'a> {
    /// The identity, `sub` (WIT-06).
    pub spiffe_id: &'a SpiffeId,
    /// The workload's key, `cnf.jwk` (WIT-07).
    pub confirmation: &'a PublicKey,
    /// The algorithm with which the workload will sign, `cnf.jwk.alg`; it must fit the key.
    pub confirmation_algorithm: JwsAlgorithm,
    /// The signing key's name in the bundle, `kid` (WIT-03, WIT-05).
    pub key_id: &'a str,
    /// The signing key.
    pub public_key: &'a PublicKey,
    /// When the signing key's life ends, which no token outlives; `None` is never.
    pub key_expires_at: Option<Timestamp>,
    /// Lifetime from now.
    pub ttl: Duration,
    /// `iss`, if configured: no URL at which OpenID Connect could be discovered (WIT-10), see
    /// [`check_issuer`].
    pub issuer: Option<&'a str>,
    /// The 16 bytes of a UUID for `jti`, unique in the trust domain (WIT-09).
    pub token_id: [u8; 16],
}

/// A WIT-SVID, without the private key that belongs to it.
#[derive(Clone, PartialEq, Eq)]
pub struct WitSvid {
    /// The token. It is no bearer token, but it has no place in a log either: `Debug` leaves it
    /// out.
    pub token: String,
    /// Whose token it is.
    pub spiffe_id: SpiffeId,
    /// `jti`.
    pub token_id: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

impl fmt::Debug for WitSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("token_id", &self.token_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Why a token cannot be drafted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitDraftError {
    /// A workload's SPIFFE ID has a path.
    #[error("{0} has no path: it names a trust domain, not a workload")]
    NoPath(SpiffeId),
    /// The signing key is of a kind that no algorithm of SPIFFE tokens fits (WIT-03).
    #[error("a key of type {0} cannot sign tokens: use EC P-256, EC P-384 or RSA")]
    KeyType(muster_crypto::KeyAlgorithm),
    /// The workload's algorithm does not fit its key (WIT-07).
    #[error("{algorithm} does not fit the workload's key of type {key}")]
    Confirmation {
        /// The algorithm that was asked for.
        algorithm: &'static str,
        /// The key that it was asked for.
        key: muster_crypto::KeyAlgorithm,
    },
    /// The token would have expired when it is made.
    #[error(
        "the token would expire at {0:?}, before it is issued: the signing key has expired or the lifetime is under a second"
    )]
    Expired(Timestamp),
    /// The signature does not have the shape of the algorithm.
    #[error("the signature: {0}")]
    Signature(#[from] KeyError),
    /// The claims cannot be written as JSON.
    #[error("the claims cannot be written as JSON: {0}")]
    Json(String),
}

/// A token that is complete but for its signature.
#[derive(Clone, Debug)]
pub struct UnsignedWit {
    signing_input: String,
    algorithm: JwsAlgorithm,
    spiffe_id: SpiffeId,
    token_id: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

/// WIT-03, WIT-04: these three and no other.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

/// WIT-06, WIT-08, WIT-09: no `aud`, and no `nbf`, which would say no more than `iat`.
#[derive(Serialize)]
struct Claims<'a> {
    cnf: Confirmation,
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    jti: &'a str,
    sub: &'a str,
}

/// RFC 7800, 3.2.
#[derive(Serialize)]
struct Confirmation {
    jwk: Map<String, Value>,
}

/// Drafts a token.
///
/// # Errors
///
/// [`WitDraftError`]: an identity, key, algorithm or lifetime with which no token can be made.
pub fn draft(wit: &WitParams<'_>, now: Timestamp) -> Result<UnsignedWit, WitDraftError> {
    if wit.spiffe_id.path().is_empty() {
        return Err(WitDraftError::NoPath(wit.spiffe_id.clone()));
    }
    let key = wit.public_key.algorithm();
    let algorithm = JwsAlgorithm::for_key(key).ok_or(WitDraftError::KeyType(key))?;
    let bound = wit.confirmation.algorithm();
    if !wit.confirmation_algorithm.scheme().fits(bound) {
        return Err(WitDraftError::Confirmation {
            algorithm: wit.confirmation_algorithm.as_str(),
            key: bound,
        });
    }
    let issued_at = now.floor_to_second();
    let expires_at = now
        .plus(wit.ttl)
        .min(wit.key_expires_at.unwrap_or(Timestamp::MAX))
        .floor_to_second();
    if expires_at <= issued_at {
        return Err(WitDraftError::Expired(expires_at));
    }
    let token_id = URL_SAFE_NO_PAD.encode(wit.token_id);
    let header = Header {
        alg: algorithm.as_str(),
        kid: wit.key_id,
        typ: TYPE,
    };
    let mut jwk = public_jwk_members(wit.confirmation);
    jwk.insert("alg".into(), wit.confirmation_algorithm.as_str().into());
    let claims = Claims {
        cnf: Confirmation { jwk },
        exp: expires_at.unix_seconds(),
        iat: issued_at.unix_seconds(),
        iss: wit.issuer,
        jti: &token_id,
        sub: wit.spiffe_id.as_str(),
    };
    let signing_input = format!("{}.{}", encode(&header)?, encode(&claims)?);
    Ok(UnsignedWit {
        signing_input,
        algorithm,
        spiffe_id: wit.spiffe_id.clone(),
        token_id,
        issued_at,
        expires_at,
    })
}

fn encode(part: &impl Serialize) -> Result<String, WitDraftError> {
    let json = serde_json::to_vec(part).map_err(|e| WitDraftError::Json(e.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

impl UnsignedWit {
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
    ///
    /// # Errors
    ///
    /// The signature is not of the algorithm's shape.
    pub fn assemble(self, signature: &[u8]) -> Result<WitSvid, WitDraftError> {
        let signature = self.algorithm.scheme().to_jws(signature)?;
        let mut token = self.signing_input;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(WitSvid {
            token,
            spiffe_id: self.spiffe_id,
            token_id: self.token_id,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        })
    }
}

/// The issuer is a URL at which OpenID Connect could be discovered (WIT-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an issuer of WIT-SVIDs must not be a URL at which OpenID Connect could be discovered")]
pub struct DiscoverableIssuer;

/// Checks a configured `iss`: not empty, and no `http` or `https` URL (WIT-10).
///
/// # Errors
///
/// [`DiscoverableIssuer`].
pub fn check_issuer(issuer: &str) -> Result<(), DiscoverableIssuer> {
    let scheme = issuer.split(':').next().unwrap_or_default();
    if issuer.is_empty()
        || ["http", "https"]
            .iter()
            .any(|s| scheme.eq_ignore_ascii_case(s))
    {
        return Err(DiscoverableIssuer);
    }
    Ok(())
}

/// Why a token, or its proof, is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitError {
    /// The token's form, algorithm or signature; a `crit` header among them (WIT-04).
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// `typ` is not `wit+jwt` (WIT-03).
    #[error("the token's type is not {TYPE}")]
    Type,
    /// There is no `kid` (WIT-03).
    #[error("the token does not name its key: kid is missing")]
    NoKeyId,
    /// The payload is not a JSON object.
    #[error("the token's claims are not a JSON object")]
    Claims,
    /// A claim is missing or of the wrong type (WIT-06, WIT-12).
    #[error("the claim {0:?} is missing or of the wrong type")]
    Claim(&'static str),
    /// `sub` is no SPIFFE ID (WIT-06).
    #[error("the claim \"sub\" is not a SPIFFE ID: {0}")]
    Subject(#[from] IdError),
    /// There is an `aud`: a WIT-SVID is for nobody in particular (WIT-08).
    #[error("the token has an audience, which a WIT-SVID must not have")]
    Audience,
    /// `cnf.jwk` is no key that we can use (WIT-07).
    #[error("the key in the claim \"cnf\": {0}")]
    Confirmation(JwkError),
    /// `cnf.jwk` has private members (WIT-07).
    #[error("the key in the claim \"cnf\" has the private member {0:?}")]
    PrivateConfirmation(&'static str),
    /// `cnf.jwk.alg` is missing, none of the nine, or does not fit the key (WIT-07).
    #[error(
        "the key in the claim \"cnf\" has no algorithm of RS, ES, PS with 256, 384, 512 that fits it"
    )]
    ConfirmationAlgorithm,
    /// `exp` has come (WIT-12).
    #[error("the token has expired")]
    Expired,
    /// `nbf` is more than a minute ahead (WIT-12).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// There is no bundle for the trust domain of `sub`.
    #[error("there is no bundle for the trust domain {0}")]
    NoBundle(TrustDomain),
    /// The bundle has no live WIT key of that name (BND-16).
    #[error("the bundle of trust domain {trust_domain} has no WIT key {key_id:?}")]
    UnknownKey {
        /// The trust domain of `sub`.
        trust_domain: TrustDomain,
        /// `kid`.
        key_id: String,
    },
    /// The proof is not a signature by the workload's key (WIT-13).
    #[error("the proof is not a signature by the key to which the token is bound")]
    NotPossessed,
}

/// A token whose issuer is known, but not yet its holder: it may have been copied (WIT-13).
#[derive(Clone, Debug, PartialEq)]
pub struct UnprovenWit {
    spiffe_id: SpiffeId,
    confirmation: PublicKey,
    algorithm: JwsAlgorithm,
    claims: Map<String, Value>,
    expires_at: Timestamp,
}

/// A token whose holder has shown to have the key.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvenWit {
    /// `sub`.
    pub spiffe_id: SpiffeId,
    /// The holder's key.
    pub confirmation: PublicKey,
    /// All claims.
    pub claims: Map<String, Value>,
    /// `exp`.
    pub expires_at: Timestamp,
}

impl UnprovenWit {
    /// The name that the holder has yet to prove: for logs, never for a decision.
    pub fn claimed_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The key to which the token is bound, and the algorithm with which it signs.
    pub fn confirmation(&self) -> (&PublicKey, JwsAlgorithm) {
        (&self.confirmation, self.algorithm)
    }

    /// `exp`.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Takes the holder's proof: `signature`, as JWS has it (ECDSA: two numbers at full width),
    /// over `message`. What the message must say, so that it cannot be used twice, is the affair
    /// of the protocol in which it is sent; it is never `jti` alone (WIT-14).
    ///
    /// # Errors
    ///
    /// [`WitError::NotPossessed`].
    pub fn prove(self, message: &[u8], signature: &[u8]) -> Result<ProvenWit, WitError> {
        let scheme = self.algorithm.scheme();
        let signature = scheme
            .from_jws(signature)
            .map_err(|_shape| WitError::NotPossessed)?;
        self.confirmation
            .verify(scheme, message, &signature)
            .map_err(|_unverified| WitError::NotPossessed)?;
        Ok(ProvenWit {
            spiffe_id: self.spiffe_id,
            confirmation: self.confirmation,
            claims: self.claims,
            expires_at: self.expires_at,
        })
    }
}

/// Validates a token with the bundle that `bundle_of` gives for the trust domain of its `sub`, and
/// no other. Unknown header members are passed over, unless `crit` names them (WIT-04); `iat` and
/// `jti` limit nothing (WIT-14).
///
/// # Errors
///
/// [`WitError`], the first reason that was found.
pub fn validate<B: Borrow<Bundle>>(
    token: &str,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
    now: Timestamp,
) -> Result<UnprovenWit, WitError> {
    let wit = ParsedWit::parse(token)?;
    let trust_domain = wit.spiffe_id.trust_domain();
    let bundle = bundle_of(trust_domain).ok_or_else(|| WitError::NoBundle(trust_domain.clone()))?;
    wit.jws
        .verify(&find_key(bundle.borrow(), trust_domain, &wit.key_id, now)?)?;
    if wit.expires_at <= now {
        return Err(WitError::Expired);
    }
    if let Some(not_before) = seconds(&wit.claims, "nbf")?
        && not_before > now.plus(NOT_BEFORE_LEEWAY)
    {
        return Err(WitError::NotYetValid);
    }
    Ok(UnprovenWit {
        spiffe_id: wit.spiffe_id,
        confirmation: wit.confirmation,
        algorithm: wit.algorithm,
        claims: wit.claims,
        expires_at: wit.expires_at,
    })
}

/// A token taken apart: its form is that of a WIT-SVID, its signature is not verified.
pub struct ParsedWit<'a> {
    jws: ParsedJws<'a>,
    /// `kid`.
    pub key_id: String,
    /// `sub`.
    pub spiffe_id: SpiffeId,
    /// `cnf.jwk`.
    pub confirmation: PublicKey,
    /// `cnf.jwk.alg`.
    pub algorithm: JwsAlgorithm,
    /// `exp`.
    pub expires_at: Timestamp,
    claims: Map<String, Value>,
}

impl<'a> ParsedWit<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// [`WitError`]: what its form lacks.
    pub fn parse(token: &'a str) -> Result<Self, WitError> {
        let jws = ParsedJws::parse(token)?;
        if jws.header.typ.as_deref() != Some(TYPE) {
            return Err(WitError::Type);
        }
        let key_id = jws
            .header
            .key_id
            .clone()
            .filter(|kid| !kid.is_empty())
            .ok_or(WitError::NoKeyId)?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&jws.payload).map_err(|_json| WitError::Claims)?;
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .ok_or(WitError::Claim("sub"))?;
        let spiffe_id = SpiffeId::parse(subject)?;
        if claims.contains_key("aud") {
            return Err(WitError::Audience);
        }
        let (confirmation, algorithm) = read_confirmation(&claims)?;
        let expires_at = seconds(&claims, "exp")?.ok_or(WitError::Claim("exp"))?;
        Ok(Self {
            jws,
            key_id,
            spiffe_id,
            confirmation,
            algorithm,
            expires_at,
            claims,
        })
    }

    /// `iat`, if the token has one.
    pub fn issued_at(&self) -> Option<Timestamp> {
        seconds(&self.claims, "iat").ok().flatten()
    }

    /// `jti`, if the token has one.
    pub fn token_id(&self) -> Option<&str> {
        self.claims.get("jti").and_then(Value::as_str)
    }

    /// Whether the token was signed with `key`.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.jws.verify(key).is_ok()
    }
}

/// `cnf.jwk` (RFC 7800, 3.2; WIT-07).
fn read_confirmation(claims: &Map<String, Value>) -> Result<(PublicKey, JwsAlgorithm), WitError> {
    let jwk = claims
        .get("cnf")
        .and_then(|cnf| cnf.get("jwk"))
        .and_then(Value::as_object)
        .ok_or(WitError::Claim("cnf"))?;
    if let Some(private) = PRIVATE_MEMBERS.into_iter().find(|m| jwk.contains_key(*m)) {
        return Err(WitError::PrivateConfirmation(private));
    }
    let algorithm = jwk
        .get("alg")
        .and_then(Value::as_str)
        .and_then(JwsAlgorithm::parse)
        .ok_or(WitError::ConfirmationAlgorithm)?;
    let key = Jwk::from_value(&Value::Object(jwk.clone()))
        .map_err(WitError::Confirmation)?
        .key;
    if !algorithm.scheme().fits(key.algorithm()) {
        return Err(WitError::ConfirmationAlgorithm);
    }
    Ok((key, algorithm))
}

fn find_key(
    bundle: &Bundle,
    trust_domain: &TrustDomain,
    key_id: &str,
    now: Timestamp,
) -> Result<PublicKey, WitError> {
    bundle
        .wit_authorities
        .iter()
        // A lookup that hands out another domain's bundle must not make its keys ours.
        .filter(|_| bundle.trust_domain == *trust_domain)
        .filter(|key| key.expires_at.is_none_or(|end| now < end))
        .find(|key| key.key_id == key_id)
        .and_then(|key| PublicKey::from_spki_der(&key.public_key).ok())
        .ok_or_else(|| WitError::UnknownKey {
            trust_domain: trust_domain.clone(),
            key_id: key_id.to_owned(),
        })
}

/// A NumericDate, as tokens of both kinds have it.
fn seconds(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Timestamp>, WitError> {
    crate::jwt::numeric_date(claims, name).map_err(|_malformed| WitError::Claim(name))
}
