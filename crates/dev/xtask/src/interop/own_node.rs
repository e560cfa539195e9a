//! A second node in a running trust domain, with lines of our own in its configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::interop::domain::{Domain, TRUST_DOMAIN};
use crate::shell::{Failure, Stopwatch, Talker, quietly};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A running node. It ends with this value.
pub(super) struct OwnNode {
    muster: PathBuf,
    server_socket: PathBuf,
    node_id: String,
    process: Option<Talker>,
    // Removed last.
    folder: TempDir,
}

impl OwnNode {
    /// Starts a node like the one of `domain`, with `more` at the end of its configuration, and
    /// waits until it serves.
    pub(super) fn start(domain: &Domain, more: &str) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("muster-node-").tempdir()?;
        let mut create = Command::new(domain.binary());
        create
            .args(["token", "create", "--json", "--server-socket"])
            .arg(domain.server_admin_socket());
        let created: Value = serde_json::from_str(&quietly(&mut create)?)?;
        let token = text(&created, "value")?;
        let config = folder.path().join("node.toml");
        let first = fs::read_to_string(domain.node_config())?;
        fs::write(&config, rewritten(&first, folder.path(), token, more))?;
        let mut run = Command::new(domain.binary());
        run.args(["node", "run", "--config"]).arg(&config);
        let node = Self {
            muster: domain.binary().to_path_buf(),
            server_socket: domain.server_admin_socket().to_path_buf(),
            node_id: format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"),
            process: Some(Talker::start(&mut run)?),
            folder,
        };
        // Only a node that is in step explains anything but that it is not.
        let us = std::process::id();
        let ready = |explained: &Value| explained.get("in_step") == Some(&Value::Bool(true));
        node.explained_until(us, ready)?;
        Ok(node)
    }

    /// The folder of the node's workload socket, `workload.sock`.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the node says of a process.
    pub(super) fn explain(&self, pid: u32) -> Result<Value, Failure> {
        let mut explain = Command::new(&self.muster);
        explain
            .args(["node", "explain", "--json", &pid.to_string()])
            .arg("--node-socket")
            .arg(self.folder().join("private/admin.sock"));
        // It ends badly for a process without identity, and tells why all the same.
        let output = explain.output()?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("muster node explain {pid}: {error}: {said}").into()
        })
    }

    /// What the node says of a process once that is as `wanted`.
    pub(super) fn explained_until(
        &self,
        pid: u32,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let watch = Stopwatch::start();
        loop {
            let explained = self.explain(pid);
            match explained {
                Ok(explained) if wanted(&explained) => return Ok(explained),
                outcome if watch.elapsed() > READY_WITHIN => {
                    return Err(format!(
                        "process {pid} is not as expected within {} s: {outcome:?}",
                        READY_WITHIN.as_secs()
                    )
                    .into());
                }
                Ok(_) | Err(_) => thread::sleep(BETWEEN_LOOKS),
            }
        }
    }

    /// The selectors of a process.
    pub(super) fn selectors(&self, pid: u32) -> Result<Vec<String>, Failure> {
        let explained = self.explain(pid)?;
        let list = explained.get("selectors").and_then(Value::as_array);
        Ok(list
            .ok_or_else(|| format!("no selectors in {explained}"))?
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect())
    }

    /// Creates an entry under this node.
    pub(super) fn register(&self, name: &str, selectors: &[String]) -> Result<String, Failure> {
        let spiffe_id = format!("spiffe://{TRUST_DOMAIN}/interop/{name}");
        let mut create = Command::new(&self.muster);
        create
            .args(["entry", "create", "--json", "--server-socket"])
            .arg(&self.server_socket)
            .args(["--parent-id", &self.node_id, "--spiffe-id", &spiffe_id]);
        for selector in selectors {
            create.args(["--selector", selector]);
        }
        quietly(&mut create)?;
        Ok(spiffe_id)
    }

    fn end(&mut self) -> Result<(), Failure> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        process.signal(Signal::SIGTERM)?;
        let ended = process.finish_within(STOPPED_WITHIN)?;
        if ended.well {
            return Ok(());
        }
        Err(format!("on SIGTERM, {}\n{}", ended.how, ended.errors).into())
    }

    /// Ends the node, which must end well.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.end()
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        // On the way out of an error; what matters is that nothing is left behind.
        drop(self.end());
    }
}

/// The configuration `first`, for another node in `folder`.
fn rewritten(first: &str, folder: &Path, token: &str, more: &str) -> String {
    let own = |name: &str| format!("{:?}", folder.join(name).display().to_string());
    let lines: Vec<String> = first
        .lines()
        .map(|line| match line.split(" = ").next() {
            Some("data_dir") => format!("data_dir = {}", own("data")),
            Some("workload_socket") => format!("workload_socket = {}", own("workload.sock")),
            Some("admin_socket") => format!("admin_socket = {}", own("private/admin.sock")),
            Some("token") => format!("token = {token:?}"),
            _ => line.to_owned(),
        })
        .collect();
    format!("{}\n{more}\n", lines.join("\n"))
}

/// A text in a JSON object.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str, Failure> {
    value
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("there is no {key} in {value}").into())
}
