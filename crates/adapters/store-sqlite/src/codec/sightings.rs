//! Sightings as JSON documents (since schema version 4; `providers` since 5).

use std::sync::Arc;

use muster_model::{
    Acknowledged, ClassName, Confidence, Heir, Inherited, Note, Shown, Sighted, Sighting,
    SightingClue, SightingEvidence, SightingId, SightingKey, SightingKind, SightingStanding,
    SpiffeId, Starter, TextFault, Timestamp, Word,
};
use serde::{Deserialize, Serialize};

use super::{
    Fail, Row, Text, fault, parse, read_selectors, told, write as to_text, write_selectors,
};
use crate::error::Fault;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Doc<'a> {
    product: String,
    kind: String,
    confidence: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    also: Vec<String>,
    evidence: Vec<(String, String)>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    executable: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    shape: String,
    uid: u32,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    user: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    unit: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    started_by: Vec<StarterDoc>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    ports: Vec<u16>,
    count: u32,
    pids: Vec<u32>,
    started_ms: i64,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    providers: Vec<String>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty", default)]
    facts: Vec<Text<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    identities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    inherited: Vec<(String, String, u32)>,
    standing: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    classes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expected: Option<String>,
    first_seen_ms: i64,
    last_seen_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gone_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    acknowledged: Option<AcknowledgedDoc>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StarterDoc {
    executable: String,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    login: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcknowledgedDoc {
    at_ms: i64,
    by: String,
    note: String,
}

pub(crate) fn write(sighting: &Sighting) -> Result<String, Fault> {
    let seen = &sighting.seen;
    let texts = |list: &[Word]| list.iter().map(ToString::to_string).collect();
    to_text(&Doc {
        product: seen.product.to_string(),
        kind: seen.kind.to_string(),
        confidence: seen.confidence.to_string(),
        also: texts(&seen.also),
        evidence: seen
            .evidence
            .iter()
            .map(|one| (one.clue.to_string(), one.rule.to_string()))
            .collect(),
        executable: seen.executable.to_string(),
        shape: seen.shape.to_string(),
        uid: seen.uid,
        user: seen.user.to_string(),
        unit: seen.unit.to_string(),
        started_by: seen
            .started_by
            .iter()
            .map(|starter| StarterDoc {
                executable: starter.executable.to_string(),
                uid: starter.uid,
                login: starter.login,
            })
            .collect(),
        ports: seen.ports.clone(),
        count: seen.count,
        pids: seen.pids.clone(),
        started_ms: seen.started.unix_millis(),
        providers: texts(&seen.providers),
        facts: write_selectors(&seen.facts),
        identities: seen.identities.iter().map(ToString::to_string).collect(),
        inherited: seen
            .inherited
            .iter()
            .map(|one| (one.variable.to_string(), one.by.to_string(), one.count))
            .collect(),
        standing: sighting.standing.to_string(),
        classes: sighting.classes.iter().map(ToString::to_string).collect(),
        expected: sighting.expected.as_ref().map(ToString::to_string),
        first_seen_ms: sighting.first_seen.unix_millis(),
        last_seen_ms: sighting.last_seen.unix_millis(),
        gone_at_ms: sighting.gone_at.map(Timestamp::unix_millis),
        acknowledged: sighting.acknowledged.as_ref().map(|known| AcknowledgedDoc {
            at_ms: known.at.unix_millis(),
            by: known.by.clone(),
            note: known.note.to_string(),
        }),
    })
}

fn one<T>(what: &str, text: &str, read: impl Fn(&str) -> Result<T, TextFault>) -> Result<T, Fail> {
    read(text).map_err(|why| told(what, text, &why))
}

fn word<T>(what: &str, text: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Fail> {
    read(text).ok_or_else(|| format!("{what} {text:?}: not a word that this version knows"))
}

fn spiffe_id(text: &str) -> Result<SpiffeId, Fail> {
    SpiffeId::parse(text).map_err(|why| told("SPIFFE ID", text, &why))
}

/// Reads the key of a row.
pub(crate) fn read_id(text: &str) -> Result<SightingId, Fail> {
    let (node, key) = text
        .split_once(' ')
        .ok_or_else(|| format!("sighting {text:?}: it has no key"))?;
    Ok(SightingId {
        node: spiffe_id(node)?,
        key: one("key", key, SightingKey::parse)?,
    })
}

pub(crate) fn read(row: Row<'_>) -> Result<Arc<Sighting>, Fault> {
    let read = || -> Result<Arc<Sighting>, Fail> {
        let doc: Doc<'_> = parse(row.doc)?;
        let id = read_id(row.key)?;
        let at = Timestamp::from_unix_millis;
        let shown = |what: &str, text: &str| one(what, text, Shown::parse);
        let evidence = |(clue, rule): &(String, String)| -> Result<_, Fail> {
            Ok(SightingEvidence {
                clue: word("clue", clue, SightingClue::from_word)?,
                rule: shown("rule", rule)?,
            })
        };
        let heir = |(variable, by, count): &(String, String, u32)| -> Result<_, Fail> {
            Ok(Inherited {
                variable: shown("variable", variable)?,
                by: word("heir", by, Heir::from_word)?,
                count: *count,
            })
        };
        let starter = |doc: &StarterDoc| -> Result<_, Fail> {
            Ok(Starter {
                executable: shown("executable", &doc.executable)?,
                uid: doc.uid,
                login: doc.login,
            })
        };
        let class = |text: &String| one("class", text, ClassName::parse);
        let known = |doc: &AcknowledgedDoc| -> Result<_, Fail> {
            Ok(Acknowledged {
                at: at(doc.at_ms),
                by: doc.by.clone(),
                note: one("note", &doc.note, Note::parse)?,
            })
        };
        Ok(Arc::new(Sighting {
            node: id.node,
            seen: Sighted {
                key: id.key,
                product: one("product", &doc.product, Word::parse)?,
                kind: word("kind", &doc.kind, SightingKind::from_word)?,
                confidence: word("confidence", &doc.confidence, Confidence::from_word)?,
                also: doc
                    .also
                    .iter()
                    .map(|text| one("product", text, Word::parse))
                    .collect::<Result<_, _>>()?,
                evidence: doc
                    .evidence
                    .iter()
                    .map(evidence)
                    .collect::<Result<_, _>>()?,
                executable: shown("executable", &doc.executable)?,
                shape: shown("shape", &doc.shape)?,
                uid: doc.uid,
                user: shown("user", &doc.user)?,
                unit: shown("unit", &doc.unit)?,
                started_by: doc
                    .started_by
                    .iter()
                    .map(starter)
                    .collect::<Result<_, _>>()?,
                ports: doc.ports,
                count: doc.count,
                pids: doc.pids,
                started: at(doc.started_ms),
                providers: doc
                    .providers
                    .iter()
                    .map(|text| one("provider", text, Word::parse))
                    .collect::<Result<_, _>>()?,
                facts: read_selectors(&doc.facts)?,
                identities: doc
                    .identities
                    .iter()
                    .map(|text| spiffe_id(text))
                    .collect::<Result<_, _>>()?,
                inherited: doc.inherited.iter().map(heir).collect::<Result<_, _>>()?,
            },
            standing: word("standing", &doc.standing, SightingStanding::from_word)?,
            classes: doc.classes.iter().map(class).collect::<Result<_, _>>()?,
            expected: doc.expected.as_ref().map(class).transpose()?,
            first_seen: at(doc.first_seen_ms),
            last_seen: at(doc.last_seen_ms),
            gone_at: doc.gone_at_ms.map(at),
            acknowledged: doc.acknowledged.as_ref().map(known).transpose()?,
            changed_at: row.revision,
        }))
    };
    read().map_err(|cause| fault("sightings", row.key, cause))
}
