//! Workload attestors in programs of their own.
//!
//! The type of their selectors is always the plugin's name, whatever they answer, and what they say
//! is dropped when the process has ended meanwhile.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_peer::pidfd::inode;
use muster_plugin::workload::{AttestError, Evidence, Fact, Process, WorkloadAttestor};
use muster_proto::muster::plugin::v1::AttestRequest;
use muster_proto::muster::plugin::v1::workload_attestor_client::WorkloadAttestorClient;
use tokio::time::timeout;

use super::process::still_runs;
use crate::plugin::{
    BadPluginName, Host, MAX_MESSAGE, PluginName, PluginOptions, selectors, words,
};

/// How long a plugin may take for one process, its start included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many questions a plugin is asked at once.
const AT_ONCE: usize = 64;
/// How its socket is called after its name.
const ENDING: &str = ".sock";

/// The name of a workload attestor's plugin: none of the node's own attestors has it.
pub fn name(text: &str) -> Result<PluginName, BadPluginName> {
    // The last is what callers on a task's socket are attested as, by the node alone.
    let taken = [
        super::unix::KIND,
        super::docker::KIND,
        super::systemd::KIND,
        "muster",
    ];
    PluginName::parse_beside(text, &taken)
}

/// An attestor in another program.
#[derive(Debug)]
pub struct PluginAttestor {
    host: Host,
}

impl PluginAttestor {
    /// The attestor that `options` tell of. A program is started at once, within a Tokio runtime; its
    /// socket is made in `folder`, which only the node may enter. It ends with this value.
    pub fn new(options: PluginOptions, folder: &Path) -> Self {
        Self {
            host: Host::new(options, folder, ENDING, AT_ONCE),
        }
    }

    async fn ask(&self, process: &Process) -> Result<Vec<String>, String> {
        let _place = self.host.place().await;
        let channel = self.host.channel().await?;
        process.work.asked();
        let request = AttestRequest {
            pid: i32::try_from(process.pid).map_err(|error| error.to_string())?,
            uid: process.uid,
            gid: process.gid,
            start_time: process.start_time,
            pidfd_inode: inode(&process.pidfd)
                .map_err(|error| format!("its pidfd: {error}"))?
                .map_or(0, NonZeroU64::get),
        };
        let answer = WorkloadAttestorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .attest(request)
            .await
            .map_err(|status| words(&status))?;
        Ok(answer.into_inner().selector_values)
    }

    fn failed(&self, process: &Process, reason: &str) -> AttestError {
        AttestError::Failed {
            kind: self.host.name(),
            reason: format!("process {}: {reason}", process.pid),
            source: None,
        }
    }
}

#[async_trait]
impl WorkloadAttestor for PluginAttestor {
    fn kind(&self) -> &'static str {
        self.host.name()
    }

    async fn attest(&self, process: &Process) -> Result<Vec<Fact>, AttestError> {
        still_runs(process)?;
        let answer = timeout(PATIENCE, self.ask(process)).await;
        // A plugin knows the process by its number, which is its own only as long as it runs.
        still_runs(process)?;
        let values = answer
            .unwrap_or_else(|_elapsed| Err(format!("no answer within {} s", PATIENCE.as_secs())))
            .map_err(|reason| AttestError::Away {
                kind: self.host.name(),
                reason: format!("process {}: {reason}", process.pid),
            })?;
        let found = selectors(self.host.name(), values);
        let found = found.map_err(|reason| self.failed(process, &reason))?;
        let fact = |selector| Fact {
            selector,
            evidence: Evidence::Plugin,
        };
        Ok(found.into_iter().map(fact).collect())
    }
}

/// Every plugin of a configuration; see [`PluginAttestor::new`].
pub fn all(plugins: &[PluginOptions], folder: &Path) -> Vec<Arc<dyn WorkloadAttestor>> {
    plugins
        .iter()
        .map(|options| Arc::new(PluginAttestor::new(options.clone(), folder)) as _)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_names_are_taken() {
        for ours in ["unix", "docker", "systemd", "muster"] {
            assert_eq!(name(ours), Err(BadPluginName::BuiltIn));
        }
        assert!(name("k8s").is_ok());
    }
}
