//! The node's memory as bytes. The view is in the form in which the server sends it; the rest is
//! JSON that refuses unknown fields, so that another version is never half understood.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_crypto::{Purpose, Secret};
use muster_model::{EntryId, TrustDomain};
use muster_proto::muster::agent::v1::Facts;
use muster_proto::muster::node::v1::WatchResponse;
use muster_roster::{Derivation, Memory, Step};
use muster_svid::x509::X509Svid;
use muster_wire::{bundle as wire_bundle, entry as wire_entry, rule as wire_rule};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::link::read_step;
use crate::material::{HeldJwt, HeldX509, Renewal};

/// What this node's roster knows.
pub(crate) type NodeMemory = Memory<HeldX509, HeldJwt>;

/// The bytes are not a memory of this version.
#[derive(Debug, thiserror::Error)]
#[error("the node's memory cannot be read: {0}")]
pub(crate) struct SnapshotError(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// A `muster.node.v1.WatchResponse` that replaces the view, base64.
    view: String,
    names: Vec<NameRow>,
    x509: Vec<X509Row>,
    jwt: Vec<JwtRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameRow {
    rule: String,
    /// A `muster.agent.v1.Facts`, base64.
    facts: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct X509Row {
    entry: String,
    /// DER, base64, leaf first.
    chain: Vec<String>,
    /// PKCS #8 DER, base64.
    key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtRow {
    entry: String,
    audience: Vec<String>,
    token: String,
}

impl Drop for X509Row {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Drop for JwtRow {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

/// Writes a memory.
pub(crate) fn write(memory: &NodeMemory) -> Result<Zeroizing<Vec<u8>>, SnapshotError> {
    let document = Document {
        view: STANDARD.encode(write_step(&memory.view).encode_to_vec()),
        names: memory
            .names
            .iter()
            .map(|name| NameRow {
                rule: name.rule.to_string(),
                facts: STANDARD.encode(wire_rule::write_facts(&name.facts).encode_to_vec()),
            })
            .collect(),
        x509: memory
            .x509
            .iter()
            .map(|(entry, held)| X509Row {
                entry: entry.as_str().to_owned(),
                chain: held
                    .svid
                    .chain
                    .iter()
                    .map(|der| STANDARD.encode(der))
                    .collect(),
                key: STANDARD.encode(held.svid.key.expose(Purpose::Seal)),
            })
            .collect(),
        jwt: memory
            .jwt
            .iter()
            .map(|(entry, audience, held)| JwtRow {
                entry: entry.as_str().to_owned(),
                audience: audience.to_vec(),
                token: held.token.clone(),
            })
            .collect(),
    };
    serde_json::to_vec(&document)
        .map(Zeroizing::new)
        .map_err(|error| SnapshotError(error.to_string()))
}

/// Reads a memory of the node that `renewal` names; SVIDs are checked against the bundle of its own view. One that is not
/// good for itself is left out: the server signs another.
pub(crate) fn read(
    bytes: &[u8],
    own: &TrustDomain,
    renewal: &Renewal,
) -> Result<NodeMemory, SnapshotError> {
    // The position is told and the content, which is secret, is not.
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|e| SnapshotError(format!("line {}, column {}", e.line(), e.column())))?;
    let view = WatchResponse::decode(&*decode(&document.view)?)
        .map_err(|error| SnapshotError(error.to_string()))?;
    let view = read_step(&view, own).map_err(SnapshotError)?;
    let bundle = view.bundles.iter().find(|b| b.trust_domain == *own);
    let names = document
        .names
        .iter()
        .map(read_name)
        .collect::<Result<_, _>>()?;
    let mut memory = NodeMemory {
        names,
        x509: Vec::new(),
        jwt: Vec::new(),
        last_expiry: None,
        view: Step {
            replace: true,
            ..view.clone()
        },
    };
    let Some(bundle) = bundle else {
        return Err(SnapshotError("it has no bundle".to_owned()));
    };
    for row in &document.x509 {
        let chain = row
            .chain
            .iter()
            .map(|der| decode(der))
            .collect::<Result<_, _>>()?;
        let key = Secret::new(decode(&row.key)?);
        if let Ok(svid) = X509Svid::load(chain, key) {
            let held = HeldX509::new(svid, &bundle.x509_authorities, renewal);
            memory.x509.push((entry_id(&row.entry)?, Arc::new(held)));
        }
    }
    for row in &document.jwt {
        if let Ok(held) = HeldJwt::new(row.token.clone(), &bundle.jwt_authorities, &renewal.node) {
            let audience = row.audience.clone().into();
            memory
                .jwt
                .push((entry_id(&row.entry)?, audience, Arc::new(held)));
        }
    }
    Ok(memory)
}

fn write_step(step: &Step) -> WatchResponse {
    WatchResponse {
        revision: step.revision.0,
        replace: true,
        entries: step
            .entries
            .iter()
            .map(|e| wire_entry::write(e, None))
            .collect(),
        bundles: step
            .bundles
            .iter()
            .map(|b| wire_bundle::write(b, None))
            .collect(),
        rules: step.naming.rules.iter().map(wire_rule::write).collect(),
        withheld_names: step
            .naming
            .withheld
            .iter()
            .map(ToString::to_string)
            .collect(),
        digest: step.digest.as_bytes().to_vec().into(),
        complete: true,
        ..WatchResponse::default()
    }
}

fn read_name(row: &NameRow) -> Result<Derivation, SnapshotError> {
    let facts =
        Facts::decode(&*decode(&row.facts)?).map_err(|error| SnapshotError(error.to_string()))?;
    let facts = wire_rule::read_facts(Some(&facts));
    let rule = wire_rule::read_name(&row.rule);
    Ok(Derivation {
        rule: rule.map_err(|error| SnapshotError(error.to_string()))?,
        facts: Arc::new(facts.map_err(|error| SnapshotError(error.to_string()))?),
    })
}

fn entry_id(text: &str) -> Result<EntryId, SnapshotError> {
    EntryId::parse(text).map_err(|error| SnapshotError(error.to_string()))
}

fn decode(text: &str) -> Result<Vec<u8>, SnapshotError> {
    STANDARD
        .decode(text)
        .map_err(|_base64| SnapshotError("base64 that is none".to_owned()))
}
