//! Why an entry may not be written.

use std::fmt;

use muster_model::{EntryIdError, IdError, RuleName, SelectorError, TextFault, TrustDomain};

use super::DnsNameError;

/// A field of an entry, by its name in SPIRE's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `spiffe_id`
    SpiffeId,
    /// `parent_id`
    ParentId,
    /// `selectors`
    Selectors,
    /// `x509_svid_ttl`
    X509SvidTtl,
    /// `jwt_svid_ttl`
    JwtSvidTtl,
    /// `federates_with`
    FederatesWith,
    /// `admin`
    Admin,
    /// `downstream`
    Downstream,
    /// `expires_at`
    ExpiresAt,
    /// `dns_names`
    DnsNames,
    /// `store_svid`
    StoreSvid,
    /// `hint`
    Hint,
    /// `additional_attributes`
    AdditionalAttributes,
    /// `muster_agent_class`
    AgentClass,
}

impl Field {
    /// Every field, in the order in which faults are looked for.
    pub const ALL: [Self; 14] = [
        Self::ParentId,
        Self::SpiffeId,
        Self::Selectors,
        Self::X509SvidTtl,
        Self::JwtSvidTtl,
        Self::FederatesWith,
        Self::Admin,
        Self::Downstream,
        Self::ExpiresAt,
        Self::DnsNames,
        Self::StoreSvid,
        Self::Hint,
        Self::AdditionalAttributes,
        Self::AgentClass,
    ];
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SpiffeId => "SPIFFE ID",
            Self::ParentId => "parent ID",
            Self::Selectors => "selectors",
            Self::X509SvidTtl => "X509-SVID TTL",
            Self::JwtSvidTtl => "JWT-SVID TTL",
            Self::FederatesWith => "federated trust domain",
            Self::Admin => "admin flag",
            Self::Downstream => "downstream flag",
            Self::ExpiresAt => "expiry",
            Self::DnsNames => "DNS names",
            Self::StoreSvid => "store SVID flag",
            Self::Hint => "hint",
            Self::AdditionalAttributes => "additional attributes",
            Self::AgentClass => "agent class",
        })
    }
}

/// A value as an error shows it: whole, or its beginning when it is longer than any good value's
/// interesting part. Callers choose these texts, and errors travel in HTTP/2 headers.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(256) {
        None => value.to_owned(),
        Some((at, _)) => format!("{}...", value.get(..at).unwrap_or_default()),
    }
}

