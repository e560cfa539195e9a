//! Refusals, counted and told to whoever watches, wherever they were decided.

use std::sync::Arc;

use muster_peer::Observer;
use muster_rt::Clock;

use crate::events::Events;

/// Counts refusals by reason.
const REFUSED: &str = "muster_node_refused_total";

/// Where refusals are reported. Clones report to the same.
#[derive(Clone)]
pub(crate) struct Refusals {
    events: Events,
    clock: Arc<dyn Clock>,
}

impl Refusals {
    pub(crate) fn new(events: Events, clock: Arc<dyn Clock>) -> Self {
        metrics::describe_counter!(
            REFUSED,
            "connections and calls that were refused, by reason"
        );
        Self { events, clock }
    }

    /// Process `pid` of `uid` was refused, for a reason in one word; whoever decided it has logged
    /// the sentence. A pid of 0 is a process that is not visible here.
    pub(crate) fn report(&self, pid: u32, uid: u32, reason: &'static str) {
        metrics::counter!(REFUSED, "reason" => reason).increment(1);
        self.events.refused(pid, uid, reason, self.clock.now().wall);
    }

    /// Process `pid` of `uid` was refused because it, its user or everybody asked for too much: for
    /// a reason in one word.
    pub(crate) fn limited(&self, pid: u32, uid: u32, reason: &'static str) {
        metrics::counter!(REFUSED, "reason" => reason).increment(1);
        self.events.limited(pid, uid, reason, self.clock.now().wall);
    }

    /// Reports what a socket refuses before there is a call.
    pub(crate) fn observer(&self) -> Observer {
        let refusals = self.clone();
        Observer::new(move |peer| {
            let reason = peer.refusal.word();
            if peer.refusal.is_limit() {
                refusals.limited(peer.pid, peer.uid, reason);
            } else {
                refusals.report(peer.pid, peer.uid, reason);
            }
        })
    }
}
