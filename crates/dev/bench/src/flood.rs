//! A hostile neighbour: it connects as often as it is told to, asks each time, and never reads.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::Failure;
use crate::clock::Stopwatch;
use crate::waiter::become_user;

/// An HTTP/2 preface with empty settings: as little as makes a server build a connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How many connections are made before the clock is looked at.
const BATCH: u32 = 20;

/// Where, as whom, how often and how long.
#[derive(Args)]
pub(crate) struct Options {
    /// The Workload API socket.
    socket: PathBuf,
    /// Become this user first.
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Connections by the second.
    #[arg(long)]
    rate: u32,
    /// For so many seconds.
    #[arg(long)]
    seconds: u64,
}

/// Floods, then tells how many connections it made by the second.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    become_user(options.uid)?;
    let watch = Stopwatch::start();
    let whole = Duration::from_secs(options.seconds);
    let mut made: u32 = 0;
    println!("flooding");
    while watch.elapsed() < whole {
        for _ in 0..BATCH {
            // A full backlog and a closed connection are what a flood meets.
            if let Ok(mut stream) = UnixStream::connect(&options.socket) {
                drop(stream.write_all(PREFACE));
                made += 1;
            }
        }
        let due = Duration::from_secs(1) * made / options.rate.max(1);
        std::thread::sleep(due.saturating_sub(watch.elapsed()));
    }
    println!("{:.0}", f64::from(made) / watch.elapsed().as_secs_f64());
    Ok(())
}
