//! Every requirement of the SPIFFE groups that Muster builds is cited where it is held, or excused
//! with a reason. What counts as a citation is said in `docs/conformance.md`; start at
//! [`citations`], then [`the_ledger_is_complete`].
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what it expects"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files in which a citation counts.
const EXTENSIONS: [&str; 6] = ["rs", "proto", "py", "go", "java", "js"];
/// Folders that are built, fetched or generated.
const PASSED_OVER: [&str; 5] = [
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "__pycache__",
];
/// Levels that must be cited or excused; a MAY is free.
const DEMANDED: [&str; 6] = ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "DEF", "REC"];
/// A reason has at least this many letters: "not yet" is none.
const SHORTEST_REASON: usize = 20;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).unwrap().to_path_buf()
}

/// ID to level, from `tests/vectors/requirements.tsv`.
fn requirements() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("tests/vectors/requirements.tsv")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("id\tlevel\tside"));
    lines
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!(columns.len(), 3, "{line}");
            (columns[0].to_owned(), columns[1].to_owned())
        })
        .collect()
}

fn groups(requirements: &BTreeMap<String, String>) -> BTreeSet<String> {
    requirements
        .keys()
        .filter_map(|id| id.split_once('-'))
        .map(|(group, _)| group.to_owned())
        .collect()
}

/// The text with wrapped comments put together, so that a list may run over the end of a line.
fn unwrapped(text: &str) -> String {
    text.lines()
        .map(|line| line.trim().trim_start_matches(['/', '!', '#', '*']).trim())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Two digits, no third.
fn number(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits == 2).then(|| (text[..2].parse().unwrap(), &text[2..]))
}

/// The requirements that a text cites: `WAPI-04`, lists such as `ID-03, -04 and -05`, and ranges,
/// both ends included: `X509V-01 to -05`, `X509V-01 to X509V-05`, `X509V-01..05`.
fn citations(text: &str, groups: &BTreeSet<String>) -> BTreeSet<String> {
    let text = unwrapped(text);
    let mut found = BTreeSet::new();
    for group in groups {
        let head = format!("{group}-");
        for (at, _) in text.match_indices(&head) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
                continue;
            }
            let Some((mut last, mut rest)) = number(&text[at + head.len()..]) else {
                continue;
            };
            found.insert(format!("{head}{last:02}"));
            while let Some((first, next, after)) = continuation(rest, &head, last) {
                found.extend((first..=next).map(|n| format!("{head}{n:02}")));
                (last, rest) = (next, after);
            }
        }
    }
    found
}

/// What follows a number: the first and the last of the further ones, and the rest of the text.
fn continuation<'a>(rest: &'a str, head: &str, last: u32) -> Option<(u32, u32, &'a str)> {
    for separator in [" to ", ".."] {
        if let Some(after) = rest.strip_prefix(separator) {
            let after = after
                .strip_prefix(head)
                .or_else(|| after.strip_prefix('-'))
                .unwrap_or(after);
            let (end, after) = number(after)?;
            return (end > last).then_some((last, end, after));
        }
    }
    let after = [", -", " and -", ", and -"]
        .iter()
        .find_map(|separator| rest.strip_prefix(separator))?;
    let (one, after) = number(after)?;
    Some((one, one, after))
}

#[test]
fn forms_of_a_citation() {
    let groups = groups(&requirements());
    for (text, expected) in [
        ("(WAPI-04)", "WAPI-04"),
        ("ID-03, -04 and -05", "ID-03 ID-04 ID-05"),
        ("X509V-01 to -03", "X509V-01 X509V-02 X509V-03"),
        ("X509V-01 to X509V-02.", "X509V-01 X509V-02"),
        ("X509V-08..10", "X509V-08 X509V-09 X509V-10"),
        ("/// JWTV-07,\n    /// -08 of", "JWTV-07 JWTV-08"),
        ("// JWTV-07 to\n    // JWTV-08", "JWTV-07 JWTV-08"),
        ("ID-03, JWTV-08", "ID-03 JWTV-08"),
        ("ID-05 to -03", "ID-05"),
        ("IDV-001 VALID-01 X-ID-01 ID-001 ID-1 id-01 ID-", ""),
    ] {
        let found: Vec<String> = citations(text, &groups).into_iter().collect();
        assert_eq!(found.join(" "), expected, "{text}");
    }
}

/// Every citation of the repository, with the files in which it stands.
fn cited(groups: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut cited: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') || PASSED_OVER.contains(&name.as_str()) {
                continue;
            }
            // This file only talks about citations.
            if path.is_symlink() || path.ends_with("dev/xtask/tests/conformance.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known))
            {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                let place = path.strip_prefix(root()).unwrap().display().to_string();
                for id in citations(&text, groups) {
                    cited.entry(id).or_default().insert(place.clone());
                }
            }
        }
    }
    cited
}

/// The rows of the table under a heading of `docs/conformance.md`, as cells.
fn table(heading: &str) -> Vec<[String; 2]> {
    let text = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let (_, section) = text
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("docs/conformance.md has no section {heading:?}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<[String; 2]> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        // The table's head and the line under it.
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [left, right] = cells.as_slice() else {
                panic!("a row of {heading:?} has two cells: {line}");
            };
            [(*left).to_owned(), (*right).to_owned()]
        })
        .collect();
    assert!(!rows.is_empty(), "the section {heading:?} has no table");
    rows
}

/// Requirements that a test holds without naming them; the test must be there.
fn shown_elsewhere(groups: &BTreeSet<String>, breaches: &mut Vec<String>) -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for [ids, place] in table("Held, and shown by a test that does not say so") {
        let words: Vec<&str> = place.split('`').collect();
        let (Some(file), Some(function)) = (words.get(1), words.get(3)) else {
            panic!("a place is `FILE`, `FUNCTION`: {place}");
        };
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        if text.contains(&format!("fn {function}(")) {
            shown.extend(citations(&ids, groups));
        } else {
            breaches.push(format!("{ids}: there is no {function} in {file}"));
        }
    }
    shown
}

#[test]
fn the_ledger_is_complete() {
    let requirements = requirements();
    let groups = groups(&requirements);
    let mut breaches = Vec::new();
    let cited = cited(&groups);
    let shown = shown_elsewhere(&groups, &mut breaches);

    let mut excused = BTreeSet::new();
    for [ids, reason] in table("Not held, and why") {
        if reason.chars().filter(|c| c.is_alphabetic()).count() < SHORTEST_REASON {
            breaches.push(format!("{ids}: {reason:?} is no reason"));
        }
        for id in citations(&ids, &groups) {
            if let Some(places) = cited.get(&id) {
                breaches.push(format!("{id} is excused, and cited as held in {places:?}"));
            }
            if shown.contains(&id) {
                breaches.push(format!("{id} is excused, and shown by a test"));
            }
            if !excused.insert(id.clone()) {
                breaches.push(format!("{id} is excused twice"));
            }
        }
    }
    for (id, place) in cited
        .iter()
        .map(|(id, places)| (id, format!("{places:?}")))
        .chain(
            excused
                .iter()
                .chain(&shown)
                .map(|id| (id, "docs/conformance.md".into())),
        )
    {
        if !requirements.contains_key(id) {
            breaches.push(format!("{id} is no requirement: {place}"));
        }
    }
    for (id, level) in &requirements {
        let demanded = level.split('/').any(|one| DEMANDED.contains(&one));
        if demanded && !cited.contains_key(id) && !shown.contains(id) && !excused.contains(id) {
            breaches.push(format!("{id} ({level}) is neither cited nor excused"));
        }
    }
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}
