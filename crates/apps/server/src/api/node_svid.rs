//! A node's own SVID: signed in its turn, for a node that attests and for one that renews.

use muster_audit::{Event, Record};
use muster_crypto::PublicKey;
use muster_model::SpiffeId;
use muster_proto::spire::api::types;
use muster_roll::node::{self as lifecycle, Issued};
use tonic::Status;

use super::svid::{write_x509, x509_record};
use crate::operation::Operation;
use crate::server::Server;
use crate::signer::Leaf;

/// What is answered, what is written of it, and its place in the audit log.
pub(super) struct Signed {
    pub(super) svid: types::X509svid,
    pub(super) issued: Issued,
    pub(super) record: Record,
}

/// Signs for node `id`. Nothing is written yet: the caller does that before it answers.
pub(super) async fn sign<A>(
    server: &Server,
    op: &Operation<A>,
    id: &SpiffeId,
    public_key: &PublicKey,
    event: Event,
) -> Result<Signed, Status> {
    // A node that has something is in its turn by the end of that; one that has nothing is due now.
    let due = op
        .roll
        .node(id)
        .and_then(|node| lifecycle::expires_at(node))
        .map_or(op.now, |end| end.max(op.now));
    let turn = server.admission.turn(id, due, 1, op.now).await?;
    let leaf = Leaf {
        spiffe_id: id,
        public_key,
        dns_names: &[],
        subject: None,
        ttl: server.lifetimes.node_ttl,
    };
    let signed = server
        .signer
        .sign_x509(&leaf, op.now)
        .await
        .map_err(|e| e.status("agent X509-SVID"))?;
    drop(turn);
    let issued = Issued {
        serial: signed.leaf.serial.clone(),
        expires_at: signed.leaf.not_after,
    };
    let mut record = x509_record(op, id, &signed);
    record.event = event;
    Ok(Signed {
        svid: write_x509(id, signed, ""),
        issued,
        record,
    })
}
