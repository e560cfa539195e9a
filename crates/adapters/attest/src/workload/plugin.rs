//! Attestors in programs of their own: gRPC over a Unix socket, `muster.plugin.v1`.
//!
//! The node either starts the program and keeps it running, or is told where it listens. The type of
//! its selectors is always the plugin's name, whatever it answers, and what it says is dropped
//! when the process has ended meanwhile.

mod child;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_model::Selector;
use muster_plugin::workload::{AttestError, Evidence, Fact, Process, WorkloadAttestor};
use muster_proto::muster::plugin::v1::AttestRequest;
use muster_proto::muster::plugin::v1::workload_attestor_client::WorkloadAttestorClient;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use self::child::Child;
use super::process::still_runs;

/// How long a plugin may take for one process, its start included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many questions a plugin is asked at once.
const AT_ONCE: usize = 64;
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
/// The most values in an answer, and the longest of them in bytes.
const MAX_VALUES: usize = 1_000;
const MAX_VALUE: usize = 4_096;
/// How much of a plugin's own words is logged, in characters.
const MAX_WORDS: usize = 200;
/// The longest name.
const MAX_NAME: usize = 32;

/// What a plugin is called: 1 to 32 lower-case letters, digits, `-` and `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginName(&'static str);

/// Why a plugin cannot be called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPluginName {
    /// It has other characters, none, or too many.
    #[error("a plugin's name has 1 to {MAX_NAME} lower-case letters, digits, '-' and '_'")]
    Malformed,
    /// The node has an attestor of that name.
    #[error("the node itself makes selectors of that type")]
    BuiltIn,
}

impl PluginName {
    /// Checks a name. Names are kept for the life of the program: take them from a configuration
    /// only.
    pub fn parse(text: &str) -> Result<Self, BadPluginName> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(good) {
            return Err(BadPluginName::Malformed);
        }
        if [super::unix::KIND, super::docker::KIND, super::systemd::KIND].contains(&text) {
            return Err(BadPluginName::BuiltIn);
        }
        Ok(Self(Box::leak(text.to_owned().into_boxed_str())))
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Where a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Somebody else runs it, and it listens there.
    Socket(PathBuf),
    /// The node runs it.
    Command {
        /// The program, by its absolute path.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

/// A plugin, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginOptions {
    /// Its name, which is the type of its selectors.
    pub name: PluginName,
    /// Where it is.
    pub place: Place,
}

/// An attestor in another program.
#[derive(Debug)]
pub struct PluginAttestor {
    name: &'static str,
    socket: PathBuf,
    channel: Mutex<Option<Channel>>,
    places: Semaphore,
    // Keeps the program running, if it is ours to run.
    child: Option<Child>,
}

impl PluginAttestor {
    /// The attestor that `options` tell of. A program is started at once, within a Tokio runtime; its
    /// socket is made in `folder`, which only the node may enter. It ends with this value.
    pub fn new(options: PluginOptions, folder: &std::path::Path) -> Self {
        let name = options.name.as_str();
        let (socket, child) = match options.place {
            Place::Socket(socket) => (socket, None),
            Place::Command { program, arguments } => {
                let socket = folder.join(format!("{name}.sock"));
                let child = Child::keep(name, program, arguments, socket.clone());
                (socket, Some(child))
            }
        };
        Self {
            name,
            socket,
            channel: Mutex::new(None),
            places: Semaphore::new(AT_ONCE),
            child,
        }
    }

    /// A channel, which connects anew by itself once it was there.
    async fn channel(&self) -> Result<Channel, String> {
        let mut channel = self.channel.lock().await;
        if let Some(channel) = &*channel {
            return Ok(channel.clone());
        }
        let connected = child::connect(&self.socket, self.child.is_some())
            .await
            .map_err(|error| error.to_string())?;
        *channel = Some(connected.clone());
        Ok(connected)
    }

