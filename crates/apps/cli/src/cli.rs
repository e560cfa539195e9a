//! What can be typed, and who does it.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use muster_rt::lifecycle;
use muster_rt::telemetry::{self, Level};

use crate::failure::Failure;
use crate::output::{self, Output};
use crate::{
    agent, audit, authority, bundle, config_check, daemon, dev, entry, mint, node, policy, rule,
    run, task, token, workload,
};

/// Identities for AI agents and other workloads: attested, short-lived, rotated.
#[derive(Parser, Debug)]
#[command(
    name = "muster",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Exit codes:
  0  done
  1  failed, or an item of a batch failed
  2  the command line is wrong
  3  the server or node cannot be reached, or is not ready
  4  what was named does not exist
  5  permission denied, or no identity for this process
`muster run` and `muster workload run` end with the exit code of their command."
)]
pub(crate) struct Cli {
    /// Answer in JSON: one document, or one a line from commands that stay
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a whole trust domain on this machine, with a workload and an agent to watch
    Dev(Box<dev::Dev>),
    /// Join tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Registration entries: who gets which identity
    #[command(subcommand)]
    Entry(entry::Command),
    /// AI agents: their classes, and who answers for them
    #[command(subcommand)]
    Agent(agent::Command),
    /// Identity rules: one row names many processes by what they are attested as
    #[command(subcommand)]
    Rule(rule::Command),
    Run(Box<run::Run>),
    /// The tasks of the process that asks, at its node
    #[command(subcommand)]
    Task(task::Command),
    /// What was done, and what is being done
    #[command(subcommand)]
    Audit(audit::Command),
    /// Policies: what agents and their tasks may do
    #[command(subcommand)]
    Policy(policy::Command),
    /// Attested nodes
    #[command(subcommand)]
    Node(node::Command),
    /// The trust domain's bundle
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// The keys that sign: rotate them ahead of time, replace one that is compromised
    #[command(subcommand)]
    Authority(authority::Command),
    /// SVIDs without an entry, for operators
    #[command(subcommand)]
    Mint(mint::Command),
    /// What a workload can do at the Workload API
    #[command(subcommand)]
    Workload(workload::Command),
    /// Configuration files
    #[command(subcommand)]
    Config(config_check::Command),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// The server's daemon, as `muster dev` runs it
    #[command(subcommand, hide = true)]
    Server(daemon::Server),
    /// The workload of `muster dev`
    #[command(hide = true)]
    DemoWorkload(dev::demo::Demo),
    /// The agent of `muster dev`
    #[command(hide = true)]
    DemoAgent(dev::agent::Agent),
    /// Becomes an agent that `muster dev` shows
    #[command(hide = true)]
    DemoExec(dev::agent::Become),
}

/// Does what was typed.
pub(crate) fn run(cli: Cli) -> ExitCode {
    // The daemons bring their own logging and their own runtime, which they start when they have
    // given up what they do not need.
    if let Command::Server(daemon::Server::Run(run)) = &cli.command {
        return run.server();
    }
    if let Command::Node(node::Command::Run(run)) = &cli.command {
        return run.node();
    }
    // The command's process is forked while there is one thread.
    if let Command::Run(command) = &cli.command {
        return run::run(command);
    }
    let output = Output::new(cli.json);
    lifecycle::block_on(async move {
        match obey(cli.command, output).await {
            Ok(code) => code,
            Err(failure) => {
                if !failure.is_silent() {
                    output::note(&format!("muster: {failure}"));
                }
                failure.exit_code()
            }
        }
    })
}

async fn obey(command: Command, output: Output) -> Result<ExitCode, Failure> {
    telemetry::start(telemetry::Settings {
        level: Level::Error,
        ..telemetry::Settings::default()
    })
    .map_err(|error| Failure::usage(error.to_string()))?;
    match command {
        Command::Dev(command) => dev::run(*command, output).await?,
        Command::Token(command) => token::run(command, output).await?,
        Command::Entry(command) => entry::run(command, output).await?,
        Command::Agent(command) => agent::run(command, output).await?,
        Command::Rule(command) => rule::run(command, output).await?,
        Command::Task(command) => task::run(command, output).await?,
        Command::Audit(command) => audit::run(command, output).await?,
        Command::Policy(command) => policy::run(command, output).await?,
        Command::Node(command) => node::run(command, output).await?,
        Command::Bundle(command) => bundle::run(command, output).await?,
        Command::Authority(command) => authority::run(command, output).await?,
        Command::Mint(command) => mint::run(command, output).await?,
        Command::Workload(command) => return workload::run(command, output).await,
        Command::Config(command) => config_check::run(command, output)?,
        Command::DemoWorkload(demo) => dev::demo::run(demo).await?,
        Command::DemoAgent(agent) => dev::agent::run(agent).await?,
        Command::DemoExec(agent) => dev::agent::exec(&agent)?,
        Command::Completions { shell } => completions(shell)?,
        Command::Server(_) => return Err(Failure::usage("`muster server run` stands alone")),
        Command::Run(_) => return Err(Failure::usage("`muster run` stands alone")),
    }
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests;
