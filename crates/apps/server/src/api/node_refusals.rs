//! `muster.node.v1.NodeRefusals`: whom nodes refused, put on the record.

use std::sync::Arc;

use muster_audit::{Decision, Event, Record};
use muster_model::SpiffeId;
use muster_policy::ReportRefusals;
use muster_proto::muster::node::v1::node_refusals_server::NodeRefusals;
use muster_proto::muster::node::v1::{ReportRefusalsRequest, ReportRefusalsResponse};
use muster_wire::denial::{self, Denial, DenialKind};
use tonic::{Request, Response, Status};

use crate::api::node_reports::{on_task, put_on_record, read_all, task_of};
use crate::operation::{Operation, operate};
use crate::server::Server;

/// Counts what stands on no record.
const LOST: &str = "muster_server_refusals_unrecorded_total";

/// The service.
pub(crate) struct NodeRefusalsService(pub Arc<Server>);

#[tonic::async_trait]
impl NodeRefusals for NodeRefusalsService {
    /// # Path
    ///
    /// `apps/node/denials.rs` (what is told), `core/policy` (nodes may), `edge/wire/denial.rs`,
    /// `apps/server/writer.rs`.
    async fn report_refusals(
        &self,
        request: Request<ReportRefusalsRequest>,
    ) -> Result<Response<ReportRefusalsResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<ReportRefusals>, message: ReportRefusalsRequest| {
                let node = op.caller_id()?;
                let what = ("refusals", "TOO_MANY_REFUSALS");
                let mut told = read_all(&message.refused, denial::MOST, what, denial::read)?;
                let mono = server.clock.now().mono;
                let taken = server.told.refusals.take(node, told.len(), mono);
                // Attempts to be somebody else are the last to be left out.
                told.sort_by_key(|denial| DenialKind::of(denial.reason.as_str()));
                let left_out = told.split_off(taken.min(told.len()));
                let unrecorded = u64::try_from(left_out.len()).unwrap_or(u64::MAX);
                let unreported = left_out
                    .iter()
                    .fold(message.unreported, |sum, one| sum.saturating_add(one.count));
                let records = told.iter().map(|denial| record(&op, node, denial));
                put_on_record(server, records.collect(), unreported, LOST).await?;
                Ok(ReportRefusalsResponse { unrecorded })
            },
        )
        .await
    }
}

/// What is written about one.
fn record(op: &Operation<ReportRefusals>, node: &SpiffeId, denial: &Denial) -> Record {
    let event = match DenialKind::of(denial.reason.as_str()) {
        DenialKind::Denied => Event::WorkloadDenied,
        DenialKind::Impersonation => Event::WorkloadImpersonationAttempt,
        DenialKind::ExeChanged => Event::WorkloadExeChanged,
    };
    let task = task_of(&op.roll, node, denial.task);
    let subject = task.map_or_else(|| node.to_string(), |task| task.id.to_string());
    let mut said = op
        .record(event, subject)
        .with("node", node.as_str())
        .with("reason", denial.reason.as_str())
        .with("pid", denial.pid.to_string())
        .with("uid", denial.uid.to_string())
        .with("count", denial.count.to_string())
        .with("last_ms", denial.last_at.unix_millis().to_string());
    said.decision = Decision::Refused;
    if !denial.executable.is_empty() {
        said = said.with("executable", denial.executable.as_str());
    }
    match task {
        Some(task) => on_task(said, task),
        None => said,
    }
}
