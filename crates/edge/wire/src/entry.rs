//! Registration entries on SPIRE's API.

use std::time::Duration;

use muster_model::{ClassName, Entry, EntryId, Revision, SelectorSet, SpiffeId, Timestamp};
use muster_proto::spire::api::types;

use crate::{id, selector};

/// Writes the fields of an entry that `mask` wants; no mask wants all. The ID is always written.
pub fn write(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let wants = |field: fn(&types::EntryMask) -> bool| mask.is_none_or(field);
    let mut message = types::Entry {
        id: entry.id.as_str().to_owned(),
        ..types::Entry::default()
    };
    if wants(|m| m.spiffe_id) {
        message.spiffe_id = Some(id::write(&entry.spiffe_id));
    }
    if wants(|m| m.parent_id) {
        message.parent_id = Some(id::write(&entry.parent_id));
    }
    if wants(|m| m.selectors) {
        message.selectors = entry.selectors.iter().map(selector::write).collect();
    }
    if wants(|m| m.x509_svid_ttl) {
        message.x509_svid_ttl = write_ttl(entry.x509_svid_ttl);
    }
    if wants(|m| m.federates_with) {
        message.federates_with = entry
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect();
    }
    if wants(|m| m.admin) {
        message.admin = entry.admin;
    }
    if wants(|m| m.downstream) {
        message.downstream = entry.downstream;
    }
    if wants(|m| m.expires_at) {
        message.expires_at = entry.expires_at.map_or(0, Timestamp::unix_seconds);
    }
    if wants(|m| m.dns_names) {
        message.dns_names.clone_from(&entry.dns_names);
    }
    if wants(|m| m.revision_number) {
        message.revision_number = entry.revision_number;
    }
    if wants(|m| m.store_svid) {
        message.store_svid = entry.store_svid;
    }
    if wants(|m| m.jwt_svid_ttl) {
        message.jwt_svid_ttl = write_ttl(entry.jwt_svid_ttl);
    }
    if wants(|m| m.hint) {
        message.hint.clone_from(&entry.hint);
    }
    if wants(|m| m.created_at) {
        message.created_at = entry.created_at.unix_seconds();
    }
    if wants(|m| m.muster_agent_class) {
        message.muster_agent_class = entry
            .class
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
    }
    // Absent when it says nothing, as SPIRE writes it: its controller compares.
    if wants(|m| m.additional_attributes)
        && (entry.disable_x509_svid_prefetch || entry.jwt_svid_include_jti)
    {
        message.additional_attributes = Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        });
    }
    message
}

fn write_ttl(ttl: Option<Duration>) -> i32 {
    ttl.map_or(0, |ttl| i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX))
}

/// Why a server's entry cannot be used by a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireEntryError {
    /// The entry's own ID is malformed.
    #[error("entry ID \"{0}\" is malformed")]
    Id(String),
    /// The identity is malformed.
    #[error("entry {id}: SPIFFE ID {why}")]
    SpiffeId {
        /// The entry.
        id: String,
        /// What is wrong.
        why: id::WireIdError,
    },
    /// A selector is malformed.
    #[error("entry {id}: {why}")]
    Selector {
        /// The entry.
        id: String,
        /// What is wrong.
        why: muster_model::SelectorError,
    },
    /// The entry has no selectors and would match everyone.
    #[error("entry {0} has no selectors")]
    NoSelectors(String),
    /// The agent class is malformed.
    #[error("entry {id}: agent class: {why}")]
    Class {
        /// The entry.
        id: String,
        /// What is wrong.
        why: muster_model::TextFault,
    },
    /// A foreign trust domain's name is malformed.
    #[error("entry {id}: federates with \"{name}\": {why}")]
    FederatesWith {
        /// The entry.
        id: String,
        /// The name as received.
        name: String,
        /// What is wrong.
        why: muster_model::IdError,
    },
}

