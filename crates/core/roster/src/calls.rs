//! Open calls of workloads, and what each has been told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{EntryId, SpiffeId};

use crate::event::{JwtBundles, OnMiss, RequestId, SignFault, X509Bundles, X509Update};
use crate::groups::GroupId;
use crate::jwt::HeldToken;

/// An open call.
pub(crate) struct Call<X, J> {
    pub(crate) group: GroupId,
    /// Monotonic time of the call.
    pub(crate) arrived: Duration,
    pub(crate) on_miss: OnMiss,
    pub(crate) kind: Kind<X, J>,
}

/// What a call asks for, with what it was last told.
pub(crate) enum Kind<X, J> {
    X509Svids(Option<Arc<X509Update<X>>>),
    X509Bundles(Option<Arc<X509Bundles>>),
    JwtBundles(Option<Arc<JwtBundles>>),
    Trust,
    JwtSvids(JwtCall<J>),
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

impl<X, J> Call<X, J> {
    /// Whether the call has been told nothing yet.
    pub(crate) fn is_waiting(&self) -> bool {
        match &self.kind {
            Kind::X509Svids(told) => told.is_none(),
            Kind::X509Bundles(told) => told.is_none(),
            Kind::JwtBundles(told) => told.is_none(),
            Kind::Trust | Kind::JwtSvids(_) => true,
        }
    }

    pub(crate) fn is_x509(&self) -> bool {
        matches!(self.kind, Kind::X509Svids(_))
    }
}
