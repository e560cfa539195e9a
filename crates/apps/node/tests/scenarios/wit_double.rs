//! What the double signs WIT-SVIDs with.

use muster_crypto::{JwsAlgorithm, KeyType, PrivateKey, PublicKey, random};
use muster_model::{EntryId, SpiffeId, Timestamp, WitAuthority};
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
    let sign = |params: &svid::NewWitsvidParams| {
        let entry = mind.entries.get(&EntryId::parse(&params.entry_id).unwrap());
        let key = (&*params.public_key, &*params.signing_algorithm);
        entry
            .map(|entry| sign_one(mind, &entry.spiffe_id, key, now))
            .transpose()
    };
    let results = params.iter().map(|params| {
        Ok(match sign(params)? {
            Some(token) => result(token),
            None => svid::batch_new_witsvid_response::Result {
                status: Some(wire_status::item(Code::NotFound, "no such entry")),
                svid: None,
            },
        })
    });
    results.collect()
}

/// A token for a name, bound to a key that is used with an algorithm.
pub(crate) fn sign_one(
    mind: &Mind,
    name: &SpiffeId,
    (public_key, algorithm): (&[u8], &str),
    now: Timestamp,
) -> Result<String, Status> {
    let other = WitKey::new();
    let good = mind.wit_keys.iter().rfind(|key| !key.authority.tainted);
    let signer = match mind.lie {
        Some(Lie::OtherAuthority) => &other,
        _ => good.ok_or_else(|| Status::unimplemented("the WIT profile is off"))?,
    };
    let spiffe_id = match mind.lie {
        Some(Lie::OtherIdentity) => id("/somebody/else"),
        _ => name.clone(),
    };
    let bound = match mind.lie {
        Some(Lie::OtherKey) => other.key.public_key().clone(),
        _ => PublicKey::from_spki_der(public_key).unwrap(),
    };
    let wit = WitParams {
        spiffe_id: &spiffe_id,
        confirmation: &bound,
        confirmation_algorithm: JwsAlgorithm::parse(algorithm).unwrap(),
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
    Ok(unsigned.assemble(&signature).unwrap().token)
}

/// As SPIRE: no status with a success.
pub(crate) fn result(token: String) -> svid::batch_new_witsvid_response::Result {
    svid::batch_new_witsvid_response::Result {
        status: None,
        svid: Some(types::Witsvid {
            token,
            ..Default::default()
        }),
    }
}
