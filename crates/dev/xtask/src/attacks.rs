//! `cargo xtask attacks`: every way in which a process could get what belongs to another, with
//! nothing left out, and the long ones as long as the threat model says.

use std::process::Stdio;

use clap::Args;

use crate::shell::{Failure, cargo, succeeded};

/// How long the long ones are.
#[derive(Args)]
pub(crate) struct Options {
    /// How often a process number is used again.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    rounds: u32,
    /// How often a process ends that has a stream.
    #[arg(long, value_name = "N", default_value_t = 300)]
    ends: u32,
    /// The bar for the time until its stream has ended, 99th percentile, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10)]
    bar: u32,
}

/// Runs the scenarios of `crates/apps/node/tests/attacks` one after the other, so that none
/// disturbs the clock of another; what the machine does not allow is a failure.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the scenarios need root (setuid files, other users): run it as root".into());
    }
    let status = cargo()
        .args(["test", "--package", "muster-node", "--test", "attacks"])
        .args(["--", "--nocapture", "--test-threads", "1"])
        .env("MUSTER_ATTACKS", "all")
        .env("MUSTER_ATTACK_ROUNDS", options.rounds.to_string())
        .env("MUSTER_ATTACK_GONE_ROUNDS", options.ends.to_string())
        .env("MUSTER_ATTACK_GONE_MILLIS", options.bar.to_string())
        .stdin(Stdio::null())
        .status()?;
    succeeded("attacks", status)
}
