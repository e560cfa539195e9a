//! Signed material as the roster sees it: checked once, on arrival.

mod wit;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_crypto::digest::hex;
use muster_crypto::{JwsError, ParsedJws, PublicKey};
use muster_model::{
    Bundle, JwtAuthority, SerialNumber, SpiffeId, Timestamp, TrustDomain, X509Authority,
};
use muster_roster::{JwtMaterial, X509Material};
use muster_svid::lifetime::{renew_at, renew_for_availability, renew_jwt_at};
use muster_svid::x509::{Certificate, Role, X509Svid, verify};
use serde_json::{Map, Value};

pub(crate) use self::wit::HeldWit;

/// An X509-SVID that the node holds for an entry.
#[derive(Debug)]
pub(crate) struct HeldX509 {
    pub(crate) svid: X509Svid,
    /// The chain as the Workload API sends it.
    pub(crate) chain: Bytes,
    authority_id: String,
    renew_at: Timestamp,
    /// The authority that verified the chain on arrival.
    root: Option<Arc<[u8]>>,
}

/// When SVIDs of this node are renewed.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    /// Spreads the renewals of many nodes.
    pub(crate) node: SpiffeId,
    /// How much life an SVID must have left when the server is lost.
    pub(crate) availability_target: Option<Duration>,
}

impl Renewal {
    /// Decided once, from the SVID itself.
    pub(crate) fn of(&self, svid: &X509Svid) -> Timestamp {
        let seed = format!("{} {}", self.node, svid.serial);
        let (from, to) = (svid.not_before, svid.not_after);
        self.availability_target
            .and_then(|target| renew_for_availability(from, to, target, seed.as_bytes()))
            .unwrap_or_else(|| renew_at(from, to, seed.as_bytes()))
    }

    /// Says so when an SVID lives too short for the target.
    fn warn_if_too_short(&self, svid: &X509Svid) {
        if let Some(target) = self.availability_target
            && renew_for_availability(svid.not_before, svid.not_after, target, b"").is_none()
        {
            tracing::warn!(
                spiffe_id = %svid.spiffe_id,
                lifetime_s = svid.not_after.since(svid.not_before).as_secs(),
                target_s = target.as_secs(),
                "the SVID lives too short for svid.availability_target and is renewed at half its life; raise its TTL to more than 12 hours beyond the target"
            );
        }
    }
}

impl HeldX509 {
    /// Checks `svid` against the authorities that are known now; `renewal` says when it is due. The
    /// signature checks are the expensive part, so call it where blocking does no harm.
    pub(crate) fn new(svid: X509Svid, authorities: &[X509Authority], renewal: &Renewal) -> Self {
        renewal.warn_if_too_short(&svid);
        Self {
            chain: svid.chain_concatenated().into(),
            authority_id: authority_id(&svid),
            renew_at: renewal.of(&svid),
            root: verifying(&svid, authorities).map(|root| root.der.clone()),
            svid,
        }
    }
}

impl X509Material for HeldX509 {
    fn spiffe_id(&self) -> &SpiffeId {
        &self.svid.spiffe_id
    }

    fn serial(&self) -> &SerialNumber {
        &self.svid.serial
    }

    fn authority_id(&self) -> &str {
        &self.authority_id
    }

    fn not_before(&self) -> Timestamp {
        self.svid.not_before
    }

    fn not_after(&self) -> Timestamp {
        self.svid.not_after
    }

    fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    fn verified_by<'a>(&self, authorities: &'a [X509Authority]) -> Option<&'a X509Authority> {
        authorities
            .iter()
            .find(|a| self.root.as_ref() == Some(&a.der))
            .or_else(|| verifying(&self.svid, authorities))
    }
}

/// The leaf's authority key identifier: whose key signed it, as far as the leaf says.
fn authority_id(svid: &X509Svid) -> String {
    svid.chain
        .first()
        .and_then(|leaf| Certificate::parse(leaf).ok())
        .and_then(|leaf| leaf.authority_key_id)
        .map(|id| hex(&id))
        .unwrap_or_default()
}

