//! The WIT part of `spire.api.server.svid.v1.SVID`.

use std::sync::Arc;
use std::time::Duration;

use muster_audit::{Record, SvidKind};
use muster_crypto::{JwsAlgorithm, PublicKey};
use muster_model::{Entry, SpiffeId};
use muster_policy as policy;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, MintWitsvidRequest, MintWitsvidResponse,
    batch_new_witsvid_response,
};
use muster_proto::spire::api::types;
use muster_wire::{entry, id, status};
use tonic::{Request, Response, Status};

use super::batch;
use super::svid::named;
use crate::admission::Asking;
use crate::agents::{self, Issued, Source};
use crate::api::not_served;
use crate::derived;
use crate::operation::{Operation, operate};
use crate::policies;
use crate::server::Server;
use crate::signer::SignedWit;

/// How many WIT-SVIDs one call may ask for.
const MAX_BATCH: usize = 500;
/// What is not served while `wit.enabled` is false.
pub(super) const PROFILE: &str = "the WIT profile (wit.enabled)";

/// Signs what an operator names.
pub(super) async fn mint(
    server: &Arc<Server>,
    request: Request<MintWitsvidRequest>,
) -> Result<Response<MintWitsvidResponse>, Status> {
    if !server.wit {
        return not_served::<policy::MintWitSvid, _, _>(server, request, PROFILE).await;
    }
    let asking = Asking::of(&request);
    operate(
        server,
        request,
        async |op: Operation<policy::MintWitSvid>, message: MintWitsvidRequest| {
            let spiffe_id = id::member(message.id.as_ref(), &server.trust_domain)
                .map_err(|why| Status::invalid_argument(format!("invalid SPIFFE ID: {why}")))?;
            let key = Confirmation::read(&message.public_key, &message.signing_algorithm)?;
            agents::check_minted(&op.roll, &spiffe_id, op.now)?;
            let ttl = entry::read_ttl(message.ttl).unwrap_or(server.lifetimes.wit_ttl);
            let ttl = agents::within(ttl, &op.roll, &spiffe_id, None, op.now);
            let kind = SvidKind::Wit;
            let permitted = policies::may_mint(server, &op, kind, &spiffe_id, ttl)?;
            let turn = asking.turn(server, &op, 1).await?;
            let signed = sign(server, &op, &spiffe_id, &key, ttl).await?;
            drop(turn);
            let record = permitted.onto(record(&op, &spiffe_id, &signed));
            // On the record before the answer leaves.
            agents::put_one_on_record(server, Issued::minted(&spiffe_id, record)).await?;
            Ok(MintWitsvidResponse {
                svid: Some(write(&spiffe_id, signed, "")),
            })
        },
    )
    .await
}

/// Signs for entries of the calling node, each with its own outcome.
pub(super) async fn batch_new(
    server: &Arc<Server>,
    request: Request<BatchNewWitsvidRequest>,
) -> Result<Response<BatchNewWitsvidResponse>, Status> {
    if !server.wit {
        return not_served::<policy::BatchNewWitSvid, _, _>(server, request, PROFILE).await;
    }
    let asking = Asking::of(&request);
    operate(
        server,
        request,
        async |op: Operation<policy::BatchNewWitSvid>, message: BatchNewWitsvidRequest| {
            check_count(message.params.len())?;
            let node = op.caller_id()?;
            let wanted = message.params.iter().map(|params| Wanted {
                entry: named(&op.roll, node, &params.entry_id, op.now),
                source: Source::Entry(params.entry_id.clone()),
                public_key: &params.public_key,
                algorithm: &params.signing_algorithm,
            });
            sign_batch(server, &op, &asking, wanted.collect()).await
        },
    )
    .await
}

/// Whether a batch has a size that is served.
pub(super) fn check_count(params: usize) -> Result<(), Status> {
    match params {
        0 => Err(Status::invalid_argument("missing parameters")),
        1..=MAX_BATCH => Ok(()),
        _ => Err(Status::invalid_argument(format!(
            "{params} WIT-SVIDs asked for in one call; ask for at most {MAX_BATCH}"
        ))),
    }
}

/// A WIT-SVID that a node asks for.
pub(super) struct Wanted<'a> {
    /// What gives the identity, or why nothing does.
    pub(super) entry: Result<Arc<Entry>, Status>,
    /// As the node named it.
    pub(super) source: Source,
    /// The workload's key, SubjectPublicKeyInfo.
    pub(super) public_key: &'a [u8],
    /// How it signs.
    pub(super) algorithm: &'a str,
}

