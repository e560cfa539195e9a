//! Sightings: processes that look like AI agents, as nodes found them.
//!
//! A sighting is of a kind of process on a node, not of one process: the same program of the same
//! user in the same unit is one row, however often it is started.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::class::words;
use super::text::texts;
use super::{ClassName, Inherited, Note, TextFault, Word};
use crate::{Revision, SelectorSet, SpiffeId, Timestamp};

words! {
    /// What a process looks like.
    SightingKind {
        /// An agent that people start: `claude`, `codex`, `gemini`.
        Cli = "cli",
        /// A program built with a framework for agents: LangGraph, CrewAI, Semantic Kernel.
        Framework = "framework",
        /// A program that calls a provider of models.
        Sdk = "sdk",
        /// A server of the Model Context Protocol: it gives tools to agents.
        McpServer = "mcp_server",
        /// A client of such servers.
        McpClient = "mcp_client",
        /// A server that other agents call (A2A).
        A2a = "a2a",
    }

    /// How sure a finding is.
    Confidence {
        /// It may be one: a hint, which other programs give too.
        Possible = "possible",
        /// It is one, unless somebody named another program like it.
        Likely = "likely",
        /// Several things say so, or one that nothing else has.
        Certain = "certain",
    }

    /// What gave a process away.
    SightingClue {
        /// The file name of its executable.
        Executable = "executable",
        /// The place of its executable.
        ExecutablePath = "executable_path",
        /// The name that it gives itself (its first argument).
        Title = "title",
        /// The script or package that an interpreter runs.
        Script = "script",
        /// The Python module that is run (`-m`).
        Module = "module",
        /// The subcommand.
        Subcommand = "subcommand",
        /// A flag, without its value.
        Flag = "flag",
        /// A file that is mapped into it.
        Library = "library",
        /// The name of a variable of its first environment.
        Variable = "variable",
        /// A TCP port on which it listens.
        Port = "port",
        /// That it listens at all, where something else gave it away.
        Listener = "listener",
    }

    /// How a process that was found stands to the roll.
    SightingStanding {
        /// It has an identity of a class that is meant for it.
        Registered = "registered",
        /// It has no identity.
        Unregistered = "unregistered",
        /// It has an identity of no class, or of a class that is meant for other agents.
        WrongClass = "wrong_class",
        /// It has an identity of a class that is meant for it, and was started for a provider of models
        /// that the class does not allow.
        ProviderNotAllowed = "provider_not_allowed",
    }

    /// Where a sighting stands.
    SightingState {
        /// Nobody has done anything about it.
        New = "new",
        /// An operator knows of it, and leaves it as it is.
        Acknowledged = "acknowledged",
        /// It has an identity of a class that is meant for it.
        Registered = "registered",
        /// No such process runs any longer.
        Gone = "gone",
    }
}

texts! {
    /// The key of a sighting, which its node makes: 32 lower-case hexadecimal digits.
    SightingKey: |text| text.len() == 32
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), TextFault::SightingKey;
    /// A name that a machine showed, such as a path: at most 512 characters, no control characters,
    /// or nothing.
    Shown: |text| text.len() <= 2048 && text.chars().count() <= 512
        && !text.chars().any(char::is_control), TextFault::Prose { most: 512 };
}

impl SightingKey {
    /// The key that no other comes before.
    pub fn first() -> Self {
        Self("0".repeat(32).into())
    }

    /// The beginning of the key, for names.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl Shown {
    /// The text as it can be shown: control characters replaced, and cut where it is too long.
    pub fn of(text: &str) -> Self {
        let plain: String = text
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .take(512)
            .collect();
        Self(plain.into())
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self("".into())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

/// A process above the one that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter {
    /// The file name of its executable; empty where it is hidden.
    pub executable: Shown,
    /// Its effective user.
    pub uid: u32,
    /// The user who logged in and started it, where the kernel noted one.
    pub login: Option<u32>,
}

/// One thing that gave a process away: the rule of the table, never the text of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SightingEvidence {
    /// Where it was seen.
    pub clue: SightingClue,
    /// The rule that matched.
    pub rule: Shown,
}

