//! What a person sees, and what a script reads.

mod story;

use std::env;
use std::io::{self, IsTerminal};
use std::time::Duration;

use muster_model::Timestamp;
use muster_proto::muster::node::admin::v1::{Attested, Issued};
use muster_rt::{Clock, SystemClock, telemetry};
use serde_json::json;

use super::Dev;
use super::children::Which;
use super::demo::Report;
use super::happening::{self, Happening, millis, seconds, selector};
use super::place::Place;
use super::setup::Running;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::time::rough;

/// How many characters of serial numbers and key identifiers are shown: enough to tell them apart.
const SHORT: usize = 12;

/// The longest selector that the column beside it makes room for.
const WIDE: usize = 48;
/// Added before a time is cut to whole seconds.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// Tells what happens: lines of JSON, or text with a countdown where there is a terminal.
pub(super) struct Screen {
    output: Output,
    json: bool,
    colour: bool,
    /// The last line can be written over.
    terminal: bool,
    clock: SystemClock,
    /// The demonstration's SPIFFE ID, once there is a demonstration.
    demo: Option<String>,
    /// The agent's SPIFFE ID, once it was shown.
    agent: Option<String>,
    /// When the demonstration's SVID will be renewed.
    next: Option<Timestamp>,
    /// A countdown stands on the last line.
    counting: bool,
}

#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Faint,
    Good,
    New,
    Bad,
}

impl Screen {
    pub(super) fn new(output: Output) -> Self {
        let json = output.is_json();
        Self {
            output,
            json,
            colour: !json && telemetry::colour_on_stdout(),
            terminal: !json && io::stdout().is_terminal(),
            clock: SystemClock::new(),
            demo: None,
            agent: None,
            next: None,
            counting: false,
        }
    }

