//! The operator's command: registers, inspects, mints, fetches, and runs a whole trust domain on a
//! laptop with `muster dev`.
//!
//! Start at [`cli`] for what can be typed. Each command is a module of its own: it asks a server
//! over [`server_api`], or a Workload API over [`workload`], and answers through [`output`]; what
//! goes wrong is a [`failure::Failure`] with an exit code. No command here decides anything that
//! the server or the node would decide.

mod agent;
mod audit;
mod authority;
mod bundle;
mod cli;
mod config_check;
mod daemon;
mod dev;
mod entry;
mod failure;
mod json;
mod mint;
mod node;
mod output;
mod pem;
mod policy;
mod process;
mod rule;
mod run;
mod server_api;
mod task;
mod time;
mod token;
mod workload;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
