//! Rows as JSON documents.
//!
//! The forms here are what is on disks. They refuse fields they do not know, so that a field that is
//! added needs a new schema version and never gets lost in an older program.

pub(crate) mod agents;
pub(crate) mod rules;
pub(crate) mod sightings;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use muster_model::{
    Bundle, ClassName, Entry, EntryId, JoinToken, Joined, JwtAuthority, Node, NodeStanding,
    Revision, Selector, SelectorSet, SerialNumber, SpiffeId, Timestamp, TrustDomain, WitAuthority,
    X509Authority,
};
use serde::{Deserialize, Serialize};

use crate::error::Fault;

/// What is wrong with a document.
type Fail = String;

/// A row's key and document, from the database or for it.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) key: &'a str,
    pub(crate) revision: Revision,
    pub(crate) doc: &'a str,
}

/// Names and selectors that were read before, so that what thousands of rows share is in memory
/// once.
#[derive(Default)]
pub(crate) struct Names {
    trust_domain: Option<TrustDomain>,
    parent: Option<SpiffeId>,
    parents: HashMap<String, SpiffeId>,
    selectors: HashMap<String, Selector>,
}

/// How many of a kind are remembered: what is rarer than that is hardly shared.
const REMEMBERED: usize = 1 << 16;

impl Names {
    fn id(&mut self, text: &str) -> Result<SpiffeId, Fail> {
        if let Some(known) = &self.trust_domain
            && let Some(rest) = text.strip_prefix("spiffe://")
            && let Some(path) = rest.strip_prefix(known.as_str())
            && (path.is_empty() || path.starts_with('/'))
        {
            return known
                .with_path(path)
                .map_err(|why| told("SPIFFE ID", text, &why));
        }
        let id = SpiffeId::parse(text).map_err(|why| told("SPIFFE ID", text, &why))?;
        self.trust_domain = Some(id.trust_domain().clone());
        Ok(id)
    }

    /// Entries of one parent are often created one after the other.
    fn parent(&mut self, text: &str) -> Result<SpiffeId, Fail> {
        if let Some(known) = self.parent.as_ref().filter(|known| known.as_str() == text) {
            return Ok(known.clone());
        }
        let id = if let Some(known) = self.parents.get(text) {
            known.clone()
        } else {
            let id = self.id(text)?;
            if self.parents.len() < REMEMBERED {
                self.parents.insert(text.to_owned(), id.clone());
            }
            id
        };
        self.parent = Some(id.clone());
        Ok(id)
    }

    fn selector(&mut self, text: &str) -> Result<Selector, Fail> {
        if let Some(known) = self.selectors.get(text) {
            return Ok(known.clone());
        }
        let selector: Selector = text.parse().map_err(|why| told("selector", text, &why))?;
        if self.selectors.len() < REMEMBERED {
            self.selectors.insert(text.to_owned(), selector.clone());
        }
        Ok(selector)
    }
}

fn told(what: &str, value: &str, why: &dyn std::fmt::Display) -> Fail {
    format!("{what} {value:?}: {why}")
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

// ---- entries

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the flags are SPIRE's, one field each"
)]
struct EntryDoc<'a> {
    ordinal: u64,
    #[serde(borrow)]
    spiffe_id: Cow<'a, str>,
    #[serde(borrow)]
    parent_id: Cow<'a, str>,
    #[serde(borrow)]
    selectors: Vec<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    x509_svid_ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    jwt_svid_ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    federates_with: Vec<String>,
    #[serde(skip_serializing_if = "is_false", default)]
    admin: bool,
    #[serde(skip_serializing_if = "is_false", default)]
    downstream: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    dns_names: Vec<String>,
    #[serde(skip_serializing_if = "is_false", default)]
    store_svid: bool,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    hint: String,
    #[serde(skip_serializing_if = "is_false", default)]
    disable_x509_svid_prefetch: bool,
    #[serde(skip_serializing_if = "is_false", default)]
    jwt_svid_include_jti: bool,
    /// Since schema version 4.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    agent_class: Option<String>,
    created_at_ms: i64,
    revision_number: i64,
}

/// A text that is not copied while it is read, unless it has escapes.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

pub(crate) fn write_entry(entry: &Entry) -> Result<String, Fault> {
    write(&EntryDoc {
        ordinal: entry.ordinal,
        spiffe_id: entry.spiffe_id.as_str().into(),
        parent_id: entry.parent_id.as_str().into(),
        selectors: write_selectors(&entry.selectors),
        x509_svid_ttl_ms: entry.x509_svid_ttl.map(millis),
        jwt_svid_ttl_ms: entry.jwt_svid_ttl.map(millis),
        federates_with: entry
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at_ms: entry.expires_at.map(Timestamp::unix_millis),
        dns_names: entry.dns_names.clone(),
        store_svid: entry.store_svid,
        hint: entry.hint.clone(),
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
        agent_class: entry.class.as_ref().map(ToString::to_string),
        created_at_ms: entry.created_at.unix_millis(),
        revision_number: entry.revision_number,
    })
}

