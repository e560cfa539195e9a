//! What the machine hears and what it wants done.

use std::collections::BTreeSet;

use muster_model::{TaskId, TaskState, Timestamp};

/// A process of this boot: a number is given again, a number with a start is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// Its number in the node's pid namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

/// A stream that holds a task, named by the driver; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// To what a task is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// One process, and nothing that it starts.
    Process(ProcessId),
    /// Every process of a control group, by the number of that.
    Cgroup(u64),
    /// An open stream, and the process that holds it.
    Lease(LeaseId, ProcessId),
}

impl Binding {
    /// The process with which the task ends, if it is one.
    pub fn process(self) -> Option<ProcessId> {
        match self {
            Self::Process(process) | Self::Lease(_, process) => Some(process),
            Self::Cgroup(_) => None,
        }
    }

    /// The control group with which the task ends, if it is one.
    pub fn cgroup(self) -> Option<u64> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup),
            Self::Process(_) | Self::Lease(..) => None,
        }
    }
}

/// A task, as far as the machine has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its name.
    pub id: TaskId,
    /// The task that it is part of.
    pub parent: Option<TaskId>,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// How much it has spent.
    pub spent: u64,
    /// The process that opened it.
    pub opener: ProcessId,
    /// To what it is bound.
    pub binding: Binding,
}

/// Why a task ended, as the node says it: words that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// By its own word, done or not.
    OwnWord,
    /// Its deadline has passed.
    DeadlinePassed,
    /// The task that it was part of has ended.
    ParentEnded,
    /// Its process has ended.
    ProcessExited,
    /// No process is left in its control group.
    CgroupEmptied,
    /// The stream that held it has ended.
    LeaseEnded,
    /// Its process ended, or its stream, while the node did not run.
    NodeRestarted,
    /// It never came into force: its identity did not reach the node in time.
    NotInForce,
    /// It never came into force: its socket could not be made.
    NoSocket,
    /// Nobody waited for it any more when it was open.
    CallerGone,
}

impl Cause {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnWord => "own_word",
            Self::DeadlinePassed => "deadline_passed",
            Self::ParentEnded => "parent_ended",
            Self::ProcessExited => "process_exited",
            Self::CgroupEmptied => "cgroup_emptied",
            Self::LeaseEnded => "lease_ended",
            Self::NodeRestarted => "node_restarted",
            Self::NotInForce => "not_in_force",
            Self::NoSocket => "no_socket",
            Self::CallerGone => "caller_gone",
        }
    }
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In which way: a final state.
    pub state: TaskState,
    /// Why, in a word: one of [`Cause`], or the server's.
    pub cause: Box<str>,
    /// When.
    pub at: Timestamp,
    /// The exit status of its process, where that ended it and the kernel tells.
    pub exit_status: Option<i32>,
}

/// An end that the server is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The task. What is part of it has ended with it.
    pub id: TaskId,
    /// Its end.
    pub end: End,
}

/// How a task stands by the server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The task.
    pub id: TaskId,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// How much it has spent.
    pub spent: u64,
    /// How it stands: open or suspended, or its end.
    pub stands: Listed,
}

/// Whether a task is open by the server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is open.
    Open,
    /// It has no identity for now.
    Suspended,
    /// It has ended.
    Ended(End),
}

/// What an earlier run left of a task, and what has become of what it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It lives, for sure.
    Lives,
    /// It does not, or nobody can tell.
    Gone,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Nothing but the passage of time.
    Tick,
    /// The server opened a task.
    Opened(Opened),
    /// The journal of an earlier run has a live task. Hand these in first, by ascending ID.
    Recalled(Opened, Past),
    /// The journal of an earlier run has an end that the server was not told of.
    RecalledEnd(Ended),
    /// Its socket listens.
    Listening(TaskId),
    /// Its socket could not be made.
    NotListening(TaskId),
    /// The node's view has the task's entry.
    Entered(TaskId),
    /// The node's view no longer has the task's entry.
    Left(TaskId),
    /// The node has a new view: these are all the tasks' entries in it.
    View(BTreeSet<TaskId>),
    /// A process has ended.
    ProcessExited(ProcessId, Option<i32>),
    /// A control group has no process any more.
    CgroupEmptied(u64),
    /// A stream has ended.
    LeaseEnded(LeaseId),
    /// The task says that its work is done.
    Completed(TaskId),
    /// It says that its work is not done, or nobody wants it any more.
    Failed(TaskId, Cause),
    /// The server knows of these ends: the answer to [`Action::Tell`].
    Told,
    /// It could not be told.
    NotTold,
    /// How tasks stand by the server's word: after a call about them.
    Stands(Vec<Standing>),
    /// The answer to [`Action::Ask`]: how the tasks stand that the server knows.
    Answered(Vec<Standing>),
    /// It could not be asked.
    NotAnswered,
    /// All tasks that the server has as this node's and that have not ended. Hand it in only when
    /// no task is being opened.
    Reconciled(Vec<Standing>),
    /// The server is there again: what waits to be told need not wait on.
    LinkUp,
}

/// What of a task is news for those who watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is in force, for the first time.
    Opened,
    /// Its deadline has moved.
    Extended,
    /// Something was spent.
    Spent,
    /// It has ended.
    Ended,
    /// It is in force again.
    Resumed,
}

impl What {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Extended => "extended",
            Self::Spent => "spent",
            Self::Ended => "ended",
            Self::Resumed => "resumed",
        }
    }
}

/// Something is to be done. In the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write into the journal that the task is live, before anything else is done for it.
    Remember(TaskId),
    /// Write into the journal that the task has ended, and that the server is still to be told.
    RememberEnd(Ended),
    /// Strike the task from the journal.
    Forget(TaskId),
    /// Make the task's socket, and say [`Event::Listening`] or [`Event::NotListening`].
    OpenSocket(TaskId),
    /// Close and remove the task's socket, and end its connections.
    CloseSocket(TaskId),
    /// Take the task's identity from the roster at once, whatever the view says.
    Withdraw(TaskId),
    /// Watch a process, and say [`Event::ProcessExited`].
    WatchProcess(ProcessId),
    /// Watch it no longer.
    UnwatchProcess(ProcessId),
    /// Watch a control group, and say [`Event::CgroupEmptied`].
    WatchCgroup(u64),
    /// Watch it no longer.
    UnwatchCgroup(u64),
    /// Tell the server, and say [`Event::Told`] or [`Event::NotTold`].
    Tell(Vec<Ended>),
    /// Ask the server, and say [`Event::Answered`] or [`Event::NotAnswered`].
    Ask(Vec<TaskId>),
    /// Tell those who watch.
    News(TaskId, What),
    /// Nobody can ask about the ended task any more.
    Drop(TaskId),
}
