//! An MCP server that its client starts by `muster run`: what the server finds it can be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Agents, CLASS};
use crate::interop::clients::virtual_environment;
use crate::interop::results::{Line, Results, parse};
use crate::shell::{Failure, Talker, last_lines, root};

const NAME: &str = "mcp";
const CHECKS: [&str; 3] = ["task-given", "task-withdrawn", "nothing-else"];
const WITHIN: Duration = Duration::from_mins(3);

/// The Python that has `mcp`.
pub(in crate::interop) struct Mcp {
    python: PathBuf,
}

/// Installs it from its Python package.
pub(in crate::interop) fn install(home: &Path, results: &mut Results) -> Option<Mcp> {
    let requirements = source("requirements.txt");
    virtual_environment(&home.join(NAME), &requirements)
        .map(|python| Mcp { python })
        .map_err(|error| results.add(Line::failed(NAME, "install", &error.to_string())))
        .ok()
}

fn source(name: &str) -> PathBuf {
    root().join("tests/interop").join(NAME).join(name)
}

/// Runs the client, which runs the server; a check of which it says nothing has failed.
pub(super) fn run(agents: &Agents<'_>, mcp: &Mcp) -> Vec<Line> {
    let (mut lines, complaint) = match ask(agents, mcp) {
        Ok(told) => told,
        Err(error) => (Vec::new(), error.to_string()),
    };
    for check in CHECKS {
        if !lines.iter().any(|line| line.check == check) {
            lines.push(Line::failed(NAME, check, &complaint));
        }
    }
    lines
}

fn ask(agents: &Agents<'_>, mcp: &Mcp) -> Result<(Vec<Line>, String), Failure> {
    let mut command = Command::new(&mcp.python);
    command
        .arg(source("client.py"))
        .arg(&agents.muster)
        .arg(agents.domain.workload_socket())
        .args([CLASS, &agents.run]);
    let mut client = Talker::start(&mut command)?;
    client.close_input();
    let ended = client.finish_within(WITHIN)?;
    let complaint = format!("{}: {}", ended.how, last_lines(&ended.errors, 3));
    Ok((parse(&ended.output), complaint))
}
