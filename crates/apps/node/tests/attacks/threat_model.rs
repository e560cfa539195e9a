//! `docs/threat-model.md` names the tests that show what it says.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).unwrap().to_path_buf()
}

/// Each is written as a path and a function: `crates/.../file.rs` `name`.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let mut named = 0;
    let mut missing = Vec::new();
    let mut file: Option<(String, String)> = None;
    for word in text.split('`').skip(1).step_by(2) {
        let is_path = word.starts_with("crates/") && Path::new(word).extension().is_some();
        if is_path {
            match std::fs::read_to_string(root().join(word)) {
                Ok(content) => file = Some((word.to_owned(), content)),
                Err(_) => missing.push(word.to_owned()),
            }
        } else if word.contains('_')
            && word.len() > 24
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && let Some((path, content)) = &file
        {
            named += 1;
            if !content.contains(&format!("fn {word}(")) {
                missing.push(format!("{path} has no test {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named >= 20, "only {named} tests are named");
}

/// And each scenario of this program is named there.
#[test]
fn every_scenario_is_in_the_threat_model() {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks");
    let mut missing = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let content = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut lines = content.lines();
        while let Some(line) = lines.next() {
            if !(line == "#[test]" || line.starts_with("#[tokio::test")) {
                continue;
            }
            let name = lines.next().and_then(|line| line.split_once("fn "));
            let name = name.and_then(|(_, rest)| rest.split_once('(')).unwrap().0;
            let helper = ["a_child_plays_its_part", "inside_of_the_namespace"].contains(&name);
            if !helper && !name.contains("threat_model") && !text.contains(&format!("`{name}`")) {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