/// Why an entry may not be written: the first fault found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The ID that the caller wants is not an entry ID.
    #[error("invalid entry ID {value:?}: {cause}; leave it empty to have one made")]
    Id {
        /// The ID.
        value: String,
        /// What is wrong with it.
        cause: EntryIdError,
    },
    /// The name of an agent class is malformed.
    #[error("invalid agent class {value:?}: {cause}")]
    AgentClass {
        /// The name.
        value: String,
        /// What is wrong with it.
        cause: TextFault,
    },
    /// There is no agent class of that name.
    #[error(
        "invalid agent class {value:?}: there is none of that name; create it first, or name one that \
         `muster agent class list` shows"
    )]
    NoAgentClass {
        /// The name.
        value: String,
    },
    /// An ID that an entry needs was left out.
    #[error("invalid {field}: it is missing; give a trust domain and a path")]
    MissingId {
        /// Which ID.
        field: Field,
    },
    /// A text is not a SPIFFE ID.
    #[error("invalid {field} {value:?}: {cause}")]
    MalformedId {
        /// Which ID.
        field: Field,
        /// The ID as text.
        value: String,
        /// What is wrong with it.
        cause: IdError,
    },
    /// An ID is in another trust domain.
    #[error(
        "invalid {field} {value:?}: it is not in this server's trust domain; it must begin with \
         \"spiffe://{trust_domain}/\""
    )]
    ForeignId {
        /// Which ID.
        field: Field,
        /// The ID.
        value: String,
        /// The server's trust domain.
        trust_domain: TrustDomain,
    },
    /// An ID has no path.
    #[error("invalid {field} {value:?}: it has no path; add one, such as \"/workload\"")]
    NoPath {
        /// Which ID.
        field: Field,
        /// The ID.
        value: String,
    },
    /// The SPIFFE ID is in the part of the name space that belongs to the server.
    #[error(
        "invalid SPIFFE ID {value:?}: \"/spire\" and all below it belong to servers and nodes; \
         choose another path"
    )]
    ReservedPath {
        /// The SPIFFE ID.
        value: String,
    },
    /// The SPIFFE ID has the form of a task's.
    #[error(
        "invalid SPIFFE ID {value:?}: names that end in \"/t/\" and a ULID belong to tasks, which the \
         server opens; choose another path"
    )]
    TaskPath {
        /// The SPIFFE ID.
        value: String,
    },
    /// The ID that the caller wants is the ID of a task.
    #[error("invalid entry ID {value:?}: a task has that ID; leave it empty to have one made")]
    TaskId {
        /// The ID.
        value: String,
    },
    /// The ID that the caller wants has the form of those that rules give.
    #[error(
        "invalid entry ID {value:?}: identities by rule have such IDs; leave it empty to have one made"
    )]
    RuleId {
        /// The ID.
        value: String,
    },
    /// An identity rule could give the same SPIFFE ID to another process.
    #[error(
        "invalid SPIFFE ID {value:?}: identity rule {rule} could give it to another process; choose \
         another, or change the rule"
    )]
    NameOfRule {
        /// The SPIFFE ID.
        value: String,
        /// The rule.
        rule: RuleName,
    },
    /// There is no selector.
    #[error("invalid selectors: there are none; give at least one, such as \"unix:uid:1000\"")]
    NoSelectors,
    /// Two texts do not make a selector.
    #[error("invalid selectors: {kind:?} with value {value:?}: {cause}")]
    Selector {
        /// The type.
        kind: String,
        /// The value.
        value: String,
        /// What is wrong with them.
        cause: SelectorError,
    },
    /// A lifetime is negative.
    #[error("invalid {field} {seconds}: it is negative; give seconds, or 0 for the default")]
    NegativeTtl {
        /// Which lifetime.
        field: Field,
        /// The lifetime in seconds.
        seconds: i32,
    },
    /// The expiry is before 1970.
    #[error("invalid expiry {seconds}: it is negative; give Unix seconds, or 0 for never")]
    NegativeExpiry {
        /// The expiry in Unix seconds.
        seconds: i64,
    },
    /// A text is not the name of a trust domain.
    #[error("invalid federated trust domain {value:?}: {cause}")]
    FederatesWith {
        /// The name.
        value: String,
        /// What is wrong with it.
        cause: IdError,
    },
    /// The server has no bundle of a trust domain that the entry federates with.
    #[error(
        "invalid federated trust domain \"{trust_domain}\": the server has no bundle of it; add its \
         bundle first"
    )]
    NoBundle {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// A text is not a DNS name.
    #[error("invalid DNS name {value:?}: {cause}")]
    DnsName {
        /// The text.
        value: String,
        /// What is wrong with it.
        cause: DnsNameError,
    },
    /// The hint is too long.
    #[error("invalid hint: it has {length} bytes; shorten it to 1024")]
    HintTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// An SVID that is to be stored would not be signed before somebody asks.
    #[error(
        "invalid store SVID flag: it cannot be combined with disable_x509_svid_prefetch, because \
         nobody asks for a stored SVID; clear one of them"
    )]
    StoredWithoutPrefetch,
    /// An SVID that is to be stored has selectors of several types.
    #[error(
        "invalid selectors: those of an entry whose SVID is stored are all of one type, the \
         store's; there are {first:?} and {other:?}"
    )]
    StoredWithMixedSelectors {
        /// A type.
        first: String,
        /// Another.
        other: String,
    },
}
