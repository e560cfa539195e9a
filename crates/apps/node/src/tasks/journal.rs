//! What a restart must know of tasks: facts, and no keys.
//!
//! One file of lines that is appended to, readable by the node alone. It is not sealed as the
//! node's memory is: that is sealed because it has keys, and a key of the kernel that is gone must
//! not take the record with it of what is still to be told. Nothing is forced to the disk: a
//! process that is killed leaves what it wrote, and a machine that stops ends all processes with
//! it, so that what its journal would have said is known anyway.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use muster_model::TaskId;
use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::node::v1 as node;
use muster_rt::files::{self, FileError};
use muster_task::{Ended, ProcessId};
use prost::Message;

use super::wire;

const NAME: &str = "tasks.journal";
/// The largest journal that is read, in bytes.
const LARGEST: u64 = 1 << 30;
/// So many lines that say nothing any more are kept before the file is written anew.
const DEAD_MAX: usize = 8192;

/// A live task, as the journal has it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Live {
    /// As its caller sees it.
    #[prost(message, optional, tag = "1")]
    pub(crate) task: Option<api::Task>,
    /// Who opened it.
    #[prost(uint32, tag = "2")]
    pub(crate) opener_pid: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) opener_start: u64,
    /// Whose its socket is.
    #[prost(uint32, tag = "4")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) gid: u32,
    /// The path of its control group.
    #[prost(string, tag = "6")]
    pub(crate) cgroup: String,
}

impl Live {
    pub(crate) fn opener(&self) -> ProcessId {
        ProcessId {
            pid: self.opener_pid,
            start_time: self.opener_start,
        }
    }
}

/// One line: exactly one of these.
#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(message, optional, tag = "1")]
    live: Option<Live>,
    #[prost(message, optional, tag = "2")]
    ended: Option<node::Ended>,
    #[prost(string, tag = "3")]
    forget: String,
}

/// What an earlier run left.
#[derive(Clone, Debug)]
pub(crate) enum Left {
    Live(Box<Live>),
    Ended(Ended),
}

/// The journal.
pub(crate) struct Journal {
    path: PathBuf,
    /// `None` while another process writes it, and after a failure until it is written anew.
    file: Option<File>,
    /// What a new file would have.
    lines: BTreeMap<TaskId, Vec<u8>>,
    dead: usize,
    resting: bool,
}

impl Journal {
    /// Opens the journal in the node's directory; what it has from an earlier run, by ascending ID.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Vec<Left>), FileError> {
        let mut journal = Self {
            path: directory.join(NAME),
            file: None,
            lines: BTreeMap::new(),
            dead: 0,
            resting: false,
        };
        let content = match files::read_private_within(&journal.path, LARGEST) {
            Ok(content) => content,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        let left = read(&content);
        for (id, what) in &left {
            let line = match what {
                Left::Live(live) => live_line(live),
                Left::Ended(ended) => ended_line(ended),
            };
            journal.lines.insert(*id, line);
        }
        journal.write_anew()?;
        Ok((journal, left.into_values().collect()))
    }

    /// A task is live.
    pub(crate) fn live(&mut self, id: TaskId, live: &Live) {
        self.append(id, Some(live_line(live)));
    }

    /// A task has ended, and the server does not know.
    pub(crate) fn ended(&mut self, ended: &Ended) {
        self.append(ended.id, Some(ended_line(ended)));
    }

    /// Nothing is to be remembered of a task.
    pub(crate) fn forget(&mut self, id: TaskId) {
        if self.lines.contains_key(&id) {
            self.append(id, None);
        }
    }

    /// Another process has it from now on.
    pub(crate) fn rest(&mut self) {
        self.resting = true;
        self.file = None;
    }

    /// It is this process's again.
    pub(crate) fn go_on(&mut self) {
        self.resting = false;
        self.rewrite();
    }

    fn append(&mut self, id: TaskId, line: Option<Vec<u8>>) {
        let forget = || {
            line_of(&Line {
                forget: id.to_string(),
                ..Line::default()
            })
        };
        let bytes = line.clone().unwrap_or_else(forget);
        let had = match line {
            Some(line) => self.lines.insert(id, line).is_some(),
            None => self.lines.remove(&id).is_some(),
        };
        self.dead += usize::from(had);
        if self.resting {
            return;
        }
        let written = self.file.as_mut().map(|file| file.write_all(&bytes));
        if self.dead > DEAD_MAX.max(2 * self.lines.len()) || !matches!(written, Some(Ok(()))) {
            self.rewrite();
        }
    }

