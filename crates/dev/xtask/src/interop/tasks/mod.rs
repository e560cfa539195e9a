//! Tasks, for software that knows nothing of them: the four SPIFFE libraries, Envoy and an MCP server
//! find a task's socket in `SPIFFE_ENDPOINT_SOCKET`, and that is all they are told.

mod clients;
mod mcp;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

pub(super) use self::mcp::{Mcp, install as install_mcp};
use crate::interop::clients::Client;
use crate::interop::domain::{Domain, TRUST_DOMAIN};
use crate::interop::envoy::{self, Envoy};
use crate::interop::http;
use crate::interop::own_node::text;
use crate::interop::results::{Line, Results};
use crate::shell::Failure;

/// What `--only` calls all of it.
pub(super) const NAME: &str = "tasks";
/// The clients that are put on a task's socket.
pub(super) const CLIENTS: [&str; 4] = ["go-spiffe", "java-spiffe", "py-spiffe", "rust-spiffe"];

/// The class of the agents.
pub(super) const CLASS: &str = "interop";
/// Longer than any run; the end comes before.
const TTL: &str = "5m";
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Two agents of one class that open tasks: `muster run`, and this program by the node's JSON. What
/// they start is neither.
pub(super) struct Agents<'a> {
    domain: &'a Domain,
    muster: PathBuf,
    /// Who `muster run` is.
    pub(super) run: String,
    /// Who we are.
    own: String,
}

impl<'a> Agents<'a> {
    pub(super) fn register(domain: &'a Domain) -> Result<Self, Failure> {
        let create = ["agent", "class", "create", CLASS, "--purpose", "testing"];
        let persons = ["mailto:olga@example.org", "mailto:sam@example.org"];
        let [owner, sponsor] = persons;
        let rest = ["--owner", owner, "--sponsor", sponsor, "--risk-tier", "1"];
        let bounds = ["--data-ceiling", "1", "--valid-until", "90d"];
        let review = ["--review-by", "30d"];
        domain.muster(&[&create[..], &rest, &bounds, &review].concat())?;
        domain.muster(&["agent", "class", "approve", CLASS])?;
        let agent = |name: &str| format!("spiffe://{TRUST_DOMAIN}/agent/{CLASS}/{name}");
        let agents = Self {
            domain,
            muster: domain.binary().canonicalize()?,
            run: agent("run"),
            own: agent("own"),
        };
        domain.register_program(&agents.run, &agents.muster)?;
        domain.register_program(&agents.own, &std::env::current_exe()?.canonicalize()?)?;
        Ok(agents)
    }

    /// `muster run`, to which the command is to be added, with a task of this kind.
    pub(super) fn run(&self, kind: &str) -> Command {
        let mut run = Command::new(&self.muster);
        run.args(["run", "--class", CLASS, "--agent", &self.run])
            .args(["--task", kind, "--ttl", TTL, "--socket"])
            .arg(format!(
                "unix://{}",
                self.domain.workload_socket().display()
            ))
            .arg("--");
        run
    }

    /// Opens a task for a process that we started, by the node's JSON.
    pub(super) fn open(&self, kind: &str, pid: u32) -> Result<Value, Failure> {
        self.ask(
            "/muster/v1/tasks",
            &json!({
                "agent": self.own,
                "class": CLASS,
                "kind": kind,
                "ttl": "300s",
                "binding": {"childPid": pid},
            }),
        )
    }

    /// Says that a task of ours is done, in the same way.
    pub(super) fn complete(&self, id: &str) -> Result<(), Failure> {
        let path = format!("/muster/v1/tasks/{id}:complete");
        self.ask(&path, &json!({})).map(drop)
    }

    fn ask(&self, path: &str, message: &Value) -> Result<Value, Failure> {
        let stream = UnixStream::connect(self.domain.workload_socket())?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        http::post(&stream, path, message)
    }

    /// Ends a task as an operator.
    pub(super) fn revoke(&self, id: &str) -> Result<(), Failure> {
        let revoke = ["agent", "task", "revoke", id, "--reason", "interop"];
        self.domain.muster(&revoke).map(drop)
    }

    /// The open task of that kind: its ID and its SPIFFE ID.
    pub(super) fn find(&self, kind: &str) -> Result<(String, String), Failure> {
        let listed = self
            .domain
            .muster(&["agent", "task", "list", "--class", CLASS])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let tasks = listed.get("tasks").and_then(Value::as_array);
        let task = tasks
            .into_iter()
            .flatten()
            .find(|task| task.get("kind").and_then(Value::as_str) == Some(kind))
            .ok_or_else(|| format!("no task of the kind {kind} is open: {listed}"))?;
        Ok((text(task, "id")?.into(), text(task, "spiffe_id")?.into()))
    }

    /// The state in which the server has a task, and the SPIFFE ID that it has for it.
    fn look(&self, id: &str) -> Result<(String, String), Failure> {
        let task = self.domain.muster(&["agent", "task", "show", id])?;
        let task: Value = serde_json::from_str(&task)?;
        let state = text(&task, "state")?.into();
        Ok((state, text(&task, "spiffe_id")?.into()))
    }
}

/// Runs all of it, at once.
pub(super) fn run(
    domain: &Domain,
    clients: &[Client],
    envoy: Option<&Envoy>,
    mcp: Option<&Mcp>,
    results: &mut Results,
) -> Result<(), Failure> {
    let agents = Agents::register(domain)?;
    let lines: Vec<Line> = thread::scope(|scope| {
        let agents = &agents;
        let mut running = Vec::new();
        // Why one is missing is a line already.
        for client in clients.iter().filter(|it| CLIENTS.contains(&it.name)) {
            for ending in clients::ENDINGS {
                running.push(scope.spawn(move || clients::run(agents, client, ending)));
            }
        }
        if let Some(envoy) = envoy {
            running.push(scope.spawn(move || envoy::run_on_tasks(agents, envoy)));
        }
        if let Some(mcp) = mcp {
            running.push(scope.spawn(move || mcp::run(agents, mcp)));
        }
        running
            .into_iter()
            .flat_map(|run| {
                let panicked = |_| vec![Line::failed(NAME, "run", "a thread panicked")];
                run.join().unwrap_or_else(panicked)
            })
            .collect()
    });
    for line in lines {
        results.add(line);
    }
    Ok(())
}
