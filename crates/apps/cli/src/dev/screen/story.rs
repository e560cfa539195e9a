//! The agent's story, for people.

use serde_json::json;

use super::{Ink, Screen, muster_word, shell_quote};
use crate::audit;
use crate::dev::agent::{Ended, Opened, Step, Way};
use crate::dev::story::{Story, Told};
use crate::failure::Failure;
use crate::output;

/// Under the words at the beginnings of lines.
const INDENT: &str = "         ";

impl Screen {
    /// Tells all of it.
    pub(in crate::dev) fn story(&mut self, story: &Story) -> Result<(), Failure> {
        self.agent = Some(story.agent.to_string());
        let heading = "An agent: its identity is for one task, and ends with it";
        let mut parts = vec![
            format!("\n{}\n", self.ink(Ink::Bold, heading)),
            self.class(story),
        ];
        parts.extend(story.told.iter().map(|told| match told {
            Told::Step(step) => self.step(story, step),
            Told::Line(line) => format!("{} {line}\n", self.ink(Ink::Faint, "says    ")),
        }));
        if !story.records.is_empty() {
            let heading = "What the server recorded of it; this shows it with the node's name:";
            parts.push(format!(
                "\n{}\n  {} audit tail --agent {} --server-socket {}\n",
                self.ink(Ink::Bold, heading),
                muster_word(),
                story.class.name,
                shell_quote(&story.server.server_socket.display().to_string()),
            ));
        }
        parts.extend(story.records.iter().map(|record| {
            let line = audit::text(record, self.output);
            // There is one node here.
            let line = line.replace(&format!(" node={}", story.node), "");
            let line = line.replace(&story.node, "the node");
            format!("{}\n", line.trim_end())
        }));
        parts.push("\n".to_owned());
        self.say(&parts.concat())
    }

    /// For scripts: it went well, and there is no more to come.
    pub(in crate::dev) fn agent_done(&mut self) -> Result<(), Failure> {
        if self.json {
            return output::write("{\"event\":\"agent_done\"}\n");
        }
        Ok(())
    }

    /// The agent did not do its work, or could not be started; the rest goes on.
    pub(in crate::dev) fn agent_failed(&mut self, failure: &Failure) -> Result<(), Failure> {
        if self.json {
            let line = json!({ "event": "agent_failed", "reason": failure.to_string() });
            return output::write(&format!("{line}\n"));
        }
        self.say(&format!(
            "{} {failure}\n{INDENT}the rest goes on; Ctrl-C ends everything\n",
            self.ink(Ink::Bad, "failed  ")
        ))
    }

    fn class(&self, story: &Story) -> String {
        let spec = story.class.spec.clone().unwrap_or_default();
        let scopes = spec.permissions.unwrap_or_default().scopes;
        let person = |person: &str| person.strip_prefix("mailto:").unwrap_or(person).to_owned();
        format!(
            "{} {} is {}: {} runs it, {} answers for it\n{INDENT}its agents may ask for {}\n",
            self.ink(Ink::Good, "class   "),
            story.class.name,
            story.class.lifecycle,
            person(&spec.owner),
            person(&spec.sponsor),
            scopes.join(", "),
        )
    }

    fn step(&self, story: &Story, step: &Step) -> String {
        match step {
            Step::Identified { pid, spiffe_id } => {
                let how = format!(
                    "known by its user and by {}",
                    story.program.executable.display()
                );
                format!(
                    "{} pid {pid} is {}\n{INDENT}{}\n",
                    self.ink(Ink::Good, "agent   "),
                    self.ink(Ink::Bold, spiffe_id),
                    self.ink(Ink::Faint, &how),
                )
            }
            Step::Opened(opened) => self.opened(opened),
            Step::Asked { way, pid } => {
                let on = match way {
                    Way::NodeInherited => "on the agent's connection to the node",
                    Way::TaskInherited => "on the agent's connection to the task's socket",
                    Way::TaskOwn => "on a connection of its own to the task's socket",
                };
                let why = match story.reason_for(*pid) {
                    Some("other_sender") => "another process opened it",
                    Some("not_bound") => "that is for the agent alone",
                    Some(word) => word,
                    None => "the node has not said why",
                };
                format!("{} /bin/sh, pid {pid}, {on}: {why}\n", self.refused())
            }
            Step::Refused {
                wish,
                reason,
                message,
            } => format!(
                "{} a sub-task {wish}: {reason}\n{INDENT}{}\n",
                self.refused(),
                self.ink(Ink::Faint, message),
            ),
            Step::Ended(ended) => self.ended(story, ended),
        }
    }

    fn refused(&self) -> String {
        self.ink(Ink::Bad, "refused ")
    }

    fn opened(&self, opened: &Opened) -> String {
        let word = match opened.parent {
            None => "task    ",
            Some(_) => "sub-task",
        };
        let text = format!(
            "{} {} with {}, for {} s at most\n{INDENT}{}\n",
            self.ink(Ink::New, word),
            opened.kind,
            opened.scopes.join(", "),
            opened.ttl,
            self.ink(Ink::Bold, &opened.spiffe_id),
        );
        match &opened.verified {
            Ok(()) => format!(
                "{text}{INDENT}its SVID was in hand after {} ms: key, chain and bundle verify\n",
                opened.after_ms
            ),
            Err(fault) => format!(
                "{text}{INDENT}{}\n",
                self.ink(Ink::Bad, &format!("its SVID does not verify: {fault}"))
            ),
        }
    }

    fn ended(&self, story: &Story, ended: &Ended) -> String {
        let is_part = story.told.iter().any(|told| {
            matches!(told, Told::Step(Step::Opened(opened))
                if opened.task == ended.task && opened.parent.is_some())
        });
        let which = if is_part { "sub-task" } else { "task" };
        let why = match ended.cause.as_str() {
            // It was said by the agent, which is what completed means.
            "" | "own_word" => String::new(),
            cause => format!(" ({cause})"),
        };
        format!(
            "{} the {which} is {}{why}: {} ms later its identity is gone\n{INDENT}{}\n",
            self.ink(Ink::Good, "ended   "),
            ended.state,
            ended.after_ms,
            self.ink(
                Ink::Faint,
                &format!(
                    "its stream ended with {}, and there is no socket",
                    ended.stream
                )
            ),
        )
    }
}
