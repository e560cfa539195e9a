//! What nodes found, as rows.

use muster_model::{
    Acknowledged, ClassName, Confidence, Heir, Inherited, Note, Revision, Shown, Sighted, Sighting,
    SightingClue, SightingEvidence, SightingKey, SightingKind, SightingStanding, Starter,
    Timestamp, Word,
};

use super::{id, selectors};

fn word(text: &str) -> Word {
    Word::parse(text).expect("a word")
}

/// A sighting with no more than each has.
pub(super) fn plain_sighting() -> Sighting {
    Sighting {
        node: id("/spire/agent/x/1"),
        seen: Sighted {
            key: SightingKey::first(),
            product: word("claude-code"),
            kind: SightingKind::Cli,
            confidence: Confidence::Likely,
            also: Vec::new(),
            evidence: Vec::new(),
            executable: Shown::empty(),
            shape: Shown::empty(),
            uid: 0,
            user: Shown::empty(),
            unit: Shown::empty(),
            started_by: Vec::new(),
            ports: Vec::new(),
            count: 0,
            pids: Vec::new(),
            started: Timestamp::from_unix_millis(1),
            providers: Vec::new(),
            facts: selectors(&[]),
            identities: Vec::new(),
            inherited: Vec::new(),
        },
        standing: SightingStanding::Unregistered,
        classes: Vec::new(),
        expected: None,
        first_seen: Timestamp::from_unix_millis(2),
        last_seen: Timestamp::from_unix_millis(3),
        gone_at: None,
        acknowledged: None,
        changed_at: Revision::default(),
    }
}

/// A sighting with all that one can have.
pub(super) fn full_sighting() -> Sighting {
    let plain = plain_sighting();
    Sighting {
        node: id("/spire/agent/y/1"),
        seen: Sighted {
            key: SightingKey::parse(&"0f".repeat(16)).expect("a key"),
            also: vec![word("mcp-server")],
            evidence: vec![SightingEvidence {
                clue: SightingClue::Script,
                rule: Shown::of("@anthropic-ai/claude-code"),
            }],
            executable: Shown::of("/opt/\u{e9} a/claude"),
            shape: Shown::of("WORD --FLAG"),
            uid: u32::MAX,
            user: Shown::of("ana"),
            unit: Shown::of("session-*.scope"),
            started_by: vec![
                Starter {
                    executable: Shown::of("bash"),
                    uid: 7,
                    login: Some(7),
                },
                Starter {
                    executable: Shown::empty(),
                    uid: 0,
                    login: None,
                },
            ],
            ports: vec![1, 65_535],
            count: 2,
            pids: vec![4, 5],
            providers: vec![word("anthropic"), word("openai")],
            facts: selectors(&["unix:uid:7", "unix:path:/opt/claude"]),
            identities: vec![id("/agent/claude/1")],
            inherited: vec![Inherited {
                variable: Shown::of("ANTHROPIC_API_KEY"),
                by: Heir::McpServer,
                count: 3,
            }],
            ..plain.seen
        },
        standing: SightingStanding::WrongClass,
        classes: vec![ClassName::parse("plain").expect("a name")],
        expected: Some(ClassName::parse("full").expect("a name")),
        gone_at: Some(Timestamp::from_unix_millis(4)),
        acknowledged: Some(Acknowledged {
            at: Timestamp::from_unix_millis(3),
            by: "uid 0".into(),
            note: Note::parse("known").expect("a note"),
        }),
        ..plain
    }
}
