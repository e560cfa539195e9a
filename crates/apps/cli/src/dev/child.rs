//! A process of the trust domain: started, listened to, and never left behind.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_rt::telemetry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::sync::watch;

use crate::failure::Failure;
use crate::output;

/// How many of its last log lines are shown when a process dies.
const TAIL: usize = 15;
/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running process.
pub(super) struct Child {
    name: &'static str,
    pid: u32,
    process: tokio::process::Child,
    tail: Arc<Mutex<VecDeque<String>>>,
    address: watch::Receiver<Option<String>>,
    log: PathBuf,
}

impl Child {
    /// Starts this program again with `arguments`, as a process that dies with this one. What is in
    /// `last` comes after a `--`.
    ///
    /// Call it on the main thread: the kernel ties the child to the thread that made it.
    pub(super) fn start(
        name: &'static str,
        arguments: &[&OsStr],
        last: &[OsString],
        log: PathBuf,
    ) -> Result<(Self, Option<ChildStdout>), Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::failed(format!("cannot {what} the {name}: {error}"))
        };
        let program =
            std::env::current_exe().map_err(|error| failed("find the program of", error))?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log)
            .map_err(|error| failed("write the log of", error))?;
        let mut process = Command::new(program)
            .args(arguments)
            .arg("--die-with")
            .arg(std::process::id().to_string())
            .args(last.iter().take(1).map(|_| OsStr::new("--")))
            .args(last)
            .env(telemetry::ENVIRONMENT_VARIABLE, log_filter())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to the whole foreground group; we end our children in our own order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start", error))?;
        let stdout = process.stdout.take();
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL)));
        let (found, address) = watch::channel(None);
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(keep_log(stderr, file, Arc::clone(&tail), found));
        }
        let child = Self {
            name,
            pid: process.id().unwrap_or(0),
            process,
            tail,
            address,
            log,
        };
        Ok((child, stdout))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The address that the process says it serves on, once it does.
    pub(super) async fn address(&mut self) -> Result<String, Failure> {
        let mut address = self.address.clone();
        tokio::select! {
            // A log that ends comes with the end of the process, which is the better story.
            biased;
            found = address.wait_for(Option::is_some) => {
                let found = found.ok().and_then(|found| found.clone());
                match found {
                    Some(found) => Ok(found),
                    None => Err(self.died().await),
                }
            }
            failure = died(self.name, &mut self.process, &self.tail, &self.log) => Err(failure),
        }
    }

    /// Waits until the process has died, and says how, with the end of its log.
    pub(super) async fn died(&mut self) -> Failure {
        died(self.name, &mut self.process, &self.tail, &self.log).await
    }

    /// Waits until the process has ended; any exit code but 0 is a failure, with the end of its log.
    pub(super) async fn done(&mut self) -> Result<(), Failure> {
        match self.process.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(_) | Err(_) => Err(self.died().await),
        }
    }

    /// Ends the process: gently first, and for good after a while.
    pub(super) async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.pid)
            && pid > 0
        {
            // That there is no such process any more is what we want.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM).is_err();
        }
        if tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .is_err()
        {
            output::note(&format!(
                "muster: the {} does not end and is killed (pid {})",
                self.name, self.pid
            ));
            let _gone = self.process.kill().await.is_err();
        }
    }
}

async fn died(
    name: &str,
    process: &mut tokio::process::Child,
    tail: &Mutex<VecDeque<String>>,
    log: &Path,
) -> Failure {
    let how = match process.wait().await {
        Ok(status) => ended(status),
        Err(error) => format!("cannot be waited for: {error}"),
    };
    // Its last words may still be on their way through the pipe.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    if tail.is_empty() {
        return Failure::failed(format!("the {name} {how} and said nothing"));
    }
    let lines: Vec<&str> = tail.iter().map(String::as_str).collect();
    Failure::failed(format!(
        "the {name} {how}; the end of its log ({}):\n  {}",
        log.display(),
        lines.join("\n  ")
    ))
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The operator's filter, and in any case the lines that we listen for.
fn log_filter() -> String {
    let ours = "muster_server=info,muster_node=info";
    match std::env::var(telemetry::ENVIRONMENT_VARIABLE) {
        Ok(filter) if !filter.is_empty() => format!("{ours},{filter}"),
        _ => format!("info,{ours}"),
    }
}

/// Copies a process's log to its file, and keeps the end of it.
async fn keep_log(
    stderr: impl AsyncRead + Unpin,
    mut file: File,
    tail: Arc<Mutex<VecDeque<String>>>,
    address: watch::Sender<Option<String>>,
) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(found) = address_in(&line) {
            address.send_replace(Some(found));
        }
        // A full disk must not stop the process from saying what is wrong.
        let _lost = writeln!(file, "{line}").is_err();
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(readable(&line));
    }
}

/// A log line in JSON as people read it; any other as it is.
fn readable(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    let mut take = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (level, message) = (take("level"), take("message"));
    for noise in ["timestamp", "target"] {
        take(noise);
    }
    let rest = fields.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("{name}={value}")
        }
    });
    [level, message]
        .into_iter()
        .chain(rest)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The address in the line by which the server says that it serves, in JSON.
fn address_in(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line.get("message")? == "serving")
        .then(|| line.get("address")?.as_str().map(str::to_owned))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_for_people() {
        let line = r#"{"timestamp":"2026","level":"ERROR","target":"x","message":"no","pid":7,"why":"full"}"#;
        assert_eq!(readable(line), "ERROR no pid=7 why=full");
        assert_eq!(readable("thread main panicked"), "thread main panicked");
    }

    #[test]
    fn the_line_that_says_where_the_server_serves() {
        let line = r#"{"level":"INFO","message":"serving","address":"127.0.0.1:8081"}"#;
        assert_eq!(address_in(line).as_deref(), Some("127.0.0.1:8081"));
        assert_eq!(address_in(r#"{"message":"roll loaded"}"#), None);
        assert_eq!(address_in("muster-server: the configuration"), None);
    }
}
