//! The signing authorities: a reconciler that climbs the ladder of `core/svid`.
//!
//! A new authority is made in this order, and each step survives a crash after it: its key is in
//! the key manager; its root or public key is in the bundle, and its slot in the journal, in one
//! transaction; it signs. So every verifier has a root well before anything is signed with it.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::Event;
use muster_crypto::{KeyType, PublicKey, random};
use muster_model::{
    Bundle, JwtAuthority as BundleKey, Timestamp, WitAuthority as BundleWitKey,
    X509Authority as BundleRoot,
};
use muster_plugin::keys::{KeyId, KeyManager, KeyManagerError};
use muster_policy::{Caller, Permit, RotateAuthority, decide};
use muster_roll::{Roll, bundle};
use muster_store::Transaction;
use muster_svid::ladder::{Ladder, Rung, Slot, Standing, Step};
use muster_svid::x509::{CaParams, Certificate, DraftError, Issuer, draft_ca};
use serde::{Deserialize, Serialize};

use crate::config::AuthorityConfig;
use crate::operation::record;
use crate::server::Server;
use crate::signer::{TokenAuthority, X509Authority};
use crate::writer::WriteError;

/// How often the ladder is looked at when nothing is due, so that a step of the clock is noticed.
const LOOK: Duration = Duration::from_secs(5);
/// The most steps of one pass: catching up after the longest pause takes four.
const STEPS: usize = 6;
/// Length of a JWT key's ID, in random letters and digits.
const KID_LEN: usize = 32;

/// Why an authority could not be prepared or activated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The key manager did not do its part.
    #[error("the key manager: {0}")]
    Keys(#[from] KeyManagerError),
    /// The CA certificate cannot be drafted.
    #[error("the CA certificate: {0}")]
    Draft(#[from] DraftError),
    /// The roll was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The journal in the roll cannot be read.
    #[error("the journal of the {kind} authorities in the roll cannot be read: {cause}")]
    Journal {
        /// Which.
        kind: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The ladder always had one more step.
    #[error("the {0} authority ends before the next can be made; set a longer `authority.ttl`")]
    NoRest(&'static str),
    /// What was made cannot be read back.
    #[error("the new authority cannot be read back: {0}")]
    Unreadable(String),
}

/// Which kind of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    X509,
    Jwt,
    Wit,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
        }
    }

    /// The key's name in the key manager: one per slot, as SPIRE names them.
    fn key_id(self, slot: Slot) -> Result<KeyId, AuthorityError> {
        let prefix = match self {
            Self::X509 => "x509-CA",
            Self::Jwt => "JWT-Signer",
            Self::Wit => "WIT-Signer",
        };
        KeyId::parse(&format!("{prefix}-{slot}"))
            .map_err(|error| AuthorityError::Unreadable(error.to_string()))
    }
}

/// One authority as the journal remembers it.
#[derive(Clone, Debug)]
struct Material {
    /// Hex of the subject key identifier, or the `kid`.
    authority_id: String,
    /// The CA certificate, or the SubjectPublicKeyInfo: DER.
    der: Vec<u8>,
}

/// The kinds of authority and what makes them.
pub(crate) struct Authorities {
    server: Arc<Server>,
    keys: Arc<dyn KeyManager>,
    config: AuthorityConfig,
    x509: Ladder<Material>,
    jwt: Ladder<Material>,
    /// `None` where the WIT profile is off (WIT-02).
    wit: Option<Ladder<Material>>,
}

/// The journal in the roll: a ladder's rungs as JSON.
#[derive(Serialize, Deserialize)]
struct JournalRung {
    slot: String,
    standing: String,
    issued_at_ms: i64,
    not_after_ms: i64,
    authority_id: String,
    /// The CA certificate, or the SubjectPublicKeyInfo: DER.
    der: Vec<u8>,
}

impl Authorities {
    /// The authorities as the roll's journals remember them. An authority whose key the key manager
    /// no longer has is left out: it can sign nothing.
    pub(crate) async fn load(
        server: &Arc<Server>,
        keys: Arc<dyn KeyManager>,
        config: AuthorityConfig,
    ) -> Result<Self, AuthorityError> {
        let roll = server.roll.snapshot();
        let wit = if server.wit {
            Some(remembered(Kind::Wit, &roll, keys.as_ref()).await?)
        } else {
            None
        };
        let mut authorities = Self {
            server: Arc::clone(server),
            x509: remembered(Kind::X509, &roll, keys.as_ref()).await?,
            jwt: remembered(Kind::Jwt, &roll, keys.as_ref()).await?,
            wit,
            keys,
            config,
        };
        for kind in authorities.kinds() {
            authorities.sign_with_active(kind)?;
        }
        if authorities.wit.is_none() {
            authorities.withdraw_wit(&roll).await?;
        }
        Ok(authorities)
    }

