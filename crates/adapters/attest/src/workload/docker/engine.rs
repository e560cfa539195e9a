//! The Engine API: what docker and podman say about a container.
//!
//! One request, `GET /containers/ID/json`, over the engine's Unix socket. The engine may be slow, or
//! a user's own and hostile: time and size are bounded, and nothing is followed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::cgroup::ContainerId;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer, in bytes. A container with thousands of labels has some 100 kB.
const MAX_ANSWER: usize = 1 << 20;
/// How often a request is repeated, as SPIRE does.
const RETRIES: u32 = 3;
/// The pause before the first repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Why an engine did not tell what a container is.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("{socket}: {cause}; is the engine running, and may the node open its socket?")]
    Unreachable { socket: String, cause: String },
    #[error("{socket} belongs to user {found}, not to user {expected} whose container it is")]
    Foreign {
        socket: String,
        found: u32,
        expected: u32,
    },
    #[error("{socket} did not answer within {} s", PATIENCE.as_secs())]
    Slow { socket: String },
    #[error("{socket} does not know the container {id}; it is another engine's")]
    Unknown { socket: String, id: ContainerId },
    #[error("{socket} answered with status {status}")]
    Status { socket: String, status: StatusCode },
    #[error("{socket} gave an answer that is not understood: {cause}")]
    Malformed { socket: String, cause: String },
    #[error("the container {id} does not run, says {socket}")]
    NotRunning { socket: String, id: ContainerId },
}

impl EngineError {
    /// Whether asking again soon may help: a container runs a moment before its engine says so.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Slow { .. }
            | Self::Status { .. }
            | Self::NotRunning { .. } => true,
            Self::Foreign { .. } | Self::Unknown { .. } | Self::Malformed { .. } => false,
        }
    }
}

impl EngineError {
    /// Whether there was no answer about the container.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Slow { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Foreign { .. }
            | Self::Unknown { .. }
            | Self::Malformed { .. }
            | Self::NotRunning { .. } => false,
        }
    }
}

/// Where an engine listens, and whose it must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) socket: PathBuf,
    /// The user who alone (beside root) may answer there; `None` for the system's engine.
    pub(super) owner: Option<u32>,
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    /// Its first process, in the engine's pid namespace.
    pub(super) pid: u32,
    /// The content that it was started from: `sha256:...`.
    pub(super) image_digest: String,
    /// The name that its creator gave for the image.
    pub(super) image: String,
    pub(super) labels: BTreeMap<String, String>,
    /// `NAME=VALUE`, as configured; not what the process has now.
    pub(super) environment: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    image: String,
    state: InspectedState,
    config: InspectedConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    running: bool,
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(default)]
    image: String,
    labels: Option<BTreeMap<String, String>>,
    env: Option<Vec<String>>,
}

/// What `endpoint` says about the container `id`, which must run.
pub(super) async fn inspect(
    endpoint: &Endpoint,
    id: &ContainerId,
) -> Result<Container, EngineError> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..RETRIES {
        match inspect_once(endpoint, id).await {
            Err(error) if error.may_pass() => {
                tracing::debug!(%error, "the container engine is asked again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
    inspect_once(endpoint, id).await
}

async fn inspect_once(endpoint: &Endpoint, id: &ContainerId) -> Result<Container, EngineError> {
    let socket = endpoint.socket.display().to_string();
    let answer = timeout(PATIENCE, get(endpoint, &socket, id))
        .await
        .map_err(|_elapsed| EngineError::Slow {
            socket: socket.clone(),
        })??;
    read(&answer, socket, id)
}

/// Requests the description of the container `id`.
async fn get(endpoint: &Endpoint, socket: &str, id: &ContainerId) -> Result<Bytes, EngineError> {
    let unreachable = |cause: String| EngineError::Unreachable {
        socket: socket.to_owned(),
        cause,
    };
    let stream = connect(&endpoint.socket, socket, endpoint.owner).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    // Ends with this set, whether or not the answer came.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(format!("/containers/{id}/json"))
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| unreachable(error.to_string()))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(EngineError::Unknown {
                socket: socket.to_owned(),
                id: id.clone(),
            });
        }
        status => {
            return Err(EngineError::Status {
                socket: socket.to_owned(),
                status,
            });
        }
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| EngineError::Malformed {
            socket: socket.to_owned(),
            cause: format!("{error} (an answer has at most {MAX_ANSWER} bytes)"),
        })
}

async fn connect(path: &Path, socket: &str, owner: Option<u32>) -> Result<UnixStream, EngineError> {
    let unreachable = |cause: std::io::Error| EngineError::Unreachable {
        socket: socket.to_owned(),
        cause: cause.to_string(),
    };
    let stream = UnixStream::connect(path).await.map_err(unreachable)?;
    if let Some(expected) = owner {
        let found = stream.peer_cred().map_err(unreachable)?.uid();
        if found != expected && found != 0 {
            return Err(EngineError::Foreign {
                socket: socket.to_owned(),
                found,
                expected,
            });
        }
    }
    Ok(stream)
}

fn read(answer: &[u8], socket: String, id: &ContainerId) -> Result<Container, EngineError> {
    let inspected: Inspected = match serde_json::from_slice(answer) {
        Ok(inspected) => inspected,
        // Values may be secrets (an environment), so only the place of the fault is told.
        Err(error) => {
            return Err(EngineError::Malformed {
                socket,
                cause: format!("line {}, column {}", error.line(), error.column()),
            });
        }
    };
    // The engine also finds containers by name and by a part of an id.
    if inspected.id != id.as_str() {
        return Err(EngineError::Unknown {
            socket,
            id: id.clone(),
        });
    }
    let pid = u32::try_from(inspected.state.pid)
        .ok()
        .filter(|pid| *pid != 0 && inspected.state.running);
    let Some(pid) = pid else {
        return Err(EngineError::NotRunning {
            socket,
            id: id.clone(),
        });
    };
    Ok(Container {
        pid,
        image_digest: inspected.image,
        image: inspected.config.image,
        labels: inspected.config.labels.unwrap_or_default(),
        environment: inspected.config.env.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn answer(id: &str, running: bool, pid: i64) -> Result<Container, EngineError> {
        let text = format!(
            r#"{{"Id":"{id}","Image":"sha256:00","State":{{"Running":{running},"Pid":{pid}}},
                "Config":{{"Image":"pay:1","Labels":null,"Env":["A=B"]}},"More":[1]}}"#
        );
        read(
            text.as_bytes(),
            "engine".to_owned(),
            &ContainerId::parse(ID).unwrap(),
        )
    }

    #[test]
    fn answers_are_believed_only_about_the_running_container_asked_for() {
        let container = answer(ID, true, 7).unwrap();
        assert_eq!((container.pid, container.image.as_str()), (7, "pay:1"));
        for (running, pid) in [(false, 7), (true, 0), (true, -1), (true, 1 << 40)] {
            let error = answer(ID, running, pid).unwrap_err();
            assert!(matches!(error, EngineError::NotRunning { .. }), "{error}");
            assert!(error.may_pass());
        }
        let other = ID.replace('0', "1");
        let error = answer(&other, true, 7).unwrap_err();
        assert!(matches!(error, EngineError::Unknown { .. }), "{error}");
    }

    #[test]
    fn a_malformed_answer_is_not_repeated_to_anyone() {
        let id = ContainerId::parse(ID).unwrap();
        let error = read(
            br#"{"Id":"hunter2","State":"hunter2"}"#,
            "engine".to_owned(),
            &id,
        )
        .unwrap_err();
        assert!(matches!(error, EngineError::Malformed { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
