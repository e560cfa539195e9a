//! What operators order about the authorities: prepare, activate, taint, revoke. The rules and the
//! messages are SPIRE's (spire-behaviour 2.3); `docs/authorities.md` says where ours go further.

use std::fmt;
use std::sync::Arc;

use muster_audit::Event;
use muster_model::{Bundle, Timestamp, X509Authority as BundleRoot};
use muster_policy::{Bundles, Journals, Permit, Writes};
use muster_roll::bundle::{self, Named, OrderError as Rule};
use muster_svid::ladder::{Rung, Standing};
use muster_svid::x509::Certificate;
use tonic::Status;

use super::{Authorities, AuthorityError, Kind, Material, journal_of};
use crate::{errors, metrics};

/// An authority as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Hex of the subject key identifier, or the `kid`.
    pub authority_id: String,
    /// When it ends; `None` is never.
    pub expires_at: Option<Timestamp>,
}

/// The authorities of a kind.
pub(crate) struct State {
    /// Signs.
    pub active: Shown,
    /// Will sign next.
    pub prepared: Option<Shown>,
    /// Signed before.
    pub old: Option<Shown>,
}

/// What is to be done with a named authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Activate,
    Taint,
    Revoke,
}

/// Why an order about a named authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// None is named.
    NoId,
    /// It signs.
    Active,
    /// It is in the bundle and does not sign yet.
    Prepared,
    /// It signed before.
    Old,
    /// There is none of this ID.
    Unknown,
    /// It is tainted already.
    AlreadyTainted,
    /// It is not tainted.
    NotTainted,
    /// It is the last of its kind.
    Last,
}

/// A refused order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    verb: Verb,
    kind: Kind,
    why: Reason,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.kind.title();
        let x509 = self.kind == Kind::X509;
        let key = if x509 { "root CA" } else { "key" };
        if self.verb == Verb::Revoke
            && !matches!(self.why, Reason::NotTainted | Reason::AlreadyTainted)
        {
            f.write_str("invalid authority ID: ")?;
        }
        match (self.verb, self.why) {
            (_, Reason::NoId) => f.write_str("no authority ID provided"),
            (Verb::Activate, Reason::Old) => f.write_str(
                "only Prepared authorities can be activated: unsupported local authority status: OLD",
            ),
            (Verb::Activate, _) | (Verb::Taint, Reason::Unknown) => {
                f.write_str("unexpected authority ID")
            }
            (Verb::Taint, Reason::Active) => {
                f.write_str("unable to taint current local authority")
            }
            (Verb::Taint, Reason::Prepared) => f.write_str(
                "only Old local authorities can be tainted: unsupported local authority status: PREPARED",
            ),
            (Verb::Taint, _) => {
                write!(f, "failed to taint {title} authority: {key} is already tainted")
            }
            (Verb::Revoke, Reason::Active) => f.write_str("unable to use current authority"),
            (Verb::Revoke, Reason::NotTainted | Reason::AlreadyTainted) => write!(
                f,
                "failed to revoke {title} authority: it is not possible to revoke an untainted {key}"
            ),
            (Verb::Revoke, Reason::Last) => {
                f.write_str("it is the last of its kind in the bundle")
            }
            (Verb::Revoke, _) if x509 => f.write_str("only Old local authority can be revoked"),
            (Verb::Revoke, Reason::Prepared) => f.write_str("unable to use a prepared key"),
            (Verb::Revoke, Reason::Old | Reason::Unknown) => {
                write!(f, "no {title} authority found with provided authority ID")
            }
        }
    }
}

impl From<Refused> for Status {
    /// SPIRE answers INTERNAL where the authority is not in the state that the order needs; it is
    /// the caller's mistake, so here it is FAILED_PRECONDITION, as SPIRE's own documentation of the
    /// API has it.
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused.why {
            Reason::Old | Reason::AlreadyTainted | Reason::NotTainted | Reason::Last => {
                Self::failed_precondition(message)
            }
            Reason::NoId | Reason::Active | Reason::Prepared | Reason::Unknown => {
                Self::invalid_argument(message)
            }
        }
    }
}

