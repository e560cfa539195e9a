//! What a machine knows, for the one that follows it on the same node.

use std::sync::Arc;

use muster_model::{EntryId, Now, Timestamp};

use crate::event::Derivation;
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::roster::Roster;
use crate::view::{Step, StepFault};

/// What a machine knows: its view, and the SVIDs that it holds.
pub struct Memory<X, J> {
    /// The view, as a step that replaces whatever there is.
    pub view: Step,
    /// What the names that rules give were derived from, those that were used longest ago first: they
    /// come to the same again.
    pub names: Vec<Derivation>,
    /// X509-SVIDs by entry, or by the ID of a name.
    pub x509: Vec<(EntryId, Arc<X>)>,
    /// JWT-SVIDs by entry, or by the ID of a name, and audience.
    pub jwt: Vec<(EntryId, Arc<[String]>, Arc<J>)>,
    /// When the last of the SVIDs expires; nothing is worth remembering longer.
    pub last_expiry: Option<Timestamp>,
}

/// How much of a memory was good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Entries of the view.
    pub entries: usize,
    /// Names that rules of the view give, for those that come again.
    pub names: usize,
    /// X509-SVIDs that may be served.
    pub x509_svids: usize,
    /// JWT-SVIDs that may be served.
    pub jwt_svids: usize,
}

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    /// What the machine knows; `None` before its first view.
    pub fn memory(&self) -> Option<Memory<X, J>> {
        self.view.own_bundle()?;
        let x509 = self.holdings.all(self.now);
        let jwt = self.tokens.all(self.now);
        let last_x509 = x509.iter().map(|(_, svid)| svid.not_after()).max();
        let last_jwt = jwt.iter().map(|(_, _, token)| token.expires_at()).max();
        Some(Memory {
            view: self.view.as_step(),
            names: self.view.derived.derivations(),
            x509,
            jwt,
            last_expiry: last_x509.into_iter().chain(last_jwt).max(),
        })
    }

    /// Takes up what another machine knew, in one that knows nothing yet but what the node is called. The view is not in step
    /// with the server until a stream says so; what has expired, or does not verify against the
    /// bundle of that view, is left out.
    pub fn remember(&mut self, memory: Memory<X, J>, now: Now) -> Result<Remembered, StepFault> {
        self.now = now;
        let difference = self.view.apply(memory.view)?;
        self.on_difference(&difference);
        for name in memory.names {
            self.remember_name(name);
        }
        let mut remembered = Remembered {
            entries: self.view.entries.len(),
            names: self.view.derived.len(),
            ..Remembered::default()
        };
        if let Some(bundle) = self.view.own_bundle().cloned() {
            let authorities = &bundle.bundle.x509_authorities;
            for (entry, svid) in memory.x509 {
                let agenda = &mut self.agenda;
                let good = self
                    .holdings
                    .remember(&entry, svid, authorities, now, agenda);
                remembered.x509_svids += usize::from(good);
            }
            for (entry, audience, token) in memory.jwt {
                let known = self.view.entry(&entry);
                if known.is_some_and(|known| known.spiffe_id == *token.spiffe_id()) {
                    let good = self
                        .tokens
                        .remember(entry, audience, token, &bundle.jwt, now);
                    remembered.jwt_svids += usize::from(good);
                }
            }
        }
        self.settle();
        Ok(remembered)
    }
}
