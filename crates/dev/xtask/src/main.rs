//! The chores of this repository: `cargo xtask interop`, `attacks`, `bench` and `fuzz`.
//!
//! Start at [`interop`]. What Muster itself does is not here: an xtask builds and runs programs, and
//! judges what they print. The tidy rules are a test, in `tests/tidy.rs`.

#![expect(clippy::print_stdout, reason = "a chore speaks on standard output")]

mod attacks;
mod bench;
mod fuzz;
mod interop;
mod shell;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs other people's SPIFFE clients and runs them against real processes of Muster.
    Interop(interop::Options),
    /// Tries every way to get another process's identity; needs root.
    Attacks(attacks::Options),
    /// Builds Muster for release and measures it.
    Bench(bench::Options),
    /// Runs every fuzz target for a while.
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Interop(options) => interop::run(&options),
        Chore::Attacks(options) => attacks::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nfailed: {error}");
            ExitCode::FAILURE
        }
    }
}
