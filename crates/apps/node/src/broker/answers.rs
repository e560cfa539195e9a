//! From the roster's answers to the messages of the Broker API. They look like the Workload API's,
//! field by field (BRK-26, BRK-27).

use bytes::Bytes;
use muster_crypto::Purpose;
use muster_proto::spiffe::broker::{
    FetchJwtsvidResponse, Jwtsvid, SubscribeToJwtBundlesResponse, SubscribeToX509BundlesResponse,
    SubscribeToX509svidResponse, X509svid,
};
use muster_roster::{JwtBundles, JwtIdentity, X509Bundles, X509Update};
use muster_svid::bundle::encode_jwks;
use tonic::Status;

use super::Asking;
use super::refusal::{self, Forbidden};
use crate::events::map_key;
use crate::material::{HeldJwt, HeldX509};
use crate::workload_api::answers::{frame, jwt_bundle};
use crate::workload_api::grpc;

/// The frame of SubscribeToX509SVID. Identities that this broker may not have are left out.
pub(super) fn x509_svids(asking: &Asking, update: &X509Update<HeldX509>) -> Result<Bytes, Status> {
    if asking.may.spiffe_ids.is_none() {
        return frame(&update.encoded, || message(asking, update));
    }
    let message = message(asking, update);
    if message.svids.is_empty() {
        return Err(refusal::forbidden(asking, Forbidden::Identity));
    }
    grpc::encode(&message)
}

fn message(asking: &Asking, update: &X509Update<HeldX509>) -> SubscribeToX509svidResponse {
    let bundle = Bytes::copy_from_slice(&update.bundle);
    SubscribeToX509svidResponse {
        // BRK-33: the order is the Workload API's, so the default identity is the same.
        svids: update
            .identities
            .iter()
            .filter(|identity| asking.may_have(&identity.spiffe_id))
            .map(|identity| X509svid {
                spiffe_id: identity.spiffe_id.as_str().to_owned(),
                x509_svid: identity.svid.chain.clone(),
                x509_svid_key: identity
                    .svid
                    .svid
                    .key
                    .expose(Purpose::OnBehalf)
                    .clone()
                    .into(),
                bundle: bundle.clone(),
                hint: identity.hint.clone(),
            })
            .collect(),
        crl: Vec::new(),
        // BRK-22: the foreign trust domains of this workload, no others.
        federated_bundles: update
            .federated
            .iter()
            .map(|(td, der)| (map_key(td), Bytes::copy_from_slice(der)))
            .collect(),
    }
}

/// The frame of SubscribeToX509Bundles.
pub(super) fn x509_bundles(_asking: &Asking, update: &X509Bundles) -> Result<Bytes, Status> {
    frame(&update.encoded, || SubscribeToX509BundlesResponse {
        crl: Vec::new(),
        bundles: update
            .by_domain
            .iter()
            .map(|(td, der)| (map_key(td), Bytes::copy_from_slice(der)))
            .collect(),
    })
}

/// The frame of SubscribeToJWTBundles.
pub(super) fn jwt_bundles(_asking: &Asking, update: &JwtBundles) -> Result<Bytes, Status> {
    frame(&update.encoded, || SubscribeToJwtBundlesResponse {
        bundles: update
            .by_domain
            .iter()
            .map(|(td, keys)| (map_key(td), encode_jwks(&jwt_bundle(td, keys)).into()))
            .collect(),
    })
}

/// The message of FetchJWTSVID. Identities that this broker may not have are left out.
pub(super) fn jwt_svids(
    asking: &Asking,
    tokens: &[JwtIdentity<HeldJwt>],
) -> Result<FetchJwtsvidResponse, Status> {
    let svids: Vec<Jwtsvid> = tokens
        .iter()
        .filter(|identity| asking.may_have(&identity.spiffe_id))
        .map(|identity| Jwtsvid {
            spiffe_id: identity.spiffe_id.as_str().to_owned(),
            svid: identity.token.token.clone(),
            hint: identity.hint.clone(),
        })
        .collect();
    if svids.is_empty() {
        return Err(refusal::forbidden(asking, Forbidden::Identity));
    }
    Ok(FetchJwtsvidResponse { svids })
}
