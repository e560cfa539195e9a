//! Registration entries: these selectors under this parent get this SPIFFE ID.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::{ClassName, Revision, SelectorSet, SpiffeId, Timestamp, TrustDomain};

/// The name of an entry: 1 to 255 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(Arc<str>);

/// Why a text is not an entry ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryIdError {
    /// Empty, or longer than 255 characters.
    #[error("an entry ID has 1 to 255 characters")]
    Length,
    /// A character outside the allowed set.
    #[error("an entry ID has only letters, digits, '.', '_' and '-'")]
    Character,
}

impl EntryId {
    /// Parses an entry ID.
    pub fn parse(text: &str) -> Result<Self, EntryIdError> {
        if text.is_empty() || text.len() > 255 {
            return Err(EntryIdError::Length);
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        {
            return Err(EntryIdError::Character);
        }
        Ok(Self(text.into()))
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;
    fn from_str(s: &str) -> Result<Self, EntryIdError> {
        Self::parse(s)
    }
}

/// A registration entry.
///
/// The fields are those of SPIRE's `types.Entry`. The rules that an entry must obey to be
/// written are in `core/roll`; this type holds what was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's own name, unique on the server.
    pub id: EntryId,
    /// The identity that a matching workload receives.
    pub spiffe_id: SpiffeId,
    /// The node, node alias or entry under which the workload must run.
    pub parent_id: SpiffeId,
    /// What a caller must be attested as, at least; never empty.
    pub selectors: SelectorSet,
    /// Lifetime of X509-SVIDs; `None` is the server's default.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs; `None` is the server's default.
    pub jwt_svid_ttl: Option<Duration>,
    /// Foreign trust domains whose bundles the workload receives.
    pub federates_with: BTreeSet<TrustDomain>,
    /// Whether the identity may administer the server.
    pub admin: bool,
    /// Whether the identity may sign for a downstream server.
    pub downstream: bool,
    /// When the entry is removed; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// DNS names put into X509-SVIDs, in this order; the first is also the common name.
    pub dns_names: Vec<String>,
    /// Whether the node keeps the SVID in an external store for the workload.
    pub store_svid: bool,
    /// An operator's word by which the workload tells several identities apart; empty is none.
    pub hint: String,
    /// Whether nodes leave the X509-SVID unsigned until a workload asks.
    pub disable_x509_svid_prefetch: bool,
    /// Whether JWT-SVIDs carry a unique `jti` and are never cached.
    pub jwt_svid_include_jti: bool,
    /// The agent class that the identity is of, where its path alone does not say.
    pub class: Option<ClassName>,
    /// When the entry was created, in whole seconds; never changes.
    pub created_at: Timestamp,
    /// The entry's place in the order of creation; given once, kept through updates.
    pub ordinal: u64,
    /// Counts the updates of this entry, from 0.
    pub revision_number: i64,
    /// The transaction that last wrote the entry.
    pub changed_at: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids() {
        assert!(EntryId::parse("a.B_9-").is_ok());
        assert_eq!(EntryId::parse(""), Err(EntryIdError::Length));
        assert_eq!(EntryId::parse(&"x".repeat(256)), Err(EntryIdError::Length));
        assert_eq!(EntryId::parse("a/b"), Err(EntryIdError::Character));
    }
}