    fn rewrite(&mut self) {
        if let Err(error) = self.write_anew() {
            tracing::error!(%error, "the journal of tasks cannot be written: a restart would not know of all of them");
        }
    }

    fn write_anew(&mut self) -> Result<(), FileError> {
        self.file = None;
        let content: Vec<u8> = self.lines.values().flatten().copied().collect();
        files::write_atomic(&self.path, &content, 0o600)?;
        self.dead = 0;
        let opened = OpenOptions::new().append(true).mode(0o600).open(&self.path);
        self.file = opened
            .inspect_err(|error: &io::Error| tracing::error!(%error, "the journal of tasks cannot be opened"))
            .ok();
        Ok(())
    }
}

fn live_line(live: &Live) -> Vec<u8> {
    line_of(&Line {
        live: Some(live.clone()),
        ..Line::default()
    })
}

fn ended_line(ended: &Ended) -> Vec<u8> {
    line_of(&Line {
        ended: Some(wire::write_end(ended)),
        ..Line::default()
    })
}

fn line_of(line: &Line) -> Vec<u8> {
    line.encode_length_delimited_to_vec()
}

/// What the lines come to. One that was not written to its end is the last.
fn read(mut content: &[u8]) -> BTreeMap<TaskId, Left> {
    let mut left = BTreeMap::new();
    while !content.is_empty() {
        let Ok(line) = Line::decode_length_delimited(&mut content) else {
            tracing::warn!("the journal of tasks breaks off; the server is asked for the rest");
            break;
        };
        let named = TaskId::parse(&line.forget).ok();
        if let Some(id) = named {
            left.remove(&id);
        }
        if let Some(live) = line.live
            && let Some(id) = live
                .task
                .as_ref()
                .and_then(|task| TaskId::parse(&task.id).ok())
        {
            left.insert(id, Left::Live(Box::new(live)));
        }
        if let Some(ended) = line.ended.as_ref().and_then(wire::read_end) {
            left.insert(ended.id, Left::Ended(ended));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use muster_model::{TaskState, Timestamp};
    use muster_task::End;

    use super::*;

    fn id(number: i64) -> TaskId {
        TaskId::new(Timestamp::from_unix_millis(number), [0; 10])
    }

    fn live(number: i64) -> Live {
        Live {
            task: Some(api::Task {
                id: id(number).to_string(),
                ..api::Task::default()
            }),
            opener_pid: 7,
            ..Live::default()
        }
    }

    fn ended(number: i64) -> Ended {
        Ended {
            id: id(number),
            end: End {
                state: TaskState::Completed,
                cause: "own_word".into(),
                at: Timestamp::from_unix_seconds(5),
                exit_status: Some(1),
            },
        }
    }

    #[test]
    fn a_restart_knows_what_was_written_and_a_torn_line_costs_itself_only() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, left) = Journal::open(directory.path()).unwrap();
        assert!(left.is_empty());
        for number in 1..=3 {
            journal.live(id(number), &live(number));
        }
        journal.ended(&ended(2));
        journal.forget(id(3));
        drop(journal);
        let path = directory.path().join(NAME);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &[200, 1, 3]].concat()).unwrap();

        let (mut journal, left) = Journal::open(directory.path()).unwrap();
        assert!(matches!(&left[..], [Left::Live(first), Left::Ended(second)]
            if **first == live(1) && *second == ended(2)));
        // What another process has is not written by this one.
        journal.rest();
        journal.forget(id(1));
        assert_eq!(Journal::open(directory.path()).unwrap().1.len(), 2);
        journal.go_on();
        assert_eq!(Journal::open(directory.path()).unwrap().1.len(), 1);
    }

    #[test]
    fn a_file_of_dead_lines_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        for _ in 0..=DEAD_MAX {
            journal.live(id(1), &live(1));
            journal.forget(id(1));
        }
        let length = std::fs::metadata(directory.path().join(NAME))
            .unwrap()
            .len();
        assert!(length < 1_000_000, "{length}");
    }
}
