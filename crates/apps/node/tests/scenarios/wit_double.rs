//! What the double signs WIT-SVIDs with.

use muster_crypto::{JwsAlgorithm, KeyType, PrivateKey, PublicKey, random};
use muster_model::{EntryId, Timestamp, WitAuthority};
use muster_proto::spire::api::server::svid::v1 as svid;
use muster_proto::spire::api::types;
use muster_svid::wit::{WitParams, draft};
use muster_wire::status as wire_status;
use tonic::{Code, Status};

use crate::double::{Lie, Mind, id};

/// A WIT key of the double.
pub(crate) struct WitKey {
    key: PrivateKey,
    pub(crate) authority: WitAuthority,
}

impl WitKey {
    pub(crate) fn new() -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let authority = WitAuthority {
            key_id: random::alphanumeric(32),
            public_key: key.public_key().spki_der().into(),
            expires_at: None,
            tainted: false,
        };
        Self { key, authority }
    }
}

/// What the double answers to a batch.
pub(crate) fn sign_all(
    mind: &Mind,
    params: &[svid::NewWitsvidParams],
    now: Timestamp,
) -> Result<Vec<svid::batch_new_witsvid_response::Result>, Status> {
    let other = WitKey::new();
    let good = mind.wit_keys.iter().rfind(|key| !key.authority.tainted);
    let signer = match mind.lie {
        Some(Lie::OtherAuthority) => &other,
        _ => good.ok_or_else(|| Status::unimplemented("the WIT profile is off"))?,
    };
    let sign = |params: &svid::NewWitsvidParams| {
        let entry = mind
            .entries
            .get(&EntryId::parse(&params.entry_id).unwrap())?;
        let spiffe_id = match mind.lie {
            Some(Lie::OtherIdentity) => id("/somebody/else"),
            _ => entry.spiffe_id.clone(),
        };
        let bound = match mind.lie {
            Some(Lie::OtherKey) => other.key.public_key().clone(),
            _ => PublicKey::from_spki_der(&params.public_key).unwrap(),
        };
        let wit = WitParams {
            spiffe_id: &spiffe_id,
            confirmation: &bound,
            confirmation_algorithm: JwsAlgorithm::parse(&params.signing_algorithm).unwrap(),
            key_id: &signer.authority.key_id,
            public_key: signer.key.public_key(),
            key_expires_at: None,
            ttl: mind.wit_ttl,
            issuer: None,
            token_id: random::uuid_bytes(),
        };
        let unsigned = draft(&wit, now).unwrap();
        let signature = signer
            .key
            .sign(unsigned.scheme(), unsigned.signing_input())
            .unwrap();
        Some(unsigned.assemble(&signature).unwrap().token)
    };
    Ok(params
        .iter()
        .map(|params| match sign(params) {
            // As SPIRE: no status with a success.
            Some(token) => svid::batch_new_witsvid_response::Result {
                status: None,
                svid: Some(types::Witsvid {
                    token,
                    ..Default::default()
                }),
            },
            None => svid::batch_new_witsvid_response::Result {
                status: Some(wire_status::item(Code::NotFound, "no such entry")),
                svid: None,
            },
        })
        .collect())
}
