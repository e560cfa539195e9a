//! Sightings on Muster's API, between nodes, servers and operators.

use muster_model::{
    Confidence, FieldError, Heir, Inherited, Shown, Sighted, Sighting, SightingClue,
    SightingEvidence, SightingKey, SightingKind, SpiffeId, Starter, TextFault, Word,
};
use muster_proto::muster::agent::v1;

use crate::agent::{instant, needed, one, write_time};
use crate::selector;

/// Writes what a node tells.
pub fn write_sighted(seen: &Sighted) -> v1::Sighted {
    v1::Sighted {
        key: seen.key.to_string(),
        product: seen.product.to_string(),
        kind: seen.kind.to_string(),
        confidence: seen.confidence.to_string(),
        also: seen.also.iter().map(ToString::to_string).collect(),
        evidence: seen
            .evidence
            .iter()
            .map(|one| v1::SightingEvidence {
                clue: one.clue.to_string(),
                rule: one.rule.to_string(),
            })
            .collect(),
        executable: seen.executable.to_string(),
        shape: seen.shape.to_string(),
        uid: seen.uid,
        user: seen.user.to_string(),
        unit: seen.unit.to_string(),
        started_by: seen
            .started_by
            .iter()
            .map(|starter| v1::Starter {
                executable: starter.executable.to_string(),
                uid: starter.uid,
                login: starter.login,
            })
            .collect(),
        ports: seen.ports.iter().copied().map(u32::from).collect(),
        count: seen.count,
        pids: seen.pids.clone(),
        started: Some(write_time(seen.started)),
        facts: seen.facts.iter().map(selector::write).collect(),
        identities: seen.identities.iter().map(ToString::to_string).collect(),
        providers: seen.providers.iter().map(ToString::to_string).collect(),
        inherited: seen
            .inherited
            .iter()
            .map(|one| v1::Inherited {
                variable: one.variable.to_string(),
                by: one.by.to_string(),
                count: one.count,
            })
            .collect(),
    }
}

/// Reads what a node tells; the first field that is at fault is the error.
pub fn read_sighted(message: &v1::Sighted) -> Result<Sighted, FieldError> {
    if message.facts.len() > Sighted::MOST_FACTS {
        let most = Sighted::MOST_FACTS;
        return Err(TextFault::TooMany { most }.at("facts", &message.facts.len().to_string()));
    }
    let product = |text: &String| one("also", text, Word::parse);
    let provider = |text: &String| one("providers", text, Word::parse);
    let identity = |text: &String| {
        SpiffeId::parse(text).map_err(|_| TextFault::Prose { most: 2048 }.at("identities", text))
    };
    let port = |port: &u32| u16::try_from(*port).map_err(|_| bad("ports", &port.to_string()));
    Ok(Sighted {
        key: needed("key", &message.key, SightingKey::parse)?,
        product: needed("product", &message.product, Word::parse)?,
        kind: word(
            "kind",
            &message.kind,
            SightingKind::from_word,
            SightingKind::WORDS,
        )?,
        confidence: word(
            "confidence",
            &message.confidence,
            Confidence::from_word,
            Confidence::WORDS,
        )?,
        also: list("also", &message.also, product)?,
        evidence: list("evidence", &message.evidence, |one| {
            Ok(SightingEvidence {
                clue: word(
                    "evidence",
                    &one.clue,
                    SightingClue::from_word,
                    SightingClue::WORDS,
                )?,
                rule: shown("evidence", &one.rule)?,
            })
        })?,
        executable: shown("executable", &message.executable)?,
        shape: shown("shape", &message.shape)?,
        uid: message.uid,
        user: shown("user", &message.user)?,
        unit: shown("unit", &message.unit)?,
        started_by: list("started_by", &message.started_by, |starter| {
            Ok(Starter {
                executable: shown("started_by", &starter.executable)?,
                uid: starter.uid,
                login: starter.login,
            })
        })?,
        ports: list("ports", &message.ports, port)?,
        count: message.count,
        pids: list("pids", &message.pids, |pid| Ok(*pid))?,
        started: instant("started", message.started)?,
        providers: list("providers", &message.providers, provider)?,
        facts: selector::read_set(&message.facts).map_err(|_| bad("facts", ""))?,
        identities: list("identities", &message.identities, identity)?,
        inherited: list("inherited", &message.inherited, |one| {
            Ok(Inherited {
                variable: shown("inherited", &one.variable)?,
                by: word("inherited", &one.by, Heir::from_word, Heir::WORDS)?,
                count: one.count,
            })
        })?,
    })
}

