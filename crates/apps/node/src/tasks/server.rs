//! What the node asks its server about tasks.

use std::time::Duration;

use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::node::v1 as node;
use muster_proto::muster::node::v1::node_tasks_client::NodeTasksClient;
use muster_wire::trace::TraceId;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::upstream::{MESSAGE_MAX, Upstream};

/// How long one call may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// The most pages of a list; a server that has more to say is not believed.
const PAGES_MAX: usize = 1000;

/// The server, as far as tasks go. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Server(Upstream);

impl Server {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self(upstream)
    }

    fn client(&self) -> NodeTasksClient<Channel> {
        NodeTasksClient::new(self.0.channel()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub(crate) async fn open(
        &self,
        request: node::OpenRequest,
        trace: TraceId,
    ) -> Result<node::OpenResponse, Status> {
        timed(self.client().open(trace.request(request))).await
    }

    pub(crate) async fn extend(
        &self,
        request: node::ExtendRequest,
        trace: TraceId,
    ) -> Result<api::Task, Status> {
        timed(self.client().extend(trace.request(request))).await
    }

    pub(crate) async fn spend(
        &self,
        request: node::SpendRequest,
        trace: TraceId,
    ) -> Result<node::SpendResponse, Status> {
        timed(self.client().spend(trace.request(request))).await
    }

    pub(crate) async fn end(
        &self,
        ended: Vec<node::Ended>,
        trace: TraceId,
    ) -> Result<Vec<api::Task>, Status> {
        let request = trace.request(node::EndRequest { ended });
        let answer = timed(self.client().end(request)).await?;
        Ok(answer.tasks)
    }

    /// The named tasks, or all of the node that have not ended.
    pub(crate) async fn list(&self, ids: Vec<String>) -> Result<Vec<api::Task>, Status> {
        let mut tasks = Vec::new();
        let mut request = node::ListRequest {
            ids,
            page_token: String::new(),
        };
        for _ in 0..PAGES_MAX {
            let answer = timed(self.client().list(request.clone())).await?;
            tasks.extend(answer.tasks);
            if answer.next_page_token.is_empty() {
                return Ok(tasks);
            }
            request.page_token = answer.next_page_token;
        }
        Err(Status::out_of_range(
            "the server's list of tasks does not end",
        ))
    }
}

async fn timed<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    tokio::time::timeout(RPC_TIMEOUT, call)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(Status::deadline_exceeded(
                "the server did not answer in time",
            ))
        })
        .map(Response::into_inner)
}
