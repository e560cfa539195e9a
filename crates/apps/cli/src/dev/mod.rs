//! `muster dev`: a whole trust domain on this machine, with a workload and an agent to watch.
//!
//! Start at [`run`]. The server, the node, the workload and the agent are processes of their own,
//! each this binary again; what is shown comes from the node's admin socket, from the server's audit
//! log and from the workload and the agent themselves, so nothing is told that did not happen.

pub(crate) mod agent;
mod child;
mod children;
pub(crate) mod demo;
mod happening;
mod place;
mod program;
mod screen;
mod setup;
mod story;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use muster_model::{SpiffeId, TrustDomain};
use muster_rt::duration;
use muster_rt::lifecycle::{Reason, Shutdown};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use self::children::{Children, Ended, Which};
use self::demo::Report;
use self::happening::Happening;
use self::place::Place;
use self::screen::Screen;
use self::setup::Running;
use self::story::{Stage, Story};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// How long the workload's call is awaited before its entry is written all the same.
const HELD: Duration = Duration::from_secs(8);
/// With `--once`: how long the first SVID may take, and by how much a rotation may be late.
const FIRST: Duration = Duration::from_mins(1);
const LATE: Duration = Duration::from_secs(15);

/// Run a whole trust domain on this machine, with a workload and an agent to watch.
///
/// Starts a server and a node in a private temporary directory, lets the node join with a token,
/// and starts a workload that fetches its identity over the Workload API. Then an agent opens a
/// task, which has an identity of its own until it ends. Ctrl-C ends everything and leaves nothing
/// behind.
#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Keep the state in this directory, and resume what is there. The Workload API's socket in it
    /// can be reached by every user; the rest is private
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Name of the trust domain
    #[arg(long, value_name = "NAME", default_value = "example.org", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// Lifetime of X509-SVIDs [default: 1m, with --once 6s]
    #[arg(long, value_name = "DURATION", value_parser = parse_lifetime)]
    x509_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_lifetime)]
    jwt_ttl: Duration,
    /// Lifetime of the authorities that sign
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_lifetime)]
    ca_ttl: Duration,
    /// Where the server listens for nodes; port 0 is any that is free
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Sign and serve WIT-SVIDs too; they live as long as X509-SVIDs
    #[arg(long)]
    wit: bool,
    /// Serve the Broker API on the node, to this SPIFFE ID; may be repeated
    #[arg(long, value_name = "SPIFFE_ID", value_parser = SpiffeId::parse)]
    broker: Vec<SpiffeId>,
    /// Let this SPIFFE ID use the node's Delegated Identity API; may be repeated
    #[arg(long, value_name = "SPIFFE_ID", value_parser = SpiffeId::parse)]
    delegate: Vec<SpiffeId>,
    /// No demonstration: no entries, no workload, no agent
    #[arg(long)]
    no_demo: bool,
    /// End with exit code 0 when the workload saw its first rotation and the agent has shown its
    /// tasks, else with another
    #[arg(long, conflicts_with = "no_demo")]
    once: bool,
    /// Show this agent in place of our own, such as `python3 agent.py`: its processes are known by
    /// user and executable
    #[arg(last = true, value_name = "AGENT", conflicts_with = "no_demo")]
    agent: Vec<OsString>,
}

impl Dev {
    fn x509_ttl(&self) -> Duration {
        let default = if self.once { 6 } else { 60 };
        self.x509_ttl.unwrap_or(Duration::from_secs(default))
    }
}

/// A lifetime that something can be renewed within.
fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration::parse(text).map_err(|error| {
        format!("{error}; write a duration such as \"90s\", \"10m\" or \"1h30m\"")
    })?;
    if lifetime < Duration::from_secs(2) {
        return Err("a lifetime is at least 2s, or nothing could be renewed in time".to_owned());
    }
    Ok(lifetime)
}

pub(crate) async fn run(dev: Dev, output: Output) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Failure::failed(format!("cannot handle signals: {error}")))?;
    end_with_terminal(&shutdown)?;
    let place = Place::open(dev.dir.as_deref())?;
    let mut screen = Screen::new(output);
    let mut children = Children::default();
    // The children are made here, on the main thread, to which the kernel ties their lives.
    let outcome = tokio::select! {
        outcome = demonstrate(&dev, &place, &mut children, &mut screen) => outcome,
        reason = shutdown.begun() => interrupted(&dev, reason),
    };
    screen.ending();
    children.stop().await;
    let closed = place.close();
    let outcome = match outcome.and(closed) {
        // Whoever waits for a rotation must not take our silence for one.
        Err(failure) if dev.once && failure.exit == Exit::ReaderGone => Err(Failure::failed(
            "standard output was closed before the demonstration was over",
        )),
        outcome => outcome,
    };
    if let Err(failure) = &outcome {
        screen.failed(failure);
    }
    outcome
}

