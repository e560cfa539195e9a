//! `muster.node.v1.NodeAttestations`: whom nodes attested and served, put on the record.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_audit::{Event, Record};
use muster_model::{ClassName, Selector, SpiffeId};
use muster_policy::ReportAttestations;
use muster_proto::muster::node::v1::node_attestations_server::NodeAttestations;
use muster_proto::muster::node::v1::{ReportAttestationsRequest, ReportAttestationsResponse};
use muster_roll::matching::{self, NamesOfNode};
use muster_wire::attestation::{self, Attestation};
use tonic::{Request, Response, Status};

use crate::api::node_reports::{on_task, put_on_record, read_all, task_of};
use crate::operation::{Operation, operate};
use crate::server::Server;

/// Counts what stands on no record.
const LOST: &str = "muster_server_attestations_unrecorded_total";

/// The service.
pub(crate) struct NodeAttestationsService(pub Arc<Server>);

#[tonic::async_trait]
impl NodeAttestations for NodeAttestationsService {
    /// # Path
    ///
    /// `apps/node/attestations.rs` (what is told), `core/policy` (nodes may),
    /// `edge/wire/attestation.rs`, `core/roll/matching.rs` (which names are the node's),
    /// `apps/server/writer.rs`.
    async fn report_attestations(
        &self,
        request: Request<ReportAttestationsRequest>,
    ) -> Result<Response<ReportAttestationsResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<ReportAttestations>, message: ReportAttestationsRequest| {
                let node = op.caller_id()?;
                let what = ("attestations", "TOO_MANY_ATTESTATIONS");
                let (all, most) = (&message.attested, attestation::MOST);
                let mut told = read_all(all, most, what, attestation::read)?;
                let mono = server.clock.now().mono;
                let taken = server.told.attestations.take(node, told.len(), mono);
                let left_out = told.split_off(taken.min(told.len()));
                let unrecorded = u64::try_from(left_out.len()).unwrap_or(u64::MAX);
                let unreported = left_out
                    .iter()
                    .fold(message.unreported, |sum, one| sum.saturating_add(one.count));
                let names = NamesOfNode::of(&op.roll, node);
                let records = told.iter().map(|one| record(&op, node, &names, one));
                put_on_record(server, records.collect(), unreported, LOST).await?;
                Ok(ReportAttestationsResponse { unrecorded })
            },
        )
        .await
    }
}

/// What is written about one. Of identities that are not its own a node tells nothing but how many.
fn record(
    op: &Operation<ReportAttestations>,
    node: &SpiffeId,
    names: &NamesOfNode<'_>,
    told: &Attestation,
) -> Record {
    let (ids, foreign): (Vec<&SpiffeId>, Vec<&SpiffeId>) =
        told.ids.iter().partition(|id| names.has(id));
    let subject = match ids.as_slice() {
        [id] => id.as_str(),
        _ => node.as_str(),
    };
    let joined = |texts: &[&str]| texts.join(" ");
    let selectors: Vec<&str> = told.selectors.iter().map(Selector::as_str).collect();
    let mut said = op
        .record(Event::WorkloadAttested, subject)
        .with("node", node.as_str())
        .with("uid", told.uid.to_string())
        .with("selectors", joined(&selectors))
        .with("count", told.count.to_string())
        .with("first_pid", told.pids.0.to_string())
        .with("last_pid", told.pids.1.to_string())
        .with("first_ms", told.at.0.unix_millis().to_string())
        .with("last_ms", told.at.1.unix_millis().to_string());
    for (name, count) in [
        ("selectors_left_out", u64::from(told.selectors_left_out)),
        ("other_ids", told.others),
        (
            "foreign_ids",
            u64::try_from(foreign.len()).unwrap_or(u64::MAX),
        ),
    ] {
        if count > 0 {
            said = said.with(name, count.to_string());
        }
    }
    if !ids.is_empty() {
        let texts: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        said = said.with("spiffe_ids", joined(&texts));
    }
    if let Some(task) = task_of(&op.roll, node, told.task) {
        return on_task(said, task);
    }
    let classes: BTreeSet<&ClassName> = ids
        .iter()
        .flat_map(|id| matching::classes_of(&op.roll, id).into_keys())
        .collect();
    let classes: Vec<&str> = classes.into_iter().map(ClassName::as_str).collect();
    match classes.as_slice() {
        [] => said,
        [class] => said.with("class", *class),
        several => said.with("classes", joined(several)),
    }
}
