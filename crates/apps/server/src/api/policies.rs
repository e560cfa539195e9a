//! `muster.agent.v1.Policies`: sets of policies on agents, and what they would decide.

mod sets;
mod trials;

use std::sync::Arc;

use muster_cedar::{Fault, Limits, LoadError, PolicySet};
use muster_proto::muster::agent::v1::{
    ComparePoliciesRequest, ComparePoliciesResponse, GetPoliciesRequest, GetPoliciesResponse,
    GetPolicySchemaRequest, GetPolicySchemaResponse, ListPolicyVersionsRequest,
    ListPolicyVersionsResponse, PolicyFault, PolicyVersion, PutPoliciesRequest,
    ReadPolicyRecordRequest, RecordedDecision, RollbackPoliciesRequest, SimulatePoliciesRequest,
    SimulatedDecision, ValidatePoliciesRequest, ValidatePoliciesResponse, policies_server,
};
use muster_roll::agents::policies::PolicyError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::agents::refusal;
use crate::server::Server;

/// How many faults a refusal names; Validate tells them all.
const FAULTS: usize = 5;
/// How many bytes of lines of a record a caller may send.
const RECORD_BYTES: usize = 64 * 1024 * 1024;

/// The service.
pub(crate) struct PoliciesService(pub Arc<Server>);

#[tonic::async_trait]
impl policies_server::Policies for PoliciesService {
    type SimulateStream = ReceiverStream<Result<SimulatedDecision, Status>>;
    type ReadRecordStream = ReceiverStream<Result<RecordedDecision, Status>>;

    /// # Path
    ///
    /// `core/policy` (operators may), `core/cedar/set.rs`, `core/roll/agents/policies.rs`,
    /// `apps/server/writer.rs`, `apps/server/policies/stored.rs`.
    async fn put(
        &self,
        request: Request<Streaming<PutPoliciesRequest>>,
    ) -> Result<Response<PolicyVersion>, Status> {
        sets::put(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/policies.rs`, `ports/store`.
    async fn get(
        &self,
        request: Request<GetPoliciesRequest>,
    ) -> Result<Response<GetPoliciesResponse>, Status> {
        sets::show(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents`.
    async fn list_versions(
        &self,
        request: Request<ListPolicyVersionsRequest>,
    ) -> Result<Response<ListPolicyVersionsResponse>, Status> {
        sets::list(&self.0, request).await
    }

    /// # Path
    ///
    /// As [`Self::put`].
    async fn rollback(
        &self,
        request: Request<RollbackPoliciesRequest>,
    ) -> Result<Response<PolicyVersion>, Status> {
        sets::rollback(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/cedar/set.rs`.
    async fn validate(
        &self,
        request: Request<Streaming<ValidatePoliciesRequest>>,
    ) -> Result<Response<ValidatePoliciesResponse>, Status> {
        sets::validate(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/cedar/vocabulary.rs`.
    async fn get_schema(
        &self,
        request: Request<GetPolicySchemaRequest>,
    ) -> Result<Response<GetPolicySchemaResponse>, Status> {
        sets::schema(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/cedar/replay.rs`.
    async fn simulate(
        &self,
        request: Request<Streaming<SimulatePoliciesRequest>>,
    ) -> Result<Response<Self::SimulateStream>, Status> {
        trials::simulate(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/cedar/replay.rs`.
    async fn compare(
        &self,
        request: Request<Streaming<ComparePoliciesRequest>>,
    ) -> Result<Response<ComparePoliciesResponse>, Status> {
        trials::compare(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/policies/record.rs`.
    async fn read_record(
        &self,
        request: Request<ReadPolicyRecordRequest>,
    ) -> Result<Response<Self::ReadRecordStream>, Status> {
        trials::read_record(&self.0, request).await
    }
}

/// A message of which a request has as many as it needs.
trait Part: Send + Sync + Sized {
    /// What it adds to the text, and to the lines.
    fn take(&mut self) -> (String, Vec<String>);
}

/// A request that came in parts.
struct Gathered<M> {
    /// What stands beside the text.
    first: M,
    text: String,
    lines: Vec<String>,
}

/// Reads a request to its end, which has its bounds: a text beyond the longest is not read on, and the
/// loader says what is wrong with it.
async fn gather<M: Part>(stream: &mut Streaming<M>) -> Result<Gathered<M>, Status> {
    let none = || {
        refusal(
            Code::InvalidArgument,
            "the request is empty",
            "NOTHING_SENT",
        )
    };
    let mut first = stream.message().await?.ok_or_else(none)?;
    let (mut text, mut lines) = first.take();
    let mut bytes: usize = lines.iter().map(String::len).sum();
    while let Some(mut part) = stream.message().await? {
        let (more, other) = part.take();
        text.push_str(&more);
        bytes = other
            .iter()
            .map(String::len)
            .fold(bytes, usize::saturating_add);
        lines.extend(other);
        if bytes > RECORD_BYTES {
            return Err(refusal(
                Code::InvalidArgument,
                format!("the record is longer than {RECORD_BYTES} bytes; send its last part only"),
                "RECORD_TOO_LONG",
            ));
        }
        if text.len() > Limits::default().bytes {
            break;
        }
    }
    Ok(Gathered { first, text, lines })
}

/// What a text is as a set. Large ones are loaded one at a time, on a thread of their own.
async fn load(server: &Server, text: String) -> Result<Result<Arc<PolicySet>, LoadError>, Status> {
    let _place = server.policies.place().await?;
    crate::policies::load(text).await
}

/// A set, or the refusal of one with faults.
async fn loaded(
    server: &Server,
    text: String,
    what: &'static str,
) -> Result<Arc<PolicySet>, Status> {
    load(server, text).await?.map_err(|error| {
        crate::metrics::policy_fault(what);
        faulty(&error)
    })
}

/// A stored set.
async fn stored(server: &Server, number: u64) -> Result<String, Status> {
    let text = server.policies.text(number).await;
    text.map_err(|error| Status::unavailable(error.to_string()))?
        .ok_or_else(|| policy_refusal(&PolicyError::NotFound { wanted: number }))
}

fn faulty(error: &LoadError) -> Status {
    let mut lines: Vec<String> = error
        .faults
        .iter()
        .take(FAULTS)
        .map(ToString::to_string)
        .collect();
    let others = error.faults.len().saturating_sub(lines.len());
    if others > 0 {
        lines.push(format!(
            "and {others} more: `muster policy validate` shows them"
        ));
    }
    refusal(
        Code::InvalidArgument,
        format!("the policies were not put in force: {}", lines.join("\n")),
        "POLICY_FAULTS",
    )
}

fn policy_refusal(error: &PolicyError) -> Status {
    let code = match error {
        PolicyError::Version { .. } => Code::Aborted,
        PolicyError::NotFound { .. } => Code::NotFound,
        PolicyError::NoReason => Code::InvalidArgument,
    };
    refusal(code, error.to_string(), error.reason())
}

fn write_fault(fault: &Fault) -> PolicyFault {
    PolicyFault {
        line: u32::try_from(fault.place.line).unwrap_or(u32::MAX),
        column: u32::try_from(fault.place.column).unwrap_or(u32::MAX),
        policy: fault.policy.clone().unwrap_or_default(),
        kind: fault.kind.as_str().to_owned(),
        message: fault.message.clone(),
        remedy: fault.remedy.clone(),
    }
}

/// A count as the API writes it.
fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