impl Authorities {
    /// The authorities of a kind.
    pub(crate) fn state(&self, kind: Kind) -> Result<State, Status> {
        let ladder = self.ladder(kind);
        Ok(State {
            active: ladder.active().map(shown).ok_or_else(initializing)?,
            prepared: ladder.prepared().map(shown),
            old: ladder.retiring().map(shown),
        })
    }

    /// Makes the next authority, in place of one that is prepared already.
    pub(crate) async fn order_prepare<A: Writes<Bundles> + Writes<Journals> + 'static>(
        &mut self,
        kind: Kind,
        permit: Permit<A>,
    ) -> Result<Shown, Status> {
        let slot = self
            .ladder(kind)
            .active()
            .map(|active| active.slot.other())
            .ok_or_else(initializing)?;
        self.prepare(kind, slot, &Arc::new(permit))
            .await
            .map_err(|error| failed("prepare", kind, &error))?;
        self.ladder(kind)
            .prepared()
            .map(shown)
            .ok_or_else(|| Status::internal("the prepared authority is not on the ladder"))
    }

    /// Lets the prepared authority sign.
    pub(crate) async fn order_activate<A: Writes<Journals> + 'static>(
        &mut self,
        kind: Kind,
        id: &str,
        permit: Permit<A>,
    ) -> Result<Shown, Status> {
        let refused = |why| Refused {
            verb: Verb::Activate,
            kind,
            why,
        };
        let rung = self.rung(kind, id);
        let slot = match rung.map(|rung| (rung.standing, rung.slot)) {
            _ if id.is_empty() => return Err(refused(Reason::NoId).into()),
            Some((Standing::Prepared, slot)) => slot,
            Some((Standing::Active, _)) => return Err(refused(Reason::Active).into()),
            Some((Standing::Retiring, _)) => return Err(refused(Reason::Old).into()),
            None => return Err(refused(Reason::Unknown).into()),
        };
        self.activate(kind, slot, &Arc::new(permit))
            .await
            .map_err(|error| failed("activate", kind, &error))?;
        self.state(kind).map(|state| state.active)
    }

    /// Declares an authority compromised that neither signs nor is to sign next: what it signed is
    /// replaced at once, on every node.
    ///
    /// It may also be one from before the last, or one that others put into the bundle.
    pub(crate) async fn order_taint<A: Writes<Bundles> + 'static>(
        &mut self,
        kind: Kind,
        id: &str,
        permit: Permit<A>,
    ) -> Result<Shown, Status> {
        let verb = Verb::Taint;
        self.check(verb, kind, id)?;
        let record = self.record(permit.principal(), Event::AuthorityTainted, kind, id);
        let named = id.to_owned();
        let written = self.server.roll.write(move |roll, transaction| {
            let own = roll.own_bundle().ok_or(Rule::Unknown)?;
            let (tainted, shown) = find(own, kind, &named, bundle::tainted)?;
            transaction.put_bundle(&permit, tainted);
            transaction.audit(record);
            Ok(shown)
        });
        let shown = settled(verb, kind, written.await.map_err(|e| errors::write(&e))?)?;
        self.note(kind, "tainted", id);
        Ok(shown)
    }

    /// Removes a tainted authority from the bundle: what it signed is refused from then on.
    pub(crate) async fn order_revoke<A: Writes<Bundles> + Writes<Journals> + 'static>(
        &mut self,
        kind: Kind,
        id: &str,
        permit: Permit<A>,
    ) -> Result<Shown, Status> {
        let verb = Verb::Revoke;
        self.check(verb, kind, id)?;
        let record = self.record(permit.principal(), Event::AuthorityRevoked, kind, id);
        let mut ladder = self.ladder(kind).clone();
        if let Some(slot) = self.rung(kind, id).map(|rung| rung.slot) {
            ladder.forget_retiring(slot);
        }
        let journal = journal_of(kind, &ladder).map_err(|e| failed("revoke", kind, &e))?;
        let named = id.to_owned();
        let written = self.server.roll.write(move |roll, transaction| {
            let own = roll.own_bundle().ok_or(Rule::Unknown)?;
            let (without, shown) = find(own, kind, &named, bundle::revoked)?;
            transaction.put_bundle(&permit, without);
            transaction.put_journal(&permit, kind.name(), journal);
            transaction.audit(record);
            Ok(shown)
        });
        let shown = settled(verb, kind, written.await.map_err(|e| errors::write(&e))?)?;
        *self.ladder_mut(kind) = ladder;
        self.note(kind, "revoked", id);
        Ok(shown)
    }

    fn rung(&self, kind: Kind, id: &str) -> Option<&Rung<Material>> {
        let rungs = self.ladder(kind).rungs();
        rungs.iter().find(|rung| rung.material.authority_id == id)
    }

    /// Whether the ladder allows a taint or a revocation; the bundle has its say when it is written.
    fn check(&self, verb: Verb, kind: Kind, id: &str) -> Result<(), Refused> {
        let why = match self.rung(kind, id).map(|rung| rung.standing) {
            _ if id.is_empty() => Reason::NoId,
            Some(Standing::Active) => Reason::Active,
            Some(Standing::Prepared) => Reason::Prepared,
            Some(Standing::Retiring) | None => return Ok(()),
        };
        Err(Refused { verb, kind, why })
    }

    fn note(&self, kind: Kind, change: &'static str, id: &str) {
        metrics::authority_changed(kind.name(), change);
        tracing::warn!(
            kind = kind.name(),
            local_authority_id = id,
            "{} authority {change} successfully",
            kind.title()
        );
        if kind == Kind::X509 {
            self.server.own_authority.notify_one();
        }
    }
}

