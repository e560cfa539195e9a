//! The laws of the house that no compiler knows: layers, dependencies, lints, the length and the
//! language of files. Start at [`Layer`]. Each test prints every breach, not only the first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may; clippy sees the functions that are marked as tests only"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The layers of `crates/`, from the ground up. An arrow may point to the same layer or below.
const LAYERS: [&str; 5] = ["core", "ports", "edge", "adapters", "apps"];

/// What a core crate must do without.
const NOT_IN_CORE: [&str; 6] = ["tokio", "tonic", "hyper", "nix", "tracing", "rand"];

/// Crates that only these may name among their normal dependencies.
const CONFINED: [(&str, &[&str]); 5] = [
    ("cedar-policy", &["muster-cedar"]),
    ("cedar-policy-core", &["muster-cedar"]),
    ("aws-lc-rs", &["muster-crypto"]),
    ("rustls", &["muster-tls"]),
    (
        "tokio-rustls",
        &["muster-tls", "muster-node", "muster-server", "muster-bench"],
    ),
];

/// Crates whose lints are not the workspace's, and why.
const OWN_LINTS: [(&str, &str); 2] = [
    ("muster-proto", "generated code has its own ways"),
    ("muster-peer", "the only crate that may say unsafe"),
];

/// Of these there may be one version only.
const ONE_VERSION: [&str; 9] = [
    "cedar-policy",
    "cedar-policy-core",
    "rustls",
    "aws-lc-rs",
    "tonic",
    "prost",
    "hyper",
    "h2",
    "rcgen",
];

/// A second TLS or cryptography stack, under whatever name.
const NOT_BUILT: [&str; 7] = [
    "ring",
    "openssl",
    "openssl-sys",
    "native-tls",
    "boring",
    "mbedtls",
    "libgcrypt-sys",
];

const MOST_LINES: usize = 800;

/// One member of the workspace.
struct Member {
    name: String,
    description: Option<String>,
    folder: PathBuf,
    layer: String,
    /// Normal and build dependencies.
    needs: BTreeSet<String>,
    /// Normal dependencies only.
    normal: BTreeSet<String>,
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).unwrap().to_path_buf()
}

fn members() -> Vec<Member> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(member).collect()
}

fn member(package: &Value) -> Member {
    let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
    let folder = manifest.parent().unwrap().to_path_buf();
    let layer = folder
        .strip_prefix(root().join("crates"))
        .ok()
        .and_then(|path| path.iter().next())
        .map(|layer| layer.to_string_lossy().into_owned())
        .unwrap_or_default();
    let named = |kinds: &[Option<&str>]| {
        let dependencies = package["dependencies"].as_array().unwrap();
        dependencies
            .iter()
            .filter(|dependency| kinds.contains(&dependency["kind"].as_str()))
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect()
    };
    Member {
        name: package["name"].as_str().unwrap().to_owned(),
        description: package["description"].as_str().map(str::to_owned),
        folder,
        layer,
        needs: named(&[None, Some("build")]),
        normal: named(&[None]),
    }
}

/// Fails with all breaches.
#[track_caller]
fn assert_none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn height(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|one| *one == layer)
}

#[test]
fn every_crate_stands_in_a_layer() {
    let breaches: Vec<String> = members()
        .iter()
        .filter(|member| height(&member.layer).is_none() && member.layer != "dev")
        .map(|member| format!("{}: {}", member.name, member.folder.display()))
        .collect();
    assert_none(&breaches);
}

