//! A process that opens a stream, hands the socket to a child and ends: what it leaves must be
//! worth nothing. The child never sends; it only sees when the stream ends.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use crate::Failure;
use crate::clock::shared_nanoseconds;
use crate::raw::{Came, Raw};

/// How often an heir looks whether a socket is gone.
const LOOK: Duration = Duration::from_micros(100);

/// What becomes of the socket itself.
#[derive(Args)]
pub(crate) struct Options {
    /// The socket goes as well: it is a task's, which ends with this process.
    #[arg(long)]
    own: bool,
}

/// Reads where, opens, hands on, says so, and ends when told to, saying when.
pub(crate) fn testator(options: &Options) -> Result<(), Failure> {
    // The process must be there before a socket can be made for it.
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let socket = PathBuf::from(line.trim_end());
    let mut stream = Raw::open(&socket)?;
    stream.answer()?;
    let mut heir = Command::new(std::env::current_exe()?);
    heir.arg("heir").stdin(Stdio::from(stream.socket()?));
    if options.own {
        heir.arg("--gone").arg(&socket);
    }
    let heir = heir.spawn()?;
    println!("{}", heir.id());
    io::stdin().read_exact(&mut [0])?;
    println!("{}", shared_nanoseconds());
    Ok(())
}

/// What an heir finds.
#[derive(Args)]
pub(crate) struct Inheritance {
    /// Also wait until this socket is gone.
    #[arg(long, value_name = "SOCKET")]
    gone: Option<PathBuf>,
}

/// Watches the socket that is its input, and says when its stream ended, or the socket went later.
pub(crate) fn heir(inheritance: &Inheritance) -> Result<(), Failure> {
    let mut stream = Raw::over(io::stdin().as_fd().try_clone_to_owned()?);
    while stream.next()? != Came::End {}
    if let Some(socket) = &inheritance.gone {
        while socket.exists() {
            std::thread::sleep(LOOK);
        }
    }
    println!("{}", shared_nanoseconds());
    Ok(())
}
