//! `muster.node.v1.NodeRefusals`: whom nodes refused, put on the record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_audit::{Decision, Event, Record};
use muster_model::{SpiffeId, Task};
use muster_policy::ReportRefusals;
use muster_proto::muster::node::v1::node_refusals_server::NodeRefusals;
use muster_proto::muster::node::v1::{ReportRefusalsRequest, ReportRefusalsResponse};
use muster_roll::Roll;
use muster_rt::ration::Ration;
use muster_wire::denial::{self, Denial, DenialKind};
use tonic::{Code, Request, Response, Status};

use crate::agents::refusal;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// What a node may put on the record: twice what one of ours tells.
const RATION: Ration = Ration::new(Duration::from_millis(500), 128);
/// When this many nodes are known, those that owe nothing are forgotten.
const SWEEP_AT: usize = 4096;

/// The service.
pub(crate) struct NodeRefusalsService(pub Arc<Server>);

/// What each node has told of late.
#[derive(Default)]
pub(crate) struct Rations(Mutex<BTreeMap<SpiffeId, Ration>>);

impl Rations {
    /// How many of `wanted` records `node` may have written now, on the monotonic clock.
    fn take(&self, node: &SpiffeId, wanted: usize, now: Duration) -> usize {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= SWEEP_AT {
            nodes.retain(|_, ration| !ration.is_full(now));
        }
        let ration = nodes.entry(node.clone()).or_insert(RATION);
        let count = u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .min(ration.left(now));
        ration.take(count, now);
        usize::try_from(count).unwrap_or(wanted)
    }
}

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
                let mut told = read(&message)?;
                let mono = server.clock.now().mono;
                let taken = server.told_refusals.take(node, told.len(), mono);
                // Attempts to be somebody else are the last to be left out.
                told.sort_by_key(|denial| DenialKind::of(denial.reason.as_str()));
                let left_out = told.split_off(taken.min(told.len()));
                let unrecorded = u64::try_from(left_out.len()).unwrap_or(u64::MAX);
                let unreported = left_out
                    .iter()
                    .fold(message.unreported, |sum, one| sum.saturating_add(one.count));
                let mut records: Vec<Record> = told
                    .iter()
                    .map(|denial| record(&op, node, denial))
                    .collect();
                if let Some(first) = records.first_mut().filter(|_| unreported > 0) {
                    first
                        .detail
                        .insert("unreported".to_owned(), unreported.to_string());
                } else if unreported > 0 {
                    metrics::counter!("muster_server_refusals_unrecorded_total")
                        .increment(unreported);
                }
                if !records.is_empty() {
                    let written = server.roll.audit(records).await;
                    written.map_err(|error| errors::write(&error))?;
                }
                Ok(ReportRefusalsResponse { unrecorded })
            },
        )
        .await
    }
}

/// Everything is read before anything is written.
fn read(message: &ReportRefusalsRequest) -> Result<Vec<Denial>, Status> {
    let count = message.refused.len();
    if count > denial::MOST {
        return Err(refusal(
            Code::InvalidArgument,
            format!("{count} refusals at once; tell at most {}", denial::MOST),
            "TOO_MANY_REFUSALS",
        ));
    }
    let read = |one| {
        denial::read(one)
            .map_err(|error| refusal(Code::InvalidArgument, error.to_string(), "INVALID_FIELD"))
    };
    message.refused.iter().map(read).collect()
}

/// What is written about one. Of another node's task a node tells nothing.
fn record(op: &Operation<ReportRefusals>, node: &SpiffeId, denial: &Denial) -> Record {
    let event = match DenialKind::of(denial.reason.as_str()) {
        DenialKind::Denied => Event::WorkloadDenied,
        DenialKind::Impersonation => Event::WorkloadImpersonationAttempt,
        DenialKind::ExeChanged => Event::WorkloadExeChanged,
    };
    let task = task_of(&op.roll, node, denial);
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
    let Some(task) = task else {
        return said;
    };
    said = said
        .with("task", task.id.to_string())
        .with("agent", task.instance.as_str())
        .with("class", task.class.as_str())
        .with("root", task.root.to_string());
    match task.parent {
        Some(parent) => said.with("parent", parent.to_string()),
        None => said,
    }
}

fn task_of<'r>(roll: &'r Roll, node: &SpiffeId, denial: &Denial) -> Option<&'r Task> {
    let task = roll.agents().task(denial.task?)?;
    (task.node == *node).then_some(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_tells_too_much_takes_nothing_from_another() {
        let rations = Rations::default();
        let node =
            |name: &str| SpiffeId::parse(&format!("spiffe://td/spire/agent/{name}")).unwrap();
        let now = Duration::from_secs(100);
        assert_eq!(rations.take(&node("a"), 64, now), 64);
        assert_eq!(rations.take(&node("a"), 100, now), 64);
        assert_eq!(rations.take(&node("a"), 64, now), 0);
        assert_eq!(rations.take(&node("b"), 64, now), 64);
        let later = now + Duration::from_secs(2);
        assert_eq!(rations.take(&node("a"), 64, later), 4);
    }
}
