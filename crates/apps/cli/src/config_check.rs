//! `muster config check`: every fault of a configuration file, before anything starts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use muster_rt::config::{Fault, FaultKind};
use serde_json::{Value, json};

use crate::daemon;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Check a configuration file, and show every fault at once
    Check(Check),
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Program {
    /// muster-server
    Server,
    /// muster-node
    Node,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Whose configuration it is
    program: Program,
    /// The file
    file: PathBuf,
}

pub(crate) fn run(command: Command, output: Output) -> Result<(), Failure> {
    let Command::Check(check) = command;
    let checked = match check.program {
        Program::Server => daemon::check_server(&check.file),
        Program::Node => daemon::check_node(&check.file),
    };
    match checked {
        Ok(warnings) => output.answer(
            || json!({ "valid": true, "faults": [], "warnings": warnings }),
            || {
                let warnings = warnings.iter().map(|w| format!("warning: {w}\n"));
                let verdict = format!("{} is valid.\n", check.file.display());
                warnings.chain([verdict]).collect::<Vec<_>>().concat()
            },
        ),
        Err(faults) => {
            if output.is_json() {
                let list: Vec<Value> = faults.list().iter().map(fault).collect();
                output.answer(
                    || json!({ "valid": false, "faults": list, "warnings": [] }),
                    String::new,
                )?;
            } else {
                output::note(&faults.to_string());
            }
            let unreadable = faults.list().iter().any(|f| f.kind() == FaultKind::File);
            Err(Failure::told(if unreadable && !check.file.exists() {
                Exit::NotFound
            } else {
                Exit::Failed
            }))
        }
    }
}

fn fault(fault: &Fault) -> Value {
    json!({
        "kind": match fault.kind() {
            FaultKind::File => "file",
            FaultKind::Syntax => "syntax",
            FaultKind::Missing => "missing",
            FaultKind::Unknown => "unknown",
            FaultKind::Type => "type",
            FaultKind::Value => "value",
        },
        "key": fault.key(),
        "line": fault.position().map(|(line, _)| line),
        "column": fault.position().map(|(_, column)| column),
        "message": fault.message(),
        "remedy": fault.remedy(),
    })
}