/// Signs for the calling node, each with its own outcome.
pub(super) async fn sign_batch<A: Sync>(
    server: &Server,
    op: &Operation<A>,
    asking: &Asking,
    wanted: Vec<Wanted<'_>>,
) -> Result<BatchNewWitsvidResponse, Status> {
    let results = batch::sign_each(server, op, asking, &wanted).await?;
    let results = results.into_iter().map(|result| match result {
        Ok(svid) => batch_new_witsvid_response::Result {
            status: Some(status::ok()),
            svid: Some(svid),
        },
        Err(fault) => refused(&fault),
    });
    Ok(BatchNewWitsvidResponse {
        results: results.collect(),
    })
}

/// The outcome of a WIT-SVID that was not signed.
fn refused(fault: &Status) -> batch_new_witsvid_response::Result {
    batch_new_witsvid_response::Result {
        status: Some(status::item(fault.code(), fault.message())),
        svid: None,
    }
}

impl batch::Wanted for Wanted<'_> {
    type Svid = types::Witsvid;
    const KIND: SvidKind = SvidKind::Wit;

    fn source(&self) -> &Source {
        &self.source
    }

    async fn sign<A: Sync>(
        &self,
        server: &Server,
        op: &Operation<A>,
        asking: &Asking,
        node: &SpiffeId,
        place: usize,
    ) -> Result<(types::Witsvid, Issued), Status> {
        let entry = self.entry.as_ref().map_err(Status::clone)?;
        let key = Confirmation::read(self.public_key, self.algorithm)?;
        // As SPIRE: an entry has no lifetime of its own for WIT-SVIDs (spire-behaviour 2.1).
        let ttl = agents::lifetime(entry, entry.x509_svid_ttl, server.lifetimes.wit_ttl);
        let class = entry.class.as_ref();
        let ttl = agents::within(ttl, &op.roll, &entry.spiffe_id, class, op.now);
        let permitted = policies::may_issue(server, op, SvidKind::Wit, (entry, node), ttl)?;
        derived::count(server, &op.roll, (entry, node), op.now.plus(ttl), op.now)?;
        let signed = sign(server, op, &entry.spiffe_id, &key, ttl).await?;
        let record = asking.onto(permitted.onto(record(op, &entry.spiffe_id, &signed)));
        let issued = Issued::for_node(entry, node, place, record);
        Ok((write(&entry.spiffe_id, signed, &entry.hint), issued))
    }
}

/// The workload's key, and how it signs (WIT-07).
struct Confirmation {
    key: PublicKey,
    algorithm: JwsAlgorithm,
}

impl Confirmation {
    fn read(spki_der: &[u8], algorithm: &str) -> Result<Self, Status> {
        if spki_der.is_empty() {
            return Err(Status::invalid_argument("missing public key"));
        }
        let key = PublicKey::from_spki_der(spki_der)
            .map_err(|why| Status::invalid_argument(format!("malformed public key: {why}")))?;
        let algorithm = JwsAlgorithm::parse(algorithm).ok_or_else(|| {
            Status::invalid_argument(format!(
                "signing algorithm {algorithm:?} is not one of RS, ES, PS with 256, 384, 512"
            ))
        })?;
        Ok(Self { key, algorithm })
    }
}

async fn sign<A>(
    server: &Server,
    op: &Operation<A>,
    spiffe_id: &SpiffeId,
    key: &Confirmation,
    ttl: Duration,
) -> Result<SignedWit, Status> {
    server
        .signer
        .sign_wit(spiffe_id, (&key.key, key.algorithm), ttl, op.now)
        .await
        .map_err(|error| error.status("WIT-SVID"))
}

fn record<A>(op: &Operation<A>, spiffe_id: &SpiffeId, signed: &SignedWit) -> Record {
    op.svid_record(SvidKind::Wit, spiffe_id.as_str())
        .with("token_id", signed.svid.token_id.as_str())
        .with(
            "expires_at",
            signed.svid.expires_at.unix_seconds().to_string(),
        )
        .with("authority_id", signed.authority_id.as_str())
}

fn write(spiffe_id: &SpiffeId, signed: SignedWit, hint: &str) -> types::Witsvid {
    types::Witsvid {
        id: Some(id::write(spiffe_id)),
        token: signed.svid.token,
        issued_at: signed.svid.issued_at.unix_seconds(),
        expires_at: signed.svid.expires_at.unix_seconds(),
        hint: hint.to_owned(),
    }
}
