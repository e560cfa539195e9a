//! Cedar in other languages: `cedarpy` and the WASM build decide ten thousand random requests, by sets
//! and on facts that `muster-policies` writes out, and have to decide as we do. No process of Muster
//! runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::interop::clients::{demand, virtual_environment};
use crate::interop::results::{self, Line, Results};
use crate::shell::{Failure, Talker, build_release, last_lines, quietly, release_binary, root};

/// The name that `--only` takes.
pub(super) const NAME: &str = "cedar";

const REQUESTS: &str = "10000";
const CHECKS: [&str; 2] = ["cedar-schema", "cedar-decisions"];
const WITHIN: Duration = Duration::from_mins(10);

/// Installs a Cedar under a folder; gives back the command that compares.
type Install = fn(&Path) -> Result<Command, Failure>;

/// Exports, installs both, and compares.
pub(super) fn run(home: &Path, results: &mut Results) {
    let folder = home.join(NAME);
    let requests = folder.join("requests");
    if let Err(error) = export(&requests) {
        results.add(Line::failed(NAME, "export", &error.to_string()));
        return;
    }
    let programs: [(&str, Install); 2] = [("cedarpy", python), ("cedar-wasm", wasm)];
    for (client, install) in programs {
        match install(&folder) {
            Ok(mut command) => judge(client, command.arg(&requests), results),
            Err(error) => results.add(Line::failed(client, "install", &error.to_string())),
        }
    }
}

fn export(requests: &Path) -> Result<(), Failure> {
    build_release(&["muster-policies"])?;
    if requests.exists() {
        fs::remove_dir_all(requests)?;
    }
    quietly(
        Command::new(release_binary("muster-policies"))
            .args(["export", "--requests", REQUESTS, "--out"])
            .arg(requests),
    )
    .map(drop)
}

fn python(folder: &Path) -> Result<Command, Failure> {
    let source = root().join("tests/interop").join(NAME);
    let python = virtual_environment(&folder.join("python"), &source.join("requirements.txt"))?;
    let mut command = Command::new(python);
    command
        .arg(source.join("check.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn wasm(folder: &Path) -> Result<Command, Failure> {
    demand(&["node", "npm"])?;
    let source = root().join("tests/interop").join(NAME);
    let folder = folder.join("node");
    fs::create_dir_all(&folder)?;
    fs::copy(source.join("package.json"), folder.join("package.json"))?;
    quietly(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund"])
            .args(["--ignore-scripts", "--loglevel=error"])
            .current_dir(&folder),
    )?;
    let mut command = Command::new("node");
    command
        .arg(source.join("check.mjs"))
        .env("CEDAR_HOME", folder);
    Ok(command)
}

/// Runs one program; a check of which it says nothing has failed.
fn judge(client: &str, command: &mut Command, results: &mut Results) {
    let ended = Talker::start(command).and_then(|mut program| {
        program.close_input();
        program.finish_within(WITHIN)
    });
    let (lines, complaint) = match ended {
        Ok(ended) => {
            let complaint = format!("{}: {}", ended.how, last_lines(&ended.errors, 3));
            (results::parse(&ended.output), complaint)
        }
        Err(error) => (Vec::new(), error.to_string()),
    };
    for check in CHECKS {
        match lines.iter().find(|line| line.check == check) {
            Some(line) => results.add(line.clone()),
            None => results.add(Line::failed(client, check, &complaint)),
        }
    }
}
