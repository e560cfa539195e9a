//! Tasks: one piece of an agent's work each.

use std::fmt;
use std::str::FromStr;

use super::class::words;
use super::{BoundTo, ClassName, DataClass, Permissions, Sha256, TextFault, Word};
use crate::{IdError, Revision, RuleName, SpiffeId, Timestamp};

/// The digits of Crockford's base 32, as ULIDs are written.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// A ULID has 26 of them.
const LENGTH: usize = 26;

/// The name of a task: a ULID, which sorts by the time at which it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u128);

impl TaskId {
    /// Before all others, and after all others.
    pub const ENDS: (Self, Self) = (Self(0), Self(u128::MAX));

    /// The ULID of that instant with that randomness; instants before 1970 count as 1970.
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let millis = u128::from(at.unix_millis().max(0).unsigned_abs()) & ((1 << 48) - 1);
        let random = random
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u128::from(*byte));
        Self((millis << 80) | random)
    }

    /// Parses the one way in which a ULID is written here: 26 digits, upper case.
    pub fn parse(text: &str) -> Result<Self, TextFault> {
        if text.len() != LENGTH || text.bytes().next().is_none_or(|first| first > b'7') {
            return Err(TextFault::TaskId);
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let digit = DIGITS
                .iter()
                .position(|digit| *digit == byte)
                .ok_or(TextFault::TaskId)?;
            value = (value << 5) | u128::try_from(digit).unwrap_or_default();
        }
        Ok(Self(value))
    }

    /// When it was made.
    pub fn made_at(self) -> Timestamp {
        Timestamp::from_unix_millis(i64::try_from(self.0 >> 80).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(LENGTH);
        for place in (0..LENGTH).rev() {
            let digit = usize::try_from((self.0 >> (place * 5)) & 31).unwrap_or_default();
            text.push(char::from(DIGITS.get(digit).copied().unwrap_or(b'0')));
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = TextFault;
    fn from_str(text: &str) -> Result<Self, TextFault> {
        Self::parse(text)
    }
}

words! {
    /// Where a task stands. Only `open` has an identity; all but `open` and `suspended` are final.
    TaskState {
        /// Under way.
        Open = "open",
        /// Paused: its node is out of reach, or its class is.
        Suspended = "suspended",
        /// Done, by its own word.
        Completed = "completed",
        /// Not done, by its own word.
        Failed = "failed",
        /// Its deadline has passed, or its budget is spent.
        Expired = "expired",
        /// Ended from outside: an operator, its parent's end, its class.
        Revoked = "revoked",
        /// Its process ended.
        ProcessExited = "process_exited",
    }
}

/// One piece of an agent's work: an identity that is narrower than its agent's, and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// The agent whose work it is.
    pub instance: SpiffeId,
    /// The class of the agent.
    pub class: ClassName,
    /// The node on which it runs; nobody else has its identity.
    pub node: SpiffeId,
    /// The rule that gave its caller the agent's name when it was opened, where a rule did.
    pub rule: Option<RuleName>,
    /// What it is bound to there.
    pub bound_to: BoundTo,
    /// How surely its caller was attested when it was opened, 0 to 3.
    pub level: u8,
    /// The task that it is part of.
    pub parent: Option<TaskId>,
    /// The first task of all that it is part of; its own name if it is that one.
    pub root: TaskId,
    /// What kind of work it is.
    pub kind: Word,
    /// SHA-256 of the instruction; the text stays outside.
    pub purpose: Option<Sha256>,
    /// What it may ask for.
    pub permissions: Permissions,
    /// The most sensitive data that it may have.
    pub data_class: DataClass,
    /// How much it may spend; `None` is no bound.
    pub budget: Option<u64>,
    /// How much it has spent.
    pub spent: u64,
    /// How deep it stands below its root: 0 is the root itself.
    pub depth: u8,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// Where it stands.
    pub state: TaskState,
    /// Why, where it is no longer open: a [`Cause`](super::Cause) of the server's, or a word of the
    /// node's.
    pub cause: Option<Word>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The exit status of its process, where that ended it.
    pub exit_status: Option<i32>,
    /// How often what its node sees of it was changed.
    pub edition: u32,
    /// The transaction that last wrote it.
    pub changed_at: Revision,
}

/// What stands between the name of an agent and the ID of a task in the identity of that task
/// (agent-identity 4.1).
const MARK: &str = "/t/";

impl Task {
    /// Its identity, `AGENT/t/ID`; an error where that is longer than a SPIFFE ID may be.
    pub fn spiffe_id(&self) -> Result<SpiffeId, IdError> {
        self.id.identity_under(&self.instance)
    }

    /// Whether it is neither ended nor paused.
    pub fn is_open(&self) -> bool {
        self.state == TaskState::Open
    }

    /// Whether it has not ended: it is open or paused.
    pub fn is_live(&self) -> bool {
        matches!(self.state, TaskState::Open | TaskState::Suspended)
    }
}

impl TaskId {
    /// The identity of the task of this name, for the agent of that identity.
    pub fn identity_under(self, agent: &SpiffeId) -> Result<SpiffeId, IdError> {
        let path = format!("{}{MARK}{self}", agent.path());
        agent.trust_domain().with_path(&path)
    }

    /// The task of which an identity is, by its path alone, and the path of the agent; whether there
    /// is such a task, the roll says.
    pub fn in_path(id: &SpiffeId) -> Option<(&str, Self)> {
        let path = id.path();
        let at = path.len().checked_sub(MARK.len() + LENGTH)?;
        let (agent, rest) = path.split_at_checked(at)?;
        let task = Self::parse(rest.strip_prefix(MARK)?).ok()?;
        (!agent.is_empty()).then_some((agent, task))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ulids() {
        // The example of the ULID specification.
        let id = TaskId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        assert_eq!(id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(id.made_at().unix_millis(), 1_469_922_850_259);
        let most = TaskId::new(Timestamp::from_unix_millis((1 << 48) - 1), [0xff; 10]);
        assert_eq!(most.to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        for bad in [
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01arz3ndektsv4rrffq69g5fav",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
        ] {
            assert_eq!(TaskId::parse(bad), Err(TextFault::TaskId), "{bad}");
        }
    }

    #[test]
    fn the_task_in_a_path() {
        let check = |path: &str, found: Option<&str>| {
            let id = SpiffeId::parse(&format!("spiffe://td{path}")).unwrap();
            let task = TaskId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
            assert_eq!(
                TaskId::in_path(&id),
                found.map(|agent| (agent, task)),
                "{path}"
            );
            if let Some(agent) = found {
                let agent = SpiffeId::parse(&format!("spiffe://td{agent}")).unwrap();
                assert_eq!(task.identity_under(&agent), Ok(id));
            }
        };
        let agent = "/agent/reader/7";
        check("/agent/reader/7/t/01ARZ3NDEKTSV4RRFFQ69G5FAV", Some(agent));
        check("/batch/t/01ARZ3NDEKTSV4RRFFQ69G5FAV", Some("/batch"));
        check("/agent/reader/7", None);
        check("/t/01ARZ3NDEKTSV4RRFFQ69G5FAV", None);
        check("/agent/reader/7/t/01arz3ndektsv4rrffq69g5fav", None);
        check("/agent/reader/7/x/01ARZ3NDEKTSV4RRFFQ69G5FAV", None);
        check("/agent/reader/7/t/01ARZ3NDEKTSV4RRFFQ69G5FAV/x", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn ulids_lead_back_and_sort_by_time(millis in 0_i64..(1 << 47), random: [u8; 10], later: [u8; 10]) {
            let id = TaskId::new(Timestamp::from_unix_millis(millis), random);
            prop_assert_eq!(TaskId::parse(&id.to_string()), Ok(id));
            prop_assert_eq!(id.made_at().unix_millis(), millis);
            let after = TaskId::new(Timestamp::from_unix_millis(millis + 1), later);
            prop_assert!(id < after && id.to_string() < after.to_string());
        }
    }
}
