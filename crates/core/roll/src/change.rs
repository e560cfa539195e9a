//! The vocabulary of writes.

use std::fmt;
use std::sync::Arc;

use muster_model::{
    Bundle, Entry, EntryId, JoinToken, Node, Rule, RuleName, SpiffeId, TrustDomain,
};

use crate::agents::AgentChange;

/// One write to the roll: a row as it is from now on, or a row that is gone.
///
/// The `changed_at` of a row inside a change that was not committed yet means nothing: the
/// transaction's revision is what the row gets, in the [`crate::Roll`] and in the store.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry is new, or replaces the entry of the same ID.
    PutEntry(Arc<Entry>),
    /// An entry is gone.
    DeleteEntry(EntryId),
    /// A node is new, or replaces the node of the same ID.
    PutNode(Arc<Node>),
    /// A node is gone.
    DeleteNode(SpiffeId),
    /// A join token is new, or replaces the token of the same text.
    PutJoinToken(JoinToken),
    /// A join token is gone, used or not.
    DeleteJoinToken(String),
    /// A bundle is new, or replaces the bundle of the same trust domain.
    PutBundle(Arc<Bundle>),
    /// A bundle is gone.
    DeleteBundle(TrustDomain),
    /// An identity rule is new, or replaces the one of the same name.
    PutRule(Arc<Rule>),
    /// An identity rule is gone.
    DeleteRule(RuleName),
    /// Something about agents.
    Agent(AgentChange),
    /// The journal of a signing authority, which only the authority itself can read.
    PutJournal {
        /// Whose journal it is.
        name: String,
        /// The journal as the authority wrote it.
        content: Arc<[u8]>,
    },
}

/// Names the row and never shows a join token or the inside of a journal.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutEntry(entry) => f.debug_tuple("PutEntry").field(entry).finish(),
            Self::DeleteEntry(id) => f.debug_tuple("DeleteEntry").field(id).finish(),
            Self::PutNode(node) => f.debug_tuple("PutNode").field(node).finish(),
            Self::DeleteNode(id) => f.debug_tuple("DeleteNode").field(id).finish(),
            Self::PutJoinToken(token) => f.debug_tuple("PutJoinToken").field(token).finish(),
            Self::DeleteJoinToken(_) => f.debug_tuple("DeleteJoinToken").finish_non_exhaustive(),
            Self::PutBundle(bundle) => f.debug_tuple("PutBundle").field(bundle).finish(),
            Self::DeleteBundle(name) => f.debug_tuple("DeleteBundle").field(name).finish(),
            Self::PutRule(rule) => f.debug_tuple("PutRule").field(rule).finish(),
            Self::DeleteRule(name) => f.debug_tuple("DeleteRule").field(name).finish(),
            Self::Agent(change) => change.fmt(f),
            Self::PutJournal { name, content } => f
                .debug_struct("PutJournal")
                .field("name", name)
                .field("content_len", &content.len())
                .finish(),
        }
    }
}
