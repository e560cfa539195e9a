//! `muster.server.admin.v1.Audit`: what was done, and what is being done.

use std::sync::Arc;

use muster_audit::{Decision, Filter, Record, Subtree, SvidKind, identity, ocsf};
use muster_model::TaskId;
use muster_policy as policy;
use muster_proto::muster::server::admin::v1::{
    Actor, Held, ListHeldRequest, ListHeldResponse, ListRecordsRequest, ListRecordsResponse,
    Missed, NumberedRecord, RecordFilter, TailRequest, TailResponse, audit_server, tail_response,
};
use muster_roll::Roll;
use muster_wire::trace::TraceId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::audit_log::Follower;
use crate::metrics;
use crate::operation::{Operation, begin, operate};
use crate::server::Server;

/// How many records are listed by default, and at most.
const LISTED: (usize, usize) = (100, 1000);
/// How many records are read at once.
const PAGE: usize = 1000;
/// How many records one call looks through.
const LOOKED_THROUGH: usize = 50_000;
/// Records are numbered as they are committed and dated as they are asked for: what is a minute
/// older than wanted has nothing wanted behind it.
const DISORDER_MS: i64 = 60_000;
/// Records that wait for a reader; a slower one is told what it missed.
const WAITING: usize = 64;

/// The service.
pub(crate) struct AuditService(pub Arc<Server>);

#[tonic::async_trait]
impl audit_server::Audit for AuditService {
    type TailStream = ReceiverStream<Result<TailResponse, Status>>;

    /// # Path
    ///
    /// `core/policy` (operators may), `core/audit/filter.rs`, `apps/server/audit_log.rs`.
    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::ListAuditRecords>, message: ListRecordsRequest| {
                let filter = read_filter(message.filter.as_ref(), &op.roll)?;
                list(server, filter, &message).await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/audit/filter.rs`, `apps/server/audit_log.rs`,
    /// `apps/server/writer.rs`.
    async fn tail(
        &self,
        request: Request<TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let method = <policy::TailAudit as policy::Action>::ROW.method;
        let begun = begin::<policy::TailAudit>(
            &self.0,
            request.extensions(),
            TraceId::of(request.metadata()),
        )
        .await
        .and_then(|op| {
            let message = request.get_ref();
            Ok((
                read_filter(message.filter.as_ref(), &op.roll)?,
                message.ocsf,
            ))
        });
        let code = begun.as_ref().err().map_or(Code::Ok, Status::code);
        metrics::answered(method, code);
        let (filter, ocsf) = begun?;
        let (answers, receiver) = mpsc::channel(WAITING);
        let reader = Reader {
            server: Arc::clone(&self.0),
            follower: self.0.audit.follow(),
            filter,
            ocsf,
            answers,
        };
        tokio::spawn(reader.run());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/holdings.rs`.
    async fn list_held(
        &self,
        request: Request<ListHeldRequest>,
    ) -> Result<Response<ListHeldResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<policy::ListHeld>, message: ListHeldRequest| {
                held(server, &op, &message)
            },
        )
        .await
    }
}

fn bad(what: &str, value: &str, remedy: &str) -> Status {
    Status::invalid_argument(format!("malformed {what} {value:?}: {remedy}"))
}

fn read_filter(message: Option<&RecordFilter>, roll: &Roll) -> Result<Filter, Status> {
    let Some(message) = message else {
        return Ok(Filter::default());
    };
    let decision = match message.decision.as_str() {
        "" => None,
        "allowed" => Some(Decision::Allowed),
        "refused" => Some(Decision::Refused),
        other => return Err(bad("decision", other, "it is \"allowed\" or \"refused\"")),
    };
    let task = match message.task.as_str() {
        "" => None,
        text => {
            let id = TaskId::parse(text)
                .map_err(|_| bad("task", text, "it is a ULID, 26 digits in upper case"))?;
            Some(Subtree::new(text, descendants(roll, id)))
        }
    };
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    Ok(Filter {
        agent: given(&message.agent),
        task,
        decision,
        event: given(&message.event),
        node: given(&message.node),
        since_ms: (message.since_ms != 0).then_some(message.since_ms),
    })
}

/// The tasks that the roll knows as part of one, at any depth.
fn descendants(roll: &Roll, task: TaskId) -> Vec<String> {
    let mut found: Vec<TaskId> = roll
        .agents()
        .tasks_below(task)
        .map(|task| task.id)
        .collect();
    let mut at = 0;
    while let Some(task) = found.get(at).copied()
        && found.len() < Subtree::MOST
    {
        found.extend(roll.agents().tasks_below(task).map(|task| task.id));
        at += 1;
    }
    found.iter().map(ToString::to_string).collect()
}

