//! Whom a node refused, as it tells its server.

use muster_model::{FieldError, Shown, TaskId, TextFault, Timestamp, Word};
use muster_proto::muster::node::v1::RefusedProcess;

use crate::agent::{instant, needed, one, optional, write_time};

/// How many a node may tell of at once.
pub const MOST: usize = 64;

/// What it was that a node refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DenialKind {
    /// A process spoke where only another one may.
    Impersonation,
    /// Another program runs in a process than the one that was attested.
    ExeChanged,
    /// A process asked, and gets nothing.
    Denied,
}

impl DenialKind {
    /// By the reason in a word, as the node has it (`muster_peer::Refusal`, and others).
    pub fn of(reason: &str) -> Self {
        match reason {
            "not_bound" | "other_sender" => Self::Impersonation,
            "other_program" => Self::ExeChanged,
            _ => Self::Denied,
        }
    }
}

/// A process that was refused for one reason, perhaps many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why, in a word.
    pub reason: Word,
    /// Its number where the node runs; 0 if it has none there.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Where its executable was, as far as could be read: a hint, not a proof.
    pub executable: Shown,
    /// The task whose socket it used.
    pub task: Option<TaskId>,
    /// How many times, at least once.
    pub count: u64,
    /// When last, by the node's clock.
    pub last_at: Timestamp,
}

/// Writes one.
pub fn write(denial: &Denial) -> RefusedProcess {
    RefusedProcess {
        reason: denial.reason.to_string(),
        pid: denial.pid,
        uid: denial.uid,
        executable: denial.executable.to_string(),
        task: denial.task.map(|id| id.to_string()).unwrap_or_default(),
        count: denial.count,
        last_at: Some(write_time(denial.last_at)),
    }
}

/// Reads one.
pub fn read(message: &RefusedProcess) -> Result<Denial, FieldError> {
    if message.count == 0 {
        return Err(TextFault::Missing.at("count", "0"));
    }
    Ok(Denial {
        reason: needed("reason", &message.reason, Word::parse)?,
        pid: message.pid,
        uid: message.uid,
        executable: one("executable", &message.executable, Shown::parse)?,
        task: optional("task", &message.task, TaskId::parse)?,
        count: message.count,
        last_at: instant("last_at", message.last_at)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial() -> Denial {
        Denial {
            reason: Word::parse("not_bound").unwrap(),
            pid: 7,
            uid: 1000,
            executable: Shown::of("/usr/bin/curl"),
            task: TaskId::parse("01JDQ8Z0000000000000000000").ok(),
            count: 3,
            last_at: Timestamp::from_unix_seconds(1_767_225_600),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&write(&denial())), Ok(denial()));
        let bare = Denial {
            executable: Shown::empty(),
            task: None,
            ..denial()
        };
        assert_eq!(read(&write(&bare)), Ok(bare));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |spoil: &dyn Fn(&mut RefusedProcess), field: &str| {
            let mut message = write(&denial());
            spoil(&mut message);
            assert_eq!(read(&message).unwrap_err().field, field);
        };
        check(&|m| m.reason = String::new(), "reason");
        check(&|m| m.reason = "a reason".into(), "reason");
        check(&|m| m.executable = "\u{1b}[2J".into(), "executable");
        check(&|m| m.task = "t".into(), "task");
        check(&|m| m.count = 0, "count");
        check(&|m| m.last_at = None, "last_at");
    }
}
