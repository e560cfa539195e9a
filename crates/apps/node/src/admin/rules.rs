//! `TryRule`: what a rule would call the processes of the node now.

use futures::{StreamExt as _, stream};
use muster_model::{Revision, Rule, RuleName, SpiffeId, Timestamp};
use muster_proto::muster::agent::v1 as agent;
use muster_proto::muster::node::admin::v1 as admin;
use muster_roster::NotNamed;
use muster_wire::rule as wire;
use tonic::Status;

use super::{AdminService, bounded, unavailable};
use crate::driver::WhichRule;
use crate::target::{AttestedTarget, TargetRefusal};
use crate::workload_api::describe_target;

/// How many processes are listed by default, and at most; as many may be named.
const LISTED: (usize, usize) = (1000, 1000);
/// How many are attested at the same time: it is not urgent.
const ATTESTED_AT_ONCE: usize = 4;
/// The name of a rule that has none yet.
const UNNAMED: &str = "unnamed";

/// A process, and what is known of it.
struct Looked {
    pid: i32,
    target: Result<AttestedTarget, TargetRefusal>,
}

pub(super) async fn tried(
    service: &AdminService,
    request: admin::TryRuleRequest,
) -> Result<admin::TryRuleResponse, Status> {
    let rule = which(&request, service.clock.now().wall)?;
    let most = LISTED.1;
    if request.pids.len() > most {
        return Err(Status::invalid_argument(format!(
            "{} pids; at most {most} can be tried at once",
            request.pids.len()
        )));
    }
    let all = request.pids.is_empty();
    let pids = if all { running() } else { request.pids.clone() };
    let looked: Vec<Looked> = stream::iter(pids)
        .map(|pid| async move {
            let number = u32::try_from(pid).unwrap_or(0);
            let target = service.targets.attest(number).await;
            Looked { pid, target }
        })
        .buffered(ATTESTED_AT_ONCE)
        .collect()
        .await;

    let known = looked
        .iter()
        .filter_map(|looked| looked.target.as_ref().ok());
    let known = known.map(|target| target.who.clone()).collect();
    let tried = service.driver.try_rule(rule, known).await;
    let tried = tried.map_err(unavailable)?.ok_or_else(|| {
        Status::not_found(format!(
            "the node has no rule {:?}; it is under another parent, withheld by its class, or does not exist: ask the server with `muster rule show`",
            request.name
        ))
    })?;
    let in_step = service.driver.stats().await.map_err(unavailable)?.in_step;
    let named = tried.results.iter().filter(|result| result.is_ok()).count();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let mut answer = admin::TryRuleResponse {
        rule: Some(wire::write(&tried.rule)),
        processes: Vec::new(),
        tried: count(tried.results.len()),
        named: count(named),
        not_attested: count(looked.len() - tried.results.len()),
        in_step,
    };
    let limit = bounded(request.limit, LISTED);
    let mut results = tried.results.into_iter();
    for looked in looked {
        let row = match looked.target {
            Ok(target) => {
                let Some(result) = results.next() else { break };
                if all && result.is_err() {
                    continue;
                }
                row(looked.pid, &target, result)
            }
            Err(_) if all => continue,
            Err(refusal) => unattested(looked.pid, &refusal),
        };
        if answer.processes.len() < limit {
            answer.processes.push(row);
        }
    }
    Ok(answer)
}

/// The rule that is meant.
fn which(request: &admin::TryRuleRequest, now: Timestamp) -> Result<WhichRule, Status> {
    let invalid = |fault: &dyn std::fmt::Display| Status::invalid_argument(fault.to_string());
    let Some(spec) = &request.spec else {
        let name = wire::read_name(&request.name).map_err(|fault| invalid(&fault))?;
        return Ok(WhichRule::OfView(name));
    };
    let name = if request.name.is_empty() {
        UNNAMED
    } else {
        &request.name
    };
    let name: RuleName = wire::read_name(name).map_err(|fault| invalid(&fault))?;
    let spec = wire::read_spec(spec).map_err(|fault| invalid(&fault))?;
    Ok(WhichRule::Proposed(Box::new(Rule {
        name,
        spec,
        version: 0,
        created_at: now.floor_to_second(),
        created_by: String::new(),
        updated_at: now.floor_to_second(),
        updated_by: String::new(),
        changed_at: Revision::default(),
    })))
}

/// The processes that run now, by ascending pid. What is no process of its own is told apart when it
/// is attested.
fn running() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

fn row(
    pid: i32,
    target: &AttestedTarget,
    result: Result<SpiffeId, NotNamed>,
) -> admin::TriedProcess {
    let process = describe_target(target);
    let result = match result {
        Ok(name) => agent::Tried {
            spiffe_id: name.to_string(),
            ..agent::Tried::default()
        },
        Err(why) => agent::Tried {
            spiffe_id: why.name().map(ToString::to_string).unwrap_or_default(),
            reason: why.reason().to_owned(),
            why: why.to_string(),
        },
    };
    admin::TriedProcess {
        pid,
        uid: process.uid,
        executable: process.executable,
        result: Some(result),
    }
}

fn unattested(pid: i32, refusal: &TargetRefusal) -> admin::TriedProcess {
    let reason = match refusal {
        TargetRefusal::NotRunning { .. } => "NOT_RUNNING",
        TargetRefusal::NotVisible { .. } | TargetRefusal::Failed(_) => "NOT_ATTESTED",
    };
    admin::TriedProcess {
        pid,
        result: Some(agent::Tried {
            reason: reason.to_owned(),
            why: refusal.to_string(),
            ..agent::Tried::default()
        }),
        ..admin::TriedProcess::default()
    }
}
