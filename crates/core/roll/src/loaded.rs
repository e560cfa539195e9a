//! What a store hands over at start.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use muster_model::{Bundle, Entry, JoinToken, Node, Revision, Rule};

use crate::agents::LoadedAgents;

/// Everything that a store holds, as of one revision.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The newest revision; 0 is the empty roll.
    pub head: Revision,
    /// The ordinal that the next entry gets: greater than any that was ever given, also to an
    /// entry deleted since. 0 and 1 mean that none was given yet.
    pub next_ordinal: u64,
    /// The entries, in any order; in the order of creation they load fastest.
    pub entries: Vec<Arc<Entry>>,
    /// The attested nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The join tokens that were not used yet.
    pub join_tokens: Vec<JoinToken>,
    /// The bundles.
    pub bundles: Vec<Arc<Bundle>>,
    /// The identity rules.
    pub rules: Vec<Arc<Rule>>,
    /// The agents.
    pub agents: LoadedAgents,
    /// The journals of the signing authorities by name.
    pub journals: BTreeMap<String, Arc<[u8]>>,
}

/// Counts only: the content is long, and some of it is secret.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("head", &self.head)
            .field("next_ordinal", &self.next_ordinal)
            .field("entries", &self.entries.len())
            .field("nodes", &self.nodes.len())
            .field("join_tokens", &self.join_tokens.len())
            .field("bundles", &self.bundles.len())
            .field("rules", &self.rules.len())
            .field("classes", &self.agents.classes.len())
            .field("instances", &self.agents.instances.len())
            .field("tasks", &self.agents.tasks.len())
            .field("journals", &self.journals.len())
            .finish()
    }
}