/// What a node tells of a kind of process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// Its key, the same as long as node, program, user and unit are.
    pub key: SightingKey,
    /// What it looks like, by the name in the table.
    pub product: Word,
    /// Of which kind that is.
    pub kind: SightingKind,
    /// How sure that is.
    pub confidence: Confidence,
    /// Other products that it looks like as well.
    pub also: Vec<Word>,
    /// What gave it away.
    pub evidence: Vec<SightingEvidence>,
    /// The path of the executable; empty where it is hidden.
    pub executable: Shown,
    /// The shape of its arguments: flags and words, without any of their text.
    pub shape: Shown,
    /// Its effective user.
    pub uid: u32,
    /// That user's name, where it is known.
    pub user: Shown,
    /// The unit in which it runs, or nothing.
    pub unit: Shown,
    /// The processes above it, the nearest first.
    pub started_by: Vec<Starter>,
    /// The TCP ports on which it listens, ascending.
    pub ports: Vec<u16>,
    /// How many such processes run.
    pub count: u32,
    /// The numbers of the first of them.
    pub pids: Vec<u32>,
    /// When the oldest of them started.
    pub started: Timestamp,
    /// Providers of models whose variable it was started with, ascending.
    pub providers: Vec<Word>,
    /// What it is attested as; empty where it could not be.
    pub facts: SelectorSet,
    /// The identities that it has.
    pub identities: Vec<SpiffeId>,
    /// The secrets that processes have which it started, by variable and heir; on the server, the most
    /// that there were at a time.
    pub inherited: Vec<Inherited>,
}

impl Sighted {
    /// How many values each list has at the most.
    pub const MOST: usize = 16;
    /// How many facts there are at the most.
    pub const MOST_FACTS: usize = 128;

    /// Whether this look tells the same as one before but for how many such processes run, and which.
    /// That fewer secrets are handed down is no news: what an agent starts comes and goes.
    pub fn tells_the_same(&self, before: &Self) -> bool {
        let bare = |seen: &Self| Self {
            count: 0,
            pids: Vec::new(),
            started: Timestamp::from_unix_seconds(0),
            inherited: Vec::new(),
            ..seen.clone()
        };
        bare(self) == bare(before) && !Inherited::grows(&before.inherited, &self.inherited)
    }
}

/// That an operator knows of a sighting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why it is left as it is.
    pub note: Note,
}

/// A kind of process on a node that looks like an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The node that found it.
    pub node: SpiffeId,
    /// What the node tells of it.
    pub seen: Sighted,
    /// How it stands to the roll.
    pub standing: SightingStanding,
    /// The classes of its identities.
    pub classes: Vec<ClassName>,
    /// The class whose agents look like it, if there is one.
    pub expected: Option<ClassName>,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last told; not written more often than needed.
    pub last_seen: Timestamp,
    /// Since when no such process runs.
    pub gone_at: Option<Timestamp>,
    /// Whether an operator knows of it.
    pub acknowledged: Option<Acknowledged>,
    /// The transaction that last wrote it.
    pub changed_at: Revision,
}

/// The name of a sighting: its node, and its key there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SightingId {
    /// The node.
    pub node: SpiffeId,
    /// The key.
    pub key: SightingKey,
}

impl fmt::Display for SightingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.key)
    }
}

impl Sighting {
    /// Its name.
    pub fn id(&self) -> SightingId {
        SightingId {
            node: self.node.clone(),
            key: self.seen.key.clone(),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> SightingState {
        if self.gone_at.is_some() {
            SightingState::Gone
        } else if self.standing == SightingStanding::Registered {
            SightingState::Registered
        } else if self.acknowledged.is_some() {
            SightingState::Acknowledged
        } else {
            SightingState::New
        }
    }
}
