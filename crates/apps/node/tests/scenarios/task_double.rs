//! The double's tasks: opened for whoever asks, as entries of the node.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_model::{EntryId, SpiffeId, TaskId, Timestamp};
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::node::v1 as node;
use muster_proto::muster::node::v1::node_tasks_server::NodeTasks;
use muster_wire::entry as wire_entry;
use muster_wire::error_info::{MUSTER_DOMAIN, status_of};
use tonic::{Code, Request, Response, Status};

use crate::double::{Double, Mind, entry};
use crate::services::Services;

/// What the double knows of tasks.
#[derive(Default)]
pub(crate) struct Tasks {
    pub(crate) all: BTreeMap<TaskId, api::Task>,
    /// What the node asked for, and what it said.
    pub(crate) opened: Vec<node::OpenRequest>,
    pub(crate) ended: Vec<node::Ended>,
    /// With what to refuse the next one.
    pub(crate) refusal: Option<(Code, &'static str)>,
    /// How long a task lives that does not say.
    pub(crate) ttl: Option<Duration>,
    made: u8,
}

pub(crate) fn time(at: Timestamp) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: at.unix_seconds(),
        nanos: i32::try_from(at.unix_millis().rem_euclid(1000) * 1_000_000).unwrap(),
    })
}

impl Mind {
    /// Ends a task and all that are part of it.
    pub(crate) fn end_task(&mut self, id: TaskId, state: &str, cause: &str, now: Timestamp) {
        let Some(task) = self.tasks.all.get_mut(&id) else {
            return;
        };
        if task.ended_at.is_none() {
            task.state = state.to_owned();
            task.cause = cause.to_owned();
            task.ended_at = time(now);
        }
        self.entries
            .remove(&EntryId::parse(&id.to_string()).unwrap());
        let below: Vec<TaskId> = self
            .tasks
            .all
            .iter()
            .filter(|(_, task)| task.parent == id.to_string())
            .map(|(id, _)| *id)
            .collect();
        for id in below {
            self.end_task(id, "revoked", "parent_ended", now);
        }
    }
}

impl Double {
    /// An operator ends a task, or its class is suspended: its entry is gone.
    pub(crate) fn revoke_task(&self, id: &str, state: &str, cause: &str) {
        let id = TaskId::parse(id).unwrap();
        let now = self.shared.now();
        self.change(|mind| mind.end_task(id, state, cause, now));
    }

    pub(crate) fn task(&self, id: &str) -> api::Task {
        let id = TaskId::parse(id).unwrap();
        self.shared.mind().tasks.all[&id].clone()
    }
}

impl Services {
    fn changed(&self, change: impl FnOnce(&mut Mind)) {
        let revision = {
            let mut mind = self.0.mind();
            change(&mut mind);
            mind.revision += 1;
            mind.revision
        };
        self.0.changed.send_replace(revision);
    }
}

fn named(id: &str) -> Result<TaskId, Status> {
    TaskId::parse(id).map_err(|why| Status::invalid_argument(why.to_string()))
}

