//! The one wrapper of every RPC: authenticate, authorize, do, map the error, time it.
//!
//! A handler holds only the middle. What it writes goes through [`RollHandle::write`] with the
//! permit of its own action and with its audit record in the same transaction.
//!
//! [`RollHandle::write`]: crate::writer::RollHandle::write

use std::sync::Arc;

use muster_audit::{Actor, Decision, Event, Record, SvidKind};
use muster_model::{NodeStanding, SerialNumber, SpiffeId, Timestamp};
use muster_policy::{Action, Caller, Class, Denial, Permit, Principal, PromoteNode, decide};
use muster_roll::Roll;
use muster_wire::trace::TraceId;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use crate::caller::{Identified, identify};
use crate::metrics;
use crate::server::Server;

/// A permitted action under way.
pub(crate) struct Operation<A> {
    /// Proof that the caller may.
    pub permit: Permit<A>,
    /// When the request came.
    pub now: Timestamp,
    /// The roll as it was then.
    pub roll: Arc<Roll>,
    /// What the log lines and the audit records of this operation have in common.
    pub trace: TraceId,
}

impl<A> Operation<A> {
    /// The verified SPIFFE ID of the caller; an action that only nodes may do always has one.
    pub(crate) fn caller_id(&self) -> Result<&SpiffeId, Status> {
        self.permit
            .principal()
            .id
            .as_ref()
            .ok_or_else(|| Status::unauthenticated("a client certificate is required"))
    }

    /// The audit record of something that this operation did to `subject`.
    pub(crate) fn record(&self, event: Event, subject: impl Into<String>) -> Record {
        record(self.permit.principal(), self.now, event, subject)
            .with("trace_id", self.trace.to_string())
    }

    /// The audit record of an SVID that is issued to `subject`, or is not.
    pub(crate) fn svid_record(&self, kind: SvidKind, subject: impl Into<String>) -> Record {
        self.record(Event::SvidIssued, subject)
            .with("svid", kind.word())
    }
}

/// An audit record of something that `principal` did.
pub(crate) fn record(
    principal: &Principal,
    now: Timestamp,
    event: Event,
    subject: impl Into<String>,
) -> Record {
    let actor = Actor {
        class: class_name(principal.class).to_owned(),
        spiffe_id: principal.id.as_ref().map(ToString::to_string),
        pid: principal.process.map(|(pid, _)| pid),
        uid: principal.process.map(|(_, uid)| uid),
    };
    Record {
        at_ms: now.unix_millis(),
        event,
        actor,
        decision: Decision::Allowed,
        subject: subject.into(),
        detail: std::collections::BTreeMap::new(),
    }
}

const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Any => "any",
        Class::Local => "local",
        Class::Admin => "admin",
        Class::Downstream => "downstream",
        Class::Node => "node",
        Class::Lapsed => "lapsed-node",
        Class::System => "system",
    }
}

/// Runs `middle` for a caller who may do `A`.
pub(crate) async fn operate<A, Message, Answer, Middle>(
    server: &Arc<Server>,
    request: Request<Message>,
    middle: Middle,
) -> Result<Response<Answer>, Status>
where
    A: Action + 'static,
    Middle: AsyncFnOnce(Operation<A>, Message) -> Result<Answer, Status>,
{
    let started = server.clock.now().mono;
    let trace = TraceId::of(request.metadata());
    let span = tracing::debug_span!(
        "operation",
        method = A::ROW.method,
        trace_id = %trace,
        spiffe_id = tracing::field::Empty
    );
    async {
        let operation = begin::<A>(server, request.extensions(), trace).await;
        let outcome = match operation {
            Ok(operation) => middle(operation, request.into_inner()).await,
            Err(status) => Err(status),
        };
        let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
        metrics::answered(A::ROW.method, code);
        let elapsed_us = server.clock.now().mono.saturating_sub(started).as_micros();
        match &outcome {
            Ok(_) => tracing::debug!(elapsed_us, "done"),
            Err(status) => {
                tracing::info!(elapsed_us, trace_id = %trace, code = ?status.code(), error = status.message(), method = A::ROW.method, "refused or failed");
            }
        }
        outcome.map(Response::new)
    }
    .instrument(span)
    .await
}

/// Authenticates and authorizes; the refusal, if it comes to that, is on the record.
pub(crate) async fn begin<A: Action + 'static>(
    server: &Arc<Server>,
    extensions: &tonic::Extensions,
    trace: TraceId,
) -> Result<Operation<A>, Status> {
    let now = server.clock.now().wall;
    let roll = server.roll.snapshot();
    let Identified { caller, promote } = identify(extensions, &roll, server, now)?;
    if let Caller::Remote { id: Some(id), .. } = &caller {
        tracing::Span::current().record("spiffe_id", id.as_str());
    }
    match decide::<A>(&caller) {
        Ok(permit) => {
            if let (Some(serial), Some(id)) = (promote, &permit.principal().id) {
                promote_node(server, id.clone(), serial).await?;
            }
            Ok(Operation {
                permit,
                now,
                roll,
                trace,
            })
        }
        Err(denial) => {
            let refusal = refusal_record(&caller, &denial, now);
            server
                .refusals
                .note(refusal.with("trace_id", trace.to_string()));
            Err(muster_wire::status::denied(&denial))
        }
    }
}

fn refusal_record(caller: &Caller, denial: &Denial, now: Timestamp) -> Record {
    let (id, process, class) = match caller {
        Caller::Local { pid, uid } => (None, Some((*pid, *uid)), Class::Local),
        Caller::Remote { id, .. } => (id.clone(), None, Class::Any),
        Caller::System(_) => (None, None, Class::System),
    };
    let principal = Principal {
        class,
        id,
        process,
        work: None,
    };
    let mut record = record(&principal, now, Event::AccessRefused, denial.method);
    record.decision = Decision::Refused;
    match denial.node {
        Some(why) => record.with("reason", why.to_string()),
        None => record,
    }
}

/// A node was seen with its renewed certificate for the first time: the old one ends here.
///
/// Only the certificate that was seen takes the place: another request may have promoted it
/// already, or the node may have renewed once more, and that one it has not shown yet.
async fn promote_node(
    server: &Arc<Server>,
    id: SpiffeId,
    serial: SerialNumber,
) -> Result<(), Status> {
    let permit = decide::<PromoteNode>(&Caller::System("promote-node"))
        .map_err(|d| muster_wire::status::denied(&d))?;
    let written = server.roll.write(move |roll, transaction| {
        if let Some(node) = roll.node(&id)
            && let NodeStanding::Active {
                next: Some((next, _)),
                ..
            } = &node.standing
            && *next == serial
        {
            transaction.put_node(&permit, muster_roll::node::promoted(node));
        }
    });
    written.await.map_err(|error| crate::errors::write(&error))
}
