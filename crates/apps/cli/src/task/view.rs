//! Tasks for people.

use muster_model::Timestamp;
use muster_proto::muster::agent::v1::Task;

use crate::output::Output;
use crate::time::{distance, rfc3339, with_distance};

fn seconds(at: Option<&prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

/// Many tasks, a line each.
pub(crate) fn tasks(tasks: &[Task], output: Output, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|task| {
            let end = if task.ended_at.is_some() {
                distance(seconds(task.ended_at.as_ref()), now)
            } else {
                distance(seconds(task.deadline.as_ref()), now)
            };
            vec![
                task.id.clone(),
                task.kind.clone(),
                task.state.clone(),
                end,
                task.agent.clone(),
                task.parent.clone(),
            ]
        })
        .collect();
    output.table(
        &["TASK", "KIND", "STATE", "END", "AGENT", "PART OF"],
        &rows,
        "No task.",
    )
}

/// One task with all that is set.
pub(crate) fn task(task: &Task, output: Output, now: Timestamp) -> String {
    let permissions = task.permissions.clone().unwrap_or_default();
    let budget = task
        .budget
        .map(|budget| format!("{} of {budget} spent", task.spent))
        .unwrap_or_default();
    let bound = task
        .bound_to
        .as_ref()
        .map(|bound| match bound.kind.as_str() {
            "process" => format!("process {}", bound.pid),
            other => other.to_owned(),
        });
    let fields = [
        ("Task", task.id.clone()),
        ("Identity", task.spiffe_id.clone()),
        ("Agent", task.agent.clone()),
        ("Class", task.class.clone()),
        ("Part of", task.parent.clone()),
        ("Kind", task.kind.clone()),
        ("Instruction", task.purpose_sha256.clone()),
        ("Scopes", permissions.scopes.join(" ")),
        ("Resources", permissions.resources.join(" ")),
        ("Data class", task.data_class.to_string()),
        ("Budget", budget),
        ("State", task.state.clone()),
        ("Cause", task.cause.clone()),
        (
            "Exit status",
            task.exit_status
                .map(|code| code.to_string())
                .unwrap_or_default(),
        ),
        (
            "Opened",
            with_distance(seconds(task.opened_at.as_ref()), now),
        ),
        (
            "Deadline",
            with_distance(seconds(task.deadline.as_ref()), now),
        ),
        ("Ended", with_distance(seconds(task.ended_at.as_ref()), now)),
        ("Node", task.node_id.clone()),
        ("Bound to", bound.unwrap_or_default()),
        ("Socket", task.socket.clone()),
    ];
    output.fields(&fields)
}

/// Something that happened to a task, on a line.
pub(crate) fn event(at: i64, what: &str, task: &Task) -> String {
    let state = if task.cause.is_empty() {
        task.state.clone()
    } else {
        format!("{} ({})", task.state, task.cause)
    };
    format!(
        "{}  {what:<8}  {}  {}  {state}\n",
        rfc3339(at),
        task.id,
        task.kind
    )
}