async fn list(
    server: &Server,
    mut filter: Filter,
    message: &ListRecordsRequest,
) -> Result<ListRecordsResponse, Status> {
    let limit = match usize::try_from(message.limit) {
        Ok(0) => LISTED.0,
        Ok(limit) => limit.min(LISTED.1),
        Err(_) => LISTED.1,
    };
    let mut answer = ListRecordsResponse {
        head: server.audit.head(),
        ..ListRecordsResponse::default()
    };
    let mut before = if message.before == 0 {
        u64::MAX
    } else {
        message.before
    };
    for _ in 0..LOOKED_THROUGH / PAGE {
        let page = server.audit.before(before, PAGE).await.map_err(|error| {
            Status::unavailable(format!("the audit log cannot be read: {error}"))
        })?;
        let Some((oldest, dated)) = page.last().map(|(oldest, record)| (*oldest, record.at_ms))
        else {
            return Ok(answer);
        };
        for (sequence, record) in &page {
            if *sequence <= message.after {
                return Ok(answer);
            }
            before = *sequence;
            if filter.takes(record) {
                answer.records.push(write(*sequence, record, message.ocsf));
                if answer.records.len() == limit {
                    answer.next_before = before;
                    return Ok(answer);
                }
            }
        }
        let too_old = filter
            .since_ms
            .is_some_and(|since| dated < since - DISORDER_MS);
        if oldest == 1 || too_old {
            return Ok(answer);
        }
    }
    answer.next_before = before;
    Ok(answer)
}

/// A stream that follows the log.
struct Reader {
    server: Arc<Server>,
    follower: Follower,
    filter: Filter,
    ocsf: bool,
    answers: mpsc::Sender<Result<TailResponse, Status>>,
}

impl Reader {
    /// Tells of each record until nobody listens, or the server ends.
    async fn run(mut self) {
        let began = tail_response::Told::BeganAfter(self.follower.at());
        let mut goes_on = self.tell(began).await;
        while goes_on {
            let news = tokio::select! {
                news = self.follower.next() => news,
                () = self.answers.closed() => return,
                _reason = self.server.shutdown.begun() => None,
            };
            let Some(news) = news else {
                let end = Status::unavailable("the server is shutting down");
                // Nobody may be there to hear it.
                drop(self.answers.send(Err(end)).await);
                return;
            };
            if let Some((first, last)) = news.missed {
                goes_on = self
                    .tell(tail_response::Told::Missed(Missed { first, last }))
                    .await;
            }
            for (sequence, record) in news.records() {
                if goes_on && self.filter.takes(record) {
                    let told =
                        tail_response::Told::Record(Box::new(write(sequence, record, self.ocsf)));
                    goes_on = self.tell(told).await;
                }
            }
        }
    }

    /// Waits for this reader alone; whether it still listens.
    async fn tell(&self, told: tail_response::Told) -> bool {
        let answer = TailResponse { told: Some(told) };
        self.answers.send(Ok(answer)).await.is_ok()
    }
}

fn write(sequence: u64, record: &Record, as_ocsf: bool) -> NumberedRecord {
    let actor = &record.actor;
    NumberedRecord {
        sequence,
        at_ms: record.at_ms,
        event: record.event.to_string(),
        actor: Some(Actor {
            class: actor.class.clone(),
            spiffe_id: actor.spiffe_id.clone().unwrap_or_default(),
            pid: actor.pid,
            uid: actor.uid,
        }),
        decision: record.decision.to_string(),
        subject: record.subject.clone(),
        detail: record
            .detail
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        ocsf: if as_ocsf {
            ocsf::event(sequence, record, env!("CARGO_PKG_VERSION")).to_string()
        } else {
            String::new()
        },
    }
}

fn held<A>(
    server: &Server,
    op: &Operation<A>,
    message: &ListHeldRequest,
) -> Result<ListHeldResponse, Status> {
    let most = match usize::try_from(message.page_size) {
        Ok(0) => usize::MAX,
        Ok(size) => size,
        Err(_) => {
            return Err(bad(
                "page size",
                &message.page_size.to_string(),
                "it is 0 or more",
            ));
        }
    };
    let after = match message.page_token.as_str() {
        "" => None,
        token => Some(
            read_token(token)
                .ok_or_else(|| bad("page token", token, "pass the one of the answer before"))?,
        ),
    };
    let agent = message.agent.as_str();
    let wanted = |id: &str, held: &crate::holdings::Held| {
        agent.is_empty() || held.class == agent || identity::agent_of(id) == agent || id == agent
    };
    let page = server.holdings.list(wanted, after.as_ref(), most, op.now);
    let next_page_token = match page.held.last() {
        Some(((id, kind), _)) if page.more => format!("{} {id}", kind.word()),
        Some(_) | None => String::new(),
    };
    let held = page.held.into_iter().map(|((id, kind), held)| Held {
        task: identity::task_of(&id).unwrap_or_default().to_owned(),
        spiffe_id: id,
        class: held.class,
        kind: kind.word().to_owned(),
        issued_at: held.issued_at_ms / 1000,
        expires_at: held.expires_at,
        node_id: held.node.unwrap_or_default(),
        name: held.name,
        sequence: held.sequence,
    });
    Ok(ListHeldResponse {
        held: held.collect(),
        next_page_token,
        incomplete: page.incomplete,
    })
}

fn read_token(token: &str) -> Option<(String, SvidKind)> {
    let (word, id) = token.split_once(' ')?;
    Some((id.to_owned(), SvidKind::parse(word)?))
}
