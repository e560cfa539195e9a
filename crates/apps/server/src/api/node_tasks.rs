//! `muster.node.v1.NodeTasks`: the tasks of the calling node.

use std::sync::Arc;

use muster_proto::muster::agent::v1::Task;
use muster_proto::muster::node::v1::{
    EndRequest, EndResponse, ExtendRequest, ListRequest, ListResponse, OpenRequest, OpenResponse,
    SpendRequest, SpendResponse, node_tasks_server,
};
use tonic::{Request, Response, Status};

use crate::server::Server;
use crate::tasks;

/// The service.
pub(crate) struct NodeTasksService(pub Arc<Server>);

#[tonic::async_trait]
impl node_tasks_server::NodeTasks for NodeTasksService {
    /// # Path
    ///
    /// `core/policy` (nodes may), `apps/server/tasks/open.rs`, `core/roll/agents/task/admit.rs`,
    /// `apps/server/tasks/ask.rs` (what policies are asked), `core/roll/view.rs`.
    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenResponse>, Status> {
        tasks::open(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/agents/task/course.rs`, `apps/server/tasks/ask.rs`.
    async fn extend(&self, request: Request<ExtendRequest>) -> Result<Response<Task>, Status> {
        tasks::extend(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/agents/task/course.rs`.
    async fn spend(
        &self,
        request: Request<SpendRequest>,
    ) -> Result<Response<SpendResponse>, Status> {
        tasks::spend(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/agents/task/course.rs`.
    async fn end(&self, request: Request<EndRequest>) -> Result<Response<EndResponse>, Status> {
        tasks::end(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (nodes may), `core/roll/agents/tasks.rs`.
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        tasks::list(&self.0, request).await
    }
}
