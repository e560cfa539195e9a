//! Filters, masks and pages of SPIRE's list requests, as the roll asks for them.

use std::collections::BTreeSet;

use muster_model::{SelectorSet, SpiffeId, Timestamp, TrustDomain};
use muster_proto::spire::api::server::{agent::v1 as agent, entry::v1 as entry};
use muster_proto::spire::api::types;
use muster_roll::rules::{EntryDraft, Field, Mask, RawId};
use muster_roll::{EntryFilter, NodeFilter, Overlap};
use muster_wire::{id, selector};
use tonic::Status;

/// How many rows a page has: what the client asks for; 0 is everything, as SPIRE has it.
pub(crate) fn page_limit(page_size: i32) -> Result<usize, Status> {
    usize::try_from(page_size).map_err(|_| {
        Status::invalid_argument(format!(
            "page size {page_size} is negative; give 0 for everything"
        ))
    })
}

/// The filter of a list or count of entries.
pub(crate) fn entry_filter(
    filter: Option<entry::list_entries_request::Filter>,
) -> Result<EntryFilter, Status> {
    let Some(filter) = filter else {
        return Ok(EntryFilter::default());
    };
    Ok(EntryFilter {
        spiffe_id: filter
            .by_spiffe_id
            .map(|m| filter_id("SPIFFE ID", &m))
            .transpose()?,
        parent_id: filter
            .by_parent_id
            .map(|m| filter_id("parent ID", &m))
            .transpose()?,
        selectors: filter
            .by_selectors
            .map(|m| selector_match(&m))
            .transpose()?,
        federates_with: filter
            .by_federates_with
            .map(|m| federates_with_match(&m))
            .transpose()?,
        hint: filter.by_hint,
        // `false` asks for nothing, as in SPIRE, whose command line always sends one or the other.
        downstream: filter.by_downstream.unwrap_or_default(),
    })
}

/// The count's filter has the same fields as the list's under another name.
pub(crate) fn count_filter(
    filter: Option<entry::count_entries_request::Filter>,
) -> Option<entry::list_entries_request::Filter> {
    filter.map(|f| entry::list_entries_request::Filter {
        by_spiffe_id: f.by_spiffe_id,
        by_parent_id: f.by_parent_id,
        by_selectors: f.by_selectors,
        by_federates_with: f.by_federates_with,
        by_hint: f.by_hint,
        by_downstream: f.by_downstream,
    })
}

/// The filter of a list of nodes.
pub(crate) fn node_filter(
    filter: Option<agent::list_agents_request::Filter>,
) -> Result<NodeFilter, Status> {
    let Some(filter) = filter else {
        return Ok(NodeFilter::default());
    };
    let expires_before = match filter.by_expires_before.as_str() {
        "" => None,
        text => Some(parse_time(text).ok_or_else(|| {
            Status::invalid_argument(format!(
                "\"{text}\" is not a time; write it as \"2006-01-02 15:04:05 -0700 -07\" or in RFC 3339"
            ))
        })?),
    };
    Ok(NodeFilter {
        attestation_type: (!filter.by_attestation_type.is_empty())
            .then_some(filter.by_attestation_type),
        selectors: filter
            .by_selector_match
            .map(|m| selector_match(&m))
            .transpose()?,
        banned: filter.by_banned,
        can_reattest: filter.by_can_reattest,
        expires_before,
    })
}

/// The count's filter has the same fields as the list's under another name.
pub(crate) fn count_node_filter(
    filter: Option<agent::count_agents_request::Filter>,
) -> Option<agent::list_agents_request::Filter> {
    filter.map(|f| agent::list_agents_request::Filter {
        by_attestation_type: f.by_attestation_type,
        by_selector_match: f.by_selector_match,
        by_banned: f.by_banned,
        by_can_reattest: f.by_can_reattest,
        by_expires_before: f.by_expires_before,
    })
}

/// SPIRE's form `2006-01-02 15:04:05 -0700 -07`, of which the last word only repeats the offset, or
/// RFC 3339.
fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp::from_unix_millis(instant.as_millisecond()));
    }
    let mut words = text.split_whitespace();
    let (date, time, offset) = (words.next()?, words.next()?, words.next()?);
    let instant: jiff::Timestamp = format!("{date}T{time}{offset}").parse().ok()?;
    Some(Timestamp::from_unix_millis(instant.as_millisecond()))
}

