//! A workload that nobody registered: it waits at a gate with all others, asks for its SVID the
//! moment the gate opens, and holds it until it is ended.
//!
//! It prints `ready` once it stands at the gate, then `NANOSECONDS` when it holds its SVID.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;

use crate::Failure;
use crate::clock::shared_nanoseconds;
use crate::raw::{Came, Raw};

/// Where to ask.
#[derive(Args)]
pub(crate) struct Options {
    /// The Workload API socket.
    socket: PathBuf,
}

/// Waits, asks, tells, stays.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    println!("ready");
    // The gate is the end of standard input, which all newcomers share.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mut stream = Raw::open(&options.socket)?;
    stream.answer()?;
    println!("{}", shared_nanoseconds());
    while stream.next()? != Came::End {}
    Ok(())
}
