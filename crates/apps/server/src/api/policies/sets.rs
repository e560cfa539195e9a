//! Sets: put in force, shown, gone back to, checked.

use std::sync::Arc;

use muster_audit::{Decision, Event};
use muster_cedar::{BUILTIN, PolicySet, SCHEMA};
use muster_model::{Note, PolicyVersion, Sha256};
use muster_policy::{
    GetPolicies, GetPolicySchema, ListPolicyVersions, Permit, Policies, Principal, PutPolicies,
    RollbackPolicies, ValidatePolicies, Writes,
};
use muster_proto::muster::agent::v1;
use muster_roll::agents::policies::{self, NewSet};
use muster_wire::error_info::{MUSTER_DOMAIN, reason_of};
use tonic::{Request, Response, Status, Streaming};

use super::{Part, count, gather, load, loaded, policy_refusal, stored, write_fault};
use crate::api::registry::{by, note};
use crate::errors;
use crate::operation::{Operation, operate, record};
use crate::policies::{BUILT_IN, Fresh, InForce, Origin};
use crate::server::Server;

/// How much is said of why a set is not in force.
const PROBLEM: usize = 1000;

impl Part for v1::PutPoliciesRequest {
    fn take(&mut self) -> (String, Vec<String>) {
        (std::mem::take(&mut self.text), Vec::new())
    }
}

impl Part for v1::ValidatePoliciesRequest {
    fn take(&mut self) -> (String, Vec<String>) {
        (std::mem::take(&mut self.text), Vec::new())
    }
}

/// Puts a set in force.
pub(super) async fn put(
    server: &Arc<Server>,
    request: Request<Streaming<v1::PutPoliciesRequest>>,
) -> Result<Response<v1::PolicyVersion>, Status> {
    operate(
        server,
        request,
        async |op: Operation<PutPolicies>, mut parts: Streaming<v1::PutPoliciesRequest>| {
            let principal = op.permit.principal().clone();
            let put = async {
                let asked = gather(&mut parts).await?;
                let seen = asked.first.expected_version;
                let why = early(server, seen, &asked.first.reason)?;
                let set = loaded(server, asked.text.clone(), "put").await?;
                keep(server, op.permit, (set, asked.text, None), seen, why).await
            };
            let outcome = put.await;
            outcome.inspect_err(|status| refused(server, &principal, status))
        },
    )
    .await
}

/// Puts an earlier set in force again.
pub(super) async fn rollback(
    server: &Arc<Server>,
    request: Request<v1::RollbackPoliciesRequest>,
) -> Result<Response<v1::PolicyVersion>, Status> {
    operate(
        server,
        request,
        async |op: Operation<RollbackPolicies>, message: v1::RollbackPoliciesRequest| {
            let principal = op.permit.principal().clone();
            let back = async {
                let seen = message.expected_version;
                let why = early(server, seen, &message.reason)?;
                policies::version(op.roll.agents(), message.version)
                    .map_err(|error| policy_refusal(&error))?;
                let text = stored(server, message.version).await?;
                let set = loaded(server, text.clone(), "rollback").await?;
                let again = Some(message.version);
                keep(server, op.permit, (set, text, again), seen, why).await
            };
            let outcome = back.await;
            outcome.inspect_err(|status| refused(server, &principal, status))
        },
    )
    .await
}

/// Puts on the record that somebody tried.
fn refused(server: &Server, principal: &Principal, status: &Status) {
    let Some(reason) = reason_of(MUSTER_DOMAIN, status) else {
        return;
    };
    let why: String = status.message().chars().take(PROBLEM).collect();
    let now = server.clock.now().wall;
    let mut said = record(principal, now, Event::PolicyChanged, "policies")
        .with("reason", reason)
        .with("message", why);
    said.decision = Decision::Refused;
    server.refusals.note(said);
}

/// What can be refused before a set is loaded, which takes seconds.
fn early(server: &Server, seen: u64, reason: &str) -> Result<Note, Status> {
    let why = note(reason)?;
    if why.as_str().is_empty() {
        return Err(policy_refusal(&policies::PolicyError::NoReason));
    }
    let roll = server.roll.snapshot();
    policies::at_version(roll.agents(), seen).map_err(|error| policy_refusal(&error))?;
    Ok(why)
}

