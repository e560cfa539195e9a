//! The second half of the demonstration: an agent, its tasks, and what the server recorded of them.
//!
//! What is told comes from three sides: the agent reports its steps, the node whom it refused, the
//! server what it recorded. The story is over when the agent is, and every task that was opened is on
//! record as ended.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use muster_model::SpiffeId;
use muster_proto::muster::agent::v1::AgentClass;
use muster_proto::muster::server::admin::v1::NumberedRecord;
use muster_proto::spire::api::types::{Entry, Selector};
use muster_wire::id;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Dev;
use super::agent::{Step, Way};
use super::happening::Happening;
use super::place::Place;
use super::program::Program;
use super::screen::Screen;
use super::setup::Running;
use crate::agent::class::ensure_active;
use crate::agent::file::read_text;
use crate::audit::{self, Trail};
use crate::entry;
use crate::failure::{Exit, Failure};
use crate::server_api::ServerArgs;

/// The class of the agent: the one of the examples.
const CLASS_FILE: &str = "examples/agent.toml";
const CLASS: &str = include_str!("../../../../../examples/agent.toml");
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// As what the end of a task is recorded.
const ENDS: [&str; 5] = [
    "task.completed",
    "task.failed",
    "task.expired",
    "task.revoked",
    "task.process_exited",
];

/// How far it is.
pub(super) enum Stage {
    /// The workload has no identity yet.
    Before,
    Playing(Box<Story>),
    Over,
}

/// What was heard so far.
pub(super) struct Story {
    pub(super) server: ServerArgs,
    pub(super) class: AgentClass,
    /// The agent's identity.
    pub(super) agent: SpiffeId,
    /// Path of the node's SPIFFE ID: on the screen, where there is one node, it needs no name.
    pub(super) node: String,
    pub(super) program: Program,
    pub(super) told: Vec<Told>,
    /// Processes that the node refused meanwhile, and why.
    pub(super) refused: Vec<(i32, String)>,
    pub(super) records: Vec<NumberedRecord>,
    /// What happened meanwhile and has nothing to do with it.
    aside: Vec<Happening>,
    /// The node told more than could be read.
    missed: bool,
    /// The agent will tell no more.
    silent: bool,
    /// The agent has ended, and there was this record by then.
    newest: Option<u64>,
    due: Instant,
    /// Follows the audit log for as long as the story is told.
    _trail: JoinSet<()>,
}

/// What the agent told.
pub(super) enum Told {
    Step(Step),
    /// A line of an agent that is not ours.
    Line(String),
}

impl Stage {
    /// See [`Story::hears`].
    pub(super) fn hears(&mut self, happening: &Happening) -> bool {
        match self {
            Self::Playing(story) => story.hears(happening),
            Self::Before | Self::Over => false,
        }
    }

    /// See [`Story::agent_ended`].
    pub(super) async fn agent_ended(&mut self) -> Result<(), Failure> {
        match self {
            Self::Playing(story) => story.agent_ended().await,
            Self::Before | Self::Over => Ok(()),
        }
    }