fn interrupted(dev: &Dev, reason: Reason) -> Result<(), Failure> {
    if dev.once {
        Err(Failure::failed(format!(
            "ended by {reason} before the demonstration was over"
        )))
    } else {
        Ok(())
    }
}

/// A terminal that is closed ends us as Ctrl-C does.
fn end_with_terminal(shutdown: &Shutdown) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::failed(format!("cannot handle signals: {error}")))?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        if hangup.recv().await.is_some() {
            shutdown.begin(Reason::Terminate);
        }
    });
    Ok(())
}

/// Starts everything and tells what happens, until something dies or, with `--once`, until there
/// is nothing more to wait for.
async fn demonstrate(
    dev: &Dev,
    place: &Place,
    children: &mut Children,
    screen: &mut Screen,
) -> Result<(), Failure> {
    screen.starting(dev, place)?;
    let server_address = setup::start_server(dev, place, children).await?;
    let (client, node_id) = setup::start_node(dev, place, &server_address, children).await?;
    let running = Running::new(dev, place, server_address, node_id, children);
    let node_events = happening::watch_node(client)
        .await
        .map_err(|status| Failure::of_call("watch the node", &status))?;
    screen.ready(dev, &running)?;

    let (to, mut happenings) = mpsc::channel(64);
    tokio::spawn(happening::forward_node(node_events, to.clone()));
    let mut show = Show::new(dev, running.demo_id()?.to_string());
    if !dev.no_demo {
        let reports = setup::start_demo(place, &running.workload_address(), children)?;
        tokio::spawn(happening::forward_demo(reports, to.clone()));
    }
    let mut stage = Stage::Before;
    let mut held = pin!(tokio::time::sleep(HELD));
    let mut deadline = pin!(tokio::time::sleep(FIRST));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let mut heard = Ok(());
        tokio::select! {
            Some(happening) = happenings.recv() => {
                let kept = stage.hears(&happening);
                if !kept || screen.tells_all() {
                    screen.happened(&happening)?;
                }
                if show.wants_entry(&happening, children.demo_pid()) {
                    show.registered = true;
                    setup::register_demo(&running).await?;
                }
                match show.rotation(&happening)? {
                    Some(Rotation::Seen) => show.seen = true,
                    Some(Rotation::DueBy(by)) => {
                        deadline.as_mut().reset(Instant::now() + by);
                        heard = begin(dev, place, &running, children, &mut stage, &to).await;
                    }
                    None => {}
                }
            }
            () = &mut held, if !show.registered => {
                show.registered = true;
                setup::register_demo(&running).await?;
            }
            ended = children.next_end() => match ended {
                Ended::AgentDone => heard = stage.agent_ended().await,
                Ended::Died(Which::Agent, failure) => heard = Err(failure),
                Ended::Died(which, failure) => {
                    // A dead server is an outage, and an outage is worth watching: the node goes on.
                    let watchable = which != Which::Demo && children.any_daemon();
                    if dev.once || !watchable {
                        return Err(failure);
                    }
                    screen.died(which, &failure)?;
                }
            },
            failure = stage.overdue() => heard = Err(failure),
            () = &mut deadline, if dev.once && !show.is_over() => return Err(Failure::new(
                Exit::Failed,
                show.overdue(),
            )),
            _ = second.tick() => screen.tick(),
        }
        stage.close(heard, dev, screen)?;
        if dev.once && show.is_over() && stage.is_over() {
            return Ok(());
        }
    }
}

/// The workload holds its identity: the agent is next.
async fn begin(
    dev: &Dev,
    place: &Place,
    running: &Running,
    children: &mut Children,
    stage: &mut Stage,
    to: &mpsc::Sender<Happening>,
) -> Result<(), Failure> {
    let story = Story::begin(place, running, &dev.agent, to.clone()).await?;
    let address = running.workload_address();
    let words = &story.program.words;
    let reports = setup::start_agent(place, &address, words, children)?;
    tokio::spawn(happening::forward_agent(reports, to.clone()));
    *stage = Stage::Playing(Box::new(story));
    Ok(())
}

/// How far the demonstration is.
struct Show {
    /// The workload's SPIFFE ID.
    demo: String,
    /// The entry was written, or none is to be.
    registered: bool,
    /// Serial number of the workload's SVID.
    serial: Option<String>,
    /// The workload holds another SVID than its first.
    seen: bool,
    /// The node told of the rotation, or of having left out what it had to tell.
    told: bool,
}

