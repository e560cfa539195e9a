//! What docs/policy.md shows is so.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may; clippy sees the functions that are marked as tests only"
)]

use std::fs;
use std::path::Path;

use muster_cedar::{FaultKind, Limits, PolicySet, RecordedRequest, Verdict};
use serde_json::Value;

/// The contents of the fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/policy.md");
    let text = fs::read_to_string(file).unwrap();
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(name) if name == language => {
                inside = true;
                found.push(String::new());
            }
            Some(_) | None => {
                if let (true, Some(block)) = (inside, found.last_mut()) {
                    block.push_str(line);
                    block.push('\n');
                }
            }
        }
    }
    found
}

/// Puts values at places such as `situation.task.risk = 7`.
fn change(request: &mut Value, changes: &str) {
    for change in changes.split(", ").filter(|change| !change.is_empty()) {
        let (place, value) = change.split_once(" = ").unwrap();
        let pointer = format!("/{}", place.replace('.', "/"));
        let target = request
            .pointer_mut(&pointer)
            .unwrap_or_else(|| panic!("{pointer}"));
        *target = serde_json::from_str(value).unwrap();
    }
}

#[test]
fn the_examples_decide_as_the_page_says() {
    let set = PolicySet::load(&blocks("cedar")[0], &Limits::default()).unwrap();
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    let request: Value = serde_json::from_str(&blocks("json")[0]).unwrap();
    let lines = blocks("decisions").remove(0);
    assert!(lines.lines().count() > 8);
    for line in lines.lines() {
        let (changes, expected) = line.rsplit_once(": ").unwrap();
        let mut request = request.clone();
        change(&mut request, changes);
        let record: RecordedRequest = serde_json::from_value(request).unwrap();
        let decision = record.decide(&set).unwrap();
        let verdict = match decision.verdict {
            Verdict::Allow => "allow",
            Verdict::Refuse => "refuse",
        };
        let found = format!(
            "{verdict} {} {}",
            decision.reason.as_str(),
            decision.policies.join(" ")
        );
        assert_eq!(found.trim(), expected, "{line}\n{decision:?}");
    }
}

#[test]
fn the_example_of_a_fault_has_one() {
    for text in blocks("refused") {
        let error = PolicySet::load(&text, &Limits::default()).unwrap_err();
        assert_eq!(error.faults[0].kind, FaultKind::Type, "{error}");
    }
}

#[test]
fn the_page_lists_every_guard() {
    let set = PolicySet::load("", &Limits::default()).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/policy.md");
    let text = fs::read_to_string(file).unwrap();
    for id in set.ids() {
        assert!(
            text.contains(&format!("`{id}`")),
            "{id} is not in docs/policy.md"
        );
    }
}
