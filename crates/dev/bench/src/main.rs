//! Measures real processes: a server and a node of Muster, and, with `--peer`, SPIRE's beside them,
//! driven by the same code over the same APIs in the same run.
//!
//! Start at [`measure`] for what is measured, at [`subject`] for what is started, at [`report`] for
//! the bars. Deliberately not here: any shortcut into a server or a node. All that this program
//! knows of them it has over their sockets and from `/proc`.

#![expect(clippy::print_stdout, reason = "a bench speaks on standard output")]

mod caller;
mod clock;
mod flood;
mod measure;
mod newcomer;
mod numbers;
mod process;
mod raw;
mod report;
mod subject;
mod testament;
mod waiter;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::measure::{Figure, Sizes, Swarm};
use crate::process::{load_average, raise_file_limit};
use crate::report::Report;
use crate::subject::Kind;

/// What a measurement fails with: a sentence for the person who ran it.
type Failure = Box<dyn Error + Send + Sync>;

/// Measures Muster.
#[derive(Parser)]
#[command(name = "muster-bench", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// The `muster` to measure; `muster-server` and `muster-node` stand beside it.
    #[arg(long, value_name = "FILE", default_value = "muster")]
    muster: PathBuf,
    /// Also measure SPIRE, whose `spire-server` and `spire-agent` are in this folder. Swarms are then
    /// as large as it weathers within minutes, on both sides.
    #[arg(long, value_name = "DIR")]
    peer: Option<PathBuf>,
    /// Small counts, for a run under a minute. The figures are coarse.
    #[arg(long)]
    quick: bool,
    /// Only these: arrival, signing, connections, neighbours, gone, streams, tokens, entries,
    /// sightings, rules, policy, tasks, suspended; and, only when named,
    /// swarm-idle, swarm-churn, swarm-storm, swarm-streams, restart. May be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write the figures there as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// A workload that waits for its SVID; started by the bench itself.
    #[command(hide = true)]
    Waiter(waiter::Options),
    /// A workload that nobody registered; started by the bench itself.
    #[command(hide = true)]
    Newcomer(newcomer::Options),
    /// A hostile neighbour; started by the bench itself.
    #[command(hide = true)]
    Flood(flood::Options),
    /// A workload that ends, and leaves its socket to a child; started by the bench itself.
    #[command(hide = true)]
    Testator(testament::Options),
    /// That child.
    #[command(hide = true)]
    Heir(testament::Inheritance),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Waiter(options)) => waiter::run(options),
        Some(Role::Newcomer(options)) => newcomer::run(options),
        Some(Role::Flood(options)) => flood::run(options),
        Some(Role::Testator(options)) => testament::testator(options),
        Some(Role::Heir(inheritance)) => testament::heir(inheritance),
        None => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    for name in &arguments.only {
        if !measure::NAMES.contains(&name.as_str()) {
            let names = measure::NAMES.join(", ");
            return Err(format!("--only {name}: there are {names}").into());
        }
    }
    raise_file_limit();
    let mut sizes = if arguments.quick {
        Sizes::QUICK
    } else {
        Sizes::FULL
    };
    if arguments.peer.is_some() && sizes.swarm == Swarm::Full {
        sizes.swarm = Swarm::Beside;
    }
    let before = load_average()?;
    let ours = measure_one(&Kind::Muster(arguments.muster.clone()), &sizes, arguments)?;
    let peer = match &arguments.peer {
        Some(folder) => measure_one(&Kind::Spire(folder.clone()), &sizes, arguments)?,
        None => Vec::new(),
    };
    let report = Report {
        quick: arguments.quick,
        load_before: before,
        load_after: load_average()?,
        ours,
        peer,
    };
    println!("\n{}", report.table());
    if let Some(file) = &arguments.json {
        std::fs::write(file, report.json()?)?;
        println!("{}", file.display());
    }
    let verdict = report.verdict();
    println!("{}", verdict.words);
    // Small counts are for seeing that it runs.
    if verdict.missed > 0 && !arguments.quick {
        return Err("a bar is missed".into());
    }
    Ok(())
}

fn measure_one(kind: &Kind, sizes: &Sizes, arguments: &Arguments) -> Result<Vec<Figure>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let wanted = |name: &str| {
        let heavy = name.starts_with("swarm-") || name == "restart";
        (arguments.only.is_empty() && !heavy) || arguments.only.iter().any(|only| only == name)
    };
    runtime.block_on(measure::all(kind, sizes, &wanted))
}
