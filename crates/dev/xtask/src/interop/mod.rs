//! `cargo xtask interop`: software that we did not write, against real processes of Muster.
//!
//! Every client is installed from its own package registry into `target/interop`, then run three
//! times over: as a caller that nobody registered, as a registered workload, and in mutual TLS with
//! another language while SVIDs and authorities change. A pair of Envoys goes through such changes by
//! SDS. The SPIFFE libraries, Envoy and an MCP server are put on the sockets of tasks, which end while
//! they watch. A client or a toolchain that is missing is a failure, not a skip. What the programs print
//! is in `tests/interop/README.md`.

mod agents;
mod cedar;
mod certificates;
mod clients;
mod containers;
mod domain;
mod envoy;
mod examples;
mod files;
mod foreign;
mod grpcurl;
mod h2spec;
mod http;
mod mutual_tls;
mod on_behalf;
mod own_node;
mod results;
mod spire;
mod systemd;
mod tasks;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;

use self::clients::Client;
use self::domain::{Domain, Lifetimes};
use self::results::{Line, Results};
use self::spire::Spire;
use crate::shell::{Failure, Stopwatch, Talker, build_release, last_lines, release_binary, target};

/// What an unregistered caller is put through.
const DENIED: &[&str] = &["denied"];

/// What a registered workload is put through.
const CHECKS: &[&str] = &[
    "x509-svid",
    "x509-bundles",
    "jwt-svid",
    "jwt-bundles",
    "jwt-valid",
    "jwt-tampered",
    "rotation",
];

/// What only go-spiffe can be put through: no other client knows the WIT profile.
const WIT_CHECKS: &[&str] = &["wit-svid", "wit-refused", "wit-rotation"];

/// Longer than every deadline inside the client programs together.
const PROGRAM_WITHIN: Duration = Duration::from_mins(10);

/// Which clients to run, and where the results go.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these: go-spiffe, java-spiffe, py-spiffe, rust-spiffe, grpc-js, grpcurl, mtls,
    /// examples, agents, files, on-behalf, envoy, tasks, cedar, h2spec, spire (with --spire), and
    /// (only when named: they need root and install engines) docker, podman, systemd. May be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The folder of SPIRE's binaries, spire-server and spire-agent, to run against Muster too.
    #[arg(long, value_name = "DIR")]
    spire: Option<PathBuf>,
    /// The file that the results are written to.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also rewrite the table in README.md from the results.
    #[arg(long)]
    readme: bool,
    /// Use this `muster` instead of building one for release.
    #[arg(long, value_name = "FILE")]
    muster: Option<PathBuf>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.names(name)
    }

    /// Whether a client is to be installed: for itself, or for what it has a part in.
    fn needs(&self, client: &str) -> bool {
        self.wants(client)
            || (self.wants("mtls") && mutual_tls::CLIENTS.contains(&client))
            || (self.wants("examples") && examples::CLIENTS.contains(&client))
            || (self.wants("on-behalf") && on_behalf::CLIENTS.contains(&client))
            || (self.wants(tasks::NAME) && tasks::CLIENTS.contains(&client))
            || (self.wants(spire::NAME) && self.spire.is_some() && client == spire::CLIENT)
    }

    /// Whether every name is one.
    fn check(&self) -> Result<(), Failure> {
        for name in &self.only {
            if !clients::NAMES.contains(&name.as_str())
                && ![
                    "grpcurl",
                    "mtls",
                    "examples",
                    "files",
                    "on-behalf",
                    agents::NAME,
                    cedar::NAME,
                    envoy::NAME,
                    h2spec::NAME,
                    spire::NAME,
                    systemd::NAME,
                    tasks::NAME,
                ]
                .contains(&name.as_str())
                && !containers::NAMES.contains(&name.as_str())
            {
                return Err(format!("--only {name}: there is no such client").into());
            }
        }
        if self.names(spire::NAME) && self.spire.is_none() {
            return Err("--only spire: give the folder of its binaries by --spire DIR".into());
        }
        Ok(())
    }

    /// SPIRE's binaries, where they take part.
    fn spire(&self) -> Result<Option<Spire>, Failure> {
        match &self.spire {
            Some(folder) if self.wants(spire::NAME) => Spire::find(folder).map(Some),
            Some(_) => Ok(None),
            None => {
                if self.wants(spire::NAME) {
                    println!("SPIRE's own binaries are left out: --spire DIR gives them");
                }
                Ok(None)
            }
        }
    }

    /// Whether the name was given: what changes the machine is not run by default.
    fn names(&self, name: &str) -> bool {
        self.only.iter().any(|only| only == name)
    }
}

