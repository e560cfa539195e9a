//! The signing authorities: a reconciler that climbs the ladder of `core/svid`.
//!
//! A new authority is made in this order, and each step survives a crash after it: its key is in
//! the key manager; its root or public key is in the bundle, and its slot in the journal, in one
//! transaction; it signs. So every verifier has a root well before anything is signed with it.
//!
//! Operators are ahead of it by orders (`authority/orders.rs`), which wait in one queue with the
//! reconciler's own work: one task climbs, so nothing else ever moves a ladder.

mod desk;
mod journal;
mod orders;

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Event, Record};
use muster_crypto::{KeyType, PublicKey, random};
use muster_model::{
    Bundle, JwtAuthority as BundleKey, Timestamp, WitAuthority as BundleWitKey,
    X509Authority as BundleRoot,
};
use muster_plugin::keys::{KeyId, KeyManager, KeyManagerError};
use muster_policy::{
    Bundles, Caller, Journals, Permit, Principal, RotateAuthority, Writes, decide,
};
use muster_roll::{Roll, bundle};
use muster_store::Transaction;
use muster_svid::ladder::{Ladder, Slot, Step};
use muster_svid::x509::{CaParams, Certificate, DraftError, Issuer, draft_ca};
use tokio::sync::mpsc;

pub(crate) use self::desk::{Desk, Order};
use self::journal::{remembered, write_journal};
pub(crate) use self::orders::{Shown, has_id};
use crate::config::AuthorityConfig;
use crate::metrics;
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
pub(crate) enum Kind {
    /// CA certificates.
    X509,
    /// Keys of JWT-SVIDs.
    Jwt,
    /// Keys of WIT-SVIDs.
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

    /// As SPIRE's messages name it.
    const fn title(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
            Self::Wit => "WIT",
        }
    }

    /// What SPIRE's log says was prepared or activated.
    const fn logged(self) -> &'static str {
        match self {
            Self::X509 => "X509 CA",
            Self::Jwt => "JWT key",
            Self::Wit => "WIT key",
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
        let permit = rotation()?;
        let name = Kind::Wit.name();
        let record = self
            .record(
                permit.principal(),
                Event::AuthorityWithdrawn,
                Kind::Wit,
                name,
            )
            .with("reason", "wit.enabled is false");
        let journal = journal_of(Kind::Wit, &Ladder::default())?;
        let written = self.server.roll.write(move |_roll, transaction| {
            transaction.put_bundle(&permit, without);
            transaction.put_journal(&permit, name, journal);
            transaction.audit(record);
        });
        written.await?;
        tracing::warn!("the WIT profile is off; its keys have left the bundle");
        Ok(())
    }

    /// Reconciles for ever, and does what is ordered. A failure is tried again; what is active goes
    /// on signing meanwhile.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let now = self.server.clock.now().wall;
            let pause = match self.reconcile().await {
                Ok(next) => next.since(now).clamp(Duration::from_millis(50), LOOK),
                Err(error) => {
                    tracing::error!(%error, "an authority could not be rotated; trying again");
                    LOOK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(order) = orders.recv() => order(&mut self).await,
            }
        }
    }

    async fn climb(&mut self, kind: Kind) -> Result<Timestamp, AuthorityError> {
        let permit = rotation()?;
        for _ in 0..STEPS {
            let now = self.server.clock.now().wall;
            match self.ladder(kind).next(now) {
                Step::Wait(until) => return Ok(until),
                Step::Prepare(slot) => self.prepare(kind, slot, &permit).await?,
                Step::Activate(slot) => self.activate(kind, slot, &permit).await?,
            }
        }
        // Making an authority takes longer than it lives: no reason to fill the bundle with them.
        Err(AuthorityError::NoRest(kind.name()))
    }

    /// Makes the next authority: key, then bundle and journal together.
    async fn prepare<A: Writes<Bundles> + Writes<Journals> + 'static>(
        &mut self,
        kind: Kind,
        slot: Slot,
        permit: &Arc<Permit<A>>,
    ) -> Result<(), AuthorityError> {
        let now = self.server.clock.now().wall;
        let key_id = kind.key_id(slot)?;
        // The key of an authority that is prepared already goes now; if anything below fails, there
        // is none, rather than one whose key is another's.
        self.ladder_mut(kind).give_up_prepared();
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
        let journal = journal_of(kind, &ladder)?;
        let record = self.record(
            permit.principal(),
            Event::AuthorityPrepared,
            kind,
            &authority_id,
        );
        let permit = Arc::clone(permit);
        let written = self.server.roll.write(move |roll, transaction| {
            add_to_bundle(roll, transaction, &permit, addition);
            transaction.put_journal(&permit, kind.name(), journal);
            transaction.audit(record);
        });
        written.await?;
        *self.ladder_mut(kind) = ladder;
        metrics::authority_changed(kind.name(), "prepared");
        tracing::info!(kind = kind.name(), local_authority_id = authority_id, %slot, ?not_after, "{} prepared", kind.logged());
        Ok(())
    }

    async fn activate<A: Writes<Journals> + 'static>(
        &mut self,
        kind: Kind,
        slot: Slot,
        permit: &Arc<Permit<A>>,
    ) -> Result<(), AuthorityError> {
        let mut ladder = self.ladder(kind).clone();
        ladder.activate(slot);
        let authority_id = ladder
            .active()
            .map(|rung| rung.material.authority_id.clone())
            .unwrap_or_default();
        let journal = journal_of(kind, &ladder)?;
        let record = self.record(
            permit.principal(),
            Event::AuthorityActivated,
            kind,
            &authority_id,
        );
        let permit = Arc::clone(permit);
        let written = self.server.roll.write(move |_, transaction| {
            transaction.put_journal(&permit, kind.name(), journal);
            transaction.audit(record);
        });
        written.await?;
        *self.ladder_mut(kind) = ladder;
        self.sign_with_active(kind)?;
        metrics::authority_changed(kind.name(), "activated");
        tracing::info!(kind = kind.name(), local_authority_id = authority_id, %slot, "{} activated", kind.logged());
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

    fn record(&self, who: &Principal, event: Event, kind: Kind, authority_id: &str) -> Record {
        let now = self.server.clock.now().wall;
        record(who, now, event, authority_id).with("kind", kind.name())
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

/// Leave for the server's own work.
fn rotation() -> Result<Arc<Permit<RotateAuthority>>, AuthorityError> {
    decide::<RotateAuthority>(&Caller::System("rotate-authority"))
        .map(Arc::new)
        .map_err(|denial| AuthorityError::Unreadable(denial.to_string()))
}

fn journal_of(kind: Kind, ladder: &Ladder<Material>) -> Result<Vec<u8>, AuthorityError> {
    write_journal(ladder).map_err(|cause| AuthorityError::Journal {
        kind: kind.name(),
        cause,
    })
}

/// What a new authority adds to the bundle.
enum Addition {
    Root(BundleRoot),
    JwtKey(BundleKey),
    WitKey(BundleWitKey),
}

fn add_to_bundle<A: Writes<Bundles>>(
    roll: &Roll,
    transaction: &mut Transaction,
    permit: &Permit<A>,
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
