//! `muster.agent.v1.TaskLedger`: the tasks of all nodes, for operators.

use std::sync::Arc;

use muster_proto::muster::agent::v1::{
    GetLedgerRequest, ListLedgerRequest, ListLedgerResponse, RevokeTaskRequest, RevokeTaskResponse,
    Task, task_ledger_server,
};
use tonic::{Request, Response, Status};

use crate::server::Server;
use crate::tasks;

/// The service.
pub(crate) struct TaskLedgerService(pub Arc<Server>);

#[tonic::async_trait]
impl task_ledger_server::TaskLedger for TaskLedgerService {
    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/tasks.rs`, `edge/wire/task.rs`.
    async fn list_tasks(
        &self,
        request: Request<ListLedgerRequest>,
    ) -> Result<Response<ListLedgerResponse>, Status> {
        tasks::list_all(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/tasks.rs`, `edge/wire/task.rs`.
    async fn get_task(&self, request: Request<GetLedgerRequest>) -> Result<Response<Task>, Status> {
        tasks::show(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/task/course.rs`, `core/roll/concern.rs`
    /// (whose view changes).
    async fn revoke_task(
        &self,
        request: Request<RevokeTaskRequest>,
    ) -> Result<Response<RevokeTaskResponse>, Status> {
        tasks::revoke(&self.0, request).await
    }
}
