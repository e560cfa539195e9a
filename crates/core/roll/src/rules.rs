//! Which entries may be written (spire-behaviour 2.10).

use std::collections::BTreeSet;
use std::time::Duration;

use muster_model::{
    ClassName, Entry, EntryId, Revision, RuleSpec, Selector, SelectorSet, SpiffeId, TaskId,
    Timestamp, TrustDomain,
};

use crate::Roll;
use crate::agents::task;
use crate::naming;

mod dns;
mod error;

pub use dns::{DnsNameError, check as check_dns_name};
use error::shown;
pub use error::{EntryError, Field};

/// The longest hint in bytes.
const MAX_HINT_LEN: usize = 1024;

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
    /// The agent class; empty is none.
    pub class: String,
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
    let id = if draft.id.is_empty() {
        generated
    } else {
        EntryId::parse(&draft.id).map_err(|cause| EntryError::Id {
            value: shown(&draft.id),
            cause,
        })?
    };
    if task::id_of_entry(&id).is_some_and(|id| roll.agents().task(id).is_some()) {
        let value = shown(id.as_str());
        return Err(EntryError::TaskId { value });
    }
    if naming::rule_of_entry(&id).is_some() {
        let value = shown(id.as_str());
        return Err(EntryError::RuleId { value });
    }
    let entry = Entry {
        id,
        parent_id: parent_id(roll, draft)?,
        spiffe_id: spiffe_id(roll, draft)?,
        selectors: selectors(draft)?,
        x509_svid_ttl: ttl(Field::X509SvidTtl, draft.x509_svid_ttl)?,
        jwt_svid_ttl: ttl(Field::JwtSvidTtl, draft.jwt_svid_ttl)?,
        federates_with: federates_with(roll, &draft.federates_with)?,
        admin: draft.admin,
        downstream: draft.downstream,
        expires_at: expires_at(draft)?,
        dns_names: dns_names(&draft.dns_names)?,
        store_svid: draft.store_svid,
        hint: hint(&draft.hint)?,
        disable_x509_svid_prefetch: draft.disable_x509_svid_prefetch,
        jwt_svid_include_jti: draft.jwt_svid_include_jti,
        class: class(roll, draft)?,
        created_at: now.floor_to_second(),
        ordinal,
        revision_number: 0,
        changed_at: Revision::default(),
    };
    checked(roll, entry)
}

/// The entry that `existing` becomes when the fields of `mask` (all, if there is none) are taken
/// from `draft`, or the first fault in it.
///
/// The revision number grows by one, also when nothing differs; the ID, the instant of creation
/// and the place in the order of creation stay.
pub fn update(
    roll: &Roll,
    existing: &Entry,
    draft: &EntryDraft,
    mask: Option<&Mask>,
) -> Result<Entry, EntryError> {
    let mut entry = existing.clone();
    for field in Field::ALL {
        if mask.is_some_and(|mask| !mask.contains(&field)) {
            continue;
        }
        match field {
            Field::ParentId => entry.parent_id = parent_id(roll, draft)?,
            Field::SpiffeId => entry.spiffe_id = spiffe_id(roll, draft)?,
            Field::Selectors => entry.selectors = selectors(draft)?,
            Field::X509SvidTtl => entry.x509_svid_ttl = ttl(field, draft.x509_svid_ttl)?,
            Field::JwtSvidTtl => entry.jwt_svid_ttl = ttl(field, draft.jwt_svid_ttl)?,
            Field::FederatesWith => {
                entry.federates_with = federates_with(roll, &draft.federates_with)?;
            }
            Field::Admin => entry.admin = draft.admin,
            Field::Downstream => entry.downstream = draft.downstream,
            Field::ExpiresAt => entry.expires_at = expires_at(draft)?,
            Field::DnsNames => entry.dns_names = dns_names(&draft.dns_names)?,
            Field::StoreSvid => entry.store_svid = draft.store_svid,
            Field::Hint => entry.hint = hint(&draft.hint)?,
            Field::AdditionalAttributes => {
                entry.disable_x509_svid_prefetch = draft.disable_x509_svid_prefetch;
                entry.jwt_svid_include_jti = draft.jwt_svid_include_jti;
            }
            // Programs that do not know the field replace all others without a mask: they must
            // not take an identity out of reach of its class.
            Field::AgentClass if mask.is_none() && draft.class.is_empty() => {}
            Field::AgentClass => entry.class = class(roll, draft)?,
        }
    }
    entry.revision_number = existing.revision_number.saturating_add(1);
    checked(roll, entry)
}

/// The rules about several fields at once, and about other rows.
fn checked(roll: &Roll, entry: Entry) -> Result<Entry, EntryError> {
    if let Some(rule) = naming::check::in_the_way(roll, &entry) {
        return Err(EntryError::NameOfRule {
            value: shown(entry.spiffe_id.as_str()),
            rule: rule.name.clone(),
        });
    }
    if entry.store_svid {
        if entry.disable_x509_svid_prefetch {
            return Err(EntryError::StoredWithoutPrefetch);
        }
        let mut kinds = entry.selectors.iter().map(Selector::kind);
        if let Some(first) = kinds.next()
            && let Some(other) = kinds.find(|kind| *kind != first)
        {
            return Err(EntryError::StoredWithMixedSelectors {
                first: shown(first),
                other: shown(other),
            });
        }
    }
    Ok(entry)
}