pub(crate) fn read_entry(row: Row<'_>, names: &mut Names) -> Result<Arc<Entry>, Fault> {
    let mut read = || -> Result<Arc<Entry>, Fail> {
        let doc: EntryDoc<'_> = parse(row.doc)?;
        Ok(Arc::new(Entry {
            id: EntryId::parse(row.key).map_err(|why| why.to_string())?,
            parent_id: names.parent(&doc.parent_id)?,
            spiffe_id: names.id(&doc.spiffe_id)?,
            selectors: doc
                .selectors
                .iter()
                .map(|text| names.selector(&text.0))
                .collect::<Result<_, _>>()?,
            x509_svid_ttl: doc.x509_svid_ttl_ms.map(Duration::from_millis),
            jwt_svid_ttl: doc.jwt_svid_ttl_ms.map(Duration::from_millis),
            federates_with: doc
                .federates_with
                .iter()
                .map(|name| trust_domain(name))
                .collect::<Result<_, _>>()?,
            admin: doc.admin,
            downstream: doc.downstream,
            expires_at: doc.expires_at_ms.map(Timestamp::from_unix_millis),
            dns_names: doc.dns_names,
            store_svid: doc.store_svid,
            hint: doc.hint,
            disable_x509_svid_prefetch: doc.disable_x509_svid_prefetch,
            jwt_svid_include_jti: doc.jwt_svid_include_jti,
            class: doc
                .agent_class
                .map(|name| ClassName::parse(&name).map_err(|why| told("agent class", &name, &why)))
                .transpose()?,
            created_at: Timestamp::from_unix_millis(doc.created_at_ms),
            ordinal: doc.ordinal,
            revision_number: doc.revision_number,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("entries", row.key, cause))
}

fn write_selectors(selectors: &SelectorSet) -> Vec<Text<'static>> {
    selectors
        .iter()
        .map(|selector| Text(selector.to_string().into()))
        .collect()
}

fn read_selectors(texts: &[Text<'_>]) -> Result<SelectorSet, Fail> {
    texts
        .iter()
        .map(|text| {
            text.0
                .parse::<Selector>()
                .map_err(|why| told("selector", &text.0, &why))
        })
        .collect()
}

// ---- nodes

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeDoc<'a> {
    attestation_type: String,
    /// Absent when the node is banned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    current: Option<CertificateDoc>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    next: Option<CertificateDoc>,
    #[serde(skip_serializing_if = "is_false", default)]
    can_reattest: bool,
    #[serde(borrow)]
    selectors: Vec<Text<'a>>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    agent_version: String,
    /// Since schema version 2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    joined: Option<JoinedDoc>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinedDoc {
    key: String,
    at_ms: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateDoc {
    serial: String,
    expires_at_ms: i64,
}

impl CertificateDoc {
    fn of(serial: &SerialNumber, expires_at: Timestamp) -> Self {
        Self {
            serial: serial.as_str().to_owned(),
            expires_at_ms: expires_at.unix_millis(),
        }
    }

    fn read(&self) -> Result<(SerialNumber, Timestamp), Fail> {
        let serial = SerialNumber::from_decimal(&self.serial)
            .ok_or_else(|| format!("serial number {:?}: not a decimal number", self.serial))?;
        Ok((serial, Timestamp::from_unix_millis(self.expires_at_ms)))
    }
}

pub(crate) fn write_node(node: &Node) -> Result<String, Fault> {
    let (current, next) = match &node.standing {
        NodeStanding::Banned => (None, None),
        NodeStanding::Active {
            serial,
            expires_at,
            next,
        } => (
            Some(CertificateDoc::of(serial, *expires_at)),
            next.as_ref()
                .map(|(serial, expires_at)| CertificateDoc::of(serial, *expires_at)),
        ),
    };
    write(&NodeDoc {
        attestation_type: node.attestation_type.clone(),
        current,
        next,
        can_reattest: node.can_reattest,
        selectors: write_selectors(&node.selectors),
        agent_version: node.agent_version.clone(),
        joined: node.joined.as_ref().map(|joined| JoinedDoc {
            key: joined.key.clone(),
            at_ms: joined.at.unix_millis(),
        }),
    })
}

pub(crate) fn read_node(row: Row<'_>) -> Result<Arc<Node>, Fault> {
    let read = || -> Result<Arc<Node>, Fail> {
        let doc: NodeDoc<'_> = parse(row.doc)?;
        let standing = match &doc.current {
            None => NodeStanding::Banned,
            Some(current) => {
                let (serial, expires_at) = current.read()?;
                NodeStanding::Active {
                    serial,
                    expires_at,
                    next: doc.next.as_ref().map(CertificateDoc::read).transpose()?,
                }
            }
        };
        Ok(Arc::new(Node {
            id: SpiffeId::parse(row.key).map_err(|why| why.to_string())?,
            attestation_type: doc.attestation_type,
            standing,
            can_reattest: doc.can_reattest,
            selectors: read_selectors(&doc.selectors)?,
            agent_version: doc.agent_version,
            joined: doc.joined.map(|joined| Joined {
                key: joined.key,
                at: Timestamp::from_unix_millis(joined.at_ms),
            }),
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("nodes", row.key, cause))
}

// ---- join tokens

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinTokenDoc {
    expires_at_ms: i64,
}

pub(crate) fn write_join_token(token: &JoinToken) -> Result<String, Fault> {
    write(&JoinTokenDoc {
        expires_at_ms: token.expires_at.unix_millis(),
    })
}

pub(crate) fn read_join_token(row: Row<'_>) -> Result<JoinToken, Fault> {
    // The row is not named: its key is the secret.
    let doc: JoinTokenDoc =
        parse(row.doc).map_err(|cause| fault("join_tokens", "(a token)", cause))?;
    Ok(JoinToken {
        value: row.key.to_owned(),
        expires_at: Timestamp::from_unix_millis(doc.expires_at_ms),
    })
}

// ---- bundles

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleDoc {
    x509_authorities: Vec<X509Doc>,
    jwt_authorities: Vec<JwtDoc>,
    /// Since schema 2; of the same form as the JWT keys.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    wit_authorities: Vec<JwtDoc>,
    #[serde(default)]
    refresh_hint: i64,
    sequence_number: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct X509Doc {
    /// Base64.
    der: String,
    expires_at_ms: i64,
    #[serde(skip_serializing_if = "is_false", default)]
    tainted: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtDoc {
    key_id: String,
    /// Base64.
    public_key: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "is_false", default)]
    tainted: bool,
}

pub(crate) fn write_bundle(bundle: &Bundle) -> Result<String, Fault> {
    write(&BundleDoc {
        x509_authorities: bundle
            .x509_authorities
            .iter()
            .map(|authority| X509Doc {
                der: BASE64_STANDARD.encode(&authority.der),
                expires_at_ms: authority.expires_at.unix_millis(),
                tainted: authority.tainted,
            })
            .collect(),
        jwt_authorities: bundle
            .jwt_authorities
            .iter()
            .map(|authority| JwtDoc {
                key_id: authority.key_id.clone(),
                public_key: BASE64_STANDARD.encode(&authority.public_key),
                expires_at_ms: authority.expires_at.map(Timestamp::unix_millis),
                tainted: authority.tainted,
            })
            .collect(),
        wit_authorities: bundle
            .wit_authorities
            .iter()
            .map(|authority| JwtDoc {
                key_id: authority.key_id.clone(),
                public_key: BASE64_STANDARD.encode(&authority.public_key),
                expires_at_ms: authority.expires_at.map(Timestamp::unix_millis),
                tainted: authority.tainted,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
    })
}

pub(crate) fn read_bundle(row: Row<'_>) -> Result<Arc<Bundle>, Fault> {
    let read = || -> Result<Arc<Bundle>, Fail> {
        let doc: BundleDoc = parse(row.doc)?;
        let x509_authorities = doc
            .x509_authorities
            .into_iter()
            .map(|authority| {
                Ok(X509Authority {
                    der: bytes(&authority.der)?,
                    expires_at: Timestamp::from_unix_millis(authority.expires_at_ms),
                    tainted: authority.tainted,
                })
            })
            .collect::<Result<_, Fail>>()?;
        let jwt_authorities = doc
            .jwt_authorities
            .into_iter()
            .map(|authority| {
                Ok(JwtAuthority {
                    public_key: bytes(&authority.public_key)?,
                    key_id: authority.key_id,
                    expires_at: authority.expires_at_ms.map(Timestamp::from_unix_millis),
                    tainted: authority.tainted,
                })
            })
            .collect::<Result<_, Fail>>()?;
        let wit_authorities = doc
            .wit_authorities
            .into_iter()
            .map(|authority| {
                Ok(WitAuthority {
                    public_key: bytes(&authority.public_key)?,
                    key_id: authority.key_id,
                    expires_at: authority.expires_at_ms.map(Timestamp::from_unix_millis),
                    tainted: authority.tainted,
                })
            })
            .collect::<Result<_, Fail>>()?;
        Ok(Arc::new(Bundle {
            trust_domain: trust_domain(row.key)?,
            x509_authorities,
            jwt_authorities,
            wit_authorities,
            refresh_hint: doc.refresh_hint,
            sequence_number: doc.sequence_number,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("bundles", row.key, cause))
}

// ---- the rest

pub(crate) fn trust_domain(name: &str) -> Result<TrustDomain, Fail> {
    TrustDomain::parse(name).map_err(|why| told("trust domain", name, &why))
}

/// The fault of a row.
pub(crate) fn fault(table: &'static str, row: impl Into<String>, cause: Fail) -> Fault {
    Fault::Row {
        table,
        row: row.into(),
        cause,
    }
}

fn write(doc: &impl Serialize) -> Result<String, Fault> {
    // The forms have only text keys and finite numbers, and so always have a JSON form.
    serde_json::to_string(doc).map_err(|error| Fault::Conflict(error.to_string()))
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fail> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bytes(text: &str) -> Result<Arc<[u8]>, Fail> {
    BASE64_STANDARD
        .decode(text)
        .map(Arc::from)
        .map_err(|error| error.to_string())
}