/// Stores a set that loaded, and then decides by it.
async fn keep<A: Writes<Policies> + 'static>(
    server: &Arc<Server>,
    permit: Permit<A>,
    (set, text, again): (Arc<PolicySet>, String, Option<u64>),
    seen: u64,
    why: Note,
) -> Result<v1::PolicyVersion, Status> {
    let digest = Sha256::parse(&set.digest().to_string())
        .map_err(|error| Status::internal(format!("the digest of the set: {error}")))?;
    let new = NewSet {
        digest,
        policies: count(set.len()),
        bytes: count(text.len()),
        again,
    };
    let now = server.clock.now().wall;
    let server = Arc::clone(server);
    let before = server.policies.current().digest().to_string();
    // A task of its own: a caller that goes away between the commit and what follows must not leave a
    // set stored that does not decide.
    let kept = tokio::spawn(async move {
        let written = server.roll.write(move |roll, transaction| {
            let agents = roll.agents();
            let who = by(permit.principal());
            let version = policies::put(agents, new, seen, (&who, why), now)?;
            let newest = agents.policies().next_back();
            let old = newest.map_or(before, |newest| newest.digest.to_string());
            let mut said = record(permit.principal(), now, Event::PolicyChanged, "policies")
                .with("version", version.number.to_string())
                .with("policies", version.policies.to_string())
                .with("old_digest", old)
                .with("new_digest", version.digest.to_string())
                .with("reason", version.note.as_str());
            if let Some(again) = version.again {
                said = said.with("again", again.to_string());
            }
            transaction.audit(said);
            for number in policies::outlived(agents) {
                transaction.delete_policies(&permit, number);
            }
            transaction.put_policies(&permit, version.clone(), text.into());
            Ok(version)
        });
        let version = written
            .await
            .map_err(|error| errors::write(&error))?
            .map_err(|error: policies::PolicyError| policy_refusal(&error))?;
        server.policies.install(Fresh {
            set,
            number: version.number,
        });
        Ok(write_version(&version))
    });
    kept.await
        .map_err(|error| Status::internal(format!("the policies were not stored: {error}")))?
}

/// A set, and what is in force.
pub(super) async fn show(
    server: &Arc<Server>,
    request: Request<v1::GetPoliciesRequest>,
) -> Result<Response<v1::GetPoliciesResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<GetPolicies>, message: v1::GetPoliciesRequest| {
            let in_force = server.policies.in_force();
            let number = match (message.version, in_force.origin) {
                (0, Origin::Stored(number)) => number,
                (0, origin @ (Origin::BuiltIn | Origin::GuardsOnly)) => {
                    let text = if origin == Origin::BuiltIn {
                        BUILT_IN
                    } else {
                        ""
                    };
                    return Ok(v1::GetPoliciesResponse {
                        in_force: Some(write_in_force(&in_force)),
                        version: None,
                        text: text.to_owned(),
                    });
                }
                (number, _) => number,
            };
            let version = policies::version(op.roll.agents(), number)
                .map_err(|error| policy_refusal(&error))?;
            Ok(v1::GetPoliciesResponse {
                in_force: Some(write_in_force(&in_force)),
                version: Some(write_version(version)),
                text: stored(server, number).await?,
            })
        },
    )
    .await
}

/// The sets that are kept.
pub(super) async fn list(
    server: &Arc<Server>,
    request: Request<v1::ListPolicyVersionsRequest>,
) -> Result<Response<v1::ListPolicyVersionsResponse>, Status> {
    operate(
        server,
        request,
        async |op: Operation<ListPolicyVersions>, _: v1::ListPolicyVersionsRequest| {
            let newest_first = op.roll.agents().policies().rev();
            Ok(v1::ListPolicyVersionsResponse {
                in_force: Some(write_in_force(&server.policies.in_force())),
                versions: newest_first.map(|version| write_version(version)).collect(),
            })
        },
    )
    .await
}

/// Checks a text.
pub(super) async fn validate(
    server: &Arc<Server>,
    request: Request<Streaming<v1::ValidatePoliciesRequest>>,
) -> Result<Response<v1::ValidatePoliciesResponse>, Status> {
    operate(
        server,
        request,
        async |_: Operation<ValidatePolicies>, mut parts: Streaming<_>| {
            let asked = gather::<v1::ValidatePoliciesRequest>(&mut parts).await?;
            Ok(match load(server, asked.text).await? {
                Ok(set) => v1::ValidatePoliciesResponse {
                    loads: true,
                    digest: set.digest().to_string(),
                    policies: count(set.len()),
                    faults: Vec::new(),
                    warnings: set.warnings().iter().map(write_fault).collect(),
                },
                Err(error) => v1::ValidatePoliciesResponse {
                    loads: false,
                    faults: error.faults.iter().map(write_fault).collect(),
                    ..v1::ValidatePoliciesResponse::default()
                },
            })
        },
    )
    .await
}

/// The words that policies may use.
pub(super) async fn schema(
    server: &Arc<Server>,
    request: Request<v1::GetPolicySchemaRequest>,
) -> Result<Response<v1::GetPolicySchemaResponse>, Status> {
    operate(
        server,
        request,
        async |_: Operation<GetPolicySchema>, _: v1::GetPolicySchemaRequest| {
            Ok(v1::GetPolicySchemaResponse {
                schema: SCHEMA.to_owned(),
                guards: BUILTIN.to_owned(),
            })
        },
    )
    .await
}

fn write_version(version: &PolicyVersion) -> v1::PolicyVersion {
    v1::PolicyVersion {
        number: version.number,
        digest: version.digest.to_string(),
        policies: version.policies,
        bytes: version.bytes,
        again: version.again.unwrap_or_default(),
        at: Some(muster_wire::agent::write_time(version.at)),
        by: version.by.clone(),
        reason: version.note.to_string(),
    }
}

fn write_in_force(in_force: &InForce) -> v1::PoliciesInForce {
    let problem = in_force.problem.as_deref().unwrap_or_default();
    v1::PoliciesInForce {
        number: in_force.origin.number(),
        digest: in_force.set.digest().to_string(),
        policies: count(in_force.set.len()),
        origin: in_force.origin.as_str().to_owned(),
        problem: problem.chars().take(PROBLEM).collect(),
    }
}