#[tonic::async_trait]
impl NodeTasks for Services {
    async fn open(
        &self,
        request: Request<node::OpenRequest>,
    ) -> Result<Response<node::OpenResponse>, Status> {
        let node_id = self.node(&request)?;
        let request = request.into_inner();
        let now = self.0.now();
        if let Some((code, reason)) = self.0.mind().tasks.refusal.take() {
            self.0.mind().hear("OpenTask");
            return Err(status_of(
                MUSTER_DOMAIN,
                code,
                "as the double was told",
                reason,
            ));
        }
        let mut answer = node::OpenResponse::default();
        self.changed(|mind| {
            mind.tasks.made += 1;
            let id = TaskId::new(now, [mind.tasks.made; 10]);
            let wanted = request.task.clone().unwrap();
            let ttl = wanted.ttl.map(|ttl| Duration::try_from(ttl).unwrap());
            let ttl = ttl.or(mind.tasks.ttl).unwrap_or(Duration::from_mins(10));
            let agent = SpiffeId::parse(&request.agent).unwrap();
            let path = format!("{}/t/{id}", agent.path());
            let above = TaskId::parse(&wanted.parent).ok();
            let above = above.map(|id| mind.tasks.all[&id].clone());
            let task = api::Task {
                id: id.to_string(),
                spiffe_id: format!("spiffe://example.org{path}"),
                agent: request.agent.clone(),
                root: above.map_or(id.to_string(), |above| above.root),
                parent: wanted.parent,
                kind: wanted.kind,
                purpose_sha256: wanted.purpose_sha256,
                permissions: wanted.permissions,
                data_class: wanted.data_class,
                budget: wanted.budget,
                opened_at: time(now),
                deadline: wanted.deadline.or(time(now.plus(ttl))),
                state: "open".to_owned(),
                node_id: node_id.as_str().to_owned(),
                bound_to: request.bound_to.clone(),
                ..api::Task::default()
            };
            let selector = format!("muster:task:{id}");
            let entry = entry(&id.to_string(), &path, &[&selector], now);
            mind.entries.insert(entry.id.clone(), entry.clone());
            mind.tasks.all.insert(id, task.clone());
            mind.tasks.opened.push(request);
            answer.task = Some(task);
            answer.entry = Some(wire_entry::write(&entry, None));
            answer.revision = mind.revision + 1;
        });
        self.0.mind().hear("OpenTask");
        Ok(Response::new(answer))
    }

    async fn extend(
        &self,
        request: Request<node::ExtendRequest>,
    ) -> Result<Response<api::Task>, Status> {
        self.node(&request)?;
        let request = request.into_inner();
        let id = named(&request.id)?;
        let mut mind = self.0.mind();
        let task = mind.tasks.all.get_mut(&id).unwrap();
        task.deadline = request.deadline;
        Ok(Response::new(task.clone()))
    }

    async fn spend(
        &self,
        request: Request<node::SpendRequest>,
    ) -> Result<Response<node::SpendResponse>, Status> {
        self.node(&request)?;
        let request = request.into_inner();
        let id = named(&request.id)?;
        let now = self.0.now();
        let mut answer = node::SpendResponse::default();
        self.changed(|mind| {
            let task = mind.tasks.all.get_mut(&id).unwrap();
            task.spent += request.amount;
            if task.budget.is_some_and(|budget| task.spent >= budget) {
                mind.end_task(id, "expired", "budget_spent", now);
            }
            let task = mind.tasks.all[&id].clone();
            answer.ended = task.ended_at.map(|_| task.clone()).into_iter().collect();
            answer.task = Some(task);
        });
        Ok(Response::new(answer))
    }

    async fn end(
        &self,
        request: Request<node::EndRequest>,
    ) -> Result<Response<node::EndResponse>, Status> {
        self.node(&request)?;
        let ended = request.into_inner().ended;
        let mut tasks = Vec::new();
        self.changed(|mind| {
            for end in &ended {
                let id = TaskId::parse(&end.id).unwrap();
                let at = end.ended_at.unwrap();
                let at = Timestamp::from_unix_seconds(at.seconds);
                mind.end_task(id, &end.state, &end.cause, at);
                tasks.extend(mind.tasks.all.get(&id).cloned());
            }
            mind.tasks.ended.extend(ended);
        });
        self.0.mind().hear("EndTasks");
        Ok(Response::new(node::EndResponse { tasks }))
    }

    async fn list(
        &self,
        request: Request<node::ListRequest>,
    ) -> Result<Response<node::ListResponse>, Status> {
        self.node(&request)?;
        let ids = request.into_inner().ids;
        let mind = self.0.mind();
        let all = mind.tasks.all.values();
        let tasks = all
            .filter(|task| {
                if ids.is_empty() {
                    task.ended_at.is_none()
                } else {
                    ids.contains(&task.id)
                }
            })
            .cloned()
            .collect();
        mind.hear("ListTasks");
        Ok(Response::new(node::ListResponse {
            tasks,
            next_page_token: String::new(),
        }))
    }
}