    pub(super) fn starting(&mut self, dev: &Dev, place: &Place) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let state = if place.is_temporary() {
            "removed at the end"
        } else {
            "kept"
        };
        self.say(&format!(
            "{} {}\n  state in {} ({state})\n",
            self.ink(Ink::Bold, "Trust domain"),
            self.ink(Ink::Bold, dev.trust_domain.as_str()),
            place.base().display(),
        ))
    }

    pub(super) fn ready(&mut self, dev: &Dev, running: &Running) -> Result<(), Failure> {
        if !dev.no_demo {
            self.demo = running.demo_id().ok().map(|id| id.to_string());
        }
        if self.json {
            return output::write(&format!("{}\n", happening::ready(running)));
        }
        let pid = |pid: Option<u32>| pid.map(|pid| pid.to_string()).unwrap_or_default();
        let mut text = format!(
            "  server   pid {}, serves nodes on {}\n           operators: {}\n  \
             node     pid {}, {}\n           workloads: {}\n",
            pid(running.server_pid),
            running.server_address,
            running.server_admin_socket.display(),
            pid(running.node_pid),
            running.node_id,
            running.workload_socket.display(),
        );
        text.push_str(&how_to_try(dev, running, |text| self.ink(Ink::Bold, text)));
        self.say(&text)
    }

    /// Whether everything is told as it comes.
    pub(super) fn tells_all(&self) -> bool {
        self.json
    }

    /// Tells one thing.
    pub(super) fn happened(&mut self, happening: &Happening) -> Result<(), Failure> {
        if self.json {
            return output::write(&format!("{}\n", happening.json()));
        }
        let text = match happening {
            Happening::Attested { what, .. } => self.attested(what),
            // The agent is gone, and its entry is renewed all the same.
            Happening::Issued { what, .. } if Some(&what.spiffe_id) == self.agent.as_ref() => {
                return Ok(());
            }
            Happening::Issued { what, .. } => {
                if Some(&what.spiffe_id) == self.demo.as_ref() {
                    self.next = renewal(what);
                }
                self.issued(what)
            }
            Happening::Refused { what, .. } => format!(
                "{} pid {}, uid {}: {}\n",
                self.ink(Ink::Bad, "refused "),
                what.pid,
                what.uid,
                what.reason
            ),
            Happening::Missed { events } => format!("({events} events were too many to show)\n"),
            Happening::Demo(report) => self.reported(report),
            // They are told together, as a story.
            Happening::Agent(_)
            | Happening::AgentSaid(_)
            | Happening::AgentSilent
            | Happening::Recorded(_) => return Ok(()),
        };
        self.say(&text)
    }

    /// Tells that a process died, and that the rest goes on.
    pub(super) fn died(&mut self, which: Which, failure: &Failure) -> Result<(), Failure> {
        if self.json {
            let line =
                json!({ "event": "died", "process": which.name(), "reason": failure.to_string() });
            return output::write(&format!("{line}\n"));
        }
        let rest = match which {
            Which::Server => "the node goes on with what it holds; Ctrl-C ends it too",
            Which::Node | Which::Demo | Which::Agent => "the rest goes on; Ctrl-C ends it too",
        };
        self.say(&format!(
            "{} {failure}\n         {rest}\n",
            self.ink(Ink::Bad, "died    ")
        ))
    }

    fn attested(&self, what: &Attested) -> String {
        let heading = format!(
            "{} pid {}, uid {}, gid {}, {}\n         {}\n",
            self.ink(Ink::Good, "attested"),
            what.pid,
            what.uid,
            what.gid,
            what.executable,
            self.ink(
                Ink::Faint,
                &format!("the caller is known by: {}", what.level)
            ),
        );
        let facts: Vec<(String, &str)> = what
            .facts
            .iter()
            .map(|fact| (selector(fact.selector.as_ref()), fact.how.as_str()))
            .collect();
        let lengths = facts.iter().map(|(text, _)| text.len());
        // A digest does not push the rest away.
        let widest = lengths.filter(|length| *length <= WIDE).max().unwrap_or(0);
        let facts = facts.into_iter().map(|(selector, how)| {
            let how = self.ink(Ink::Faint, how);
            format!("         {selector:widest$}  {how}\n")
        });
        [heading]
            .into_iter()
            .chain(facts)
            .collect::<Vec<_>>()
            .concat()
    }

    fn issued(&self, what: &Issued) -> String {
        let from = seconds(what.not_before.as_ref()).unwrap_or_default();
        let until = seconds(what.not_after.as_ref()).unwrap_or_default();
        let now = self.clock.now().wall;
        let word = if what.previous_serial_number.is_empty() {
            self.ink(Ink::Good, "issued  ")
        } else {
            self.ink(Ink::New, "rotated ")
        };
        let serial = if what.previous_serial_number.is_empty() {
            short(&what.serial_number)
        } else {
            format!(
                "{} follows {}",
                short(&what.serial_number),
                short(&what.previous_serial_number)
            )
        };
        let text = format!(
            "{word} {}\n         serial {serial}, signed by authority {}\n         \
             valid from {} until {} ({} from now)\n",
            self.ink(Ink::Bold, &what.spiffe_id),
            short(&what.authority_id),
            clock_time(from),
            clock_time(until),
            rough(Timestamp::from_unix_seconds(until).since(now) + HALF_A_SECOND),
        );
        match renewal(what) {
            // The demonstration has its countdown on a terminal.
            Some(next) if !self.terminal || self.demo.as_ref() != Some(&what.spiffe_id) => {
                format!(
                    "{text}         rotates in {}\n",
                    rough(next.since(now) + HALF_A_SECOND)
                )
            }
            Some(_) | None => text,
        }
    }

    fn reported(&self, report: &Report) -> String {
        match report {
            Report::Received {
                spiffe_id,
                serial_number,
                verified: Ok(()),
                ..
            } => format!(
                "{} the workload holds {spiffe_id}, serial {}: key, chain and bundle verify\n",
                self.ink(Ink::Good, "received"),
                short(serial_number)
            ),
            Report::Received {
                spiffe_id,
                verified: Err(fault),
                ..
            } => format!(
                "{} the workload was given {spiffe_id}, which does not verify: {fault}\n",
                self.ink(Ink::Bad, "received")
            ),
            Report::Waiting { reason } => format!(
                "{} the workload asks again: {reason}\n",
                self.ink(Ink::Faint, "waiting ")
            ),
        }
    }

    /// Once a second: the countdown.
    pub(super) fn tick(&mut self) {
        if !self.terminal {
            return;
        }
        let Some(next) = self.next else {
            return;
        };
        let left = next.since(self.clock.now().wall);
        let left = rough(left + Duration::from_millis(999));
        let line = self.ink(
            Ink::Faint,
            &format!("next rotation in {left}; Ctrl-C ends everything"),
        );
        // Standard output that is gone is noticed at the next thing that matters.
        let _gone = output::write(&format!("\r\x1b[2K{line}")).is_err();
        self.counting = true;
    }

    pub(super) fn ending(&mut self) {
        if self.json {
            return;
        }
        // As above: the end must come, whoever watches.
        let _gone = self.say("").is_err();
    }

    /// The last line of the JSON, when it did not end well; people read it on standard error.
    pub(super) fn failed(&mut self, failure: &Failure) {
        if self.json {
            let line = json!({ "event": "failed", "reason": failure.to_string() });
            let _gone = output::write(&format!("{line}\n")).is_err();
        }
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        let erase = if self.counting { "\r\x1b[2K" } else { "" };
        self.counting = false;
        output::write(&format!("{erase}{text}"))
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Faint => "2",
            Ink::Good => "32",
            Ink::New => "1;36",
            Ink::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The lines to paste into another shell.
fn how_to_try(dev: &Dev, running: &Running, heading: impl Fn(&str) -> String) -> String {
    let muster = muster_word();
    let register = if dev.no_demo {
        format!(
            "\n{}\n  {muster} entry create --server-socket {} --parent-id {} --spiffe-id {} --selector \
             unix:uid:{}\n",
            heading("Register an identity for every process of this user:"),
            shell_quote(&running.server_admin_socket.display().to_string()),
            shell_quote(&running.node_id),
            shell_quote(&format!("spiffe://{}/hello", running.trust_domain)),
            nix::unistd::getuid(),
        )
    } else {
        String::new()
    };
    format!(
        "{register}\n{}\n  export SPIFFE_ENDPOINT_SOCKET={}\n  {muster} workload fetch x509\n\n",
        heading("Try it from another shell, with this or any SPIFFE client:"),
        shell_quote(&running.workload_address()),
    )
}

/// This program, as a shell finds it.
fn muster_word() -> String {
    env::current_exe().map_or_else(
        |_| "muster".to_owned(),
        |program| shell_quote(&program.display().to_string()),
    )
}

/// When the node will renew what it was issued.
fn renewal(what: &Issued) -> Option<Timestamp> {
    millis(what.renew_at.as_ref()).map(Timestamp::from_unix_millis)
}

/// The time of day in UTC.
fn clock_time(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds)
        .map_or_else(|_| unix_seconds.to_string(), |time| time.to_string())
}

fn short(text: &str) -> String {
    if text.chars().count() > SHORT {
        text.chars().take(SHORT).chain("...".chars()).collect()
    } else {
        text.to_owned()
    }
}

/// A word that a shell takes as it is.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_quote("/usr/bin/muster"), "/usr/bin/muster");
        assert_eq!(shell_quote("/a b/it's"), "'/a b/it'\\''s'");
        assert_eq!(shell_quote(""), "''");
    }

    #[test]
    fn long_numbers_are_shortened() {
        assert_eq!(short("123456789012"), "123456789012");
        assert_eq!(short("1234567890123"), "123456789012...");
    }
}
