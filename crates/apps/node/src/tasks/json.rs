//! Tasks as JSON over HTTP/1.1, for shells, on the sockets where gRPC speaks HTTP/2: the same calls,
//! the same attestation, protobuf's names for JSON.

mod fields;
mod write;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use muster_proto::muster::agent::v1 as api;
use muster_task::Cause;
use muster_wire::status::word_of;
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::{Code, Status};

use self::fields::Fields;
use super::calls::{Admitted, Calls};
use super::desk::{How, Which};
use super::refused::{Reason, Refused};
use super::service::{Messages, REQUEST_MAX, follow_events, follow_lease};

/// How long a request may take from its head to its end.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const TASKS: &str = "/muster/v1/tasks";
const TASK: &str = "/muster/v1/task";

/// The calls, for those who speak HTTP/1.1. Clones share everything.
#[derive(Clone)]
pub(crate) struct Shell(pub(crate) Arc<Calls>);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask<'a> {
    Open,
    Lease,
    List(Which),
    Watch,
    Get(&'a str),
    Extend(&'a str),
    Spend(&'a str),
    Complete(&'a str),
    Fail(&'a str),
}

/// Why a request is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoCall {
    Path,
    Query,
    /// The method that there is.
    Method(&'static str),
}

impl Shell {
    /// Answers a request, whatever it is.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        // Before anything is read or told, as with gRPC.
        let by = match self.0.admit(&head.headers, &head.extensions).await {
            Ok(by) => by,
            Err(refused) => return refusal(&refused),
        };
        let ask = match parse(&head.method, head.uri.path(), head.uri.query()) {
            Ok(ask) => ask,
            Err(NoCall::Path) => {
                let why = format!(
                    "there is nothing at {}; see {TASKS}, {TASKS}/ID, {TASK}",
                    head.uri.path()
                );
                return refusal(&Refused::new(Reason::NoSuchPath, why));
            }
            Err(NoCall::Query) => {
                return refusal(&Refused::field(
                    "query",
                    "only ?ended=true of a list is known",
                ));
            }
            Err(NoCall::Method(method)) => {
                let why = format!("{} is for {method}", head.uri.path());
                let mut response = refusal(&Refused::field("method", why));
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static(method));
                return response;
            }
        };
        let answered = match read(body).await {
            Ok(fields) => self.call(by, ask, fields).await,
            Err(refused) => Err(refused),
        };
        answered.unwrap_or_else(|refused| refusal(&refused))
    }

    async fn call(
        &self,
        by: Admitted,
        ask: Ask<'_>,
        mut fields: Fields,
    ) -> Result<Response<Body>, Refused> {
        let calls = &self.0;
        let task = match ask {
            Ask::Open => calls.open(&by, fields.open()?).await?,
            Ask::Lease => {
                let leased = calls.lease(&by, fields.open()?).await?;
                let tasks = follow_lease(calls.clone(), by, leased);
                return Ok(lines(tasks, |task| write::task(&task)));
            }
            Ask::List(which) => {
                fields.finish()?;
                let tasks = calls.list(&by, which).await?;
                let tasks: Vec<Value> = tasks.iter().map(write::task).collect();
                return Ok(one(&json!({ "tasks": tasks })));
            }
            Ask::Watch => {
                fields.finish()?;
                let events = calls.watch(&by);
                let events = follow_events(calls.clone(), by, events);
                return Ok(lines(events, |event| write::event(&event)));
            }
            Ask::Get(id) => {
                fields.finish()?;
                calls.get(&by, id).await?
            }
            Ask::Extend(id) => {
                let request = api::ExtendTaskRequest {
                    id: id.to_owned(),
                    deadline: fields.time("deadline")?,
                    ttl: fields.duration("ttl")?,
                };
                fields.finish()?;
                calls.extend(&by, request).await?
            }
            Ask::Spend(id) => {
                let request = api::SpendTaskRequest {
                    id: id.to_owned(),
                    amount: fields
                        .number("amount")?
                        .ok_or_else(|| Refused::field("amount", "say how much was spent"))?,
                };
                fields.finish()?;
                calls.spend(&by, request).await?
            }
            Ask::Complete(id) => {
                fields.finish()?;
                calls.end(&by, id, How::Completed).await?
            }
            Ask::Fail(id) => {
                fields.finish()?;
                calls.end(&by, id, How::Failed(Cause::OwnWord)).await?
            }
        };
        Ok(one(&write::task(&task)))
    }
}

/// What a method, a path and a query ask for. On a task's socket an empty ID is that task's.
fn parse<'a>(method: &Method, path: &'a str, query: Option<&str>) -> Result<Ask<'a>, NoCall> {
    let (ask, is_get) = match path {
        TASK => (Ask::Get(""), true),
        TASKS if *method == Method::GET => {
            let which = match query {
                None | Some("" | "ended=false") => Which::Live,
                Some("ended=true") => Which::AlsoEnded,
                Some(_) => return Err(NoCall::Query),
            };
            return Ok(Ask::List(which));
        }
        TASKS => (Ask::Open, false),
        _ => match path.strip_prefix(TASKS).ok_or(NoCall::Path)? {
            ":watch" => (Ask::Watch, true),
            ":lease" => (Ask::Lease, false),
            below => {
                let named = below.strip_prefix('/').ok_or(NoCall::Path)?;
                match named.split_once(':') {
                    None if !named.is_empty() && !named.contains('/') => (Ask::Get(named), true),
                    Some((id, "extend")) => (Ask::Extend(id), false),
                    Some((id, "spend")) => (Ask::Spend(id), false),
                    Some((id, "complete")) => (Ask::Complete(id), false),
                    Some((id, "fail")) => (Ask::Fail(id), false),
                    _ => return Err(NoCall::Path),
                }
            }
        },
    };
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(NoCall::Query);
    }
    match (is_get, method) {
        (true, &Method::GET) | (false, &Method::POST) => Ok(ask),
        (true, _) => Err(NoCall::Method("GET")),
        (false, _) if path == TASKS => Err(NoCall::Method("GET, POST")),
        (false, _) => Err(NoCall::Method("POST")),
    }
}

