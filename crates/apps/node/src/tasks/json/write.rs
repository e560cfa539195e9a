//! Messages as protobuf writes them in JSON: lowerCamelCase, what says nothing left out, whole
//! numbers of 64 bits as strings, instants as RFC 3339 has them.

use muster_proto::muster::agent::v1 as api;
use serde_json::{Map, Value, json};

/// A task.
pub(super) fn task(task: &api::Task) -> Value {
    let mut object = Object::default();
    object.text("id", &task.id);
    object.text("spiffeId", &task.spiffe_id);
    object.text("agent", &task.agent);
    object.text("class", &task.class);
    object.text("parent", &task.parent);
    object.text("root", &task.root);
    object.text("kind", &task.kind);
    object.text("purposeSha256", &task.purpose_sha256);
    if let Some(permissions) = &task.permissions {
        let mut below = Object::default();
        below.texts("scopes", &permissions.scopes);
        below.texts("resources", &permissions.resources);
        object
            .0
            .insert("permissions".into(), Value::Object(below.0));
    }
    object.small("dataClass", task.data_class);
    if let Some(budget) = task.budget {
        object.0.insert("budget".into(), json!(budget.to_string()));
    }
    object.large("spent", task.spent);
    object.small("depth", task.depth);
    object.time("openedAt", task.opened_at.as_ref());
    object.time("deadline", task.deadline.as_ref());
    object.text("state", &task.state);
    object.text("cause", &task.cause);
    object.time("endedAt", task.ended_at.as_ref());
    if let Some(status) = task.exit_status {
        object.0.insert("exitStatus".into(), json!(status));
    }
    object.text("nodeId", &task.node_id);
    if let Some(bound_to) = &task.bound_to {
        let mut below = Object::default();
        below.text("kind", &bound_to.kind);
        below.small("pid", bound_to.pid);
        below.large("startTime", bound_to.start_time);
        below.text("bootId", &bound_to.boot_id);
        below.large("cgroupId", bound_to.cgroup_id);
        object.0.insert("boundTo".into(), Value::Object(below.0));
    }
    object.text("socket", &task.socket);
    Value::Object(object.0)
}

/// An event.
pub(super) fn event(event: &api::TaskEvent) -> Value {
    let mut object = Object::default();
    object.time("at", event.at.as_ref());
    object.text("what", &event.what);
    if let Some(of) = &event.task {
        object.0.insert("task".into(), task(of));
    }
    Value::Object(object.0)
}

#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.0.insert(name.into(), json!(text));
        }
    }

    fn texts(&mut self, name: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.0.insert(name.into(), json!(texts));
        }
    }

    fn small(&mut self, name: &str, number: u32) {
        if number != 0 {
            self.0.insert(name.into(), json!(number));
        }
    }

    fn large(&mut self, name: &str, number: u64) {
        if number != 0 {
            self.0.insert(name.into(), json!(number.to_string()));
        }
    }

    fn time(&mut self, name: &str, at: Option<&prost_types::Timestamp>) {
        let text = at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
        if let Some(at) = text {
            self.0.insert(name.into(), json!(at.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_protobuf_writes_it() {
        let opened = api::Task {
            id: "T".into(),
            budget: Some(0),
            spent: 1 << 60,
            data_class: 2,
            opened_at: Some(prost_types::Timestamp {
                seconds: 7,
                nanos: 250_000_000,
            }),
            exit_status: Some(0),
            bound_to: Some(api::BoundTo {
                pid: 5,
                ..api::BoundTo::default()
            }),
            ..api::Task::default()
        };
        let expected = r#"{"id":"T","dataClass":2,"budget":"0","spent":"1152921504606846976","openedAt":"1970-01-01T00:00:07.25Z","exitStatus":0,"boundTo":{"pid":5}}"#;
        assert_eq!(task(&opened).to_string(), expected);
    }
}
