//! Entries from a JSON file: the shape that `entry list --json` prints, and SPIRE's own files.

use std::fs;
use std::io::{self, Read};

use muster_model::{EntryId, Selector, SpiffeId, TrustDomain};
use muster_proto::spire::api::types::Entry;
use muster_proto::spire::api::types::entry::AdditionalAttributes;
use muster_wire::{id, selector};
use serde::Deserialize;

use crate::failure::Failure;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    entries: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(default, alias = "entry_id")]
    id: String,
    spiffe_id: Id,
    parent_id: Id,
    selectors: Vec<Pair>,
    #[serde(default)]
    x509_svid_ttl: i32,
    #[serde(default)]
    jwt_svid_ttl: i32,
    #[serde(default)]
    federates_with: Vec<String>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    downstream: bool,
    #[serde(default, alias = "entry_expiry")]
    expires_at: i64,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    store_svid: bool,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    muster_agent_class: String,
    #[serde(default)]
    additional_attributes: Option<Attributes>,
    /// Set by the server; taken so that what was listed can be created again.
    #[serde(default, rename = "revision_number")]
    _revision_number: i64,
    /// Set by the server.
    #[serde(default, rename = "created_at")]
    _created_at: i64,
}

/// A SPIFFE ID in one piece, or in the two of SPIRE's messages.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Parts { trust_domain: String, path: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    r#type: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attributes {
    #[serde(default)]
    disable_x509_svid_prefetch: bool,
    #[serde(default)]
    jwt_svid_include_jti: bool,
}

/// Reads the entries of a file, or of standard input for "-".
pub(super) fn read(file: &str) -> Result<Vec<Entry>, Failure> {
    let (source, text) = if file == "-" {
        let mut text = String::new();
        let read = io::stdin().lock().read_to_string(&mut text);
        ("standard input", read.map(|_| text))
    } else {
        (file, fs::read_to_string(file))
    };
    let text =
        text.map_err(|error| Failure::failed(format!("{source}: cannot be read: {error}")))?;
    parse(source, &text)
}

fn parse(source: &str, text: &str) -> Result<Vec<Entry>, Failure> {
    let file: File = serde_json::from_str(text).map_err(|error| {
        Failure::failed(format!(
            "{source}:{}:{}: {error}; write {{\"entries\":[...]}} with the field names that \
             `muster entry list --json` prints",
            error.line(),
            error.column()
        ))
    })?;
    if file.entries.is_empty() {
        return Err(Failure::failed(format!("{source}: there are no entries")));
    }
    file.entries
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            item.into_entry().map_err(|(field, why)| {
                Failure::failed(format!("{source}: entries[{index}].{field}: {why}"))
            })
        })
        .collect()
}

impl Id {
    fn parse(self) -> Result<SpiffeId, String> {
        let text = match self {
            Self::Text(text) => text,
            Self::Parts { trust_domain, path } => format!("spiffe://{trust_domain}{path}"),
        };
        SpiffeId::parse(&text).map_err(|error| format!("{text:?}: {error}"))
    }
}

impl Item {
    fn into_entry(self) -> Result<Entry, (&'static str, String)> {
        if !self.id.is_empty() {
            EntryId::parse(&self.id).map_err(|error| ("id", format!("{:?}: {error}", self.id)))?;
        }
        let selectors = self
            .selectors
            .into_iter()
            .map(|pair| {
                Selector::new(pair.r#type, pair.value)
                    .map(|selector| selector::write(&selector))
                    .map_err(|error| ("selectors", error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        let federates_with = self
            .federates_with
            .into_iter()
            .map(|name| {
                TrustDomain::from_name_or_id(&name)
                    .map(|name| name.to_string())
                    .map_err(|error| ("federates_with", format!("{name:?}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Entry {
            id: self.id,
            spiffe_id: Some(id::write(
                &self.spiffe_id.parse().map_err(|e| ("spiffe_id", e))?,
            )),
            parent_id: Some(id::write(
                &self.parent_id.parse().map_err(|e| ("parent_id", e))?,
            )),
            selectors,
            x509_svid_ttl: self.x509_svid_ttl,
            federates_with,
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at,
            dns_names: self.dns_names,
            revision_number: 0,
            store_svid: self.store_svid,
            jwt_svid_ttl: self.jwt_svid_ttl,
            hint: self.hint,
            muster_agent_class: self.muster_agent_class,
            created_at: 0,
            additional_attributes: self.additional_attributes.map(|a| AdditionalAttributes {
                disable_x509_svid_prefetch: a.disable_x509_svid_prefetch,
                jwt_svid_include_jti: a.jwt_svid_include_jti,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn what_is_listed_can_be_created() {
        let text = r#"{"entries":[{
            "spiffe_id": "spiffe://example.org/web",
            "parent_id": {"trust_domain": "example.org", "path": "/n"},
            "selectors": [{"type": "unix", "value": "uid:1"}],
            "x509_svid_ttl": 60, "hint": "h", "federates_with": ["spiffe://other.org"]
        }]}"#;
        let entries = parse("f", text).unwrap();
        assert_eq!(entries[0].federates_with, ["other.org"]);
        let listed = serde_json::json!({ "entries": [json::entry(&entries[0])] }).to_string();
        let again = parse("f", &listed).unwrap();
        assert_eq!(json::entry(&again[0]), json::entry(&entries[0]));
    }

    #[test]
    fn faults_name_the_place() {
        let check = |text: &str, part: &str| {
            let message = parse("f.json", text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        check("{\"entries\":[", "f.json:1:12");
        check("{\"entries\":[]}", "there are no entries");
        check(
            "{\"entries\":[\n{\"spiffeid\":1}]}",
            "f.json:2:11: unknown field `spiffeid`",
        );
        check(
            r#"{"entries":[{"spiffe_id":"x","parent_id":"spiffe://a/b","selectors":[]}]}"#,
            "f.json: entries[0].spiffe_id: \"x\": must begin with",
        );
    }
}