/// The authority to which the chain verifies.
///
/// The instant of the check is the middle of the leaf's validity: whether it is valid *now* is
/// the roster's question, by two clocks, and a node whose clock is wrong must still tell a good
/// chain from a bad one.
pub(crate) fn verifying<'a>(
    svid: &X509Svid,
    authorities: &'a [X509Authority],
) -> Option<&'a X509Authority> {
    let middle = svid
        .not_before
        .plus(svid.not_after.since(svid.not_before) / 2);
    authorities.iter().find(|authority| {
        let alone = Bundle {
            x509_authorities: vec![(*authority).clone()],
            ..Bundle::empty(svid.spiffe_id.trust_domain().clone())
        };
        verify(&svid.chain, &alone, Role::Client, middle).is_ok()
    })
}

/// A JWT-SVID that the node holds.
pub(crate) struct HeldJwt {
    /// The token; it is a bearer secret.
    pub(crate) token: String,
    spiffe_id: SpiffeId,
    audience: Vec<String>,
    issued_at: Timestamp,
    expires_at: Timestamp,
    key_id: String,
    renew_at: Timestamp,
    /// SubjectPublicKeyInfo of the key that verified the token on arrival.
    key: Option<Arc<[u8]>>,
}

/// Why a token that the server sent is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Its form.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// It does not name its key.
    #[error("the token has no kid")]
    NoKeyId,
    /// A claim is missing or of the wrong type.
    #[error("the token's claim {0:?} is missing or of the wrong type")]
    Claim(&'static str),
}

impl HeldJwt {
    /// Reads a token that the server signed and checks it against the keys that are known now.
    pub(crate) fn new(
        token: String,
        authorities: &[JwtAuthority],
        node: &SpiffeId,
    ) -> Result<Self, TokenError> {
        let jws = ParsedJws::parse(&token)?;
        let key_id = jws.header.key_id.clone().ok_or(TokenError::NoKeyId)?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&jws.payload).map_err(|_json| TokenError::Claim("sub"))?;
        let spiffe_id = claims
            .get("sub")
            .and_then(Value::as_str)
            .and_then(|sub| SpiffeId::parse(sub).ok())
            .ok_or(TokenError::Claim("sub"))?;
        let audience = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many
                .iter()
                .map(|a| a.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or(TokenError::Claim("aud"))?,
            _ => return Err(TokenError::Claim("aud")),
        };
        let seconds = |name: &'static str| {
            claims
                .get(name)
                .and_then(Value::as_i64)
                .map(Timestamp::from_unix_seconds)
                .ok_or(TokenError::Claim(name))
        };
        let (issued_at, expires_at) = (seconds("iat")?, seconds("exp")?);
        let key = signing(&jws, &key_id, authorities).map(|key| key.public_key.clone());
        // A token has no serial: what it says is what differs.
        let seed = format!(
            "{node} {spiffe_id} {} {audience:?}",
            issued_at.unix_millis()
        );
        Ok(Self {
            renew_at: renew_jwt_at(issued_at, expires_at, seed.as_bytes()),
            spiffe_id,
            audience,
            issued_at,
            expires_at,
            key_id,
            key,
            token,
        })
    }
}

impl JwtMaterial for HeldJwt {
    fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    fn covers(&self, audience: &[String]) -> bool {
        audience.iter().all(|a| self.audience.contains(a))
    }

    fn verified_by<'a>(&self, authorities: &'a [JwtAuthority]) -> Option<&'a JwtAuthority> {
        authorities
            .iter()
            .find(|a| a.key_id == self.key_id && self.key.as_ref() == Some(&a.public_key))
            .or_else(|| {
                let jws = ParsedJws::parse(&self.token).ok()?;
                signing(&jws, &self.key_id, authorities)
            })
    }
}

fn signing<'a>(
    jws: &ParsedJws<'_>,
    key_id: &str,
    authorities: &'a [JwtAuthority],
) -> Option<&'a JwtAuthority> {
    authorities.iter().find(|authority| {
        authority.key_id == key_id
            && PublicKey::from_spki_der(&authority.public_key)
                .is_ok_and(|key| jws.verify(&key).is_ok())
    })
}

/// Whether an ID is that of a node of this trust domain.
pub(crate) fn is_node_of(id: &SpiffeId, trust_domain: &TrustDomain) -> bool {
    id.trust_domain() == trust_domain && id.is_node()
}
