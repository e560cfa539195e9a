//! Policies as people and as programs read them.

use std::path::Path;

use muster_proto::muster::agent::v1;
use serde_json::{Value, json};

use crate::output::Output;
use crate::time::rfc3339;

/// How many changes of a kind are listed for people.
const LISTED: usize = 50;

fn seconds(at: Option<&prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

pub(super) fn version_json(version: &v1::PolicyVersion) -> Value {
    json!({
        "number": version.number,
        "digest": version.digest,
        "policies": version.policies,
        "bytes": version.bytes,
        "again": version.again,
        "at": seconds(version.at.as_ref()),
        "by": version.by,
        "reason": version.reason,
    })
}

pub(super) fn in_force_json(in_force: Option<&v1::PoliciesInForce>) -> Value {
    in_force.map_or(Value::Null, |in_force| {
        json!({
            "number": in_force.number,
            "digest": in_force.digest,
            "policies": in_force.policies,
            "origin": in_force.origin,
            "problem": in_force.problem,
        })
    })
}

fn how_many(policies: u64) -> String {
    if policies == 1 {
        "1 policy".to_owned()
    } else {
        format!("{policies} policies")
    }
}

fn again(version: &v1::PolicyVersion) -> String {
    if version.again == 0 {
        String::new()
    } else {
        format!("version {}", version.again)
    }
}

pub(super) fn version(version: &v1::PolicyVersion, output: Output) -> String {
    let number = output.bold(&format!("version {}", version.number));
    format!(
        "{number}, {}, digest {}\n",
        how_many(version.policies),
        short(&version.digest)
    )
}

/// What decides now, in a sentence.
fn standing(in_force: &v1::PoliciesInForce) -> String {
    let what = match in_force.origin.as_str() {
        "built_in" => {
            "what is built in, as no set was ever stored: everything is permitted that the \
                       guards let pass"
                .to_owned()
        }
        "guards_only" => "the guards alone: nothing is permitted to agents".to_owned(),
        _ => format!(
            "version {}, {}, digest {}",
            in_force.number,
            how_many(in_force.policies),
            short(&in_force.digest)
        ),
    };
    let problem = if in_force.problem.is_empty() {
        String::new()
    } else {
        format!(
            "\nNOT the newest, which does not load: {}",
            in_force.problem
        )
    };
    format!("in force: {what}{problem}\n")
}

pub(super) fn set(answer: &v1::GetPoliciesResponse, output: Output) -> String {
    let mut text = answer.in_force.as_ref().map(standing).unwrap_or_default();
    if let Some(version) = &answer.version {
        text.push_str(&output.fields(&[
            ("version", version.number.to_string()),
            ("digest", version.digest.clone()),
            ("policies", version.policies.to_string()),
            ("again", again(version)),
            ("at", rfc3339(seconds(version.at.as_ref()))),
            ("by", version.by.clone()),
            ("reason", version.reason.clone()),
        ]));
    }
    text.push('\n');
    text.push_str(&answer.text);
    text
}

pub(super) fn versions(answer: &v1::ListPolicyVersionsResponse, output: Output) -> String {
    let rows: Vec<Vec<String>> = answer
        .versions
        .iter()
        .map(|version| {
            vec![
                version.number.to_string(),
                rfc3339(seconds(version.at.as_ref())),
                version.policies.to_string(),
                short(&version.digest).to_owned(),
                version.by.clone(),
                again(version),
                version.reason.clone(),
            ]
        })
        .collect();
    let heading = [
        "VERSION", "AT", "POLICIES", "DIGEST", "BY", "AGAIN", "REASON",
    ];
    let standing = answer.in_force.as_ref().map(standing).unwrap_or_default();
    let table = output.table(&heading, &rows, "no set was ever stored");
    format!("{standing}{table}")
}

fn fault_json(fault: &v1::PolicyFault) -> Value {
    json!({
        "line": fault.line,
        "column": fault.column,
        "policy": fault.policy,
        "kind": fault.kind,
        "message": fault.message,
        "remedy": fault.remedy,
    })
}

pub(super) fn checked_json(answer: &v1::ValidatePoliciesResponse) -> Value {
    json!({
        "loads": answer.loads,
        "digest": answer.digest,
        "policies": answer.policies,
        "faults": answer.faults.iter().map(fault_json).collect::<Value>(),
        "warnings": answer.warnings.iter().map(fault_json).collect::<Value>(),
    })
}

fn fault(fault: &v1::PolicyFault, (file, what): (&Path, &str)) -> String {
    let policy = if fault.policy.is_empty() {
        String::new()
    } else {
        format!("policy {:?}: ", fault.policy)
    };
    let remedy = if fault.remedy.is_empty() {
        String::new()
    } else {
        format!("; {}", fault.remedy)
    };
    format!(
        "{}:{}:{}: {what}: {policy}{}{remedy}\n",
        file.display(),
        fault.line,
        fault.column,
        fault.message
    )
}

pub(super) fn checked(answer: &v1::ValidatePoliciesResponse, file: &Path) -> String {
    let mut text = String::new();
    for one in &answer.faults {
        text.push_str(&fault(one, (file, &one.kind)));
    }
    for one in &answer.warnings {
        text.push_str(&fault(one, (file, "warning")));
    }
    if answer.loads {
        text.push_str(&format!(
            "it loads: {}, digest {}\n",
            how_many(answer.policies),
            short(&answer.digest)
        ));
    } else {
        text.push_str("it does not load\n");
    }
    text
}

fn outcome_json(outcome: Option<&v1::PolicyOutcome>) -> Value {
    outcome.map_or(Value::Null, |outcome| {
        json!({
            "verdict": outcome.verdict,
            "reason": outcome.reason,
            "policies": outcome.policies,
            "failures": outcome.failures,
        })
    })
}

fn outcome(outcome: Option<&v1::PolicyOutcome>) -> String {
    outcome.map_or_else(String::new, |outcome| {
        let policies = outcome.policies.join(" ");
        let mut text = format!("{} {}", outcome.verdict, outcome.reason);
        if !policies.is_empty() {
            text.push_str(&format!(" ({policies})"));
        }
        for failure in &outcome.failures {
            text.push_str(&format!(": {failure}"));
        }
        text
    })
}

pub(super) fn simulated_json(one: &v1::SimulatedDecision) -> Value {
    json!({
        "id": one.id,
        "at": seconds(one.at.as_ref()),
        "action": one.action,
        "principal": one.principal,
        "resource": one.resource,
        "outcome": outcome_json(one.outcome.as_ref()),
        "undecidable": one.undecidable,
    })
}

pub(super) fn simulated(decided: &[v1::SimulatedDecision], output: Output) -> String {
    let rows: Vec<Vec<String>> = decided
        .iter()
        .map(|one| {
            let result = if one.undecidable.is_empty() {
                outcome(one.outcome.as_ref())
            } else {
                format!("cannot be decided: {}", one.undecidable)
            };
            vec![
                one.id.clone(),
                one.action.clone(),
                one.principal.clone(),
                one.resource.clone(),
                result,
            ]
        })
        .collect();
    let heading = ["ID", "ACTION", "PRINCIPAL", "RESOURCE", "DECISION"];
    output.table(&heading, &rows, "no requests are on record")
}

fn change_json(change: &v1::PolicyChange) -> Value {
    json!({
        "id": change.id,
        "at": seconds(change.at.as_ref()),
        "action": change.action,
        "principal": change.principal,
        "resource": change.resource,
        "from": outcome_json(change.from.as_ref()),
        "to": outcome_json(change.to.as_ref()),
    })
}

pub(super) fn compared_json(found: &v1::ComparePoliciesResponse) -> Value {
    let list = |changes: &[v1::PolicyChange]| changes.iter().map(change_json).collect::<Value>();
    json!({
        "decided": found.decided,
        "newly_allowed_count": found.newly_allowed_count,
        "newly_refused_count": found.newly_refused_count,
        "otherwise_count": found.otherwise_count,
        "undecidable_count": found.undecidable_count,
        "newly_allowed": list(&found.newly_allowed),
        "newly_refused": list(&found.newly_refused),
        "otherwise": list(&found.otherwise),
        "undecidable": found
            .undecidable
            .iter()
            .map(|one| json!({ "id": one.id, "why": one.why }))
            .collect::<Value>(),
    })
}

pub(super) fn compared(found: &v1::ComparePoliciesResponse, output: Output) -> String {
    let mut text = format!(
        "{} decisions made again: {} newly allowed, {} newly refused, {} otherwise the same, {} that \
         cannot be made again\n",
        found.decided,
        found.newly_allowed_count,
        found.newly_refused_count,
        found.otherwise_count,
        found.undecidable_count
    );
    let kinds = [
        ("newly allowed", &found.newly_allowed),
        ("newly refused", &found.newly_refused),
        ("the same by other policies", &found.otherwise),
    ];
    for (kind, changes) in kinds {
        if changes.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{}\n", output.bold(kind)));
        for change in changes.iter().take(LISTED) {
            text.push_str(&format!(
                "{} {} {} {} {}\n  from {}\n  to   {}\n",
                change.id,
                rfc3339(seconds(change.at.as_ref())),
                change.principal,
                change.action,
                change.resource,
                outcome(change.from.as_ref()),
                outcome(change.to.as_ref()),
            ));
        }
        let others = changes.len().saturating_sub(LISTED);
        if others > 0 {
            text.push_str(&format!("and {others} more; --json lists up to 1000\n"));
        }
    }
    for one in found.undecidable.iter().take(LISTED) {
        text.push_str(&format!("{} cannot be made again: {}\n", one.id, one.why));
    }
    text
}
