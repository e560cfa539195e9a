//! `cargo xtask bench`: builds Muster for release, and lets `crates/dev/bench` measure it.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use clap::Args;

use crate::shell::{Failure, build_release, release_binary, succeeded};

/// Everything is for the bench itself; `cargo xtask bench -- --help` tells what there is.
#[derive(Args)]
pub(crate) struct Options {
    /// What the bench takes: --quick, --peer DIR, --json FILE, --only NAME.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTION"
    )]
    arguments: Vec<OsString>,
}

/// Builds and measures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    println!("building muster and the bench for release");
    build_release(&[
        "muster-cli",
        "muster-server",
        "muster-node",
        "muster-bench",
        "muster-swarm",
    ])?;
    let status = Command::new(release_binary("muster-bench"))
        .arg("--muster")
        .arg(release_binary("muster"))
        .args(&options.arguments)
        .stdin(Stdio::null())
        .status()?;
    succeeded("bench", status)
}