    /// Does everything that is due now and says when to look again. Idempotent.
    pub(crate) async fn reconcile(&mut self) -> Result<Timestamp, AuthorityError> {
        let mut next = Timestamp::MAX;
        for kind in self.kinds() {
            next = next.min(self.climb(kind).await?);
        }
        Ok(next)
    }

    /// The kinds that this server has.
    fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let wit = self.wit.as_ref().map(|_on| Kind::Wit);
        [Kind::X509, Kind::Jwt].into_iter().chain(wit)
    }

    /// Where the WIT profile is off the bundle has no WIT key: those from when it was on leave it,
    /// and with them, on the nodes, all that they signed.
    async fn withdraw_wit(&self, roll: &Roll) -> Result<(), AuthorityError> {
        let Some(without) = roll
            .own_bundle()
            .and_then(|own| bundle::without_wit_authorities(own))
        else {
            return Ok(());
        };
        let permit = decide::<RotateAuthority>(&Caller::System("rotate-authority"))
            .map_err(|denial| AuthorityError::Unreadable(denial.to_string()))?;
        let now = self.server.clock.now().wall;
        let name = Kind::Wit.name();
        let record = record(permit.principal(), now, Event::AuthorityWithdraw, name)
            .with("kind", name)
            .with("reason", "wit.enabled is false");
        let journal = write_journal(&Ladder::default())
            .map_err(|cause| AuthorityError::Journal { kind: name, cause })?;
        let written = self.server.roll.write(move |_roll, transaction| {
            transaction.put_bundle(&permit, without);
            transaction.put_journal(&permit, name, journal);
            transaction.audit(record);
        });
        written.await?;
        tracing::warn!("the WIT profile is off; its keys have left the bundle");
        Ok(())
    }

    /// Reconciles for ever. A failure is tried again; what is active goes on signing meanwhile.
    pub(crate) async fn run(mut self) {
        loop {
            let now = self.server.clock.now().wall;
            let pause = match self.reconcile().await {
                Ok(next) => next.since(now).clamp(Duration::from_millis(50), LOOK),
                Err(error) => {
                    tracing::error!(%error, "an authority could not be rotated; trying again");
                    LOOK
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn climb(&mut self, kind: Kind) -> Result<Timestamp, AuthorityError> {
        for _ in 0..STEPS {
            let now = self.server.clock.now().wall;
            match self.ladder(kind).next(now) {
                Step::Wait(until) => return Ok(until),
                Step::Prepare(slot) => self.prepare(kind, slot, now).await?,
                Step::Activate(slot) => self.activate(kind, slot).await?,
            }
        }
        // Making an authority takes longer than it lives: no reason to fill the bundle with them.
        Err(AuthorityError::NoRest(kind.name()))
    }

    /// Makes the next authority: key, then bundle and journal together.
    async fn prepare(
        &mut self,
        kind: Kind,
        slot: Slot,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let key_id = kind.key_id(slot)?;
        let key_type = match kind {
            Kind::X509 => self.config.x509_key_type,
            Kind::Jwt => self.config.jwt_key_type,
            Kind::Wit => self.config.wit_key_type,
        };
        let public_key = self.generate(&key_id, key_type).await?;
        let (material, not_after, addition) = match kind {
            Kind::X509 => self.new_root(&key_id, &public_key, now).await?,
            Kind::Jwt | Kind::Wit => self.new_token_key(kind, &public_key, now),
        };
        let authority_id = material.authority_id.clone();
        let mut ladder = self.ladder(kind).clone();
        ladder.prepare(slot, now, not_after, material);
        self.write(
            kind,
            &ladder,
            Event::AuthorityPrepare,
            &authority_id,
            Some(addition),
        )
        .await?;
        *self.ladder_mut(kind) = ladder;
        tracing::info!(kind = kind.name(), authority_id, %slot, ?not_after, "authority prepared");
        Ok(())
    }

    async fn activate(&mut self, kind: Kind, slot: Slot) -> Result<(), AuthorityError> {
        let mut ladder = self.ladder(kind).clone();
        ladder.activate(slot);
        let authority_id = ladder
            .active()
            .map(|rung| rung.material.authority_id.clone())
            .unwrap_or_default();
        self.write(kind, &ladder, Event::AuthorityActivate, &authority_id, None)
            .await?;
        *self.ladder_mut(kind) = ladder;
        self.sign_with_active(kind)?;
        tracing::info!(kind = kind.name(), authority_id, %slot, "authority activated");
        Ok(())
    }

    async fn generate(
        &self,
        key_id: &KeyId,
        key_type: KeyType,
    ) -> Result<PublicKey, AuthorityError> {
        Ok(self.keys.generate(key_id, key_type).await?)
    }

    async fn new_root(
        &self,
        key_id: &KeyId,
        public_key: &PublicKey,
        now: Timestamp,
    ) -> Result<(Material, Timestamp, Addition), AuthorityError> {
        let params = CaParams {
            trust_domain: &self.server.trust_domain,
            subject: &self.config.subject,
            public_key,
            serial: random::serial(),
            ttl: self.config.ttl,
        };
        let unsigned = draft_ca(&params, now)?;
        let signature = self
            .keys
            .sign(key_id, unsigned.scheme(), unsigned.tbs())
            .await?;
        let der = unsigned.assemble(&signature);
        let certificate = Certificate::parse(&der)
            .map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        let authority_id = certificate
            .subject_key_id_hex()
            .ok_or_else(|| AuthorityError::Unreadable("no subject key identifier".to_owned()))?;
        let not_after = certificate.not_after;
        let root = BundleRoot {
            der: der.as_slice().into(),
            expires_at: not_after,
            tainted: false,
        };
        Ok((
            Material { authority_id, der },
            not_after,
            Addition::Root(root),
        ))
    }

    fn new_token_key(
        &self,
        kind: Kind,
        public_key: &PublicKey,
        now: Timestamp,
    ) -> (Material, Timestamp, Addition) {
        let not_after = now.plus(self.config.ttl).floor_to_second();
        // One space of names for keys of both kinds (WIT-16).
        let key_id = random::alphanumeric(KID_LEN);
        let material = Material {
            authority_id: key_id.clone(),
            der: public_key.spki_der().to_vec(),
        };
        let (public_key, expires_at) = (public_key.spki_der().into(), Some(not_after));
        let addition = if kind == Kind::Wit {
            Addition::WitKey(BundleWitKey {
                key_id,
                public_key,
                expires_at,
                tainted: false,
            })
        } else {
            Addition::JwtKey(BundleKey {
                key_id,
                public_key,
                expires_at,
                tainted: false,
            })
        };
        (material, not_after, addition)
    }

    /// Writes the journal, and the bundle if something is added to it, in one transaction.
    async fn write(
        &self,
        kind: Kind,
        ladder: &Ladder<Material>,
        event: Event,
        authority_id: &str,
        addition: Option<Addition>,
    ) -> Result<(), AuthorityError> {
        let journal = write_journal(ladder).map_err(|cause| AuthorityError::Journal {
            kind: kind.name(),
            cause,
        })?;
        let permit = decide::<RotateAuthority>(&Caller::System("rotate-authority"))
            .map_err(|denial| AuthorityError::Unreadable(denial.to_string()))?;
        let now = self.server.clock.now().wall;
        let record = record(permit.principal(), now, event, authority_id).with("kind", kind.name());
        let written = self.server.roll.write(move |roll, transaction| {
            if let Some(addition) = addition {
                add_to_bundle(roll, transaction, &permit, addition);
            }
            transaction.put_journal(&permit, kind.name(), journal);
            transaction.audit(record);
        });
        Ok(written.await?)
    }

    /// Gives the signer the active authority of a kind.
    fn sign_with_active(&mut self, kind: Kind) -> Result<(), AuthorityError> {
        let Some(rung) = self.ladder(kind).active() else {
            return Ok(());
        };
        let key = kind.key_id(rung.slot)?;
        let id = rung.material.authority_id.clone();
        match kind {
            Kind::X509 => {
                let issuer = Issuer::from_certificate(&rung.material.der)?;
                self.server
                    .signer
                    .activate_x509(X509Authority { issuer, key, id });
            }
            Kind::Jwt | Kind::Wit => {
                let public_key = PublicKey::from_spki_der(&rung.material.der)
                    .map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
                let expires_at = rung.not_after;
                let authority = TokenAuthority {
                    key,
                    public_key,
                    id,
                    expires_at,
                };
                if kind == Kind::Wit {
                    self.server.signer.activate_wit(authority);
                } else {
                    self.server.signer.activate_jwt(authority);
                }
            }
        }
        Ok(())
    }

    fn ladder(&self, kind: Kind) -> &Ladder<Material> {
        /// Of a kind that this server does not have.
        static NONE: Ladder<Material> = Ladder::empty();
        match kind {
            Kind::X509 => &self.x509,
            Kind::Jwt => &self.jwt,
            Kind::Wit => self.wit.as_ref().unwrap_or(&NONE),
        }
    }

    fn ladder_mut(&mut self, kind: Kind) -> &mut Ladder<Material> {
        match kind {
            Kind::X509 => &mut self.x509,
            Kind::Jwt => &mut self.jwt,
            Kind::Wit => self.wit.get_or_insert_default(),
        }
    }
}

/// What a new authority adds to the bundle.
enum Addition {
    Root(BundleRoot),
    JwtKey(BundleKey),
    WitKey(BundleWitKey),
}

fn add_to_bundle(
    roll: &Roll,
    transaction: &mut Transaction,
    permit: &Permit<RotateAuthority>,
    addition: Addition,
) {
    let own = roll.own_bundle().map_or_else(
        || Bundle::empty(roll.trust_domain().clone()),
        |b| Bundle::clone(b),
    );
    let added = match addition {
        Addition::Root(root) => bundle::with_x509_authority(&own, root),
        Addition::JwtKey(key) => bundle::with_jwt_authority(&own, key),
        Addition::WitKey(key) => bundle::with_wit_authority(&own, key),
    };
    if let Some(added) = added {
        transaction.put_bundle(permit, added);
    }
}

/// The ladder of a kind as the roll remembers it, without authorities whose key is lost.
async fn remembered(
    kind: Kind,
    roll: &Roll,
    keys: &dyn KeyManager,
) -> Result<Ladder<Material>, AuthorityError> {
    let unreadable = |cause: String| AuthorityError::Journal {
        kind: kind.name(),
        cause,
    };
    let Some(journal) = roll.journal(kind.name()) else {
        return Ok(Ladder::default());
    };
    let mut rungs = Vec::new();
    for rung in read_journal(journal).map_err(unreadable)? {
        let public_key = match kind {
            Kind::X509 => Certificate::parse(&rung.material.der)
                .ok()
                .and_then(|c| c.public_key().ok()),
            Kind::Jwt | Kind::Wit => PublicKey::from_spki_der(&rung.material.der).ok(),
        };
        let held = keys.public_key(&kind.key_id(rung.slot)?).await.ok();
        if held.is_some() && held == public_key {
            rungs.push(rung);
        } else {
            tracing::warn!(
                kind = kind.name(),
                authority_id = rung.material.authority_id,
                "the key manager no longer has the key of this authority; a new one takes its place"
            );
        }
    }
    Ladder::from_rungs(rungs).map_err(|error| unreadable(error.to_string()))
}

fn write_journal(ladder: &Ladder<Material>) -> Result<Vec<u8>, String> {
    let rungs: Vec<JournalRung> = ladder
        .rungs()
        .iter()
        .map(|rung| JournalRung {
            slot: rung.slot.to_string(),
            standing: match rung.standing {
                Standing::Prepared => "prepared",
                Standing::Active => "active",
                Standing::Retiring => "retiring",
            }
            .to_owned(),
            issued_at_ms: rung.issued_at.unix_millis(),
            not_after_ms: rung.not_after.unix_millis(),
            authority_id: rung.material.authority_id.clone(),
            der: rung.material.der.clone(),
        })
        .collect();
    serde_json::to_vec(&rungs).map_err(|error| error.to_string())
}

fn read_journal(journal: &[u8]) -> Result<Vec<Rung<Material>>, String> {
    let rungs: Vec<JournalRung> =
        serde_json::from_slice(journal).map_err(|error| error.to_string())?;
    rungs
        .into_iter()
        .map(|rung| {
            Ok(Rung {
                slot: match rung.slot.as_str() {
                    "A" => Slot::A,
                    "B" => Slot::B,
                    other => return Err(format!("unknown slot \"{other}\"")),
                },
                standing: match rung.standing.as_str() {
                    "prepared" => Standing::Prepared,
                    "active" => Standing::Active,
                    "retiring" => Standing::Retiring,
                    other => return Err(format!("unknown standing \"{other}\"")),
                },
                issued_at: Timestamp::from_unix_millis(rung.issued_at_ms),
                not_after: Timestamp::from_unix_millis(rung.not_after_ms),
                material: Material {
                    authority_id: rung.authority_id,
                    der: rung.der,
                },
            })
        })
        .collect()
}
