//! `muster-swarm`: one scenario by a run; figures as a table, and as JSON with `--json`.

#![expect(clippy::print_stdout, reason = "a report goes to standard output")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use muster_swarm::proc::{Pid, raise_file_limit};
use muster_swarm::report::{Figure, table, verdict};
use muster_swarm::scenario::{churn, idle, restart, storm, streams};
use muster_swarm::{Cage, Failure, Program, fill, leave_core};

/// Lets thousands of simulated nodes or workloads loose on a server or a node.
#[derive(Parser)]
#[command(name = "muster-swarm", disable_version_flag = true)]
struct Arguments {
    /// Print the figures as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    scenario: Scenario,
}

/// The server that is started.
#[derive(Args)]
struct Subject {
    /// The `muster-server` to meet.
    #[arg(long, value_name = "FILE", default_value = "muster-server")]
    server: PathBuf,
    /// Meet this `spire-server` instead, and speak SPIRE's protocol.
    #[arg(long, value_name = "FILE")]
    spire: Option<PathBuf>,
    /// Hold the server to so many MiB (needs root, and control groups of version 1).
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Hold the server to this core, and the swarm to the others.
    #[arg(long, value_name = "NUMBER")]
    core: Option<usize>,
}

#[derive(Subcommand)]
enum Scenario {
    /// Nodes that have nothing to do.
    Idle {
        #[command(flatten)]
        subject: Subject,
        /// Nodes.
        #[arg(long, default_value_t = 5000)]
        nodes: usize,
        /// Entries of each.
        #[arg(long, default_value_t = 2)]
        entries: usize,
        /// Entries of one more node.
        #[arg(long, default_value_t = 10_000)]
        big: usize,
        /// How long they are idle.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Entries come and go.
    Churn {
        #[command(flatten)]
        subject: Subject,
        /// Nodes.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Changes by the second.
        #[arg(long, default_value_t = 200)]
        rate: usize,
        /// For how long.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// All nodes lose their server and come back at once.
    Storm {
        #[command(flatten)]
        subject: Subject,
        /// Nodes.
        #[arg(long, default_value_t = 10_000)]
        nodes: usize,
        /// SVIDs of each.
        #[arg(long, default_value_t = 20)]
        svids: usize,
        /// Of a hundred nodes, how many hold nothing that is still good.
        #[arg(long, default_value_t = 30)]
        expired: usize,
        /// Nodes by which the peak is measured; all, if it is left out.
        #[arg(long)]
        peak: Option<usize>,
        /// Write there what became of each node, as CSV.
        #[arg(long, value_name = "FILE")]
        csv: Option<PathBuf>,
    },
    /// A server starts with very many entries.
    Restart {
        #[command(flatten)]
        subject: Subject,
        /// Entries.
        #[arg(long, default_value_t = 1_000_000)]
        entries: usize,
    },
    /// Workloads hold streams open at a running node that has an identity for this process.
    Streams {
        /// The node's Workload API.
        #[arg(long, value_name = "SOCKET")]
        socket: PathBuf,
        /// The node's process.
        #[arg(long)]
        pid: i32,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        streams: usize,
        /// How many of them on one connection.
        #[arg(long, default_value_t = 1)]
        per_connection: usize,
        /// The operators' socket of the node's server: once all are open, every entry of that
        /// server is changed, so that each stream gets a new SVID.
        #[arg(long, value_name = "SOCKET")]
        server_socket: Option<PathBuf>,
        /// Also see what the HTTP/2 stack alone costs by stream.
        #[arg(long)]
        bare: bool,
    },
    /// Serves streams that say one thing; started by `streams --bare`.
    #[command(hide = true)]
    Bare {
        /// Where.
        #[arg(long, value_name = "SOCKET")]
        socket: PathBuf,
    },
    /// Adds entries to the database of a server that is down.
    Fill {
        /// The database, `roll.sqlite`.
        database: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        entries: usize,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    raise_file_limit();
    if let Some(core) = arguments.scenario.core() {
        // Before there are threads: they inherit it.
        leave_core(core)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(play(arguments.scenario))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{}", table(&figures));
        // For whoever reads figures, a bar that is missed is one of them.
        println!("{}", verdict(&figures)?);
    }
    Ok(())
}

impl Subject {
    fn split(self) -> (Program, Cage) {
        let cage = Cage {
            memory_mib: self.memory,
            core: self.core,
        };
        let program = self
            .spire
            .map_or(Program::Muster(self.server), Program::Spire);
        (program, cage)
    }
}

impl Scenario {
    fn core(&self) -> Option<usize> {
        match self {
            Self::Idle { subject, .. }
            | Self::Churn { subject, .. }
            | Self::Storm { subject, .. }
            | Self::Restart { subject, .. } => subject.core,
            Self::Streams { .. } | Self::Bare { .. } | Self::Fill { .. } => None,
        }
    }
}

async fn play(scenario: Scenario) -> Result<Vec<Figure>, Failure> {
    match scenario {
        Scenario::Idle {
            subject,
            nodes,
            entries,
            big,
            seconds,
        } => {
            let (program, cage) = subject.split();
            let sizes = idle::Sizes {
                nodes,
                entries_each: entries,
                entries_big: big,
                lasting: Duration::from_secs(seconds),
            };
            idle::run(program, sizes, cage).await
        }
        Scenario::Churn {
            subject,
            nodes,
            rate,
            seconds,
        } => {
            let (program, cage) = subject.split();
            let sizes = churn::Sizes {
                nodes,
                changes_per_second: rate,
                lasting: Duration::from_secs(seconds),
            };
            churn::run(program, sizes, cage).await
        }
        Scenario::Storm {
            subject,
            nodes,
            svids,
            expired,
            peak,
            csv,
        } => {
            let (program, cage) = subject.split();
            let sizes = storm::Sizes {
                nodes,
                svids,
                expired_per_cent: expired,
                peak_nodes: peak.unwrap_or(nodes),
            };
            storm::run(program, sizes, cage, csv.as_deref()).await
        }
        Scenario::Restart { subject, entries } => {
            let (program, cage) = subject.split();
            restart::run(program, entries, cage).await
        }
        Scenario::Streams {
            socket,
            pid,
            streams,
            per_connection,
            server_socket,
            bare,
        } => {
            let sizes = streams::Sizes {
                socket,
                node: Pid(pid),
                streams,
                per_connection,
                server: server_socket,
                bare,
            };
            streams::run(sizes).await
        }
        Scenario::Bare { socket } => {
            streams::serve_bare(&socket).await?;
            Ok(Vec::new())
        }
        Scenario::Fill { database, entries } => {
            let rate = fill::run(&database, entries).await?;
            Ok(vec![Figure::new("entries written", rate, "/s")])
        }
    }
}