fn bad(field: &'static str, value: &str) -> FieldError {
    match field {
        "facts" => TextFault::Selector.at(field, value),
        _ => TextFault::Level.at(field, value),
    }
}

fn shown(field: &'static str, text: &str) -> Result<Shown, FieldError> {
    one(field, text, Shown::parse)
}

fn word<T>(
    field: &'static str,
    text: &str,
    read: impl Fn(&str) -> Option<T>,
    words: &'static str,
) -> Result<T, FieldError> {
    read(text).ok_or_else(|| TextFault::Choice { words }.at(field, text))
}

fn list<T, M>(
    field: &'static str,
    values: &[M],
    read: impl Fn(&M) -> Result<T, FieldError>,
) -> Result<Vec<T>, FieldError> {
    if values.len() > Sighted::MOST {
        let most = Sighted::MOST;
        return Err(TextFault::TooMany { most }.at(field, &values.len().to_string()));
    }
    values.iter().map(read).collect()
}

/// Writes a sighting; how it can be registered, and what its classes say of it, its caller adds.
pub fn write_sighting(row: &Sighting) -> v1::Sighting {
    let known = row.acknowledged.as_ref();
    v1::Sighting {
        node_id: row.node.to_string(),
        seen: Some(write_sighted(&row.seen)),
        standing: row.standing.to_string(),
        state: row.state().to_string(),
        classes: row.classes.iter().map(ToString::to_string).collect(),
        expected_class: row
            .expected
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        first_seen: Some(write_time(row.first_seen)),
        last_seen: Some(write_time(row.last_seen)),
        gone_at: row.gone_at.map(write_time),
        acknowledged_by: known.map(|known| known.by.clone()).unwrap_or_default(),
        acknowledged_at: known.map(|known| write_time(known.at)),
        reason: known
            .map(|known| known.note.to_string())
            .unwrap_or_default(),
        register: None,
        providers_not_allowed: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> v1::Sighted {
        v1::Sighted {
            key: "0f".repeat(16),
            product: "claude-code".into(),
            kind: "cli".into(),
            confidence: "certain".into(),
            also: vec!["mcp-server".into()],
            evidence: vec![v1::SightingEvidence {
                clue: "executable".into(),
                rule: "claude".into(),
            }],
            executable: "/usr/bin/claude".into(),
            shape: "WORD".into(),
            uid: 1000,
            user: "ana".into(),
            unit: "session-*.scope".into(),
            started_by: vec![v1::Starter {
                executable: "bash".into(),
                uid: 1000,
                login: Some(1000),
            }],
            ports: vec![8931],
            count: 2,
            pids: vec![7, 8],
            started: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            facts: vec![selector::write(&"unix:uid:1000".parse().unwrap())],
            identities: vec!["spiffe://td/agent/claude-code/1".into()],
            providers: vec!["anthropic".into()],
            inherited: vec![v1::Inherited {
                variable: "ANTHROPIC_API_KEY".into(),
                by: "shell".into(),
                count: 3,
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let seen = read_sighted(&full()).unwrap();
        assert_eq!(write_sighted(&seen), full());
    }

    #[test]
    fn each_fault_names_its_field() {
        let check = |change: &dyn Fn(&mut v1::Sighted), field: &str| {
            let mut message = full();
            change(&mut message);
            assert_eq!(read_sighted(&message).unwrap_err().field, field);
        };
        check(&|m| m.key.clear(), "key");
        check(&|m| m.key = "../..".into(), "key");
        check(&|m| m.kind = "toaster".into(), "kind");
        check(&|m| m.confidence.clear(), "confidence");
        check(&|m| m.also = vec!["x".into(); 17], "also");
        check(
            &|m| m.evidence.push(v1::SightingEvidence::default()),
            "evidence",
        );
        check(&|m| m.providers = vec!["a b".into()], "providers");
        check(&|m| m.inherited[0].by = "toaster".into(), "inherited");
        check(&|m| m.inherited[0].variable = "\n".into(), "inherited");
        let heirs = vec![full().inherited[0].clone(); 17];
        check(&|m| m.inherited.clone_from(&heirs), "inherited");
        check(&|m| m.executable = "\u{1b}[2J".into(), "executable");
        check(&|m| m.user = "x".repeat(600), "user");
        check(&|m| m.ports = vec![70_000], "ports");
        check(&|m| m.pids = vec![1; 17], "pids");
        check(&|m| m.started = None, "started");
        check(&|m| m.identities = vec!["x".into()], "identities");
        let many = vec![full().facts[0].clone(); 129];
        check(&|m| m.facts.clone_from(&many), "facts");
    }
}