fn filter_id(what: &str, message: &types::Spiffeid) -> Result<SpiffeId, Status> {
    id::any(Some(message))
        .map_err(|why| Status::invalid_argument(format!("malformed {what} filter: {why}")))
}

fn selector_match(message: &types::SelectorMatch) -> Result<(Overlap, SelectorSet), Status> {
    use types::selector_match::MatchBehavior;
    let overlap = match message.r#match() {
        MatchBehavior::MatchExact => Overlap::Exact,
        MatchBehavior::MatchSubset => Overlap::Subset,
        MatchBehavior::MatchSuperset => Overlap::Superset,
        MatchBehavior::MatchAny => Overlap::Any,
    };
    let selectors = selector::read_set(&message.selectors)
        .map_err(|why| Status::invalid_argument(format!("malformed selectors filter: {why}")))?;
    if selectors.is_empty() {
        return Err(Status::invalid_argument(
            "malformed selectors filter: empty selector set",
        ));
    }
    Ok((overlap, selectors))
}

fn federates_with_match(
    message: &types::FederatesWithMatch,
) -> Result<(Overlap, BTreeSet<TrustDomain>), Status> {
    use types::federates_with_match::MatchBehavior;
    let overlap = match message.r#match() {
        MatchBehavior::MatchExact => Overlap::Exact,
        MatchBehavior::MatchSubset => Overlap::Subset,
        MatchBehavior::MatchSuperset => Overlap::Superset,
        MatchBehavior::MatchAny => Overlap::Any,
    };
    let names = message
        .trust_domains
        .iter()
        .map(|name| {
            TrustDomain::from_name_or_id(name).map_err(|why| {
                Status::invalid_argument(format!(
                    "malformed federates with filter: \"{name}\": {why}"
                ))
            })
        })
        .collect::<Result<BTreeSet<_>, _>>()?;
    if names.is_empty() {
        return Err(Status::invalid_argument(
            "malformed federates with filter: empty trust domain set",
        ));
    }
    Ok((overlap, names))
}

/// What a caller wrote as an entry, unchecked.
pub(crate) fn draft(message: types::Entry) -> EntryDraft {
    let raw = |m: types::Spiffeid| RawId {
        trust_domain: m.trust_domain,
        path: m.path,
    };
    let attributes = message.additional_attributes.unwrap_or_default();
    EntryDraft {
        id: message.id,
        spiffe_id: message.spiffe_id.map(raw),
        parent_id: message.parent_id.map(raw),
        selectors: message
            .selectors
            .into_iter()
            .map(|s| (s.r#type, s.value))
            .collect(),
        x509_svid_ttl: message.x509_svid_ttl,
        jwt_svid_ttl: message.jwt_svid_ttl,
        federates_with: message.federates_with,
        admin: message.admin,
        downstream: message.downstream,
        expires_at: message.expires_at,
        dns_names: message.dns_names,
        store_svid: message.store_svid,
        hint: message.hint,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        class: message.muster_agent_class,
    }
}

/// The fields that an update's mask names.
pub(crate) fn update_mask(mask: &types::EntryMask) -> Mask {
    [
        (mask.spiffe_id, Field::SpiffeId),
        (mask.parent_id, Field::ParentId),
        (mask.selectors, Field::Selectors),
        (mask.x509_svid_ttl, Field::X509SvidTtl),
        (mask.federates_with, Field::FederatesWith),
        (mask.admin, Field::Admin),
        (mask.downstream, Field::Downstream),
        (mask.expires_at, Field::ExpiresAt),
        (mask.dns_names, Field::DnsNames),
        (mask.store_svid, Field::StoreSvid),
        (mask.jwt_svid_ttl, Field::JwtSvidTtl),
        (mask.hint, Field::Hint),
        (mask.additional_attributes, Field::AdditionalAttributes),
        (mask.muster_agent_class, Field::AgentClass),
    ]
    .into_iter()
    .filter_map(|(wanted, field)| wanted.then_some(field))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_time() {
        let want = Some(Timestamp::from_unix_seconds(1_136_239_445));
        assert_eq!(parse_time("2006-01-02 15:04:05 -0700 -07"), want);
        assert_eq!(parse_time("2006-01-02T15:04:05-07:00"), want);
        assert_eq!(parse_time("yesterday"), None);
    }
}