    async fn ask(&self, process: &Process) -> Result<Vec<String>, String> {
        let _place = self.places.acquire().await;
        let channel = self.channel().await?;
        process.work.asked();
        let request = AttestRequest {
            pid: i32::try_from(process.pid).map_err(|error| error.to_string())?,
            uid: process.uid,
            gid: process.gid,
            start_time: process.start_time,
        };
        let answer = WorkloadAttestorClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER)
            .attest(request)
            .await
            .map_err(|status| words(&status))?;
        Ok(answer.into_inner().selector_values)
    }

    fn failed(&self, process: &Process, reason: &str) -> AttestError {
        AttestError::Failed {
            kind: self.name,
            reason: format!("process {}: {reason}", process.pid),
            source: None,
        }
    }
}

/// What a plugin says of its failure, at a length that a log can bear.
fn words(status: &Status) -> String {
    let text: String = status.message().chars().take(MAX_WORDS).collect();
    format!("the plugin answers {:?}: {text:?}", status.code())
}

/// The facts in an answer, each once, in a fixed order.
fn facts(name: &'static str, mut values: Vec<String>) -> Result<Vec<Fact>, String> {
    if values.len() > MAX_VALUES {
        return Err(format!(
            "the plugin answers with {} values, and at most {MAX_VALUES} are taken",
            values.len()
        ));
    }
    values.sort_unstable();
    values.dedup();
    values
        .into_iter()
        .map(|value| {
            if value.len() > MAX_VALUE {
                return Err(format!(
                    "the plugin answers with a value of {} bytes, and at most {MAX_VALUE} are taken",
                    value.len()
                ));
            }
            Selector::new(name, value)
                .map(|selector| Fact {
                    selector,
                    evidence: Evidence::Plugin,
                })
                .map_err(|error| format!("the plugin answers with a bad value: {error}"))
        })
        .collect()
}

#[async_trait]
impl WorkloadAttestor for PluginAttestor {
    fn kind(&self) -> &'static str {
        self.name
    }

    async fn attest(&self, process: &Process) -> Result<Vec<Fact>, AttestError> {
        still_runs(process)?;
        let answer = timeout(PATIENCE, self.ask(process)).await;
        // A plugin knows the process by its number, which is its own only as long as it runs.
        still_runs(process)?;
        let values = answer
            .unwrap_or_else(|_elapsed| Err(format!("no answer within {} s", PATIENCE.as_secs())))
            .map_err(|reason| self.failed(process, &reason))?;
        facts(self.name, values).map_err(|reason| self.failed(process, &reason))
    }
}

/// Every plugin of a configuration; see [`PluginAttestor::new`].
pub fn all(plugins: &[PluginOptions], folder: &std::path::Path) -> Vec<Arc<dyn WorkloadAttestor>> {
    plugins
        .iter()
        .map(|options| Arc::new(PluginAttestor::new(options.clone(), folder)) as _)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(PluginName::parse("my-pay_2").unwrap().as_str(), "my-pay_2");
        for bad in ["", "Pay", "a:b", "a b", &"x".repeat(33)] {
            assert_eq!(PluginName::parse(bad), Err(BadPluginName::Malformed));
        }
        for ours in ["unix", "docker", "systemd"] {
            assert_eq!(PluginName::parse(ours), Err(BadPluginName::BuiltIn));
        }
    }

    #[test]
    fn answers_become_selectors_of_the_plugins_own_type() {
        let found = facts(
            "pay",
            vec!["unix:uid:0".into(), "b".into(), "b".into(), "a".into()],
        );
        let found: Vec<String> = found
            .unwrap()
            .iter()
            .map(|fact| fact.selector.to_string())
            .collect();
        assert_eq!(found, ["pay:a", "pay:b", "pay:unix:uid:0"]);
    }

    #[test]
    fn answers_are_bounded() {
        for values in [
            vec!["x".to_owned(); MAX_VALUES + 1],
            vec!["x".repeat(MAX_VALUE + 1)],
            vec![String::new()],
        ] {
            assert!(facts("pay", values).is_err());
        }
        let long = words(&Status::internal("x".repeat(1_000_000)));
        assert!(long.len() < 300);
    }
}
