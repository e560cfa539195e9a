//! The bench as an agent: a class, an identity of it on each node, and tasks.

use std::path::Path;
use std::time::Duration;

use muster_model::{SpiffeId, Timestamp};
use muster_proto::muster::agent::v1::registry_client::RegistryClient;
use muster_proto::muster::agent::v1::task_binding::{Caller, To};
use muster_proto::muster::agent::v1::tasks_client::TasksClient;
use muster_proto::muster::agent::v1::{
    ClassSpec, ClassStepRequest, CreateClassRequest, EndTaskRequest, OpenTaskRequest, Permissions,
    Task, TaskBinding,
};
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_wire::agent::write_time;
use nix::unistd::getuid;
use tonic::Status;
use tonic::transport::Channel;

use crate::Failure;
use crate::caller::{create, entry, with_header};
use crate::clock::wall;
use crate::subject::Own;

/// The class of all agents here.
const CLASS: &str = "bench";
const SCOPE: &str = "bench.use";
const DAY: Duration = Duration::from_hours(24);

/// Creates and approves the class.
pub(super) async fn found(own: &Own) -> Result<(), Failure> {
    let in_days = |days: u32| -> prost_types::Timestamp {
        let at: Timestamp = wall().plus(DAY * days);
        write_time(at)
    };
    let spec = ClassSpec {
        display_name: "Bench".into(),
        purposes: vec!["testing".into()],
        owner: "mailto:olga@example.org".into(),
        sponsor: "mailto:sam@example.org".into(),
        risk_tier: 1,
        data_ceiling: 1,
        permissions: Some(permissions()),
        valid_until: Some(in_days(30)),
        review_by: Some(in_days(29)),
        ..ClassSpec::default()
    };
    let mut registry = RegistryClient::new(own.admin().await?);
    registry
        .create_class(CreateClassRequest {
            name: CLASS.into(),
            spec: Some(spec),
            reason: String::new(),
        })
        .await?;
    registry.approve_class(step()).await?;
    Ok(())
}

/// Gives this user's processes on each node an identity of the class.
pub(super) async fn register(own: &Own, nodes: &[SpiffeId]) -> Result<(), Failure> {
    let mut api = EntryClient::new(own.admin().await?);
    let selector = [("unix", format!("uid:{}", getuid()))];
    let entries = nodes
        .iter()
        .enumerate()
        .map(|(number, node)| entry(node, &format!("/agent/{CLASS}/{number}"), &selector))
        .collect();
    create(&mut api, entries).await?;
    Ok(())
}

/// Suspends the class.
pub(super) async fn suspend(own: &Own) -> Result<(), Failure> {
    RegistryClient::new(own.admin().await?)
        .suspend_class(step())
        .await?;
    Ok(())
}

fn step() -> ClassStepRequest {
    ClassStepRequest {
        name: CLASS.into(),
        reason: "a measurement".into(),
        version: None,
    }
}

fn permissions() -> Permissions {
    Permissions {
        scopes: vec![SCOPE.into()],
        resources: Vec::new(),
    }
}

/// The tasks of one node. Clones share a connection.
#[derive(Clone)]
pub(super) struct Tasks(TasksClient<Channel>);

impl Tasks {
    /// Connects to the Workload API of a node.
    pub(super) async fn at(socket: &Path) -> Result<Self, Failure> {
        Ok(Self(TasksClient::new(muster_peer::connect(socket).await?)))
    }

    /// Opens a task of the bench's own process.
    pub(super) async fn open(&mut self) -> Result<Task, Status> {
        self.open_bound(To::Caller(Caller {})).await
    }

    /// Opens a task of a child.
    pub(super) async fn open_for(&mut self, pid: u32) -> Result<Task, Status> {
        self.open_bound(To::ChildPid(pid)).await
    }

    async fn open_bound(&mut self, to: To) -> Result<Task, Status> {
        let request = OpenTaskRequest {
            kind: "bench.work".into(),
            permissions: Some(permissions()),
            data_class: 1,
            binding: Some(TaskBinding { to: Some(to) }),
            ..OpenTaskRequest::default()
        };
        Ok(self.0.open(with_header(request)).await?.into_inner())
    }

    /// Ends a task.
    pub(super) async fn complete(&mut self, id: String) -> Result<(), Status> {
        let request = EndTaskRequest { id };
        self.0.complete(with_header(request)).await?;
        Ok(())
    }
}
