//! `muster-node`: the daemon on every node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The node daemon of Muster: attests workloads and gives them their identities.
#[derive(Parser)]
#[command(name = "muster-node", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until a signal comes.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/muster/node.toml")]
        config: PathBuf,
    },
    /// Work with configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a file; every fault in it is told.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE", default_value = "/etc/muster/node.toml")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => muster_node::run(&config),
        Command::Config(ConfigCommand::Check { file }) => match muster_node::check(&file) {
            Ok((trust_domain, warnings)) => {
                for warning in warnings {
                    eprintln!("warning: {warning}");
                }
                eprintln!("{} is good: a node of {trust_domain}", file.display());
                ExitCode::SUCCESS
            }
            Err(faults) => {
                eprintln!("{faults}");
                ExitCode::FAILURE
            }
        },
    }
}
