//! The agent in Python, as a reader would run it: with a task of its own in a trust domain of one's
//! own, and in the one that `muster dev` shows. The one in Rust runs in `cargo test`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::getuid;
use serde_json::Value;

use crate::interop::clients::virtual_environment;
use crate::interop::domain::{Domain, Lifetimes, TRUST_DOMAIN};
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, Talker, last_lines, root};

/// The name that `--only` takes.
pub(super) const NAME: &str = "agents";

const CLIENT: &str = "example agent-python";
const CLASS: &str = "code-reviewer";
const WITHIN: Duration = Duration::from_mins(1);

/// The words at the beginnings of the agent's lines; it ends with an error where one does not hold.
const STORY: [&str; 8] = [
    "task", "refused", "refused", "refused", "refused", "sub-task", "ended", "ended",
];
/// How often the server has to have recorded what.
const TRAIL: [(&str, usize); 5] = [
    ("task.opened", 1),
    ("task.spawned", 1),
    ("task.refused", 1),
    ("task.completed", 1),
    ("task.revoked", 1),
];

/// Installs what the agent needs, and runs it.
pub(super) fn run(muster: &Path, home: &Path, results: &mut Results) -> Result<(), Failure> {
    let source = root().join("examples/agent-python");
    let installed = virtual_environment(&home.join(NAME), &source.join("requirements.txt"));
    let agent = match installed {
        Ok(python) => [python, source.join("agent.py")],
        Err(error) => {
            results.add(Line::failed(CLIENT, "install", &error.to_string()));
            return Ok(());
        }
    };
    let domain = Domain::start(muster, &Lifetimes::CHECKS)?;
    let told = register(&domain, &agent).and_then(|()| story(&domain, &agent));
    results.add(line("task-story", told));
    results.add(line("task-trail", trail(&domain)));
    domain.stop()?;
    results.add(line("task-in-dev", in_dev(muster, &agent)));
    Ok(())
}

/// The class of the examples, and an entry for this user's processes of that Python.
fn register(domain: &Domain, [python, _]: &[PathBuf; 2]) -> Result<(), Failure> {
    let file = root().join("examples/agent.toml");
    let file = file.to_string_lossy();
    domain.muster(&["agent", "class", "create", "--file", &file])?;
    domain.muster(&["agent", "class", "approve", CLASS])?;
    let executable = fs::canonicalize(python)?;
    domain.muster(&[
        "entry",
        "create",
        "--parent-id",
        domain.node_id(),
        "--spiffe-id",
        &agent_id(),
        "--selector",
        &format!("unix:uid:{}", getuid()),
        "--selector",
        &format!("unix:path:{}", executable.display()),
    ])?;
    Ok(())
}

fn agent_id() -> String {
    format!("spiffe://{TRUST_DOMAIN}/agent/{CLASS}/1")
}

fn story(domain: &Domain, [python, program]: &[PathBuf; 2]) -> Result<String, Failure> {
    let mut command = Command::new(python);
    command
        .arg(program)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env(
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix:{}", domain.workload_socket().display()),
        );
    let ended = Talker::start(&mut command)?.finish_within(WITHIN)?;
    if !ended.well {
        let told = last_lines(&ended.output, 2);
        let errors = last_lines(&ended.errors, 3);
        return Err(format!("{}: {told}: {errors}", ended.how).into());
    }
    let words: Vec<&str> = ended
        .output
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if words != STORY {
        return Err(format!("it told something else:\n{}", ended.output).into());
    }
    let first = ended.output.lines().next().unwrap_or_default();
    Ok(first.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn trail(domain: &Domain) -> Result<String, Failure> {
    let printed = domain.muster(&["audit", "tail", "--agent", &agent_id(), "-n", "100"])?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in printed.lines() {
        let record: Value = serde_json::from_str(line)?;
        let event = record.get("event").and_then(Value::as_str);
        *counts.entry(event.unwrap_or_default().into()).or_default() += 1;
    }
    for (event, wanted) in TRAIL {
        let found = counts.get(event).copied().unwrap_or(0);
        if found != wanted {
            return Err(format!("{event} is on record {found} times, not {wanted}").into());
        }
    }
    Ok(format!("{} records", counts.values().sum::<usize>()))
}

/// `muster dev -- python agent.py`, which fails where the agent does.
fn in_dev(muster: &Path, agent: &[PathBuf; 2]) -> Result<String, Failure> {
    let mut dev = Command::new(muster);
    dev.args(["dev", "--once", "--x509-ttl", "8s", "--"])
        .args(agent)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = Talker::start(&mut dev)?.finish_within(WITHIN)?;
    let said = ended
        .output
        .lines()
        .filter(|line| line.starts_with("says "));
    let said = said.count();
    if ended.well && said == STORY.len() {
        return Ok(format!("{said} lines"));
    }
    let errors = last_lines(&ended.errors, 3);
    Err(format!("{said} of {} lines; {}: {errors}", STORY.len(), ended.how).into())
}

fn line(check: &str, outcome: Result<String, Failure>) -> Line {
    Line::judged(CLIENT, "", check, outcome)
}
