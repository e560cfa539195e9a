//! Refusals, counted and told to whoever watches, wherever they were decided.

use std::sync::Arc;

use muster_model::TaskId;
use muster_peer::{Observer, Refusal, RefusedPeer};
use muster_rt::Clock;

use crate::denials::{Denials, Refused};
use crate::events::Events;

/// Counts refusals by reason.
const REFUSED: &str = "muster_node_refused_total";

/// Where refusals are reported. Clones report to the same.
#[derive(Clone)]
pub(crate) struct Refusals {
    events: Events,
    denials: Denials,
    clock: Arc<dyn Clock>,
}

impl Refusals {
    pub(crate) fn new(events: Events, denials: Denials, clock: Arc<dyn Clock>) -> Self {
        metrics::describe_counter!(
            REFUSED,
            "connections and calls that were refused, by reason"
        );
        Self {
            events,
            denials,
            clock,
        }
    }

    /// Process `pid` of `uid` was refused, on the socket of a task perhaps, for a reason in one word;
    /// whoever decided it has logged the sentence. A pid of 0 is a process that is not visible here.
    pub(crate) fn report(&self, pid: u32, uid: u32, reason: &'static str, task: Option<TaskId>) {
        self.put_off(pid, uid, reason);
        self.deny(pid, uid, reason, task);
    }

    /// Process `pid` of `uid` got nothing for a reason that passes, in one word: that is for this
    /// host to know, and nobody was denied anything.
    pub(crate) fn put_off(&self, pid: u32, uid: u32, reason: &'static str) {
        metrics::counter!(REFUSED, "reason" => reason).increment(1);
        self.events.refused(pid, uid, reason, self.clock.now().wall);
    }

    /// Process `pid` of `uid` was refused, on the socket of a task perhaps, because it, its user or
    /// everybody asked for too much: for a reason in one word.
    pub(crate) fn limited(&self, pid: u32, uid: u32, reason: &'static str, task: Option<TaskId>) {
        metrics::counter!(REFUSED, "reason" => reason).increment(1);
        self.events.limited(pid, uid, reason, self.clock.now().wall);
        self.deny(pid, uid, reason, task);
    }

    /// Tells the server of somebody whom a task's socket refused; what [`Refusals::observer_of_tasks`]
    /// does is done by itself.
    pub(crate) fn on_task(&self, peer: RefusedPeer, task: TaskId) {
        if is_news(peer.refusal) {
            self.deny(peer.pid, peer.uid, peer.refusal.word(), Some(task));
        }
    }

    /// The same of a task that has ended: whatever was refused, it is because of that.
    pub(crate) fn late(&self, peer: RefusedPeer, task: TaskId) {
        if is_news(peer.refusal) {
            self.deny(peer.pid, peer.uid, "task_ended", Some(task));
        }
    }

    /// Reports what a socket refuses before there is a call.
    pub(crate) fn observer(&self) -> Observer {
        let refusals = self.clone();
        Observer::new(move |peer| {
            let reason = peer.refusal.word();
            if peer.refusal.is_limit() {
                refusals.limited(peer.pid, peer.uid, reason, None);
            } else if is_news(peer.refusal) {
                refusals.report(peer.pid, peer.uid, reason, None);
            } else {
                refusals.put_off(peer.pid, peer.uid, reason);
            }
        })
    }

    /// The same for the sockets of tasks, who tell the server themselves whose task it is.
    pub(crate) fn observer_of_tasks(&self) -> Observer {
        let refusals = self.clone();
        Observer::new(move |peer| {
            let reason = peer.refusal.word();
            if peer.refusal.is_limit() {
                refusals.limited(peer.pid, peer.uid, reason, None);
            } else {
                refusals.put_off(peer.pid, peer.uid, reason);
            }
        })
    }

    fn deny(&self, pid: u32, uid: u32, reason: &'static str, task: Option<TaskId>) {
        self.denials.refused(Refused {
            reason,
            pid,
            uid,
            task,
        });
    }
}

/// Whether somebody was refused something: not where a connection ends before anything is asked on
/// it, or because its end is gone.
fn is_news(refusal: Refusal) -> bool {
    !matches!(
        refusal,
        Refusal::Gone { .. }
            | Refusal::Silent
            | Refusal::TooSlow { .. }
            | Refusal::Displaced { .. }
    )
}
