//! Several callers that never stop asking.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::interop::http;
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

/// What callers counted. Times are since the load began.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// When the first failure was there, and what it was.
    pub(super) first_failure: Option<(Duration, String)>,
    /// When the last request began that was served.
    pub(super) last_served: Option<Duration>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.first_failure = match (self.first_failure.take(), other.first_failure) {
            (Some(own), Some(other)) => Some(if own.0 <= other.0 { own } else { other }),
            (own, other) => own.or(other),
        };
        self.last_served = self.last_served.max(other.last_served);
    }
}

/// What all callers count as they go.
#[derive(Default)]
struct Counts {
    served: AtomicU64,
    failed: AtomicU64,
}

/// Callers at work.
pub(super) struct Load {
    began: Stopwatch,
    counts: Arc<Counts>,
    shown: Receiver<Shown>,
    callers: Vec<(Sender<()>, JoinHandle<Tally>)>,
}

impl Load {
    /// Starts the callers, against a port of this host.
    pub(super) fn start(port: u16) -> Self {
        let (show, shown) = mpsc::channel();
        let (began, counts) = (Stopwatch::start(), Arc::new(Counts::default()));
        let callers = (0..CALLERS)
            .map(|_| {
                let (show, counts) = (show.clone(), Arc::clone(&counts));
                let (stop, stopped) = mpsc::channel();
                let caller = move || call(port, began, &counts, &show, &stopped);
                (stop, thread::spawn(caller))
            })
            .collect();
        Self {
            began,
            counts,
            shown,
            callers,
        }
    }

    /// The time since the load began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many requests were served so far.
    pub(super) fn served(&self) -> u64 {
        self.counts.served.load(Ordering::Relaxed)
    }

    /// How many failed so far.
    pub(super) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
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

    /// Ends the callers; says what they counted.
    pub(super) fn end(self) -> Result<Tally, Failure> {
        let mut all = Tally::default();
        let (stops, threads): (Vec<_>, Vec<_>) = self.callers.into_iter().unzip();
        drop(stops);
        for caller in threads {
            all.add(caller.join().map_err(|_| "a caller panicked")?);
        }
        Ok(all)
    }

    /// Ends the callers; says how many requests they made. One that failed fails all.
    pub(super) fn stop(self) -> Result<u64, Failure> {
        let all = self.end()?;
        match all.first_failure {
            None => Ok(all.requests),
            Some((_, first)) => {
                let (failed, requests) = (all.failed, all.requests);
                Err(format!("{failed} of {requests} requests failed; the first: {first}").into())
            }
        }
    }
}

/// Calls until the other end of `stopped` is gone.
fn call(
    port: u16,
    began: Stopwatch,
    counts: &Counts,
    show: &Sender<Shown>,
    stopped: &Receiver<()>,
) -> Tally {
    let mut tally = Tally::default();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PACE) {
        tally.requests += 1;
        let at = began.elapsed();
        match request(port) {
            Ok(shown) => {
                counts.served.fetch_add(1, Ordering::Relaxed);
                tally.last_served = Some(at);
                // Nobody may be watching.
                drop(show.send(shown));
            }
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                tally.failed += 1;
                let failure = || (began.elapsed(), error.to_string());
                tally.first_failure.get_or_insert_with(failure);
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