#[test]
fn arrows_point_downwards() {
    let members = members();
    let layers: BTreeMap<&str, &str> = members
        .iter()
        .map(|member| (member.name.as_str(), member.layer.as_str()))
        .collect();
    let mut breaches = Vec::new();
    for member in &members {
        let Some(from) = height(&member.layer) else {
            continue; // dev may name anything
        };
        for need in &member.needs {
            let Some(layer) = layers.get(need.as_str()) else {
                continue; // not ours
            };
            match height(layer) {
                Some(to) if to <= from => {}
                _ => breaches.push(format!(
                    "{} ({}) names {need} ({layer}), which is above it",
                    member.name, member.layer
                )),
            }
            if *layer == "adapters" && member.layer != "apps" {
                breaches.push(format!(
                    "{} names the adapter {need}; only apps may",
                    member.name
                ));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn the_core_is_pure() {
    let mut breaches = Vec::new();
    for member in members().iter().filter(|member| member.layer == "core") {
        for need in NOT_IN_CORE {
            if member.normal.contains(need) {
                breaches.push(format!("{} needs {need}", member.name));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn cryptography_tls_and_cedar_have_one_home() {
    let mut breaches = Vec::new();
    for member in members() {
        for (confined, homes) in CONFINED {
            if member.normal.contains(confined) && !homes.contains(&member.name.as_str()) {
                breaches.push(format!(
                    "{} names {confined}; its home is {homes:?}",
                    member.name
                ));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn every_crate_says_what_it_is() {
    let breaches: Vec<String> = members()
        .iter()
        .filter(|member| {
            member
                .description
                .as_ref()
                .is_none_or(|text| text.trim().is_empty())
        })
        .map(|member| format!("{} has no description", member.name))
        .collect();
    assert_none(&breaches);
}

#[test]
fn every_crate_inherits_the_lints() {
    let mut breaches = Vec::new();
    for member in members() {
        if OWN_LINTS.iter().any(|(name, _why)| *name == member.name) {
            continue;
        }
        let manifest = fs::read_to_string(member.folder.join("Cargo.toml")).unwrap();
        if !manifest.contains("[lints]\nworkspace = true") {
            breaches.push(format!(
                "{} does not inherit the workspace's lints",
                member.name
            ));
        }
    }
    assert_none(&breaches);
}

/// Every package that is built for this machine, with its version. The lock itself also lists what
/// an optional feature of a dependency could ask for, and nothing asks for.
fn built() -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--prefix", "none"])
        .args(["--edges", "normal,build,dev", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

#[test]
fn there_is_one_tls_stack_once() {
    let packages = built();
    let mut breaches = Vec::new();
    for name in ONE_VERSION {
        let versions: Vec<&str> = packages
            .iter()
            .filter(|(package, _)| package == name)
            .map(|(_, version)| version.as_str())
            .collect();
        if versions.len() > 1 {
            breaches.push(format!("{name} is there as {}", versions.join(" and ")));
        }
    }
    for (name, version) in &packages {
        if NOT_BUILT.contains(&name.as_str()) {
            breaches.push(format!("{name} {version} is a second cryptography stack"));
        }
    }
    assert_none(&breaches);
}

#[test]
fn nothing_comes_from_git() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let breaches: Vec<String> = lock
        .lines()
        .filter(|line| line.contains("\"git+"))
        .map(str::to_owned)
        .collect();
    assert_none(&breaches);
}

/// Every file under version control, and every new one that is not ignored.
fn files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(|path| root().join(path))
        .filter(|path| path.is_file())
        .collect()
}

/// The Rust files, with their text; this one excepted, which has to name what it forbids.
fn rust_files() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !path.ends_with("crates/dev/xtask/tests/tidy.rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_path_buf(), text)
        })
        .collect()
}

#[test]
fn files_tell_one_story() {
    let breaches: Vec<String> = rust_files()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(path, lines)| {
            format!(
                "{}: {lines} lines; {MOST_LINES} is the wall",
                path.display()
            )
        })
        .collect();
    assert_none(&breaches);
}

/// Whether the text holds the word by itself, not as part of a longer one.
fn says(line: &str, word: &str) -> bool {
    let inside = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(inside) && !after.is_some_and(inside)
    })
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TODO", "FIXME", "XXX", "HACK"];
    let mut breaches = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let later = words.iter().any(|word| says(line, word));
            if later || line.contains("unimplemented!") || line.contains("todo!") {
                breaches.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert_none(&breaches);
}

/// Whether a file holds tests only: an integration test, or a module of tests in a file.
fn is_test_file(path: &Path) -> bool {
    path.iter().any(|part| part == "tests") || path.ends_with("tests.rs")
}

#[test]
fn no_test_is_skipped_or_sleeps() {
    let mut breaches = Vec::new();
    for (path, text) in rust_files() {
        if path.starts_with("examples") || path.starts_with("tests/interop") {
            continue; // programs of their own, no tests
        }
        let mut in_tests = is_test_file(&path);
        for (number, line) in text.lines().enumerate() {
            in_tests |= line.contains("#[cfg(test)]");
            let sleeps = line.contains("thread::sleep(")
                || line.contains("time::sleep(")
                || line.contains("use std::thread::sleep")
                || line.contains("use tokio::time::sleep");
            if line.contains("#[ignore") || (in_tests && sleeps) {
                breaches.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert_none(&breaches);
}

#[test]
fn no_file_names_someones_home() {
    let homes = ["/home/", "/root/", "/Users/", "/work/"];
    let mut breaches = Vec::new();
    for path in files() {
        if path.ends_with("crates/dev/xtask/tests/tidy.rs") {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // not text
        };
        let short = path.strip_prefix(root()).unwrap();
        for (number, line) in text.lines().enumerate() {
            if homes.iter().any(|home| names_path(line, home)) {
                breaches.push(format!(
                    "{}:{}: {}",
                    short.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert_none(&breaches);
}

/// Whether a path begins there, rather than going through it (`example.org/home/x`).
fn names_path(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|letter| letter.is_whitespace() || "\"'`(=:".contains(letter))
    })
}
