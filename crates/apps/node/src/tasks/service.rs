//! `muster.agent.v1.Tasks` by gRPC, on the Workload API's socket and on those of tasks.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::agent::v1::tasks_server::{Tasks, TasksServer};
use muster_task::Cause;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::calls::{Admitted, Calls, Leased};
use super::desk::{How, Which};
use super::refused::{Reason, Refused};

/// The service's name on the wire.
pub(crate) const NAME: &str = "muster.agent.v1.Tasks";
/// The largest request, in bytes.
pub(crate) const REQUEST_MAX: usize = 64 * 1024;

/// The service. Clones share everything.
#[derive(Clone)]
pub(crate) struct TasksApi(pub(crate) Arc<Calls>);

pub(crate) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Refused>> + Send>>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl TasksApi {
    pub(crate) fn into_server(self) -> TasksServer<Self> {
        TasksServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }

    async fn admit<T>(&self, request: Request<T>) -> Result<(Admitted, T), Status> {
        let (metadata, extensions, message) = request.into_parts();
        let by = self.0.admit(&metadata.into_headers(), &extensions).await?;
        Ok((by, message))
    }
}

fn answers<T: Send + 'static>(messages: Messages<T>) -> Response<Answers<T>> {
    use futures::StreamExt as _;
    Response::new(Box::pin(
        messages.map(|message| message.map_err(Status::from)),
    ))
}

#[tonic::async_trait]
impl Tasks for TasksApi {
    type LeaseStream = Answers<api::Task>;
    type WatchEventsStream = Answers<api::TaskEvent>;

    async fn open(
        &self,
        request: Request<api::OpenTaskRequest>,
    ) -> Result<Response<api::Task>, Status> {
        let (by, message) = self.admit(request).await?;
        Ok(Response::new(self.0.open(&by, message).await?))
    }

    async fn lease(
        &self,
        request: Request<api::OpenTaskRequest>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        let (by, message) = self.admit(request).await?;
        let leased = self.0.lease(&by, message).await?;
        Ok(answers(follow_lease(self.0.clone(), by, leased)))
    }

    async fn get(
        &self,
        request: Request<api::GetTaskRequest>,
    ) -> Result<Response<api::Task>, Status> {
        let (by, message) = self.admit(request).await?;
        Ok(Response::new(self.0.get(&by, &message.id).await?))
    }

    async fn list(
        &self,
        request: Request<api::ListTasksRequest>,
    ) -> Result<Response<api::ListTasksResponse>, Status> {
        let (by, message) = self.admit(request).await?;
        let which = if message.ended {
            Which::AlsoEnded
        } else {
            Which::Live
        };
        let tasks = self.0.list(&by, which).await?;
        Ok(Response::new(api::ListTasksResponse { tasks }))
    }

    async fn extend(
        &self,
        request: Request<api::ExtendTaskRequest>,
    ) -> Result<Response<api::Task>, Status> {
        let (by, message) = self.admit(request).await?;
        Ok(Response::new(self.0.extend(&by, message).await?))
    }

    async fn spend(
        &self,
        request: Request<api::SpendTaskRequest>,
    ) -> Result<Response<api::Task>, Status> {
        let (by, message) = self.admit(request).await?;
        Ok(Response::new(self.0.spend(&by, message).await?))
    }

    async fn complete(
        &self,
        request: Request<api::EndTaskRequest>,
    ) -> Result<Response<api::Task>, Status> {
        let (by, message) = self.admit(request).await?;
        let task = self.0.end(&by, &message.id, How::Completed).await?;
        Ok(Response::new(task))
    }

    async fn fail(
        &self,
        request: Request<api::EndTaskRequest>,
    ) -> Result<Response<api::Task>, Status> {
        let (by, message) = self.admit(request).await?;
        let how = How::Failed(Cause::OwnWord);
        Ok(Response::new(self.0.end(&by, &message.id, how).await?))
    }

    async fn watch_events(
        &self,
        request: Request<api::WatchTaskEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (by, _) = self.admit(request).await?;
        let events = self.0.watch(&by);
        Ok(answers(follow_events(self.0.clone(), by, events)))
    }
}

/// The task as it was opened, then as it changes, then its end.
pub(crate) fn follow_lease(calls: Arc<Calls>, by: Admitted, leased: Leased) -> Messages<api::Task> {
    let Leased {
        task,
        mut changes,
        lease,
    } = leased;
    changes.mark_unchanged();
    let opened = Some(task);
    let begin = Some((calls, by, changes, lease, opened));
    Box::pin(stream::unfold(begin, |state| async move {
        let (calls, by, mut changes, lease, opened) = state?;
        if let Some(task) = opened {
            return Some((Ok(task), Some((calls, by, changes, lease, None))));
        }
        let next = tokio::select! {
            told = changes.changed() => match told {
                Err(_) if calls.shutdown.reason().is_some() => {
                    return Some((Err(Refused::shutting_down()), None));
                }
                told => told.ok(),
            },
            _exited = by.caller.exited() => None,
            _reason = calls.shutdown.begun() => {
                return Some((Err(Refused::shutting_down()), None));
            }
        };
        next?;
        if let Err(refused) = still_the_same(&by) {
            return Some((Err(refused), None));
        }
        let task = changes.borrow_and_update().clone()?;
        let over = task.ended_at.is_some();
        let state = (!over).then_some((calls, by, changes, lease, None));
        Some((Ok(task), state))
    }))
}

/// What happens to the caller's tasks.
pub(crate) fn follow_events(
    calls: Arc<Calls>,
    by: Admitted,
    events: mpsc::Receiver<api::TaskEvent>,
) -> Messages<api::TaskEvent> {
    let state = Some((calls, by, events));
    Box::pin(stream::unfold(state, |state| async move {
        let (calls, by, mut events) = state?;
        let next = tokio::select! {
            next = events.recv() => next,
            _exited = by.caller.exited() => return None,
            _reason = calls.shutdown.begun() => {
                return Some((Err(Refused::shutting_down()), None));
            }
        };
        let Some(event) = next else {
            // The keeper ends with the node, and may do so before this stream hears of that.
            if calls.shutdown.reason().is_some() {
                return Some((Err(Refused::shutting_down()), None));
            }
            let why = "the watcher did not read in time, or its task has ended; watch again";
            return Some((Err(Refused::new(Reason::TooSlow, why)), None));
        };
        match still_the_same(&by) {
            Ok(()) => Some((Ok(event), Some((calls, by, events)))),
            Err(refused) => Some((Err(refused), None)),
        }
    }))
}

/// What runs in the process now gets no news that another program asked for.
fn still_the_same(by: &Admitted) -> Result<(), Refused> {
    by.caller
        .verify()
        .map_err(|refusal| Refused::new(Reason::NotAttested, refusal.to_string()))
}
