//! Programs that attest for us: gRPC over a Unix socket, `muster.plugin.v1`.
//!
//! Here is what all of them share: their names, where they are, that they are kept running, and how
//! much of what they say is taken. [`crate::workload::plugin`] and [`crate::node::plugin`] say what
//! they are asked.

mod child;
mod settings;

use std::path::{Path, PathBuf};

use muster_model::Selector;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tonic::Status;
use tonic::transport::Channel;

pub use self::settings::{read, read_list};

use self::child::Child;

/// The largest message of a plugin, in bytes.
pub(crate) const MAX_MESSAGE: usize = 256 * 1024;
/// The most selectors of one process or node, and the longest value of one in bytes.
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
    /// There is an attestor of that name without a plugin.
    #[error("Muster itself makes selectors of that type")]
    BuiltIn,
}

impl PluginName {
    /// Checks a name, which is not to be one of `taken`. Names are kept for the life of the program:
    /// take them from a configuration only.
    pub(crate) fn parse_beside(text: &str, taken: &[&str]) -> Result<Self, BadPluginName> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(good) {
            return Err(BadPluginName::Malformed);
        }
        if taken.contains(&text) {
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
    /// The daemon runs it.
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

/// A plugin that is there to be asked.
#[derive(Debug)]
pub(crate) struct Host {
    name: &'static str,
    socket: PathBuf,
    channel: Mutex<Option<Channel>>,
    places: Semaphore,
    // Keeps the program running, if it is ours to run.
    child: Option<Child>,
}

impl Host {
    /// The plugin that `options` tell of, to be asked `at_once` questions at the same time. A program
    /// is started at once, within a Tokio runtime; its socket is made in `folder`, which only the
    /// daemon may enter, under the plugin's name and `ending`. It ends with this value.
    pub(crate) fn new(options: PluginOptions, folder: &Path, ending: &str, at_once: usize) -> Self {
        let name = options.name.as_str();
        let (socket, child) = match options.place {
            Place::Socket(socket) => (socket, None),
            Place::Command { program, arguments } => {
                let socket = folder.join(format!("{name}{ending}"));
                let child = Child::keep(name, program, arguments, socket.clone());
                (socket, Some(child))
            }
        };
        Self {
            name,
            socket,
            channel: Mutex::new(None),
            places: Semaphore::new(at_once),
            child,
        }
    }

    /// The plugin's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// A place among the questions that are asked at once; waits for one.
    pub(crate) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.places.acquire().await.ok()
    }

    /// A channel, which connects anew by itself once it was there. Give it a deadline.
    pub(crate) async fn channel(&self) -> Result<Channel, String> {
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
}

/// What a plugin says of its failure, at a length that a log can bear.
pub(crate) fn words(status: &Status) -> String {
    let text: String = status.message().chars().take(MAX_WORDS).collect();
    format!("the plugin answers {:?}: {text:?}", status.code())
}

/// The selectors in an answer, all of the plugin's own type, each once, in a fixed order.
pub(crate) fn selectors(
    name: &'static str,
    mut values: Vec<String>,
) -> Result<Vec<Selector>, String> {
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
                .map_err(|error| format!("the plugin answers with a bad value: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let parse = |text: &str| PluginName::parse_beside(text, &["unix"]);
        assert_eq!(parse("my-pay_2").unwrap().as_str(), "my-pay_2");
        for bad in ["", "Pay", "a:b", "a b", "a/b", "a.b", &"x".repeat(33)] {
            assert_eq!(parse(bad), Err(BadPluginName::Malformed));
        }
        assert_eq!(parse("unix"), Err(BadPluginName::BuiltIn));
    }

    #[test]
    fn answers_become_selectors_of_the_plugins_own_type() {
        let found = selectors(
            "pay",
            vec!["unix:uid:0".into(), "b".into(), "b".into(), "a".into()],
        );
        let found: Vec<String> = found.unwrap().iter().map(Selector::to_string).collect();
        assert_eq!(found, ["pay:a", "pay:b", "pay:unix:uid:0"]);
    }

    #[test]
    fn answers_are_bounded() {
        for values in [
            vec!["x".to_owned(); MAX_VALUES + 1],
            vec!["x".repeat(MAX_VALUE + 1)],
            vec![String::new()],
        ] {
            assert!(selectors("pay", values).is_err());
        }
        let long = words(&Status::internal("x".repeat(1_000_000)));
        assert!(long.len() < 300);
    }
}
