//! `docs/metrics.md` names each metric that the programs emit, and no other.

#![expect(
    clippy::unwrap_used,
    reason = "a test may; clippy sees the functions that are marked as tests only"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the names begin with.
const PREFIXES: [&str; 2] = ["muster_node_", "muster_server_"];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).unwrap().to_path_buf()
}

/// The names between `quote`s that look like metrics.
fn names(text: &str, quote: char) -> BTreeSet<String> {
    let is_name = |word: &&str| {
        PREFIXES.iter().any(|prefix| word.starts_with(prefix))
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.split(quote)
        .filter(is_name)
        .map(str::to_owned)
        .collect()
}

/// The names in the sources below `folder`.
fn emitted(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            emitted(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(names(&fs::read_to_string(&path).unwrap(), '"'));
        }
    }
}

#[test]
fn every_metric_is_documented() {
    let mut code = BTreeSet::new();
    for layer in ["edge", "adapters", "apps"] {
        for member in fs::read_dir(root().join("crates").join(layer)).unwrap() {
            emitted(&member.unwrap().path().join("src"), &mut code);
        }
    }
    assert!(
        code.len() > 15,
        "the test no longer finds the metrics: {code:?}"
    );
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    assert_eq!(code, names(&page, '`'));
}
