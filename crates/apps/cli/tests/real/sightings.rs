//! A process that looks like an agent is found, told of, and registered by the command that is
//! printed for it; and nothing that it was given in secret is anywhere.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::{Dev, muster};

const SECRET: &str = "sk-proj-hunter2-0123456789abcdef";

/// A process that looks like an agent, as long as this is there.
struct Agent(Child);

impl Agent {
    fn start(program: &Path) -> Self {
        let status = Command::new("cp").arg("/bin/cat").arg(program).status();
        assert!(status.unwrap().success());
        // `cat` reads its input whatever it is called; what it is given is a secret.
        let child = Command::new(program)
            .arg0(format!("claude --api-key={SECRET}"))
            .env("ANTHROPIC_API_KEY", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn look(dev: &Dev) -> Value {
    let output = muster()
        .args(["node", "sightings", "--now", "--json"])
        .env("MUSTER_NODE_SOCKET", dev.path("node_admin_socket"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sightings of the server that have this executable.
fn of(dev: &Dev, flags: &[&str], program: &Path) -> Vec<Value> {
    let answer = dev.json(&[&["agent", "sightings"], flags].concat());
    let all = answer["sightings"].as_array().unwrap();
    let ours = |row: &&Value| row["seen"]["executable"] == program.to_str().unwrap();
    all.iter().filter(ours).cloned().collect()
}

/// Everything that the trust domain has written, database and logs included.
fn written(folder: &Path, all: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            written(&path, all);
        } else if kind.is_file() {
            all.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
}

fn assert_no_secret(what: &str, text: &[u8]) {
    let found = text.windows(7).any(|part| part == b"hunter2");
    assert!(!found, "a secret is in {what}");
}

#[test]
fn what_is_found_is_registered_by_the_command_that_is_printed() {
    let dev = Dev::start(&["--no-demo"]);
    let place = tempfile::tempdir().unwrap();
    let program: PathBuf = place.path().join("claude");
    let agent = Agent::start(&program);
    let class = [
        "agent",
        "class",
        "create",
        "claude-code",
        "--purpose",
        "coding",
        "--owner",
        "mailto:olga@example.org",
        "--sponsor",
        "mailto:sam@example.org",
        "--risk-tier",
        "1",
        "--data-ceiling",
        "1",
        "--valid-until",
        "90d",
        "--review-by",
        "30d",
    ];
    dev.json(&class);
    dev.json(&["agent", "class", "approve", "claude-code"]);

    let local = look(&dev);
    assert_eq!(local["reported"], true, "{local}");
    let rows = of(&dev, &["--unregistered", "--kind", "cli"], &program);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!(
        (&row["state"], &row["standing"]),
        (&"new".into(), &"unregistered".into())
    );
    assert_eq!(row["seen"]["product"], "claude-code");
    assert_eq!(row["expected_class"], "claude-code");
    assert_eq!(row["seen"]["pids"][0].as_u64(), Some(agent.0.id().into()));
    assert!(
        row["seen"]["started_by"]
            .as_array()
            .is_some_and(|above| !above.is_empty())
    );

    // The command as it is printed, pasted into a shell.
    let shown = dev.ask(&["agent", "sightings", "--unregistered"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let command = row["register"]["command"].as_str().unwrap();
    assert!(shown.contains(command), "{shown}");
    let binary = Path::new(env!("CARGO_BIN_EXE_muster")).parent().unwrap();
    let pasted = Command::new("sh")
        .args(["-eu", "-c", command])
        .env("PATH", format!("{}:/usr/bin:/bin", binary.display()))
        .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
        .output()
        .unwrap();
    assert!(pasted.status.success(), "{command}: {pasted:?}");
    // The node learns of the entry within milliseconds; each look is a question to it.
    let seen_as = |standing: &str| {
        (0..100)
            .map(|_| (look(&dev), of(&dev, &[], &program).remove(0)))
            .find(|(_, row)| row["standing"] == standing)
            .expect(standing)
    };
    // It was started with a key of a provider that its class does not name.
    let (_, row) = seen_as("provider_not_allowed");
    assert_eq!(row["providers_not_allowed"][0], "anthropic");
    assert_eq!(row["classes"][0], "claude-code");
    assert!(row["register"].is_null());
    assert_eq!(of(&dev, &["--unregistered"], &program).len(), 1);
    let shown = dev.ask(&["agent", "sightings"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("Not allowed"), "{shown}");
    let allow = [
        "agent",
        "class",
        "update",
        "claude-code",
        "--provider",
        "anthropic",
    ];
    dev.json(&allow);
    let (local, row) = seen_as("registered");
    assert_eq!(row["seen"]["providers"][0], "anthropic");
    assert!(row["register"].is_null());
    assert!(of(&dev, &["--unregistered"], &program).is_empty());

    let debug = dev.ask(&["agent", "sightings", "--json"]);
    assert_no_secret("the answer of the server", &debug.stdout);
    assert_no_secret("the answer of the node", local.to_string().as_bytes());
    agent.end();
    look(&dev);
    assert!(of(&dev, &[], &program).is_empty());
    assert_eq!(of(&dev, &["--state", "gone"], &program).len(), 1);
    let mut all = Vec::new();
    written(dev.scratch(), &mut all);
    // It is the right place to look.
    assert!(all.windows(13).any(|part| part == b"agent.sighted"));
    assert_no_secret("the database or a log", &all);
}

#[test]
fn what_is_known_is_acknowledged_with_a_reason() {
    let dev = Dev::start(&["--no-demo"]);
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("codex");
    let agent = Agent::start(&program);
    look(&dev);
    let row = of(&dev, &[], &program).remove(0);
    let (node, key) = (
        row["node_id"].as_str().unwrap(),
        row["seen"]["key"].as_str().unwrap(),
    );
    let known = [
        "agent",
        "sightings",
        "acknowledge",
        key,
        "--node",
        node,
        "--reason",
    ];
    let silent = dev.ask(&[&known[..], &[""]].concat());
    assert_eq!(silent.status.code(), Some(1), "{silent:?}");
    let row = dev.json(&[&known[..], &["a trial until May"]].concat());
    assert_eq!(
        (&row["state"], &row["reason"]),
        (&"acknowledged".into(), &"a trial until May".into())
    );
    let nothing = "f".repeat(32);
    let other = [
        "agent",
        "sightings",
        "acknowledge",
        &nothing,
        "--node",
        node,
        "--reason",
        "x",
    ];
    assert_eq!(dev.ask(&other).status.code(), Some(4));
    agent.end();
}
