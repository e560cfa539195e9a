//! SPIRE's agent as a node of our server, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::Spire;
use super::tool::{Tool, text_at};
use crate::interop::domain::{Domain, TRUST_DOMAIN};
use crate::shell::{Ended, Failure, Talker, eventually, last_lines};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// A running `spire-agent`. It ends with this value.
pub(super) struct Daemon {
    /// The name by which our server knows it.
    pub(super) id: String,
    program: PathBuf,
    process: Option<Talker>,
    // Removed last.
    folder: TempDir,
}

impl Daemon {
    /// Lets SPIRE's agent join with a token, as its documentation has it, and waits until it serves.
    pub(super) fn start(domain: &Domain, spire: &Spire) -> Result<Self, Failure> {
        // The path of a socket may have 107 bytes, so the folder is not under target/.
        let folder = tempfile::Builder::new().prefix("muster-spire-").tempdir()?;
        let operator = spire.operator(domain);
        let token: Value = operator.json(&["token", "generate"])?;
        let token = text_at(&token, "/value")?;
        fs::write(
            folder.path().join("bundle.pem"),
            operator.says(&["bundle", "show"])?,
        )?;
        let config = folder.path().join("agent.conf");
        fs::write(&config, configuration(folder.path(), domain)?)?;
        let mut run = Command::new(&spire.agent);
        run.args(["run", "-joinToken", token, "-config"])
            .arg(config);
        let daemon = Self {
            id: format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"),
            program: spire.agent.clone(),
            process: Some(Talker::start(&mut run)?),
            folder,
        };
        let healthy = || daemon.workloads().says(&["healthcheck"]).map(drop);
        match eventually("spire-agent is healthy", READY_WITHIN, healthy) {
            Ok(()) => Ok(daemon),
            Err(error) => {
                let ended = daemon.interrupt()?;
                let log = last_lines(&ended.output, 3);
                Err(format!("{error}: {}: {log}", ended.how).into())
            }
        }
    }

    /// Where workloads ask.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("public/api.sock")
    }

    /// SPIRE's command line for workloads.
    pub(super) fn workloads(&self) -> Tool {
        Tool::new(&self.program, &self.socket())
    }

    /// SPIRE's command line for the agent's operator.
    pub(super) fn admin(&self) -> Tool {
        Tool::new(
            &self.program,
            &self.folder.path().join("private/admin.sock"),
        )
    }

    /// Waits until it ends by itself.
    pub(super) fn ends_within(mut self, limit: Duration) -> Result<Ended, Failure> {
        let process = self.process.take().ok_or("spire-agent has ended")?;
        process.finish_within(limit)
    }

    fn interrupt(mut self) -> Result<Ended, Failure> {
        let process = self.process.take().ok_or("spire-agent has ended")?;
        process.signal(Signal::SIGTERM)?;
        process.finish_within(STOPPED_WITHIN)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // On the way out of an error; what matters is that nothing is left behind.
            drop(process.signal(Signal::SIGTERM));
            drop(process.finish_within(STOPPED_WITHIN));
        }
    }
}

/// What SPIRE's agent needs, and nothing that it has a default for.
fn configuration(folder: &Path, domain: &Domain) -> Result<String, Failure> {
    let address = domain.server_address();
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| format!("the server's address is {address}"))?;
    let at = |name: &str| folder.join(name).display().to_string();
    Ok(format!(
        r#"agent {{
  data_dir = "{data}"
  log_level = "INFO"
  server_address = "{host}"
  server_port = "{port}"
  socket_path = "{public}"
  admin_socket_path = "{private}"
  trust_domain = "{TRUST_DOMAIN}"
  trust_bundle_path = "{bundle}"
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{data}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
        data = at("data"),
        public = at("public/api.sock"),
        private = at("private/admin.sock"),
        bundle = at("bundle.pem"),
    ))
}
