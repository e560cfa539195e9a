//! Open calls of workloads, and what each has been told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{EntryId, ProcessMark, SpiffeId};

use crate::event::{
    JwtBundles, OnMiss, RequestId, SignFault, WitBundles, WitUpdate, X509Bundles, X509Update,
};
use crate::groups::GroupId;
use crate::jwt::HeldToken;
use crate::wit::Wish;

/// An open call.
pub(crate) struct Call<X, J, W> {
    pub(crate) group: GroupId,
    /// Which process called, where that is known.
    pub(crate) process: Option<ProcessMark>,
    /// Monotonic time of the call.
    pub(crate) arrived: Duration,
    /// How long the caller waits for an answer, if it says so.
    pub(crate) patience: Option<Duration>,
    pub(crate) on_miss: OnMiss,
    pub(crate) kind: Kind<X, J, W>,
}

/// What a call asks for, with what it was last told.
pub(crate) enum Kind<X, J, W> {
    X509Svids(Option<Arc<X509Update<X>>>),
    X509Bundles(Option<Arc<X509Bundles>>),
    JwtBundles(Option<Arc<JwtBundles>>),
    Trust,
    JwtSvids(JwtCall<J>),
    WitSvids {
        spiffe_id: Option<SpiffeId>,
        told: Option<Arc<WitUpdate<W>>>,
    },
    WitBundles(Option<Arc<WitBundles>>),
}

/// A call for tokens, and how far it is.
pub(crate) struct JwtCall<J> {
    /// Sorted, without repetition.
    pub(crate) audience: Arc<[String]>,
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// Tokens that were signed while the call waited.
    pub(crate) tokens: BTreeMap<EntryId, HeldToken<J>>,
    /// Requests that the call waits for.
    pub(crate) asked: BTreeMap<EntryId, RequestId>,
    /// The last failure.
    pub(crate) fault: Option<SignFault>,
}

impl<X, J, W> Call<X, J, W> {
    /// Until when the call may wait that long for its first answer: never for longer than the caller.
    pub(crate) fn until(&self, longest: Duration) -> Duration {
        let wait = self.patience.map_or(longest, |it| it.min(longest));
        self.arrived.saturating_add(wait)
    }

    /// Whether the call has been told nothing yet.
    pub(crate) fn is_waiting(&self) -> bool {
        match &self.kind {
            Kind::X509Svids(told) => told.is_none(),
            Kind::X509Bundles(told) => told.is_none(),
            Kind::JwtBundles(told) => told.is_none(),
            Kind::Trust | Kind::JwtSvids(_) => true,
            Kind::WitSvids { told, .. } => told.is_none(),
            Kind::WitBundles(told) => told.is_none(),
        }
    }

    /// Which WIT-SVIDs the call streams, if any: one identity's or all.
    pub(crate) fn wit_lane(&self) -> Option<Wish> {
        match &self.kind {
            Kind::WitSvids { spiffe_id, .. } => Some(spiffe_id.clone()),
            Kind::X509Svids(_)
            | Kind::X509Bundles(_)
            | Kind::JwtBundles(_)
            | Kind::Trust
            | Kind::JwtSvids(_)
            | Kind::WitBundles(_) => None,
        }
    }

    pub(crate) fn is_x509(&self) -> bool {
        matches!(self.kind, Kind::X509Svids(_))
    }
}
