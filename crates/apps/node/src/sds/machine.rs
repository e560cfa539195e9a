//! What both stream protocols have in common.

use std::collections::BTreeSet;

use muster_proto::google::rpc;

use super::names::Item;

/// The one type of resource that is served.
pub(crate) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The name that stands for all names.
pub(crate) const WILDCARD: &str = "*";
/// The most names on one stream.
pub(crate) const NAMES_MAX: usize = 1024;
/// The longest name, in bytes: as long as a SPIFFE ID may be.
pub(crate) const NAME_MAX: usize = 2048;
/// As much of a proxy's reason as the log takes, in characters.
const REASON_MAX: usize = 512;

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Another type of resource.
    #[error("resources of type {0:?} are not served here; ask for {TYPE_URL}")]
    ForeignType(String),
    /// Too much for one stream.
    #[error("a stream takes {NAMES_MAX} names; open another stream for more")]
    TooManyNames,
    /// No name that is served is that long.
    #[error("a name has {0} bytes and at most {NAME_MAX} are allowed; shorten it")]
    LongName(usize),
}

/// What is to be logged and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The proxy did not take the last answer.
    Rejected(String),
    /// A request that answers to nothing was passed over.
    Stale,
    /// Names that do not stand for anything now; told once.
    Unknown(Vec<String>),
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) items: Vec<(String, Item)>,
    /// Delta only: names that stand for nothing any more.
    pub(crate) removed: Vec<String>,
}

/// Numbers the answers of a stream, and knows which of them is not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    count: u64,
    open: bool,
}

/// How a nonce relates to the last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// There was no answer yet.
    Opening,
    /// It names the last answer.
    Last,
    /// It names an earlier one, or none.
    Stale,
}

impl Nonces {
    pub(crate) fn next(&mut self) -> String {
        self.count += 1;
        self.open = true;
        self.last()
    }

    pub(crate) fn relation(&self, nonce: &str) -> Relation {
        if self.count == 0 {
            Relation::Opening
        } else if nonce == self.last() {
            Relation::Last
        } else {
            Relation::Stale
        }
    }

    /// Takes what the proxy says of the last answer; its rejection is noted once.
    pub(crate) fn settle(&mut self, error: Option<&rpc::Status>) -> Option<Note> {
        let was_open = std::mem::take(&mut self.open);
        let error = error.filter(|_| was_open)?;
        Some(Note::Rejected(
            error.message.chars().take(REASON_MAX).collect(),
        ))
    }

    fn last(&self) -> String {
        format!("{:x}", self.count)
    }
}

/// Remembers which names were told as unknown.
#[derive(Debug, Default)]
pub(crate) struct Unknown(BTreeSet<String>);

impl Unknown {
    /// Takes the names that are unknown now; a note if some were not before.
    pub(crate) fn note(&mut self, now: BTreeSet<String>) -> Option<Note> {
        let new: Vec<String> = now.difference(&self.0).cloned().collect();
        self.0 = now;
        (!new.is_empty()).then_some(Note::Unknown(new))
    }
}

pub(crate) fn check_type(type_url: &str) -> Result<(), Fault> {
    if type_url.is_empty() || type_url == TYPE_URL {
        Ok(())
    } else {
        Err(Fault::ForeignType(
            type_url.chars().take(REASON_MAX).collect(),
        ))
    }
}

/// The names of a request; empty ones count for nothing, as with SPIRE.
pub(crate) fn check_names(names: Vec<String>) -> Result<BTreeSet<String>, Fault> {
    let names: BTreeSet<String> = names.into_iter().filter(|n| !n.is_empty()).collect();
    if names.len() > NAMES_MAX {
        return Err(Fault::TooManyNames);
    }
    match names.iter().find(|n| n.len() > NAME_MAX) {
        Some(long) => Err(Fault::LongName(long.len())),
        None => Ok(names),
    }
}
