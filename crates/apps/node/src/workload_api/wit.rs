//! The WIT profile: FetchWITSVID and FetchWITBundles (Workload API, section 7, at
//! [`REVISION`](muster_svid::wit::REVISION)).

use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use muster_crypto::Purpose;
use muster_model::SpiffeId;
use muster_proto::workload::{WitBundlesResponse, Witsvid, WitsvidRequest, WitsvidResponse};
use muster_roster::{WitBundles, WitUpdate};
use muster_svid::bundle::encode_wit_jwks;
use tonic::Status;
use tonic::body::Body;

use super::answers::Answer;
use super::streams::{Follow, stopped};
use super::{CallerFacts, Inner, Place, answers};
use crate::events::map_key;
use crate::material::HeldWit;

impl Inner {
    /// Both calls end here while the profile is off, after the header check (WIT-01).
    pub(super) fn check_wit_profile(&self) -> Result<(), Status> {
        if self.wit {
            Ok(())
        } else {
            Err(Status::unimplemented(
                "the WIT profile is off on this node (wit.enabled)",
            ))
        }
    }

    /// # Path
    ///
    /// `adapters/attest` (who the caller is), `core/roster/wit.rs` (what it gets and when),
    /// `core/svid/wit.rs` (what a WIT-SVID is).
    pub(super) async fn fetch_wit_svid(
        self: Arc<Self>,
        caller: &CallerFacts,
        request: WitsvidRequest,
        place: Place,
    ) -> Result<Response<Body>, Status> {
        // WIT-17: all of them, or the one that is asked for.
        let spiffe_id = if request.spiffe_id.is_empty() {
            None
        } else {
            let id = SpiffeId::parse(&request.spiffe_id);
            Some(id.map_err(|e| {
                Status::invalid_argument(format!("invalid requested SPIFFE ID: {e}"))
            })?)
        };
        let attested = self.callers.attest(caller, &place).await?;
        let subscription = self
            .driver_for(caller)
            .wit_svids(attested.who(), spiffe_id)
            .map_err(stopped)?;
        let follow = Follow::new(self, attested, subscription, place, "FetchWITSVID");
        follow.answer().await
    }

    /// # Path
    ///
    /// `adapters/attest`, `core/roster`, `core/svid/bundle.rs` (what a key set is).
    pub(super) async fn fetch_wit_bundles(
        self: Arc<Self>,
        caller: &CallerFacts,
        place: Place,
    ) -> Result<Response<Body>, Status> {
        let attested = self.callers.attest(caller, &place).await?;
        let subscription = self
            .driver_for(caller)
            .wit_bundles(attested.who())
            .map_err(stopped)?;
        let follow = Follow::new(self, attested, subscription, place, "FetchWITBundles");
        follow.answer().await
    }
}

impl Answer for WitUpdate<HeldWit> {
    fn frame(&self) -> Result<Bytes, Status> {
        answers::frame(&self.encoded, || wit_svids(self))
    }

    fn ids(&self) -> impl Iterator<Item = &SpiffeId> + Clone {
        self.identities.iter().map(|identity| &identity.spiffe_id)
    }
}

impl Answer for WitBundles {
    fn frame(&self) -> Result<Bytes, Status> {
        answers::frame(&self.encoded, || wit_bundles(self))
    }

    fn ids(&self) -> impl Iterator<Item = &SpiffeId> + Clone {
        iter::empty()
    }
}

/// The message of FetchWITSVID.
fn wit_svids(update: &WitUpdate<HeldWit>) -> WitsvidResponse {
    WitsvidResponse {
        svids: update
            .identities
            .iter()
            .map(|identity| Witsvid {
                spiffe_id: identity.spiffe_id.as_str().to_owned(),
                wit_svid: identity.svid.token.clone(),
                wit_svid_key: identity.svid.key.expose(Purpose::WorkloadApi).clone(),
                hint: identity.hint.clone(),
            })
            .collect(),
    }
}

/// The message of FetchWITBundles: texts, where the other profiles have bytes (WIT-19).
fn wit_bundles(update: &WitBundles) -> WitBundlesResponse {
    WitBundlesResponse {
        bundles: update
            .by_domain
            .iter()
            .map(|(td, keys)| (map_key(td), encode_wit_jwks(keys)))
            .collect(),
    }
}