    /// Shows the story when there is no more to come, or `heard` says that it went wrong, which
    /// with `--once` is an error.
    pub(super) fn close(
        &mut self,
        heard: Result<(), Failure>,
        dev: &Dev,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        let well = match self {
            Self::Playing(story) => heard.is_ok() && story.is_over(),
            Self::Before | Self::Over => false,
        };
        if heard.is_ok() && !well {
            return Ok(());
        }
        if let Self::Playing(mut story) = std::mem::replace(self, Self::Over) {
            if screen.tells_all() {
                if well {
                    screen.agent_done()?;
                }
            } else {
                screen.story(&story)?;
                for happening in story.take_aside() {
                    screen.happened(&happening)?;
                }
            }
        }
        match heard {
            Err(failure) if dev.once => Err(failure),
            Err(failure) => screen.agent_failed(&failure),
            Ok(()) => Ok(()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Waits until the story has taken too long. Never returns while there is none.
    pub(super) async fn overdue(&self) -> Failure {
        match self {
            Self::Playing(story) => {
                tokio::time::sleep_until(story.due).await;
                story.overdue()
            }
            Self::Before | Self::Over => std::future::pending().await,
        }
    }
}

impl Story {
    /// Has the operator's side done: the class is active, the agent has an entry, the audit log is
    /// followed. `words` is another agent than ours.
    pub(super) async fn begin(
        place: &Place,
        running: &Running,
        words: &[OsString],
        to: mpsc::Sender<Happening>,
    ) -> Result<Self, Failure> {
        let server = running.server_args();
        let (name, spec) = read_text(CLASS_FILE, CLASS)?;
        let program = if words.is_empty() {
            let address = running.workload_address();
            let parent = std::process::id().to_string();
            Program::ours(
                place,
                &[
                    "demo-agent",
                    "--socket",
                    &address,
                    "--class",
                    name.as_str(),
                    "--die-with",
                    &parent,
                ],
            )?
        } else {
            Program::given(words)?
        };
        let followed = Trail::of_class(&server, name.as_str()).await?;
        let mut trail = JoinSet::new();
        trail.spawn(forward_trail(followed, to));
        let class = ensure_active(&server, &name, spec).await?;
        let agent = running
            .trust_domain
            .with_path(&format!("/agent/{name}/1"))
            .map_err(|error| Failure::failed(format!("the agent's SPIFFE ID: {error}")))?;
        let node = SpiffeId::parse(&running.node_id).map_err(|error| {
            Failure::failed(format!("the node's ID {:?}: {error}", running.node_id))
        })?;
        let entry = entry_of(&agent, &node, &program.executable);
        entry::ensure(&server, entry).await?;
        Ok(Self {
            server,
            class,
            agent,
            node: node.path().to_owned(),
            program,
            told: Vec::new(),
            refused: Vec::new(),
            records: Vec::new(),
            aside: Vec::new(),
            missed: false,
            silent: false,
            newest: None,
            due: Instant::now() + PATIENCE,
            _trail: trail,
        })
    }

    /// Takes note of what happens. False is for what has nothing to do with the story, and is
    /// told at once.
    pub(super) fn hears(&mut self, happening: &Happening) -> bool {
        match happening {
            Happening::Agent(step) => self.told.push(Told::Step(step.clone())),
            Happening::AgentSaid(line) => self.told.push(Told::Line(line.clone())),
            Happening::AgentSilent => self.silent = true,
            Happening::Recorded(record) => self.records.push(NumberedRecord::clone(record)),
            Happening::Refused { what, .. } => {
                self.refused.push((what.pid, what.reason.clone()));
                self.aside.push(happening.clone());
            }
            Happening::Attested { .. } => self.aside.push(happening.clone()),
            Happening::Issued { what, .. } => return self.is_of(&what.spiffe_id),
            Happening::Missed { .. } => {
                self.missed = true;
                return false;
            }
            Happening::Demo(_) => return false,
        }
        true
    }

    /// Whether an identity is the agent's, or one of its tasks'.
    fn is_of(&self, spiffe_id: &str) -> bool {
        let below = spiffe_id.strip_prefix(self.agent.as_str());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The agent has ended. What the server has on record of it by now belongs to the story.
    pub(super) async fn agent_ended(&mut self) -> Result<(), Failure> {
        self.newest = Some(audit::newest_of_class(&self.server, &self.class.name).await?);
        Ok(())
    }

    pub(super) fn is_over(&self) -> bool {
        let read = self.records.last().map_or(0, |record| record.sequence);
        self.silent
            && self.newest.is_some_and(|newest| read >= newest)
            && self.open().is_empty()
            && (self.missed || self.not_refused().next().is_none())
            && self.not_recorded().next().is_none()
    }

    /// Processes that wanted to be the task, and are not on record for it: the node tells its server
    /// a moment later.
    fn not_recorded(&self) -> impl Iterator<Item = u32> {
        let on_record = |pid: u32| {
            let pid = pid.to_string();
            self.records.iter().any(|record| {
                record.event == "workload.impersonation_attempt"
                    && record.detail.get("pid") == Some(&pid)
            })
        };
        self.told.iter().filter_map(move |told| match told {
            Told::Step(Step::Asked {
                way: Way::TaskInherited | Way::TaskOwn,
                pid,
            }) if !on_record(*pid) => Some(*pid),
            Told::Step(_) | Told::Line(_) => None,
        })
    }

    /// Processes that say that they were refused, and the node has not said so.
    fn not_refused(&self) -> impl Iterator<Item = u32> {
        self.told.iter().filter_map(|told| match told {
            Told::Step(Step::Asked { pid, .. }) if self.reason_for(*pid).is_none() => Some(*pid),
            Told::Step(_) | Told::Line(_) => None,
        })
    }

    /// Tasks that were opened, and are not on record as ended.
    fn open(&self) -> BTreeSet<&str> {
        let mut open = BTreeSet::new();
        for record in &self.records {
            match (record.event.as_str(), record.detail.get("task")) {
                ("task.opened" | "task.spawned", Some(task)) => {
                    open.insert(task.as_str());
                }
                (event, Some(task)) if ENDS.contains(&event) => {
                    open.remove(task.as_str());
                }
                _ => {}
            }
        }
        open
    }

    /// Why the node refused a process, in a word.
    pub(super) fn reason_for(&self, pid: u32) -> Option<&str> {
        let known = self
            .refused
            .iter()
            .find(|(refused, _)| u32::try_from(*refused) == Ok(pid));
        known.map(|(_, reason)| reason.as_str())
    }

    /// What happened meanwhile and is no part of it.
    pub(super) fn take_aside(&mut self) -> Vec<Happening> {
        let pids: BTreeSet<i32> = self
            .told
            .iter()
            .filter_map(|told| match told {
                Told::Step(Step::Identified { pid, .. } | Step::Asked { pid, .. }) => {
                    i32::try_from(*pid).ok()
                }
                Told::Step(Step::Opened(_) | Step::Refused { .. } | Step::Ended(_))
                | Told::Line(_) => None,
            })
            .collect();
        let mut aside = std::mem::take(&mut self.aside);
        aside.retain(|happening| match happening {
            Happening::Attested { what, .. } => !pids.contains(&what.pid),
            Happening::Refused { what, .. } => !pids.contains(&what.pid),
            Happening::Issued { .. }
            | Happening::Missed { .. }
            | Happening::Demo(_)
            | Happening::Agent(_)
            | Happening::AgentSaid(_)
            | Happening::AgentSilent
            | Happening::Recorded(_) => true,
        });
        aside
    }

    fn overdue(&self) -> Failure {
        let what = if self.newest.is_none() {
            "the agent has not ended".to_owned()
        } else if let Some(pid) = self.not_refused().next() {
            format!("the node has not said that it refused process {pid}")
        } else if let Some(pid) = self.not_recorded().next() {
            format!("it is not on record that process {pid} was refused")
        } else if self.silent {
            format!(
                "the end of these tasks is not on record: {}",
                self.open().into_iter().collect::<Vec<_>>().join(", ")
            )
        } else {
            "the agent left something running that holds its standard output".to_owned()
        };
        Failure::new(
            Exit::Failed,
            format!("after {} s, {what}", PATIENCE.as_secs()),
        )
    }
}

/// The agent's entry: processes of this user that run its executable.
fn entry_of(agent: &SpiffeId, node: &SpiffeId, executable: &Path) -> Entry {
    let unix = |value: String| Selector {
        r#type: "unix".to_owned(),
        value,
    };
    Entry {
        spiffe_id: Some(id::write(agent)),
        parent_id: Some(id::write(node)),
        selectors: vec![
            unix(format!("uid:{}", nix::unistd::getuid())),
            unix(format!("path:{}", executable.display())),
        ],
        ..Entry::default()
    }
}

/// Passes the records on until the log ends.
async fn forward_trail(mut trail: Trail, to: mpsc::Sender<Happening>) {
    while let Ok(record) = trail.next().await {
        if to
            .send(Happening::Recorded(Box::new(record)))
            .await
            .is_err()
        {
            return;
        }
    }
}
