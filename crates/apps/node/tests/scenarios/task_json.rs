//! Tasks as JSON, by HTTP/1.1 as a shell speaks it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::rig::within;
use crate::tasks::scene;

/// One request: the status and the body.
async fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    send(&mut stream, method, path, body).await;
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3]
        .parse()
        .unwrap();
    (status, serde_json::from_str(body).unwrap())
}

async fn send(stream: &mut UnixStream, method: &str, path: &str, body: &str) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: muster\r\nworkload.spiffe.io: true\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// The lines of a stream, one at a time.
struct Lines(BufReader<UnixStream>);

impl Lines {
    async fn open(socket: &Path, method: &str, path: &str, body: &str) -> Self {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        send(&mut stream, method, path, body).await;
        Self(BufReader::new(stream))
    }

    /// The next line that is an object: those between are of HTTP. `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        within("a line", async {
            loop {
                let mut line = String::new();
                if self.0.read_line(&mut line).await.unwrap() == 0 {
                    return None;
                }
                if line.starts_with('{') {
                    return Some(serde_json::from_str(&line).unwrap());
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_shell_opens_sees_and_ends_a_task() {
    let (double, rig, node, _tasks) = scene("").await;
    let main = rig.workload_socket();
    let mut events = Lines::open(&main, "GET", "/muster/v1/tasks:watch", "").await;
    let asked = json!({
        "kind": "code.review",
        "permissions": { "scopes": ["repo.read"] },
        "dataClass": 1,
        "budget": "100",
        "ttl": "300s",
    });
    let (status, task) = ask(&main, "POST", "/muster/v1/tasks", &asked.to_string()).await;
    assert_eq!(status, 200, "{task}");
    assert_eq!(
        (&task["kind"], &task["budget"], &task["state"]),
        (&json!("code.review"), &json!("100"), &json!("open"))
    );
    let id = task["id"].as_str().unwrap();
    {
        let mind = double.shared.mind();
        let wanted = mind.tasks.opened[0].task.as_ref().unwrap();
        assert_eq!(wanted.permissions.as_ref().unwrap().scopes, ["repo.read"]);
        assert_eq!((wanted.data_class, wanted.ttl.unwrap().seconds), (1, 300));
    }
    let own = PathBuf::from(task["socket"].as_str().unwrap());
    let of_task = |rest: &str| format!("/muster/v1/tasks/{id}{rest}");
    assert_eq!(
        ask(&own, "GET", "/muster/v1/task", "").await,
        (200, task.clone())
    );
    assert_eq!(
        ask(&main, "GET", &of_task(""), "").await,
        (200, task.clone())
    );
    let (status, listed) = ask(&main, "GET", "/muster/v1/tasks", "").await;
    assert_eq!((status, &listed["tasks"][0]["id"]), (200, &json!(id)));
    let (_, spent) = ask(&main, "POST", &of_task(":spend"), r#"{"amount":7}"#).await;
    assert_eq!(spent["spent"], "7");
    let (_, extended) = ask(&own, "POST", &of_task(":extend"), r#"{"ttl":"900s"}"#).await;
    assert_ne!(extended["deadline"], task["deadline"]);
    let (status, done) = ask(&main, "POST", &of_task(":complete"), "").await;
    assert_eq!((status, &done["state"]), (200, &json!("completed")));
    let (_, listed) = ask(&main, "GET", "/muster/v1/tasks", "").await;
    assert_eq!(listed["tasks"], json!([]));
    let (_, listed) = ask(&main, "GET", "/muster/v1/tasks?ended=true", "").await;
    assert_eq!(listed["tasks"][0]["state"], "completed");

    for what in ["opened", "spent", "extended", "ended"] {
        let event = events.next().await.unwrap();
        assert_eq!(
            (&event["what"], &event["task"]["id"]),
            (&json!(what), &json!(id))
        );
    }
    assert!(node.stop().await);
    let last = events.next().await.unwrap();
    assert_eq!(last["reason"], "SHUTTING_DOWN");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_lease_is_lines_and_ends_when_the_shell_hangs_up() {
    let (double, rig, node, _tasks) = scene("").await;
    let main = rig.workload_socket();
    let mut lease = Lines::open(&main, "POST", "/muster/v1/tasks:lease", "{}").await;
    let task = lease.next().await.unwrap();
    assert_eq!(task["boundTo"]["kind"], "lease");
    let socket = PathBuf::from(task["socket"].as_str().unwrap());
    assert!(socket.exists());
    drop(lease);
    double.hears("EndTasks", 1).await;
    let ended = double.shared.mind().tasks.ended[0].clone();
    assert_eq!(ended.cause, "lease_ended");
    assert!(!socket.exists());
    assert!(node.stop().await);
}

#[tokio::test]
async fn what_is_wrong_is_said_in_json() {
    let (double, rig, node, _tasks) = scene("").await;
    let main = rig.workload_socket();
    let large = format!(r#"{{"kind":"{}"}}"#, "x".repeat(70_000));
    for (method, path, body, status, reason) in [
        ("POST", "/muster/v1/tasks", "{", 400, "INVALID_FIELD"),
        (
            "POST",
            "/muster/v1/tasks",
            r#"{"purpose":"text"}"#,
            400,
            "INVALID_FIELD",
        ),
        (
            "POST",
            "/muster/v1/tasks",
            large.as_str(),
            400,
            "INVALID_FIELD",
        ),
        (
            "GET",
            "/muster/v1/tasks/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "",
            404,
            "TASK_NOT_FOUND",
        ),
        ("GET", "/", "", 404, "NO_SUCH_PATH"),
        ("DELETE", "/muster/v1/tasks", "", 405, "INVALID_FIELD"),
    ] {
        let (found, error) = ask(&main, method, path, body).await;
        assert_eq!(
            (found, &error["reason"]),
            (status, &json!(reason)),
            "{method} {path}"
        );
        assert!(error["message"].is_string() && error["code"].is_string());
    }
    let refused = tonic::Code::PermissionDenied;
    double.shared.mind().tasks.refusal = Some((refused, "CLASS_NOT_ACTIVE"));
    let (status, error) = ask(&main, "POST", "/muster/v1/tasks", "{}").await;
    assert_eq!(
        (status, &error["reason"]),
        (403, &json!("CLASS_NOT_ACTIVE"))
    );

    // Without the header nothing is told, not even that there is nothing.
    let mut stream = UnixStream::connect(&main).await.unwrap();
    stream
        .write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("SECURITY_HEADER_MISSING"), "{answer}");
    assert!(node.stop().await);
}