/// Attestation against the engines themselves, as far as they were named.
fn run_engines(
    options: &Options,
    muster: &Path,
    home: &Path,
    results: &mut Results,
) -> Result<(), Failure> {
    let engines: Vec<&'static str> = containers::NAMES
        .into_iter()
        .filter(|name| options.names(name))
        .collect();
    if !engines.is_empty() {
        let watch = Stopwatch::start();
        let domain = Domain::start(muster, &Lifetimes::CHECKS)?;
        for name in engines {
            containers::run(name, &domain, results);
        }
        domain.stop()?;
        println!("ran the container engines in {} s", watch.seconds());
    }

    if options.names(systemd::NAME) {
        let watch = Stopwatch::start();
        systemd::run(muster, home, results);
        println!("ran systemd in {} s", watch.seconds());
    }
    Ok(())
}

/// No process of Muster.
fn run_cedar(options: &Options, home: &Path, results: &mut Results) {
    if options.wants(cedar::NAME) {
        let watch = Stopwatch::start();
        cedar::run(home, results);
        println!("ran Cedar in other languages in {} s", watch.seconds());
    }
}

/// No process of Muster either.
fn run_h2spec(options: &Options, home: &Path, results: &mut Results) {
    if options.wants(h2spec::NAME) {
        let watch = Stopwatch::start();
        h2spec::run(home, results);
        println!("ran h2spec in {} s", watch.seconds());
    }
}

/// SPIRE's own binaries, if they were given.
fn run_spire(
    spire: Option<&Spire>,
    muster: &Path,
    clients: &[Client],
    results: &mut Results,
) -> Result<(), Failure> {
    if let Some(spire) = spire {
        let watch = Stopwatch::start();
        let client = clients.iter().find(|client| client.name == spire::CLIENT);
        spire::run(muster, spire, client, results)?;
        println!("ran SPIRE's own binaries in {} s", watch.seconds());
    }
    Ok(())
}

/// The `muster` to run.
fn binary(options: &Options) -> Result<PathBuf, Failure> {
    let without_us = !options.only.is_empty()
        && options
            .only
            .iter()
            .all(|only| [cedar::NAME, h2spec::NAME].contains(&only.as_str()));
    if let Some(binary) = &options.muster {
        Ok(binary.clone())
    } else if without_us {
        // No process of ours takes part.
        Ok(release_binary("muster"))
    } else {
        println!("building muster for release");
        build_release(&["muster-cli"])?;
        Ok(release_binary("muster"))
    }
}

