//! A process that opens a stream, hands the socket to a child and ends: what it leaves must be
//! worth nothing. The child never sends; it only sees when the stream ends.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use crate::Failure;
use crate::clock::shared_nanoseconds;
use crate::raw::{Came, Raw};

/// Where.
#[derive(Args)]
pub(crate) struct Options {
    /// The Workload API socket.
    socket: PathBuf,
}

/// Opens, hands on, says so, and ends when told to, saying when.
pub(crate) fn testator(options: &Options) -> Result<(), Failure> {
    let mut stream = Raw::open(&options.socket)?;
    stream.answer()?;
    let heir = Command::new(std::env::current_exe()?)
        .arg("heir")
        .stdin(Stdio::from(stream.socket()?))
        .spawn()?;
    println!("{}", heir.id());
    io::stdin().read_exact(&mut [0])?;
    println!("{}", shared_nanoseconds());
    Ok(())
}

/// Watches the socket that is its input, and says when its stream ended.
pub(crate) fn heir() -> Result<(), Failure> {
    let mut stream = Raw::over(io::stdin().as_fd().try_clone_to_owned()?);
    while stream.next()? != Came::End {}
    println!("{}", shared_nanoseconds());
    Ok(())
}