fn spiffe_id(roll: &Roll, draft: &EntryDraft) -> Result<SpiffeId, EntryError> {
    let id = member(roll, Field::SpiffeId, draft.spiffe_id.as_ref())?;
    if id.is_reserved() {
        return Err(EntryError::ReservedPath {
            value: shown(id.as_str()),
        });
    }
    if TaskId::in_path(&id).is_some() {
        return Err(EntryError::TaskPath {
            value: shown(id.as_str()),
        });
    }
    Ok(id)
}

/// The parent may be the server, for a node alias, or any name with a path: a parent that nobody
/// bears yet is no fault, it may come later.
fn parent_id(roll: &Roll, draft: &EntryDraft) -> Result<SpiffeId, EntryError> {
    member(roll, Field::ParentId, draft.parent_id.as_ref())
}

fn member(roll: &Roll, field: Field, raw: Option<&RawId>) -> Result<SpiffeId, EntryError> {
    let raw = raw.ok_or(EntryError::MissingId { field })?;
    let id = TrustDomain::from_name_or_id(&raw.trust_domain)
        .and_then(|trust_domain| trust_domain.with_path(&raw.path))
        .map_err(|cause| EntryError::MalformedId {
            field,
            value: shown(&format!("spiffe://{}{}", raw.trust_domain, raw.path)),
            cause,
        })?;
    if id.trust_domain() != roll.trust_domain() {
        return Err(EntryError::ForeignId {
            field,
            value: shown(id.as_str()),
            trust_domain: roll.trust_domain().clone(),
        });
    }
    if id.path().is_empty() {
        return Err(EntryError::NoPath {
            field,
            value: shown(id.as_str()),
        });
    }
    Ok(shared(roll, id))
}

/// The same ID as the roll already has it in memory, where it does: nodes with thousands of
/// entries, and names that thousands of entries give, are there once.
fn shared(roll: &Roll, id: SpiffeId) -> SpiffeId {
    let known = roll
        .node(&id)
        .map(|node| &node.id)
        .or_else(|| roll.children(&id).next().map(|entry| &entry.parent_id))
        .or_else(|| roll.named(&id).next().map(|entry| &entry.spiffe_id));
    match known {
        Some(known) => known.clone(),
        None => roll.trust_domain().with_path(id.path()).unwrap_or(id),
    }
}

fn selectors(draft: &EntryDraft) -> Result<SelectorSet, EntryError> {
    if draft.selectors.is_empty() {
        return Err(EntryError::NoSelectors);
    }
    draft
        .selectors
        .iter()
        .map(|(kind, value)| {
            Selector::new(kind, value).map_err(|cause| EntryError::Selector {
                kind: shown(kind),
                value: shown(value),
                cause,
            })
        })
        .collect()
}

/// A class that an entry names is there, whatever it stands at.
fn class(roll: &Roll, draft: &EntryDraft) -> Result<Option<ClassName>, EntryError> {
    if draft.class.is_empty() {
        return Ok(None);
    }
    let value = || shown(&draft.class);
    let name = ClassName::parse(&draft.class).map_err(|cause| EntryError::AgentClass {
        value: value(),
        cause,
    })?;
    match roll.agents().class(name.as_str()) {
        Some(class) => Ok(Some(class.name.clone())),
        None => Err(EntryError::NoAgentClass { value: value() }),
    }
}

fn ttl(field: Field, seconds: i32) -> Result<Option<Duration>, EntryError> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(EntryError::NegativeTtl { field, seconds }),
    }
}

fn expires_at(draft: &EntryDraft) -> Result<Option<Timestamp>, EntryError> {
    match draft.expires_at {
        0 => Ok(None),
        seconds if seconds < 0 => Err(EntryError::NegativeExpiry { seconds }),
        seconds => Ok(Some(Timestamp::from_unix_seconds(seconds))),
    }
}

fn federates_with(roll: &Roll, names: &[String]) -> Result<BTreeSet<TrustDomain>, EntryError> {
    names
        .iter()
        .map(|name| {
            let trust_domain =
                TrustDomain::from_name_or_id(name).map_err(|cause| EntryError::FederatesWith {
                    value: shown(name),
                    cause,
                })?;
            known_bundle(roll, &trust_domain)?;
            Ok(trust_domain)
        })
        .collect()
}

fn known_bundle(roll: &Roll, trust_domain: &TrustDomain) -> Result<(), EntryError> {
    match roll.bundle(trust_domain) {
        Some(_) => Ok(()),
        None => Err(EntryError::NoBundle {
            trust_domain: trust_domain.clone(),
        }),
    }
}

fn dns_names(names: &[String]) -> Result<Vec<String>, EntryError> {
    for name in names {
        dns::check(name).map_err(|cause| EntryError::DnsName {
            value: shown(name),
            cause,
        })?;
    }
    Ok(names.to_vec())
}

fn hint(hint: &str) -> Result<String, EntryError> {
    if hint.len() > MAX_HINT_LEN {
        return Err(EntryError::HintTooLong { length: hint.len() });
    }
    Ok(hint.to_owned())
}

/// What a rule has as entries have it: federation, hint and DNS names.
pub(crate) fn of_rule(roll: &Roll, spec: &RuleSpec) -> Result<(), EntryError> {
    for trust_domain in &spec.federates_with {
        known_bundle(roll, trust_domain)?;
    }
    dns_names(&spec.dns_names)?;
    hint(&spec.hint)?;
    Ok(())
}

#[cfg(test)]
mod tests;
