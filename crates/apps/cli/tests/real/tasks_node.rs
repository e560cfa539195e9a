//! A node that serves `muster.agent.v1.Tasks` and nothing else: real gRPC on a real socket, and no
//! judgement of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use muster_peer::{Limits, ListenOptions, Listener};
use muster_proto::muster::agent::v1::tasks_server::{Tasks, TasksServer};
use muster_proto::muster::agent::v1::{
    EndTaskRequest, ExtendTaskRequest, GetTaskRequest, ListTasksRequest, ListTasksResponse,
    OpenTaskRequest, SpendTaskRequest, Task, TaskEvent, WatchTaskEventsRequest, task_binding,
};
use muster_wire::error_info::{MUSTER_DOMAIN, status_of};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

/// The task that it opens.
pub(crate) const TASK: &str = "01JDQ8Z0000000000000000000";

/// What it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) open: Option<OpenTaskRequest>,
    /// What the process that the task is bound to was executing when it was opened.
    pub(crate) executing: PathBuf,
    /// "complete" or "fail".
    pub(crate) ended: Vec<&'static str>,
}

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Opens,
    Refuses,
}

/// The node; it serves until it is dropped.
pub(crate) struct TasksNode {
    _runtime: tokio::runtime::Runtime,
    asked: Arc<Mutex<Asked>>,
    pub(crate) socket: PathBuf,
}

impl TasksNode {
    pub(crate) fn start(folder: &Path, manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket = folder.join("node.sock");
        let asked = Arc::new(Mutex::new(Asked::default()));
        let service = Service {
            asked: Arc::clone(&asked),
            manner,
            task_socket: folder.join("t/api.sock"),
        };
        let incoming = {
            let _in = runtime.enter();
            Listener::bind(&socket, &ListenOptions::default())
                .unwrap()
                .incoming(Limits::default())
                .unwrap()
        };
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(TasksServer::new(service))
                .serve_with_incoming(incoming),
        );
        Self {
            _runtime: runtime,
            asked,
            socket,
        }
    }

    pub(crate) fn asked(&self) -> Asked {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

struct Service {
    asked: Arc<Mutex<Asked>>,
    manner: Manner,
    task_socket: PathBuf,
}

impl Service {
    fn task(&self, state: &str) -> Task {
        Task {
            id: TASK.into(),
            spiffe_id: format!("spiffe://example.org/agent/reader/1/t/{TASK}"),
            agent: "spiffe://example.org/agent/reader/1".into(),
            class: "reader".into(),
            kind: "code.review".into(),
            state: state.into(),
            socket: self.task_socket.display().to_string(),
            ..Task::default()
        }
    }
}

/// As the node wants it of every call.
fn header<T>(request: &Request<T>) -> Result<(), Status> {
    let said = request.metadata().get("workload.spiffe.io");
    if said.is_some_and(|value| value == "true") {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "security header missing from request",
    ))
}

#[tonic::async_trait]
impl Tasks for Service {
    type LeaseStream = ReceiverStream<Result<Task, Status>>;
    type WatchEventsStream = ReceiverStream<Result<TaskEvent, Status>>;

    async fn open(&self, request: Request<OpenTaskRequest>) -> Result<Response<Task>, Status> {
        header(&request)?;
        let message = request.into_inner();
        let to = message.binding.clone().and_then(|binding| binding.to);
        if let Some(task_binding::To::ChildPid(pid)) = to {
            let executing = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            self.asked.lock().unwrap().executing = executing;
        }
        self.asked.lock().unwrap().open = Some(message);
        match self.manner {
            Manner::Opens => Ok(Response::new(self.task("open"))),
            Manner::Refuses => Err(status_of(
                MUSTER_DOMAIN,
                Code::PermissionDenied,
                "scope \"all\" is wider than its class allows",
                "SCOPE_NOT_ALLOWED",
            )),
        }
    }

    async fn lease(
        &self,
        _request: Request<OpenTaskRequest>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        Err(Status::unimplemented("no lease"))
    }

    async fn get(&self, request: Request<GetTaskRequest>) -> Result<Response<Task>, Status> {
        header(&request)?;
        Ok(Response::new(self.task("open")))
    }

    async fn list(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        header(&request)?;
        let tasks = vec![self.task("open")];
        Ok(Response::new(ListTasksResponse { tasks }))
    }

    async fn extend(&self, request: Request<ExtendTaskRequest>) -> Result<Response<Task>, Status> {
        header(&request)?;
        let mut task = self.task("open");
        task.deadline = Some(prost_types::Timestamp {
            seconds: request.get_ref().ttl.as_ref().unwrap().seconds,
            nanos: 0,
        });
        Ok(Response::new(task))
    }

    async fn spend(&self, request: Request<SpendTaskRequest>) -> Result<Response<Task>, Status> {
        header(&request)?;
        let mut task = self.task("open");
        task.spent = request.get_ref().amount;
        Ok(Response::new(task))
    }

    async fn complete(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        header(&request)?;
        self.asked.lock().unwrap().ended.push("complete");
        Ok(Response::new(self.task("completed")))
    }

    async fn fail(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        header(&request)?;
        self.asked.lock().unwrap().ended.push("fail");
        Ok(Response::new(self.task("failed")))
    }

    async fn watch_events(
        &self,
        request: Request<WatchTaskEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        header(&request)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let event = TaskEvent {
            at: None,
            what: "ended".into(),
            task: Some(self.task("completed")),
        };
        sender.send(Ok(event)).await.unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