/// What a report means for `--once`.
enum Rotation {
    /// The workload holds its first SVID; the next must be there within this time.
    DueBy(Duration),
    /// The workload holds another SVID than before.
    Seen,
}

impl Show {
    fn new(dev: &Dev, demo: String) -> Self {
        Self {
            demo,
            registered: dev.no_demo,
            serial: None,
            seen: false,
            told: false,
        }
    }

    /// Whether the rotation was shown from both sides, which come by ways of their own.
    fn is_over(&self) -> bool {
        self.seen && self.told
    }

    /// The entry is written once the workload waits for it: its call is held, not denied.
    fn wants_entry(&self, happening: &Happening, demo: Option<u32>) -> bool {
        let asked = match happening {
            Happening::Attested { what, .. } => u32::try_from(what.pid).ok() == demo,
            Happening::Demo(Report::Waiting { .. }) => true,
            Happening::Demo(Report::Received { .. })
            | Happening::Issued { .. }
            | Happening::Refused { .. }
            | Happening::Missed { .. }
            | Happening::Agent(_)
            | Happening::AgentSaid(_)
            | Happening::AgentSilent
            | Happening::Recorded(_) => false,
        };
        !self.registered && asked
    }

    /// What a report of the workload means; an SVID that does not verify is a failure.
    fn rotation(&mut self, happening: &Happening) -> Result<Option<Rotation>, Failure> {
        self.told |= match happening {
            Happening::Issued { what, .. } => {
                !what.previous_serial_number.is_empty() && self.demo == what.spiffe_id
            }
            Happening::Missed { .. } => true,
            Happening::Attested { .. }
            | Happening::Refused { .. }
            | Happening::Demo(_)
            | Happening::Agent(_)
            | Happening::AgentSaid(_)
            | Happening::AgentSilent
            | Happening::Recorded(_) => false,
        };
        let Happening::Demo(Report::Received {
            spiffe_id,
            serial_number,
            not_after,
            verified,
            at_ms,
            ..
        }) = happening
        else {
            return Ok(None);
        };
        if let Err(fault) = verified {
            return Err(Failure::failed(format!(
                "the workload received an SVID for {spiffe_id} that does not verify: {fault}"
            )));
        }
        let before = self.serial.replace(serial_number.clone());
        Ok(match before {
            None => {
                let left = not_after.saturating_mul(1000).saturating_sub(*at_ms);
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
                Some(Rotation::DueBy(left + LATE))
            }
            Some(before) if before != *serial_number => Some(Rotation::Seen),
            Some(_) => None,
        })
    }

    fn overdue(&self) -> String {
        match &self.serial {
            None => format!("the workload received no SVID within {} s", FIRST.as_secs()),
            Some(serial) => {
                format!("the workload's SVID with serial {serial} has expired and no other came")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::muster::node::admin::v1::Attested;

    use super::*;

    fn received(serial: &str, verified: Result<(), String>) -> Happening {
        Happening::Demo(Report::Received {
            spiffe_id: "spiffe://example.org/demo".to_owned(),
            serial_number: serial.to_owned(),
            not_before: 0,
            not_after: 10,
            verified,
            at_ms: 4000,
        })
    }

    fn show() -> Show {
        Show {
            demo: "spiffe://example.org/demo".to_owned(),
            registered: false,
            serial: None,
            seen: false,
            told: false,
        }
    }

    #[test]
    fn a_rotation_is_another_serial_number() {
        let mut show = show();
        let first = show.rotation(&received("1", Ok(()))).unwrap();
        assert!(matches!(first, Some(Rotation::DueBy(by)) if by == Duration::from_secs(6) + LATE));
        assert!(show.rotation(&received("1", Ok(()))).unwrap().is_none());
        let other = show.rotation(&received("2", Ok(()))).unwrap();
        assert!(matches!(other, Some(Rotation::Seen)));
        assert!(show.rotation(&received("3", Err("x".to_owned()))).is_err());
    }

    #[test]
    fn the_entry_comes_when_the_workload_waits() {
        let attested = |pid| Happening::Attested {
            at_ms: 0,
            what: Attested {
                pid,
                ..Attested::default()
            },
        };
        let mut show = show();
        assert!(!show.wants_entry(&attested(7), Some(8)));
        assert!(show.wants_entry(&attested(8), Some(8)));
        show.registered = true;
        assert!(!show.wants_entry(&attested(8), Some(8)));
    }

    #[test]
    fn lifetimes_that_cannot_be_kept_are_refused() {
        assert!(parse_lifetime("1s").is_err());
        assert!(parse_lifetime("2s").is_ok());
        assert!(parse_lifetime("soon").unwrap_err().contains("10m"));
    }
}
