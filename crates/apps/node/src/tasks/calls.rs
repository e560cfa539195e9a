//! The calls about tasks, whichever way they came: who calls, what it may, what is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Extensions, HeaderMap};
use muster_model::{SpiffeId, TaskId};
use muster_peer::{Assurance, Caller, Processes};
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::node::v1 as node;
use muster_roster::Who;
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use muster_task::{Cause, LeaseId};
use muster_wire::trace::TraceId;
use muster_wire::{rule as wire_rule, selector};
use tokio::sync::{RwLock, Semaphore, mpsc, oneshot, watch};

use super::binding::{self, Resolved};
use super::desk::{Command, Desk, How, Order, Sight, Viewer, Which};
use super::keeper::WATCH_BEHIND;
use super::refused::{Reason, Refused};
use super::server::Server;
use super::sockets::selector_of;
use super::wire;
use crate::driver::{Driver, Matched};
use crate::workload_api::caller::{CallerAttestor, Place};
use crate::workload_api::check_security_header;

/// What opening a task costs of its caller's allowance, in ordinary calls: an estimate from the time
/// that it takes of a core, with its SVID and its end (`cargo xtask bench -- --only tasks`). By the
/// defaults one user opens and ends more than a thousand in a second.
const OPEN_COSTS: u32 = 6;

/// Who calls.
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    who: Who,
    on: Option<TaskId>,
    place: Place,
    /// Of the caller, or of this call.
    trace: TraceId,
}

impl Admitted {
    fn viewer(&self) -> Viewer {
        Viewer {
            process: self.caller.process().clone(),
            on: self.on,
        }
    }
}

/// A task that a stream holds.
pub(crate) struct Leased {
    pub(crate) task: api::Task,
    pub(crate) changes: watch::Receiver<Option<api::Task>>,
    /// Ends the task when dropped.
    pub(crate) lease: Lease,
}

/// A stream's hold on a task.
pub(crate) struct Lease {
    id: LeaseId,
    desk: Desk,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.desk.tell(Command::LeaseEnded(self.id));
    }
}

/// The calls.
pub(crate) struct Calls {
    pub(crate) callers: CallerAttestor,
    pub(crate) driver: Driver,
    pub(crate) desk: Desk,
    pub(crate) server: Server,
    pub(crate) processes: Processes,
    pub(crate) boot_id: Arc<str>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) turn: Arc<RwLock<()>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) next_lease: AtomicU64,
    /// Where the sockets would be, if their paths are too long for one.
    pub(crate) unfit: Option<String>,
}