/// Reads a body: one JSON object, or nothing.
async fn read(body: Incoming) -> Result<Fields, Refused> {
    let collected = Limited::new(body, REQUEST_MAX).collect();
    let collected = tokio::time::timeout(BODY_TIMEOUT, collected)
        .await
        .map_err(|_elapsed| Refused::field("body", "it was not sent in time"))?;
    let bytes = collected
        .map_err(|_error| Refused::field("body", format!("it has at most {REQUEST_MAX} bytes")))?
        .to_bytes();
    Fields::parse(&bytes)
}

fn one(value: &Value) -> Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    with_type(Body::new(text), "application/json")
}

/// One line for each message; the last one is the refusal, if that is how it ends.
fn lines<T: Send + 'static>(messages: Messages<T>, write: fn(T) -> Value) -> Response<Body> {
    let frames = messages.map(move |message| {
        let value = match message {
            Ok(message) => write(message),
            Err(refused) => error(&refused),
        };
        Ok::<_, Status>(Frame::data(Bytes::from(format!("{value}\n"))))
    });
    with_type(Body::new(StreamBody::new(frames)), "application/x-ndjson")
}

fn with_type(body: Body, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn refusal(refused: &Refused) -> Response<Body> {
    let mut response = one(&error(refused));
    *response.status_mut() = status_of(refused.code);
    response
}

fn error(refused: &Refused) -> Value {
    json!({
        "code": word_of(refused.code),
        "reason": refused.reason,
        "message": refused.message,
    })
}

/// Codes as HTTP has them (google.rpc.Code).
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods() {
        let check = |method: &str, path: &str, expected: Result<Ask<'_>, NoCall>| {
            let (path, query) = path
                .split_once('?')
                .map_or((path, None), |(path, query)| (path, Some(query)));
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(parse(&method, path, query), expected, "{method} {path}");
        };
        check("POST", "/muster/v1/tasks", Ok(Ask::Open));
        check("GET", "/muster/v1/tasks", Ok(Ask::List(Which::Live)));
        check(
            "GET",
            "/muster/v1/tasks?ended=true",
            Ok(Ask::List(Which::AlsoEnded)),
        );
        check("GET", "/muster/v1/tasks?ended=2", Err(NoCall::Query));
        check("POST", "/muster/v1/tasks?ended=true", Err(NoCall::Query));
        check("POST", "/muster/v1/tasks:lease", Ok(Ask::Lease));
        check("GET", "/muster/v1/tasks:watch", Ok(Ask::Watch));
        check("GET", "/muster/v1/tasks/X", Ok(Ask::Get("X")));
        check("GET", "/muster/v1/task", Ok(Ask::Get("")));
        check("POST", "/muster/v1/tasks/X:spend", Ok(Ask::Spend("X")));
        check("POST", "/muster/v1/tasks/X:extend", Ok(Ask::Extend("X")));
        check(
            "POST",
            "/muster/v1/tasks/X:complete",
            Ok(Ask::Complete("X")),
        );
        check("POST", "/muster/v1/tasks/X:fail", Ok(Ask::Fail("X")));
        check(
            "GET",
            "/muster/v1/tasks/X:fail",
            Err(NoCall::Method("POST")),
        );
        check(
            "DELETE",
            "/muster/v1/tasks",
            Err(NoCall::Method("GET, POST")),
        );
        check("POST", "/muster/v1/task", Err(NoCall::Method("GET")));
        for nothing in [
            "/",
            "/muster/v1/tasksX",
            "/muster/v1/tasks/",
            "/muster/v1/tasks/a/b",
            "/muster/v1/tasks/X:y",
        ] {
            check("GET", nothing, Err(NoCall::Path));
        }
    }
}
