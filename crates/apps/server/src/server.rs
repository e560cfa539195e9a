//! What every handler shares.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use muster_model::{SpiffeId, TrustDomain};
use muster_plugin::node::ServerNodeAttestor;
use muster_roll::agents::reconcile::Settings;
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use tokio::sync::Notify;

use crate::admission::Admission;
use crate::api::node_reports::Told;
use crate::audit_log::AuditLog;
use crate::authority::Desk;
use crate::config::{SightingsConfig, SvidConfig};
use crate::crowd::Crowd;
use crate::derived::Names;
use crate::holdings::Holdings;
use crate::policies::Policies;
use crate::refusals::Refusals;
use crate::server_svid::OwnSvid;
use crate::signer::Signer;
use crate::tasks;
use crate::writer::RollHandle;

/// A running server, as its handlers see it.
pub(crate) struct Server {
    /// Whose authority it is.
    pub trust_domain: TrustDomain,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The roll.
    pub roll: RollHandle,
    /// What was done, and what is being done.
    pub audit: AuditLog,
    /// What agents and tasks hold.
    pub holdings: Holdings,
    /// The authorities.
    pub signer: Signer,
    /// Where orders about the authorities are left.
    pub authorities: Desk,
    /// Rung when an X.509 authority was tainted or revoked: the server's own SVID may be of it.
    pub own_authority: Notify,
    /// The SVID that the server shows.
    pub own_svid: ArcSwapOption<OwnSvid>,
    /// Lifetime of the own CA, and of a downstream server's that asks for none.
    pub authority_ttl: Duration,
    /// Whose turn it is to have SVIDs signed.
    pub admission: Admission,
    /// The nodes that follow their view.
    pub crowd: Crowd,
    /// Lifetimes of what is signed.
    pub lifetimes: SvidConfig,
    /// Whether WIT-SVIDs are signed.
    pub wit: bool,
    /// The names that rules give.
    pub names: Names,
    /// What agents may do.
    pub policies: Policies,
    /// How patient it is with agents.
    pub agents: Settings,
    /// How many tasks there may be, and how long they are remembered.
    pub tasks: tasks::Settings,
    /// How much is kept of what nodes find.
    pub sightings: SightingsConfig,
    /// Identities that administer over TLS.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// How nodes prove themselves, beside join tokens.
    pub node_attestors: Vec<Arc<dyn ServerNodeAttestor>>,
    /// How long after its SVID has expired a node may still renew it.
    pub renew_grace: Duration,
    /// Refused callers, for the record.
    pub refusals: Refusals,
    /// What nodes have told of their callers.
    pub told: Told,
    /// The end of the program, at which streams end.
    pub shutdown: Shutdown,
}