/// The bundle after `change`, and the authority that it was about.
fn find(
    own: &Bundle,
    kind: Kind,
    id: &str,
    change: impl FnOnce(&Bundle, Named<'_>) -> Result<Bundle, Rule>,
) -> Result<(Bundle, Shown), Rule> {
    let is = |root: &BundleRoot| has_id(root, id);
    let (named, expires_at) = match kind {
        Kind::X509 => {
            let root = own.x509_authorities.iter().find(|root| is(root));
            (Named::X509(&is), root.map(|root| Some(root.expires_at)))
        }
        Kind::Jwt => {
            let key = own.jwt_authorities.iter().find(|key| key.key_id == id);
            (Named::Jwt(id), key.map(|key| key.expires_at))
        }
        Kind::Wit => {
            let key = own.wit_authorities.iter().find(|key| key.key_id == id);
            (Named::Wit(id), key.map(|key| key.expires_at))
        }
    };
    let shown = Shown {
        authority_id: id.to_owned(),
        expires_at: expires_at.ok_or(Rule::Unknown)?,
    };
    Ok((change(own, named)?, shown))
}

/// Whether `id` is the subject key identifier of a root.
pub(crate) fn has_id(root: &BundleRoot, id: &str) -> bool {
    let certificate = Certificate::parse(&root.der).ok();
    certificate.and_then(|c| c.subject_key_id_hex()).as_deref() == Some(id)
}

fn settled(verb: Verb, kind: Kind, outcome: Result<Shown, Rule>) -> Result<Shown, Refused> {
    outcome.map_err(|rule| Refused {
        verb,
        kind,
        why: match rule {
            Rule::Unknown => Reason::Unknown,
            Rule::AlreadyTainted => Reason::AlreadyTainted,
            Rule::NotTainted => Reason::NotTainted,
            Rule::Last => Reason::Last,
        },
    })
}

fn shown(rung: &Rung<Material>) -> Shown {
    Shown {
        authority_id: rung.material.authority_id.clone(),
        expires_at: Some(rung.not_after),
    }
}

fn initializing() -> Status {
    Status::unavailable("server is initializing")
}

fn failed(what: &str, kind: Kind, error: &AuthorityError) -> Status {
    let message = format!("failed to {what} {} authority: {error}", kind.title());
    match error {
        AuthorityError::Write(error) => {
            let status = errors::write(error);
            Status::new(status.code(), message)
        }
        AuthorityError::Keys(_) => Status::unavailable(message),
        AuthorityError::Draft(_)
        | AuthorityError::Journal { .. }
        | AuthorityError::NoRest(_)
        | AuthorityError::Unreadable(_) => Status::internal(message),
    }
}
