//! Entries for people.

use muster_model::Timestamp;
use muster_proto::spire::api::types::Entry;
use muster_rt::duration::Shown;
use muster_rt::{Clock, SystemClock};

use crate::output::Output;
use crate::server_api::{id_text, selector_texts};
use crate::time::{rfc3339, with_distance};

/// Many entries, a line each.
pub(super) fn table(entries: &[Entry], output: Output) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            vec![
                entry.id.clone(),
                id_text(entry.spiffe_id.as_ref()),
                id_text(entry.parent_id.as_ref()),
                selector_texts(&entry.selectors).join(","),
                ttl(entry.x509_svid_ttl),
                flags(entry).join(","),
            ]
        })
        .collect();
    output.table(
        &["ENTRY", "SPIFFE ID", "PARENT", "SELECTORS", "TTL", "FLAGS"],
        &rows,
        "No entry. Create one with `muster entry create`.",
    )
}

/// One entry with all that is set.
pub(super) fn full(entry: &Entry, output: Output) -> String {
    full_at(entry, output, SystemClock::new().now().wall)
}

fn full_at(entry: &Entry, output: Output, now: Timestamp) -> String {
    let mut fields = vec![
        ("Entry", entry.id.clone()),
        ("SPIFFE ID", id_text(entry.spiffe_id.as_ref())),
        ("Parent", id_text(entry.parent_id.as_ref())),
    ];
    for selector in selector_texts(&entry.selectors) {
        fields.push(("Selector", selector));
    }
    fields.extend([
        ("X509-SVID TTL", ttl(entry.x509_svid_ttl)),
        ("JWT-SVID TTL", ttl(entry.jwt_svid_ttl)),
        ("DNS names", entry.dns_names.join(", ")),
        ("Federates with", entry.federates_with.join(", ")),
        ("Hint", entry.hint.clone()),
        ("Agent class", entry.muster_agent_class.clone()),
        ("Flags", flags(entry).join(", ")),
        ("Expires", with_distance(entry.expires_at, now)),
        ("Created", rfc3339(entry.created_at)),
        ("Revision", entry.revision_number.to_string()),
    ]);
    output.fields(&fields)
}

fn ttl(seconds: i32) -> String {
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => "default".to_owned(),
        Ok(seconds) => Shown(std::time::Duration::from_secs(seconds)).to_string(),
    }
}

fn flags(entry: &Entry) -> Vec<&'static str> {
    let attributes = entry.additional_attributes.unwrap_or_default();
    [
        (entry.admin, "admin"),
        (entry.downstream, "downstream"),
        (entry.store_svid, "store-svid"),
        (
            attributes.disable_x509_svid_prefetch,
            "disable-x509-prefetch",
        ),
        (attributes.jwt_svid_include_jti, "jwt-include-jti"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use muster_proto::spire::api::types::{Selector, Spiffeid};

    use super::*;

    fn sample() -> Entry {
        let id = |path: &str| {
            Some(Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: path.to_owned(),
            })
        };
        Entry {
            id: "e1".to_owned(),
            spiffe_id: id("/web"),
            parent_id: id("/node"),
            selectors: vec![
                Selector {
                    r#type: "unix".to_owned(),
                    value: "uid:1000".to_owned(),
                },
                Selector {
                    r#type: "unix".to_owned(),
                    value: "path:/usr/bin/web".to_owned(),
                },
            ],
            x509_svid_ttl: 3600,
            admin: true,
            expires_at: 1_767_225_600,
            created_at: 1_767_000_000,
            ..Entry::default()
        }
    }

    #[test]
    fn entries_for_people() {
        let now = Timestamp::from_unix_seconds(1_767_225_000);
        insta::assert_snapshot!("entry_table", table(&[sample()], Output::new(false)));
        insta::assert_snapshot!("entry_full", full_at(&sample(), Output::new(false), now));
    }
}