/// Reads an entry that a server sent to a node, in full.
pub fn read(message: &types::Entry) -> Result<Entry, WireEntryError> {
    let entry_id =
        EntryId::parse(&message.id).map_err(|_| WireEntryError::Id(message.id.clone()))?;
    let name = || message.id.clone();
    let spiffe = |m: Option<&types::Spiffeid>| -> Result<SpiffeId, WireEntryError> {
        id::any(m).map_err(|why| WireEntryError::SpiffeId { id: name(), why })
    };
    let selectors: SelectorSet = selector::read_set(&message.selectors)
        .map_err(|why| WireEntryError::Selector { id: name(), why })?;
    if selectors.is_empty() {
        return Err(WireEntryError::NoSelectors(name()));
    }
    let federates_with = message
        .federates_with
        .iter()
        .map(|td| {
            muster_model::TrustDomain::from_name_or_id(td).map_err(|why| {
                WireEntryError::FederatesWith {
                    id: name(),
                    name: td.clone(),
                    why,
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let attributes = message.additional_attributes.unwrap_or_default();
    Ok(Entry {
        id: entry_id,
        spiffe_id: spiffe(message.spiffe_id.as_ref())?,
        parent_id: spiffe(message.parent_id.as_ref())?,
        selectors,
        x509_svid_ttl: read_ttl(message.x509_svid_ttl),
        jwt_svid_ttl: read_ttl(message.jwt_svid_ttl),
        federates_with,
        admin: message.admin,
        downstream: message.downstream,
        expires_at: (message.expires_at != 0)
            .then(|| Timestamp::from_unix_seconds(message.expires_at)),
        dns_names: message.dns_names.clone(),
        store_svid: message.store_svid,
        hint: message.hint.clone(),
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        class: match message.muster_agent_class.as_str() {
            "" => None,
            name => Some(ClassName::parse(name).map_err(|why| WireEntryError::Class {
                id: message.id.clone(),
                why,
            })?),
        },
        created_at: Timestamp::from_unix_seconds(message.created_at),
        ordinal: 0,
        revision_number: message.revision_number,
        changed_at: Revision::default(),
    })
}

/// Reads a lifetime in seconds; 0 and less are the server's default.
pub fn read_ttl(seconds: i32) -> Option<Duration> {
    u64::try_from(seconds)
        .ok()
        .filter(|s| *s > 0)
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            id: EntryId::parse("e1").unwrap(),
            spiffe_id: SpiffeId::parse("spiffe://td/w").unwrap(),
            parent_id: SpiffeId::parse("spiffe://td/spire/agent/x").unwrap(),
            selectors: ["unix:uid:1".parse().unwrap()].into(),
            x509_svid_ttl: Some(Duration::from_secs(61)),
            jwt_svid_ttl: None,
            federates_with: [muster_model::TrustDomain::parse("other").unwrap()].into(),
            admin: true,
            downstream: false,
            expires_at: None,
            dns_names: vec!["a.example".into()],
            store_svid: false,
            hint: "h".into(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: true,
            class: Some(ClassName::parse("reader").unwrap()),
            created_at: Timestamp::from_unix_seconds(9),
            ordinal: 0,
            revision_number: 3,
            changed_at: Revision::default(),
        }
    }

    #[test]
    fn written_and_read_again() {
        assert_eq!(read(&write(&entry(), None)), Ok(entry()));
    }

    #[test]
    fn the_id_survives_an_empty_mask_and_nothing_else_does() {
        let message = write(&entry(), Some(&types::EntryMask::default()));
        assert_eq!(
            message,
            types::Entry {
                id: "e1".into(),
                ..types::Entry::default()
            }
        );
    }

    #[test]
    fn a_node_refuses_an_entry_that_would_match_everyone() {
        let mut message = write(&entry(), None);
        message.selectors.clear();
        assert_eq!(
            read(&message),
            Err(WireEntryError::NoSelectors("e1".into()))
        );
    }
}