/// Installs, runs, judges, and writes the results.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    options.check()?;
    let spire = options.spire()?;
    let muster = binary(options)?;
    let home = target().join("interop");
    std::fs::create_dir_all(&home)?;
    let mut results = Results::default();

    let watch = Stopwatch::start();
    let clients = clients::install(&home, &|name| options.needs(name), &mut results);
    let grpcurl = if options.wants("grpcurl") {
        grpcurl::install(&home, &mut results)
    } else {
        None
    };
    let envoy = if options.wants(envoy::NAME) || options.wants(tasks::NAME) {
        envoy::install(&home, &mut results)
    } else {
        None
    };
    let mcp = if options.wants(tasks::NAME) {
        tasks::install_mcp(&home, &mut results)
    } else {
        None
    };
    println!("installed the clients in {} s", watch.seconds());

    let chosen: Vec<&Client> = clients
        .iter()
        .filter(|client| options.wants(client.name))
        .collect();
    if !chosen.is_empty() || grpcurl.is_some() {
        let watch = Stopwatch::start();
        let domain = Domain::start(&muster, &Lifetimes::CHECKS)?;
        run_checks(&domain, &chosen, grpcurl.as_ref(), &mut results)?;
        domain.stop()?;
        println!("ran the checks in {} s", watch.seconds());
    }
    if options.wants("mtls") || options.wants("examples") {
        let watch = Stopwatch::start();
        let domain = Domain::start(&muster, &Lifetimes::ROTATION)?;
        if options.wants("mtls") {
            mutual_tls::run(&domain, &clients, &mut results)?;
        }
        if options.wants("examples") {
            examples::run(&domain, &home, &clients, &mut results)?;
        }
        domain.stop()?;
        println!("ran mutual TLS and the examples in {} s", watch.seconds());
    }

    if options.wants(agents::NAME) {
        let watch = Stopwatch::start();
        agents::run(&muster, &home, &mut results)?;
        println!("ran the agents in {} s", watch.seconds());
    }

    if options.wants("files") {
        let watch = Stopwatch::start();
        let domain = Domain::start(&muster, &Lifetimes::FILES)?;
        files::run(&domain, &mut results)?;
        domain.stop()?;
        println!("ran the programs that read files in {} s", watch.seconds());
    }

    if options.wants("on-behalf") {
        let further = on_behalf::arguments(&clients);
        let domain = Domain::start_with(&muster, &Lifetimes::CHECKS, &further)?;
        on_behalf::run(&domain, &clients, &mut results)?;
        domain.stop()?;
    }

    if options.wants(envoy::NAME)
        && let Some(envoy) = &envoy
    {
        let watch = Stopwatch::start();
        let domain = Domain::start(&muster, &Lifetimes::ROTATION)?;
        envoy::run(&domain, envoy, &mut results);
        domain.stop()?;
        println!("ran Envoy in {} s", watch.seconds());
    }

    if options.wants(tasks::NAME) {
        let watch = Stopwatch::start();
        let domain = Domain::start(&muster, &Lifetimes::TASKS)?;
        tasks::run(
            &domain,
            &clients,
            envoy.as_ref(),
            mcp.as_ref(),
            &mut results,
        )?;
        domain.stop()?;
        println!("ran the sockets of tasks in {} s", watch.seconds());
    }

    run_cedar(options, &home, &mut results);
    run_h2spec(options, &home, &mut results);
    run_spire(spire.as_ref(), &muster, &clients, &mut results)?;
    run_engines(options, &muster, &home, &mut results)?;

    let file = options.out.clone().unwrap_or(home.join("results.json"));
    results.write(&file)?;
    println!("\n{}\n{}", results.table(), file.display());
    if options.readme {
        results.rewrite_readme()?;
    }
    results.verdict()
}

/// First as strangers, all at once; then each with an entry of its own.
fn run_checks(
    domain: &Domain,
    clients: &[&Client],
    grpcurl: Option<&Client>,
    results: &mut Results,
) -> Result<(), Failure> {
    run_all(domain, clients, DENIED, results);
    for client in clients.iter().copied().chain(grpcurl) {
        domain.register(&client.identity)?;
    }
    run_all(domain, clients, CHECKS, results);
    let with_wit: Vec<&Client> = clients
        .iter()
        .copied()
        .filter(|client| client.name == "go-spiffe")
        .collect();
    run_all(domain, &with_wit, WIT_CHECKS, results);
    if let Some(grpcurl) = grpcurl {
        grpcurl::run(domain, grpcurl, results);
    }
    Ok(())
}

fn run_all(domain: &Domain, clients: &[&Client], checks: &[&str], results: &mut Results) {
    let lines: Vec<Line> = thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(move || run_client(domain, client, checks)))
            .collect();
        running
            .into_iter()
            .flat_map(|run| run.join().unwrap_or_default())
            .collect()
    });
    for line in lines {
        results.add(line);
    }
}

/// Runs one program; a check of which it says nothing has failed.
fn run_client(domain: &Domain, client: &Client, checks: &[&str]) -> Vec<Line> {
    let mut command = client.command();
    command
        .arg("checks")
        .arg(domain.workload_socket())
        .arg(&client.identity.spiffe_id)
        .args(checks);
    let ended = Talker::start(&mut command).and_then(|mut program| {
        program.close_input();
        program.finish_within(PROGRAM_WITHIN)
    });
    let (mut lines, complaint) = match ended {
        Ok(ended) => {
            let complaint = format!("{}: {}", ended.how, last_lines(&ended.errors, 3));
            (results::parse(&ended.output), complaint)
        }
        Err(error) => (Vec::new(), error.to_string()),
    };
    for check in checks {
        if !lines.iter().any(|line| line.check == *check) {
            lines.push(Line::failed(client.name, check, &complaint));
        }
    }
    lines
}
