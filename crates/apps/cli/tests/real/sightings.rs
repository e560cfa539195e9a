//! A process that looks like an agent is found, told of, and registered by the command that is
//! printed for it; and nothing that it was given in secret is anywhere.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Dev, blocks, muster};

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
            .unwrap_or_else(|| panic!("not {standing}: {:?}", of(&dev, &[], &program)))
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

/// A process that looks like an agent and starts a shell with each line that it reads.
struct Starter {
    child: Child,
    said: ChildStdout,
    /// What the shells wait for.
    fifo: PathBuf,
}

impl Starter {
    fn start(program: &Path) -> Self {
        let fifo = program.with_extension("fifo");
        for (tool, words) in [
            ("cp", [Path::new("/bin/sh"), program].as_slice()),
            ("mkfifo", &[fifo.as_path()]),
        ] {
            assert!(Command::new(tool).args(words).status().unwrap().success());
        }
        let shell = "echo; read x <\"$0\"";
        let script = format!("while read line; do sh -c '{shell}' \"$0\" & done; wait");
        let mut child = Command::new(program)
            .args(["-c", &script])
            .arg(&fifo)
            .env("ANTHROPIC_API_KEY", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = child.stdout.take().unwrap();
        Self { child, said, fifo }
    }

    fn starts_a_shell(&mut self) {
        let to = self.child.stdin.as_mut().unwrap();
        to.write_all(b"\n").unwrap();
        // It says so when it runs.
        self.said.read_exact(&mut [0]).unwrap();
    }
}

/// No shell is left, whatever becomes of the test.
impl Drop for Starter {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Open at both ends, so that it waits for nobody; its end is that of all who read.
        let fifo = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&self.fifo);
        drop(fifo.map(|mut fifo| fifo.write_all(&[b'\n'; 64])));
        self.child.wait().unwrap();
    }
}

/// What a sighting hands down, as often as it takes until that is so.
fn hands_down(dev: &Dev, program: &Path, expected: &Value) {
    let seen = (0..100).map(|_| {
        look(dev);
        of(dev, &[], program)[0]["seen"]["inherited"].clone()
    });
    let mut seen = seen.skip_while(|seen| seen != expected);
    assert!(seen.next().is_some(), "it never was {expected}");
}

#[test]
fn what_an_agent_hands_down_is_told_once_and_again_when_it_is_more() {
    let dev = Dev::start(&["--no-demo"]);
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("claude");
    let mut agent = Starter::start(&program);
    let to_shells =
        |count: u32| json!([{ "variable": "ANTHROPIC_API_KEY", "by": "shell", "count": count }]);
    let records = || {
        let words = ["audit", "tail", "--event", "secret.inherited", "-o", "json"];
        let said = String::from_utf8(dev.ask(&words).stdout).unwrap();
        let lines = said.lines().filter(|line| *line != "No record.");
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|record: &Value| record["detail"]["executable"] == program.to_str().unwrap())
            .collect::<Vec<Value>>()
    };
    look(&dev);
    assert_eq!(of(&dev, &[], &program)[0]["seen"]["inherited"], json!([]));
    assert_eq!(records().len(), 0);
    agent.starts_a_shell();
    hands_down(&dev, &program, &to_shells(1));
    let shown = String::from_utf8(dev.ask(&["agent", "sightings"]).stdout).unwrap();
    assert!(shown.contains("ANTHROPIC_API_KEY to 1 shell"), "{shown}");
    look(&dev);
    let first = records();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first[0]["detail"]["variables"], "ANTHROPIC_API_KEY");
    assert_eq!(first[0]["detail"]["inherited"], "ANTHROPIC_API_KEY shell 1");
    assert_eq!(first[0]["subject"], dev.ready["node_id"]);
    agent.starts_a_shell();
    hands_down(&dev, &program, &to_shells(2));
    assert_eq!(records().len(), 2);
    drop(agent);
    look(&dev);
    assert!(of(&dev, &[], &program).is_empty());
    assert_eq!(records().len(), 2);
    let mut all = Vec::new();
    written(dev.scratch(), &mut all);
    assert_no_secret("the database or a log", &all);
}

/// `docs/sightings.md` is run from top to bottom.
#[test]
fn the_page_about_sightings_is_true() {
    let page = include_str!("../../../../../docs/sightings.md");
    let dev = Dev::start(&["--no-demo"]);
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("codex");
    let agent = Agent::start(&program);
    look(&dev);
    let row = of(&dev, &[], &program).remove(0);
    let commands = blocks(page, "sh").join("\n");
    assert!(commands.lines().count() > 5, "{commands}");
    let binary = Path::new(env!("CARGO_BIN_EXE_muster")).parent().unwrap();
    let run = Command::new("sh")
        .args(["-eu", "-c", &commands])
        .current_dir(dev.scratch())
        .env("PATH", format!("{}:/usr/bin:/bin", binary.display()))
        .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
        .env("MUSTER_NODE_SOCKET", dev.path("node_admin_socket"))
        .env("NODE", row["node_id"].as_str().unwrap())
        .env("KEY", row["seen"]["key"].as_str().unwrap())
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(said.contains(program.to_str().unwrap()), "{said}");
    let row = of(&dev, &["--state", "acknowledged"], &program).remove(0);
    assert_eq!(row["reason"], "a trial until May");
    // The signature is one, as a node reads it.
    let [signature] = blocks(page, "toml").try_into().unwrap();
    let file = dev.scratch().join("node.toml");
    let node = "trust_domain = \"example.org\"\nserver = \"127.0.0.1:8081\"\n";
    std::fs::write(&file, format!("{node}{signature}\n")).unwrap();
    let check = muster()
        .args(["config", "check", "node"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    agent.end();
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
