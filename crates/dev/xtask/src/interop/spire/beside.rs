//! What SPIRE's agent does not know of: tasks, identity rules and agent classes on the same server. None
//! may show on it, but for entries that a class withholds.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Outcome;
use super::agent::Guest;
use super::tool::text_at;
use crate::interop::domain::TRUST_DOMAIN;
use crate::interop::tasks::{Agents, CLASS};
use crate::shell::Failure;

const RULE: &str = "spire-beside";
const TEMPLATE: &str = "spiffe://{td}/agent/{class}/{instance}";

/// A task of another node is open, and a rule would name the workload of SPIRE's agent, were it ours.
pub(super) fn tasks_and_rules(it: &Guest<'_>) -> Outcome {
    let before = it.names()?;
    let agents = Agents::register(it.domain)?;
    // Two entries of agents, on our own node.
    let entries = count(it)?;
    let mut worker = Command::new("cat");
    let mut worker = worker.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let opened = agents.open("spire.beside", worker.id())?;
    let outcome = text_at(&opened, "/id").and_then(|task| {
        let ruled = with_rule(it, &before, task, entries);
        agents.complete(task)?;
        ruled
    });
    drop(worker.stdin.take());
    worker.wait()?;
    outcome?;
    Ok(
        "a task and a rule are there, and SPIRE's agent and its command line see neither"
            .to_owned(),
    )
}

fn with_rule(
    it: &Guest<'_>,
    names: &BTreeSet<String>,
    task: &str,
    entries: u64,
) -> Result<(), Failure> {
    let mut create = vec!["rule", "create", RULE, "--parent-id", it.id()];
    create.extend(["--class", CLASS, "--per-node", "10", "--template", TEMPLATE]);
    let selectors = it.selectors();
    for selector in &selectors {
        create.extend(["--selector", selector]);
    }
    it.domain.muster(&create)?;
    it.asks_twice()?;
    let now = it.names()?;
    let counted = count(it)?;
    it.domain.muster(&["rule", "delete", RULE])?;
    if now != *names {
        return Err(format!("the workload has {now:?}, where it had {names:?}").into());
    }
    if counted != entries {
        return Err(format!("{counted} entries, where there were {entries}").into());
    }
    let listed = it.operator().json(&["entry", "show"])?.to_string();
    if listed.contains(task) {
        return Err(format!("the task {task} is among the entries").into());
    }
    it.asks_twice()
}

/// An agent is an entry to SPIRE's agent, until its class keeps its identity back.
pub(super) fn agent_class(it: &Guest<'_>) -> Outcome {
    let agent = format!("spiffe://{TRUST_DOMAIN}/agent/{CLASS}/on-spire");
    let entry = it.register(&agent, &[])?;
    it.comes_to(&[&agent])?;
    let class = |step: &str| {
        let words = ["agent", "class", step, CLASS, "--reason", "interop"];
        it.domain.muster(&words).map(drop)
    };
    class("suspend")?;
    it.comes_to(&[])?;
    class("reinstate")?;
    it.comes_to(&[&agent])?;
    it.operator()
        .json(&["entry", "delete", "-entryID", &entry])?;
    it.comes_to(&[])?;
    Ok("gone while its class is suspended; the workload's other identity stays".to_owned())
}

fn count(it: &Guest<'_>) -> Result<u64, Failure> {
    let counted = it.operator().json(&["entry", "count"])?;
    let count = counted.get("count").and_then(Value::as_u64);
    Ok(count.ok_or_else(|| format!("no count in {counted}"))?)
}
