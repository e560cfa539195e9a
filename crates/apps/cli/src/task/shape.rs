//! Tasks as JSON, with the field names of the protobuf files.

use muster_proto::muster::agent::v1::Task;
use serde_json::{Value, json};

fn seconds(at: Option<&prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

pub(crate) fn task(task: &Task) -> Value {
    let permissions = task.permissions.clone().unwrap_or_default();
    let bound = task.bound_to.clone().unwrap_or_default();
    json!({
        "id": task.id,
        "spiffe_id": task.spiffe_id,
        "agent": task.agent,
        "class": task.class,
        "parent": task.parent,
        "root": task.root,
        "kind": task.kind,
        "purpose_sha256": task.purpose_sha256,
        "permissions": { "scopes": permissions.scopes, "resources": permissions.resources },
        "data_class": task.data_class,
        "budget": task.budget,
        "spent": task.spent,
        "depth": task.depth,
        "opened_at": seconds(task.opened_at.as_ref()),
        "deadline": seconds(task.deadline.as_ref()),
        "state": task.state,
        "cause": task.cause,
        "ended_at": seconds(task.ended_at.as_ref()),
        "exit_status": task.exit_status,
        "node_id": task.node_id,
        "bound_to": {
            "kind": bound.kind,
            "pid": bound.pid,
            "start_time": bound.start_time,
            "boot_id": bound.boot_id,
            "cgroup_id": bound.cgroup_id,
        },
        "socket": task.socket,
    })
}
