//! Signed material without cryptography.

use std::sync::Arc;

use muster_model::{JwtAuthority, SerialNumber, SpiffeId, Timestamp, WitAuthority, X509Authority};
use muster_roster::{JwtMaterial, WitMaterial, X509Material};

/// A certificate chain without cryptography: it names its root.
#[derive(Debug)]
pub(crate) struct Cert {
    pub(crate) id: SpiffeId,
    pub(crate) serial: SerialNumber,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) root: Arc<[u8]>,
}

impl X509Material for Cert {
    fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }
    fn serial(&self) -> &SerialNumber {
        &self.serial
    }
    fn authority_id(&self) -> &'static str {
        "00"
    }
    fn not_before(&self) -> Timestamp {
        self.not_before
    }
    fn not_after(&self) -> Timestamp {
        self.not_after
    }
    fn renew_at(&self) -> Timestamp {
        // Within a tenth of half the life, as the real one.
        let jitter = i64::from(self.serial.as_str().bytes().map(u32::from).sum::<u32>() % 10);
        let life = self.not_after.since(self.not_before);
        Timestamp::from_unix_millis(
            self.not_before.plus(life / 2).unix_millis()
                + (jitter - 5) * i64::try_from(life.as_millis() / 100).unwrap(),
        )
    }
    fn verified_by<'a>(&self, authorities: &'a [X509Authority]) -> Option<&'a X509Authority> {
        authorities.iter().find(|a| a.der == self.root)
    }
}

/// A token without cryptography: it names its key.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) id: SpiffeId,
    pub(crate) audience: Vec<String>,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) key_id: String,
}

impl JwtMaterial for Token {
    fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }
    fn issued_at(&self) -> Timestamp {
        self.issued_at
    }
    fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
    fn renew_at(&self) -> Timestamp {
        self.issued_at
            .plus(self.expires_at.since(self.issued_at) / 2)
    }
    fn covers(&self, audience: &[String]) -> bool {
        audience.iter().all(|a| self.audience.contains(a))
    }
    fn verified_by<'a>(&self, authorities: &'a [JwtAuthority]) -> Option<&'a JwtAuthority> {
        authorities.iter().find(|a| a.key_id == self.key_id)
    }
}

/// A WIT-SVID without cryptography: it names its key.
#[derive(Debug)]
pub(crate) struct Wit {
    pub(crate) id: SpiffeId,
    pub(crate) token_id: String,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) key_id: String,
}

impl WitMaterial for Wit {
    fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }
    fn token_id(&self) -> &str {
        &self.token_id
    }
    fn authority_id(&self) -> &str {
        &self.key_id
    }
    fn issued_at(&self) -> Timestamp {
        self.issued_at
    }
    fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
    fn renew_at(&self) -> Timestamp {
        self.issued_at
            .plus(self.expires_at.since(self.issued_at) / 2)
    }
    fn verified_by<'a>(&self, authorities: &'a [WitAuthority]) -> Option<&'a WitAuthority> {
        authorities.iter().find(|a| a.key_id == self.key_id)
    }
}