impl Calls {
    /// Lets a call in and finds out who makes it, as the Workload API does.
    ///
    /// # Path
    ///
    /// `edge/peer` (whose message it is), `adapters/attest` (who that is).
    pub(crate) async fn admit(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Admitted, Refused> {
        check_security_header(headers)
            .map_err(|status| Refused::from_status(Reason::SecurityHeaderMissing, &status))?;
        let place = self
            .callers
            .place(extensions)
            .map_err(|status| Refused::from_status(Reason::TooManyCalls, &status))?;
        let attested = self
            .callers
            .attest(extensions, &place)
            .await
            .map_err(|status| Refused::from_status(Reason::NotAttested, &status))?;
        Ok(Admitted {
            who: attested.who(),
            on: attested.task(),
            caller: attested.caller,
            place,
            trace: TraceId::of_headers(headers),
        })
    }

    /// # Path
    ///
    /// `tasks/binding.rs` (to what it is bound), `core/roll/agents/task.rs` on the server (whether it
    /// may be), `core/task` (what ends it).
    pub(crate) async fn open(
        self: &Arc<Self>,
        by: &Admitted,
        request: api::OpenTaskRequest,
    ) -> Result<api::Task, Refused> {
        let resolved = binding::resolve(request.binding.as_ref(), &by.caller, &self.processes)?;
        self.open_bound(by, request, resolved, LeaseId(0), None)
            .await
    }

    /// # Path
    ///
    /// As [`Calls::open`].
    pub(crate) async fn lease(
        self: &Arc<Self>,
        by: &Admitted,
        request: api::OpenTaskRequest,
    ) -> Result<Leased, Refused> {
        let resolved = binding::lease(request.binding.as_ref(), &by.caller)?;
        let id = LeaseId(self.next_lease.fetch_add(1, Ordering::Relaxed));
        // From here on: who goes away while the task is being opened ends it as well.
        let lease = Lease {
            id,
            desk: self.desk.clone(),
        };
        let (sender, changes) = watch::channel(None);
        let task = self
            .open_bound(by, request, resolved, id, Some(sender))
            .await?;
        Ok(Leased {
            task,
            changes,
            lease,
        })
    }

    async fn open_bound(
        self: &Arc<Self>,
        by: &Admitted,
        mut task: api::OpenTaskRequest,
        resolved: Resolved,
        lease: LeaseId,
        changes: Option<watch::Sender<Option<api::Task>>>,
    ) -> Result<api::Task, Refused> {
        by.place.charge(OPEN_COSTS);
        if let Some(directory) = &self.unfit {
            return Err(Refused::new(
                Reason::NotInForce,
                format!(
                    "no socket can be made below {directory}: its path would be too long; set tasks.directory in the node's configuration to a shorter one"
                ),
            ));
        }
        let attested = self.clock.now().mono;
        let parent = self.parent(by, &task).await?;
        let agent = match &parent {
            Some(parent) if task.agent.is_empty() || by.on.is_some() => parent.task.agent.clone(),
            Some(_) | None => self.agent(by, &task).await?,
        };
        let mut facts: Vec<_> = by.who.selectors.iter().map(selector::write).collect();
        if let Some(parent) = &parent {
            task.parent.clone_from(&parent.task.id);
            // The node has seen that the caller is bound to it: that is a fact about it too.
            let id = TaskId::parse(&task.parent).ok();
            let fact = id.and_then(selector_of).map(|fact| selector::write(&fact));
            facts.extend(fact.filter(|_| by.on.is_none()));
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_full| {
            Refused::new(
                Reason::TooManyTasks,
                "the node has as many tasks as it may (tasks.max); end some first",
            )
        })?;
        let request = node::OpenRequest {
            agent,
            facts,
            level: level(by.caller.assurance()),
            age: duration(self.clock.now().mono.saturating_sub(attested)),
            task: Some(task),
            bound_to: Some(resolved.bound.describe(&self.boot_id)),
            caller: by.who.process.as_ref().map(wire_rule::write_mark),
        };
        by.caller
            .verify()
            .map_err(|refusal| Refused::new(Reason::NotAttested, refusal.to_string()))?;
        let process = by.caller.process().clone();
        let (calls, bound, owner) = (self.clone(), resolved.bound, resolved.owner);
        let trace = by.trace;
        let (reply, opened) = oneshot::channel();
        // By itself: whoever hangs up now must not leave a task of which the node does not know.
        tokio::spawn(async move {
            let turn = calls.turn.read().await;
            let answer = match calls.server.open(request, trace).await {
                Ok(node::OpenResponse {
                    task: Some(task), ..
                }) => {
                    let order = Order {
                        task,
                        bound,
                        lease,
                        owner,
                        opener: process,
                        place,
                        changes,
                        trace,
                    };
                    calls.desk.open(order).await
                }
                Ok(_) => Err(Refused::new(
                    Reason::ServerRefused,
                    "the server answered without a task",
                )),
                Err(status) => {
                    let refused = Refused::by_server(&status);
                    tracing::debug!(trace_id = %trace, reason = &*refused.reason, "a task was not opened");
                    // A refusal opened nothing; of an answer that did not come, nobody knows.
                    if refused.reason == Reason::ServerUnavailable.as_str() {
                        calls.desk.tell(Command::OpenFailed);
                    }
                    Err(refused)
                }
            };
            drop(turn);
            if let Err(Ok(task)) = reply.send(answer)
                && let Ok(id) = TaskId::parse(&task.id)
            {
                let _ended = calls.desk.end(id, How::Failed(Cause::CallerGone)).await;
            }
        });
        let task = opened.await.map_err(|_ended| Refused::shutting_down())??;
        metrics::counter!("muster_node_tasks_opened_total").increment(1);
        Ok(task)
    }

    /// The task that a new one is part of, to which its caller must be bound.
    async fn parent(
        &self,
        by: &Admitted,
        request: &api::OpenTaskRequest,
    ) -> Result<Option<Sight>, Refused> {
        let id = match (request.parent.as_str(), by.on) {
            ("", None) => return Ok(None),
            ("", Some(on)) => on,
            (named, on) => {
                let id = TaskId::parse(named).map_err(|why| Refused::field("parent", why))?;
                // What is attested as a task opens tasks of that task only.
                if on.is_some_and(|on| on != id) {
                    return Err(not_bound(id));
                }
                id
            }
        };
        let sight = self.desk.see(id, by.viewer()).await?;
        match sight {
            Some(sight) if !sight.live => Err(ended(&sight.task)),
            Some(sight) if sight.bound => Ok(Some(sight)),
            Some(_) | None => Err(not_bound(id)),
        }
    }

    /// The identity that opens a task.
    async fn agent(
        &self,
        by: &Admitted,
        request: &api::OpenTaskRequest,
    ) -> Result<String, Refused> {
        let matched = self.identities(by).await?;
        let mut identities: Vec<SpiffeId> = matched.identities;
        identities.sort_unstable();
        identities.dedup();
        if !request.agent.is_empty() {
            let named =
                SpiffeId::parse(&request.agent).map_err(|why| Refused::field("agent", why))?;
            return if identities.contains(&named) {
                Ok(request.agent.clone())
            } else {
                Err(Refused::new(
                    Reason::AgentNotYours,
                    format!("the caller does not have the identity {named}"),
                ))
            };
        }
        if identities.is_empty() {
            return Err(if matched.in_step {
                Refused::new(
                    Reason::NoIdentity,
                    "no identity issued: only an agent that the server knows opens tasks",
                )
            } else {
                Refused::new(
                    Reason::NotInStep,
                    "the node is not in step with its server, and no identity is known for the caller yet",
                )
            });
        }
        let below = |prefix: &str| {
            let of = |id: &&SpiffeId| id.path().starts_with(prefix);
            identities.iter().filter(of).collect::<Vec<_>>()
        };
        let agents = if request.class.is_empty() {
            below("/agent/")
        } else {
            below(&format!("/agent/{}/", request.class))
        };
        match (&agents[..], &identities[..]) {
            ([agent], _) => Ok(agent.as_str().to_owned()),
            // Its entry may name a class that its path does not.
            ([], [only]) => Ok(only.as_str().to_owned()),
            _ => {
                let names: Vec<&str> = identities.iter().map(SpiffeId::as_str).collect();
                Err(Refused::new(
                    Reason::AgentAmbiguous,
                    format!(
                        "the caller has {} identities ({}); name the one that opens the task in agent",
                        names.len(),
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// What the caller may answer to. As on the Workload API, one that asks before its entry has come
    /// is held, not denied: its stream of X509-SVIDs says something when there is an identity, or
    /// when the hold is over.
    async fn identities(&self, by: &Admitted) -> Result<Matched, Refused> {
        let stopped = |_stopped| Refused::shutting_down();
        let matched = self.driver.identities(by.who.clone()).await;
        let matched = matched.map_err(stopped)?;
        if !matched.identities.is_empty() {
            return Ok(matched);
        }
        let held = self.driver.x509_svids(by.who.clone());
        let mut held = held.map_err(stopped)?;
        tokio::select! {
            _told = held.answers.told() => {}
            _exited = by.caller.exited() => {}
            _reason = self.shutdown.begun() => return Err(Refused::shutting_down()),
        }
        let matched = self.driver.identities(by.who.clone()).await;
        matched.map_err(stopped)
    }

    /// # Path
    ///
    /// `core/task`.
    pub(crate) async fn get(&self, by: &Admitted, id: &str) -> Result<api::Task, Refused> {
        Ok(self.sight(by, id).await?.1.task)
    }

    /// # Path
    ///
    /// `core/task`.
    pub(crate) async fn list(
        &self,
        by: &Admitted,
        which: Which,
    ) -> Result<Vec<api::Task>, Refused> {
        self.desk.list(by.viewer(), which).await
    }

    /// # Path
    ///
    /// `core/roll/agents/task.rs` on the server, `core/task`.
    pub(crate) async fn extend(
        &self,
        by: &Admitted,
        request: api::ExtendTaskRequest,
    ) -> Result<api::Task, Refused> {
        let (id, _) = self.live(by, &request.id).await?;
        let deadline = match (request.deadline, request.ttl) {
            (Some(deadline), None) => deadline,
            (None, Some(ttl)) => {
                let ttl = Duration::try_from(ttl)
                    .map_err(|_negative| Refused::field("ttl", "a time to live is positive"))?;
                wire::write_time(self.clock.now().wall.plus(ttl))
            }
            (Some(_), Some(_)) | (None, None) => {
                return Err(Refused::field(
                    "deadline",
                    "give deadline or ttl, one of them",
                ));
            }
        };
        let request = node::ExtendRequest {
            id: id.to_string(),
            deadline: Some(deadline),
        };
        let asked = self.server.extend(request, by.trace);
        let task = self.within_shutdown(asked).await?;
        tracing::debug!(trace_id = %by.trace, task_id = %id, "task extended");
        self.standing(id, vec![task]).await
    }

    /// # Path
    ///
    /// `core/roll/agents/task.rs` on the server, `core/task`.
    pub(crate) async fn spend(
        &self,
        by: &Admitted,
        request: api::SpendTaskRequest,
    ) -> Result<api::Task, Refused> {
        let (id, _) = self.live(by, &request.id).await?;
        let request = node::SpendRequest {
            id: id.to_string(),
            amount: request.amount,
        };
        let asked = self.server.spend(request, by.trace);
        let answer = self.within_shutdown(asked).await?;
        tracing::debug!(trace_id = %by.trace, task_id = %id, "task spent");
        let tasks = answer.task.into_iter().chain(answer.ended).collect();
        self.standing(id, tasks).await
    }

    /// # Path
    ///
    /// `core/task`: the end is the node's own word, in an outage as well.
    pub(crate) async fn end(
        &self,
        by: &Admitted,
        id: &str,
        how: How,
    ) -> Result<api::Task, Refused> {
        let (id, _) = self.live(by, id).await?;
        let task = self.desk.end(id, how).await?;
        task.ok_or_else(|| not_found(&id.to_string()))
    }

    pub(crate) fn watch(&self, by: &Admitted) -> mpsc::Receiver<api::TaskEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_BEHIND);
        self.desk.tell(Command::Watch(by.viewer(), sender));
        receiver
    }

    async fn within_shutdown<T>(
        &self,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, Refused> {
        tokio::select! {
            answer = call => answer.map_err(|status| Refused::by_server(&status)),
            _reason = self.shutdown.begun() => Err(Refused::shutting_down()),
        }
    }

    async fn standing(&self, id: TaskId, tasks: Vec<api::Task>) -> Result<api::Task, Refused> {
        let task = self.desk.stands(tasks).await?;
        task.ok_or_else(|| not_found(&id.to_string()))
    }

    async fn live(&self, by: &Admitted, id: &str) -> Result<(TaskId, Sight), Refused> {
        let (id, sight) = self.sight(by, id).await?;
        if sight.live {
            Ok((id, sight))
        } else {
            Err(ended(&sight.task))
        }
    }

    async fn sight(&self, by: &Admitted, id: &str) -> Result<(TaskId, Sight), Refused> {
        let id = match (id, by.on) {
            ("", Some(on)) => on,
            (named, _) => TaskId::parse(named).map_err(|why| Refused::field("id", why))?,
        };
        let sight = self.desk.see(id, by.viewer()).await?;
        sight
            .map(|sight| (id, sight))
            .ok_or_else(|| not_found(&id.to_string()))
    }
}

fn not_found(id: &str) -> Refused {
    Refused::new(
        Reason::TaskNotFound,
        format!("there is no task {id} that the caller opened or is bound to"),
    )
}

fn not_bound(id: TaskId) -> Refused {
    Refused::new(
        Reason::ParentNotBound,
        format!("the caller is not bound to task {id}; only what is a task opens tasks below it"),
    )
}

fn ended(task: &api::Task) -> Refused {
    Refused::new(
        Reason::TaskEnded,
        format!(
            "task {} has ended: {} ({})",
            task.id, task.state, task.cause
        ),
    )
}

/// How surely the caller is known, for the server: 0 would be not at all.
fn level(assurance: Assurance) -> u32 {
    match assurance {
        Assurance::OpenedPidfd => 1,
        Assurance::ConnectorPidfd => 2,
        Assurance::SenderPidfd => 3,
    }
}

fn duration(by: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(by).ok()
}
