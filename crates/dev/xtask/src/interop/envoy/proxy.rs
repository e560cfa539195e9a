//! An Envoy that runs, and what it says of itself on its admin socket.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::interop::http::{self, Answer};
use crate::shell::{Failure, Talker};

/// The line of its log with which an Envoy has its secrets and begins to serve.
const SERVES: &str = "starting workers";

const LOGS_WITHIN: Duration = Duration::from_secs(30);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A running Envoy.
pub(super) struct Proxy {
    process: Option<Talker>,
    admin: PathBuf,
    /// Where its only listener listens.
    pub(super) port: u16,
}

impl Proxy {
    /// Starts what becomes Envoy when its arguments are added, and waits until it serves.
    pub(super) fn start(
        mut command: Command,
        config: &Path,
        admin: PathBuf,
    ) -> Result<Self, Failure> {
        command
            .arg("-c")
            .arg(config)
            .args(["--disable-hot-restart", "--concurrency", "2"])
            // Written at once: by default a line may lie in a buffer for ten seconds.
            .args([
                "--log-path",
                "/dev/stdout",
                "--file-flush-interval-msec",
                "50",
            ]);
        let mut proxy = Self {
            process: Some(Talker::start(&mut command)?),
            admin,
            port: 0,
        };
        let mut log = Vec::new();
        while let Some(line) = proxy.next_line() {
            if line.contains(SERVES) {
                proxy.port = proxy.listening()?;
                return Ok(proxy);
            }
            log.push(line);
        }
        let last = log.split_off(log.len().saturating_sub(5)).join("\n");
        Err(format!("{} does not serve; it says\n{last}", config.display()).into())
    }

    fn next_line(&self) -> Option<String> {
        self.process.as_ref()?.line_within(LOGS_WITHIN)
    }

    fn ask(&self, path: &str) -> Result<Answer, Failure> {
        let stream = UnixStream::connect(&self.admin)
            .map_err(|error| format!("{}: {error}", self.admin.display()))?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        http::get(&stream, path)
    }

    fn listening(&self) -> Result<u16, Failure> {
        let told: Value = serde_json::from_str(&self.ask("/listeners?format=json")?.body)?;
        let port = told
            .pointer("/listener_statuses/0/local_address/socket_address/port_value")
            .and_then(Value::as_u64)
            .ok_or_else(|| format!("no port in {told}"))?;
        Ok(u16::try_from(port)?)
    }

    /// The certificates that it has in use, as it lists them.
    pub(super) fn certificates(&self) -> Result<String, Failure> {
        Ok(self.ask("/certs")?.body)
    }

    /// A counter, by its whole name.
    pub(super) fn stat(&self, name: &str) -> Result<u64, Failure> {
        self.find_stat(|had| had == name)?
            .ok_or_else(|| format!("this Envoy has no counter {name}").into())
    }

    /// A counter of its listener, by the end of its name.
    pub(super) fn listener_stat(&self, name: &str) -> Result<u64, Failure> {
        self.find_stat(|had| had.starts_with("listener.") && had.ends_with(name))?
            .ok_or_else(|| format!("this Envoy has no counter listener.*.{name}").into())
    }

    fn find_stat(&self, is: impl Fn(&str) -> bool) -> Result<Option<u64>, Failure> {
        let told = self.ask("/stats")?.body;
        let found = told
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| is(name));
        Ok(found.map(|(_, value)| value.parse()).transpose()?)
    }

    /// Ends it. One that has ended before is an error.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        process.signal(Signal::SIGTERM)?;
        let ended = process.finish_within(ENDS_WITHIN)?;
        if ended.well {
            return Ok(());
        }
        Err(format!("on SIGTERM, {}\n{}", ended.how, ended.errors).into())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // On the way out of an error; what matters is that nothing is left behind.
            drop(process.signal(Signal::SIGTERM));
            drop(process.finish_within(ENDS_WITHIN));
        }
    }
}
