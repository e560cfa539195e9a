//! Which entries may be written (spire-behaviour 2.10).

use std::collections::BTreeSet;

use muster_model::{Entry, EntryId, Timestamp};

use crate::Roll;

mod dns;
mod error;

pub use dns::DnsNameError;
pub use error::{EntryError, Field};

/// An ID as SPIRE's API writes it: trust domain and path apart, nothing checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawId {
    /// The name of the trust domain, without scheme.
    pub trust_domain: String,
    /// The path, with its leading slash.
    pub path: String,
}

/// An entry as a caller wrote it: nothing is checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the flags are SPIRE's, one field each"
)]
pub struct EntryDraft {
    /// The ID that the caller wants, or empty for one that the server makes.
    pub id: String,
    /// The SPIFFE ID to give; `None` where the caller left it out.
    pub spiffe_id: Option<RawId>,
    /// The parent; `None` where the caller left it out.
    pub parent_id: Option<RawId>,
    /// Selectors as type and value.
    pub selectors: Vec<(String, String)>,
    /// Seconds; 0 is the server's default.
    pub x509_svid_ttl: i32,
    /// Seconds; 0 is the server's default.
    pub jwt_svid_ttl: i32,
    /// Names of trust domains.
    pub federates_with: Vec<String>,
    /// Whether the identity may administer the server.
    pub admin: bool,
    /// Whether the identity may sign for a downstream server.
    pub downstream: bool,
    /// Unix seconds; 0 is never.
    pub expires_at: i64,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Whether the node keeps the SVID in an external store.
    pub store_svid: bool,
    /// An operator's word.
    pub hint: String,
    /// Whether nodes sign only when asked.
    pub disable_x509_svid_prefetch: bool,
    /// Whether JWT-SVIDs carry a `jti`.
    pub jwt_svid_include_jti: bool,
}

/// The fields that an update names; no mask at all is every field.
pub type Mask = BTreeSet<Field>;

/// The entry that `draft` becomes, or the first fault in it.
///
/// `generated` is the ID for an entry without one of its own, `ordinal` comes from
/// [`Roll::next_ordinal`]. Whether the entry is a duplicate, or its ID is taken, is answered by
/// [`Roll::duplicate`] and [`Roll::entry`].
pub fn create(
    roll: &Roll,
    draft: &EntryDraft,
    generated: EntryId,
    ordinal: u64,
    now: Timestamp,
) -> Result<Entry, EntryError> {
    let _ = (roll, draft, generated, ordinal, now);
    Err(EntryError::NoSelectors)
}

/// The entry that `existing` becomes when the fields of `mask` (all, if there is none) are taken
/// from `draft`, or the first fault in it.
///
/// The revision number grows by one, also when nothing differs.
pub fn update(
    roll: &Roll,
    existing: &Entry,
    draft: &EntryDraft,
    mask: Option<&Mask>,
) -> Result<Entry, EntryError> {
    let _ = (roll, existing, draft, mask);
    Err(EntryError::NoSelectors)
}
