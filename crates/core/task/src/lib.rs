//! The tasks of one node: what each is bound to, what ends it, and what follows from its end, turned
//! into things to do.
//!
//! Start at [`Tasks`]: [`Tasks::handle`] hears an [`Event`], [`Tasks::poll_action`] says what to
//! do, [`Tasks::poll_timeout`] when to come back. Like the roster's, this machine decides and does
//! nothing: no sockets, no clock, no processes, no files.
//!
//! What holds at all times, in whatever order events come:
//!
//! - No socket is open whose task is not live.
//! - Every live task has an end ahead: a deadline that the machine will come back for.
//! - What is part of a task that has ended has ended, in the same breath.
//! - A task that has ended stays so, and the server is told of every end that it does not know, until
//!   it has said that it knows.
//! - What is in the journal is what a restart needs: the live tasks, and the ends that are still to
//!   be told.
//!
//! Deliberately not here: whether a task may be opened (the server says), what its identity is and
//! when it renews (`core/roster`), who is at the other end of its socket (`edge/peer`).

mod event;
mod mail;
mod tasks;
mod time;

pub use event::{
    Action, Binding, Cause, End, Ended, Event, LeaseId, Listed, Opened, Past, ProcessId, Standing,
    What,
};
pub use tasks::{Config, Phase, Seen, Tasks};
