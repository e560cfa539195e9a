//! From the roster's answers to the messages of the standard, encoded once for all who get them.

use std::iter;

use bytes::Bytes;
use muster_crypto::Purpose;
use muster_model::{Bundle, JwtAuthority, SpiffeId, TrustDomain};
use muster_proto::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use muster_roster::{Encoded, JwtBundles, JwtIdentity, X509Bundles, X509Update};
use muster_svid::bundle::encode_jwks;
use tonic::Status;

use super::grpc;
use crate::events::map_key;
use crate::material::{HeldJwt, HeldX509};

/// An answer of a stream.
pub(super) trait Answer: Send + Sync + 'static {
    /// As it leaves the node.
    fn frame(&self) -> Result<Bytes, Status>;

    /// The identities that it gives.
    fn ids(&self) -> impl Iterator<Item = &SpiffeId> + Clone;
}

impl Answer for X509Update<HeldX509> {
    fn frame(&self) -> Result<Bytes, Status> {
        frame(&self.encoded, || x509_svids(self))
    }

    fn ids(&self) -> impl Iterator<Item = &SpiffeId> + Clone {
        self.identities.iter().map(|identity| &identity.spiffe_id)
    }
}

impl Answer for X509Bundles {
    fn frame(&self) -> Result<Bytes, Status> {
        frame(&self.encoded, || x509_bundles(self))
    }

    fn ids(&self) -> impl Iterator<Item = &SpiffeId> + Clone {
        iter::empty()
    }
}

impl Answer for JwtBundles {
    fn frame(&self) -> Result<Bytes, Status> {
        frame(&self.encoded, || jwt_bundles(self))
    }

    fn ids(&self) -> impl Iterator<Item = &SpiffeId> + Clone {
        iter::empty()
    }
}

/// The message of FetchX509SVID.
pub(crate) fn x509_svids(update: &X509Update<HeldX509>) -> X509svidResponse {
    // One and the same bundle in every SVID, and not among the federated ones (WAPI-28).
    let bundle = Bytes::copy_from_slice(&update.bundle);
    X509svidResponse {
        svids: update
            .identities
            .iter()
            // WAPI-23, WAPI-24: the roster only holds SVIDs whose SAN is the entry's ID.
            .map(|identity| X509svid {
                spiffe_id: identity.spiffe_id.as_str().to_owned(),
                // WAPI-25: DER, leaf first, nothing in between.
                x509_svid: identity.svid.chain.clone(),
                // WAPI-26: PKCS #8 DER.
                x509_svid_key: identity
                    .svid
                    .svid
                    .key
                    .expose(Purpose::WorkloadApi)
                    .clone()
                    .into(),
                bundle: bundle.clone(),
                hint: identity.hint.clone(),
            })
            .collect(),
        // WAPI-29: there are no revocation lists yet.
        crl: Vec::new(),
        federated_bundles: update
            .federated
            .iter()
            .map(|(td, der)| (map_key(td), Bytes::copy_from_slice(der)))
            .collect(),
    }
}

/// The message of FetchX509Bundles.
pub(crate) fn x509_bundles(update: &X509Bundles) -> X509BundlesResponse {
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: update
            .by_domain
            .iter()
            .map(|(td, der)| (map_key(td), Bytes::copy_from_slice(der)))
            .collect(),
    }
}

/// The message of FetchJWTBundles.
pub(crate) fn jwt_bundles(update: &JwtBundles) -> JwtBundlesResponse {
    JwtBundlesResponse {
        bundles: update
            .by_domain
            .iter()
            .map(|(td, keys)| (map_key(td), encode_jwks(&jwt_bundle(td, keys)).into()))
            .collect(),
    }
}

/// The message of FetchJWTSVID.
pub(crate) fn jwt_svids(tokens: &[JwtIdentity<HeldJwt>]) -> JwtsvidResponse {
    JwtsvidResponse {
        svids: tokens
            .iter()
            .map(|identity| Jwtsvid {
                spiffe_id: identity.spiffe_id.as_str().to_owned(),
                svid: identity.token.token.clone(),
                hint: identity.hint.clone(),
            })
            .collect(),
    }
}

/// A bundle with JWT keys only: no X.509 authority can end up in a key set, or verify a token
/// (WAPI-43, X509V-10).
pub(crate) fn jwt_bundle(trust_domain: &TrustDomain, keys: &[JwtAuthority]) -> Bundle {
    Bundle {
        jwt_authorities: keys.to_vec(),
        ..Bundle::empty(trust_domain.clone())
    }
}

/// The frame of an answer that many may get: encoded by the first who needs it.
pub(crate) fn frame<M: prost::Message>(
    encoded: &Encoded,
    message: impl FnOnce() -> M,
) -> Result<Bytes, Status> {
    let bytes = match encoded.bytes() {
        Some(bytes) => bytes,
        None => encoded.keep(grpc::encode(&message())?.as_ref().into()),
    };
    Ok(Bytes::from_owner(bytes))
}
