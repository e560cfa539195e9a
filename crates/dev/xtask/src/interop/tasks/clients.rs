//! The SPIFFE libraries on a task's socket: given, rotated, and withdrawn while they watch.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::Agents;
use crate::interop::clients::Client;
use crate::interop::own_node::text;
use crate::interop::results::{Line, parse};
use crate::shell::{Failure, Talker, last_lines};

/// How a task ends while its client watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// `muster run` opened it, an operator takes it back.
    Revoked,
    /// We opened it by JSON, and say that it is done.
    Completed,
}

/// All of them.
pub(super) const ENDINGS: [Ending; 2] = [Ending::Revoked, Ending::Completed];

/// Longer than every deadline of the programs up to the end of a task.
const WATCHES_WITHIN: Duration = Duration::from_mins(4);
const ENDS_WITHIN: Duration = Duration::from_mins(2);

impl Ending {
    fn checks(self) -> &'static [&'static str] {
        match self {
            Self::Revoked => &["task-given", "task-rotated", "task-withdrawn"],
            Self::Completed => &["task-given", "task-withdrawn"],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Completed => "completed",
        }
    }
}

/// What a program prints when it waits for the end.
#[derive(Deserialize)]
struct Watching {
    watching: String,
}

/// Runs one program with a task of its own; a check of which it says nothing has failed.
pub(super) fn run(agents: &Agents<'_>, client: &Client, ending: Ending) -> Vec<Line> {
    let (mut lines, complaint) = match watch(agents, client, ending) {
        Ok(told) => told,
        Err(error) => (Vec::new(), error.to_string()),
    };
    for check in ending.checks() {
        if !lines.iter().any(|line| line.check == *check) {
            lines.push(Line::failed(client.name, check, &complaint));
        }
    }
    for line in &mut lines {
        line.detail = format!("{}: {}", ending.word(), line.detail);
    }
    lines
}

/// The lines of the program, and what to say where one is missing.
fn watch(
    agents: &Agents<'_>,
    client: &Client,
    ending: Ending,
) -> Result<(Vec<Line>, String), Failure> {
    let kind = format!("interop.{}.{}", client.name, ending.word());
    let mut program = match ending {
        Ending::Revoked => {
            let mut command = agents.run(&kind);
            client.append_to(&mut command);
            add_checks(&mut command, &agents.run, ending);
            Talker::start(&mut command)?
        }
        Ending::Completed => {
            // It becomes the program when there is a socket to tell it of, and is the same process.
            let mut command = Command::new("sh");
            command.args([
                "-c",
                "read -r socket; export SPIFFE_ENDPOINT_SOCKET=\"unix://$socket\"; exec \"$@\"",
                "sh",
            ]);
            client.append_to(&mut command);
            add_checks(&mut command, &agents.own, ending);
            let mut program = Talker::start(&mut command)?;
            let task = agents.open(&kind, program.pid())?;
            program.say(text(&task, "socket")?)?;
            program
        }
    };
    program.close_input();

    let mut output = String::new();
    let mut trouble = None;
    while let Some(line) = program.line_within(WATCHES_WITHIN) {
        if let Ok(told) = serde_json::from_str::<Watching>(&line) {
            trouble = end(agents, &told.watching, ending).err();
            break;
        }
        output.push_str(&line);
        output.push('\n');
    }
    let ended = program.finish_within(ENDS_WITHIN)?;
    output.push_str(&ended.output);
    let mut lines = parse(&output);
    if let Some(trouble) = trouble {
        lines.retain(|line| line.check != "task-withdrawn");
        return Ok((lines, trouble.to_string()));
    }
    Ok((
        lines,
        format!("{}: {}", ended.how, last_lines(&ended.errors, 3)),
    ))
}

fn add_checks(command: &mut Command, agent: &str, ending: Ending) {
    command.args(["task", agent]).args(ending.checks());
}

/// Ends the task whose identity the program has, which must be what the server has for it.
fn end(agents: &Agents<'_>, spiffe_id: &str, ending: Ending) -> Result<(), Failure> {
    let id = spiffe_id.rsplit('/').next().unwrap_or_default();
    let before = agents.look(id)?;
    if before != ("open".into(), spiffe_id.into()) {
        return Err(format!("the program has {spiffe_id}, the server {before:?}").into());
    }
    match ending {
        Ending::Revoked => agents.revoke(id),
        Ending::Completed => agents.complete(id),
    }
}
