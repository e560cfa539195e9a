//! `muster-server`: the authority of a trust domain.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The authority of a trust domain: keeps the roll, signs SVIDs, records what it did.
#[derive(Parser)]
#[command(name = "muster-server", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until a signal ends it.
    Run {
        /// The configuration file; `muster config check server FILE` checks one.
        #[arg(long, default_value = "/etc/muster/server.toml")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Run { config } = Arguments::parse().command;
    muster_server::run(&config)
}
