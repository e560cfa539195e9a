//! Several callers that never stop asking.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::http;
use crate::shell::{Failure, Stopwatch};

const CALLERS: usize = 8;
/// Between the requests of one caller. Some hundred new connections a second in all: more would run
/// out of ports before it showed more.
const PACE: Duration = Duration::from_millis(25);
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// The certificates that the two sides have shown each other, as each tells of the other.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Serial numbers of the calling side.
    pub(super) callers: BTreeSet<String>,
    pub(super) caller_issuers: BTreeSet<String>,
    /// Beginnings of the validity of the called side.
    pub(super) servers: BTreeSet<String>,
    pub(super) server_issuers: BTreeSet<String>,
}

/// What one request showed.
struct Shown {
    caller: String,
    caller_issuer: String,
    server: String,
    server_issuer: String,
}

/// What one caller counted.
#[derive(Default)]
struct Tally {
    requests: u64,
    failed: u64,
    first_failure: Option<String>,
}

/// Callers at work.
pub(super) struct Load {
    shown: Receiver<Shown>,
    callers: Vec<(Sender<()>, JoinHandle<Tally>)>,
}

impl Load {
    /// Starts the callers, against a port of this host.
    pub(super) fn start(port: u16) -> Self {
        let (show, shown) = mpsc::channel();
        let callers = (0..CALLERS)
            .map(|_| {
                let show = show.clone();
                let (stop, stopped) = mpsc::channel();
                (stop, thread::spawn(move || call(port, &show, &stopped)))
            })
            .collect();
        Self { shown, callers }
    }

    /// Watches what is shown until it is enough, or the seconds are over.
    pub(super) fn watch(
        &self,
        seconds: u64,
        enough: impl Fn(&Seen) -> bool,
    ) -> Result<Seen, Failure> {
        let watch = Stopwatch::start();
        let mut seen = Seen::default();
        while !enough(&seen) {
            if watch.seconds() >= seconds {
                return Err(format!("after {seconds} s there is only {seen:?}").into());
            }
            let shown = self
                .shown
                .recv_timeout(ANSWERED_WITHIN)
                .map_err(|_| "no request succeeds any more")?;
            seen.callers.insert(shown.caller);
            seen.caller_issuers.insert(shown.caller_issuer);
            seen.servers.insert(shown.server);
            seen.server_issuers.insert(shown.server_issuer);
        }
        Ok(seen)
    }

    /// Ends the callers; says how many requests they made. One that failed fails all.
    pub(super) fn stop(self) -> Result<u64, Failure> {
        let mut all = Tally::default();
        let (stops, threads): (Vec<_>, Vec<_>) = self.callers.into_iter().unzip();
        drop(stops);
        for caller in threads {
            let tally = caller.join().map_err(|_| "a caller panicked")?;
            all.requests += tally.requests;
            all.failed += tally.failed;
            all.first_failure = all.first_failure.or(tally.first_failure);
        }
        match all.first_failure {
            None => Ok(all.requests),
            Some(first) => {
                let (failed, requests) = (all.failed, all.requests);
                Err(format!("{failed} of {requests} requests failed; the first: {first}").into())
            }
        }
    }
}

/// Calls until the other end of `stopped` is gone.
fn call(port: u16, show: &Sender<Shown>, stopped: &Receiver<()>) -> Tally {
    let mut tally = Tally::default();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PACE) {
        tally.requests += 1;
        match request(port) {
            // Nobody may be watching.
            Ok(shown) => drop(show.send(shown)),
            Err(error) => {
                tally.failed += 1;
                tally.first_failure.get_or_insert(error.to_string());
            }
        }
    }
    tally
}

fn request(port: u16) -> Result<Shown, Failure> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let answer = http::get(&stream, "/")?;
    if answer.body != "hello\n" {
        return Err(format!("the answer is {:?}", answer.body).into());
    }
    let header = |name: &str| -> Result<String, Failure> {
        let value = answer.header(name).filter(|value| *value != "-");
        Ok(value
            .ok_or_else(|| format!("an answer without {name}"))?
            .to_owned())
    };
    Ok(Shown {
        caller: header("x-caller-serial")?,
        caller_issuer: header("x-caller-issuer")?,
        server: header("x-server-since")?,
        server_issuer: header("x-server-issuer")?,
    })
}
