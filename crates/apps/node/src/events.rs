//! What happens on the node, for whoever watches.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_model::{Timestamp, TrustDomain};
use muster_proto::muster::node::admin::v1 as admin;
use muster_roster::Note;
use tokio::sync::broadcast;

/// How many events a slow watcher may be behind before it misses some.
const CAPACITY: usize = 4096;

/// How many refusals are remembered for whoever asks why.
const REFUSALS_KEPT: usize = 1024;
/// How many processes are remembered that asked for too much, apart from the others: a flood must
/// not have those forgotten.
const LIMITED_KEPT: usize = 256;
/// A process that goes on asking for too much is told of once in so long.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// The events of the node. Clones share them.
#[derive(Clone)]
pub(crate) struct Events {
    watchers: broadcast::Sender<admin::Event>,
    refusals: Arc<Mutex<VecDeque<(i32, PastRefusal)>>>,
    limited: Arc<Mutex<VecDeque<Limited>>>,
}

/// A process that asked for too much, by one limit.
struct Limited {
    pid: i32,
    reason: &'static str,
    at: Timestamp,
    told: Timestamp,
}

/// A refusal of the recent past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastRefusal {
    pub(crate) at: Timestamp,
    pub(crate) reason: String,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            watchers: broadcast::Sender::new(CAPACITY),
            refusals: Arc::default(),
            limited: Arc::default(),
        }
    }

    /// Follows the events from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<admin::Event> {
        self.watchers.subscribe()
    }

    /// Whether anybody watches: what nobody sees need not be put together.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.receiver_count() > 0
    }

    /// Tells all watchers.
    pub(crate) fn tell(&self, what: admin::event::What, at: Timestamp) {
        if self.is_watched() {
            let event = admin::Event {
                at: Some(timestamp(at)),
                what: Some(what),
            };
            // The last watcher may have just left.
            drop(self.watchers.send(event));
        }
    }

    /// Tells all watchers that a process was refused, and remembers it for a while.
    pub(crate) fn refused(&self, pid: u32, uid: u32, reason: &str, at: Timestamp) {
        let pid = i32::try_from(pid).unwrap_or(-1);
        let past = PastRefusal {
            at,
            reason: reason.to_owned(),
        };
        let mut kept = self.kept();
        if kept.len() == REFUSALS_KEPT {
            kept.pop_front();
        }
        kept.push_back((pid, past));
        drop(kept);
        let refused = admin::Refused {
            pid,
            uid,
            reason: reason.to_owned(),
        };
        self.tell(admin::event::What::Refused(refused), at);
    }

    /// Remembers that a process asked for too much, and tells all watchers, unless they were told
    /// so a moment ago: a flood is one piece of news.
    pub(crate) fn limited(&self, pid: u32, uid: u32, reason: &'static str, at: Timestamp) {
        let pid = i32::try_from(pid).unwrap_or(-1);
        let mut kept = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept
            .iter_mut()
            .rev()
            .find(|known| known.pid == pid && known.reason == reason);
        if let Some(known) = known {
            known.at = at;
            if at.since(known.told) < TOLD_AGAIN {
                return;
            }
            known.told = at;
        } else {
            if kept.len() == LIMITED_KEPT {
                kept.pop_front();
            }
            kept.push_back(Limited {
                pid,
                reason,
                at,
                told: at,
            });
        }
        drop(kept);
        let refused = admin::Refused {
            pid,
            uid,
            reason: reason.to_owned(),
        };
        self.tell(admin::event::What::Refused(refused), at);
    }

    /// What the process with this number was refused lately, newest first.
    pub(crate) fn refusals_of(&self, pid: i32) -> Vec<PastRefusal> {
        let mut found: Vec<PastRefusal> = self
            .kept()
            .iter()
            .filter(|(of, _)| *of == pid)
            .map(|(_, refusal)| refusal.clone())
            .collect();
        let limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = limited.iter().filter(|limited| limited.pid == pid);
        found.extend(limited.map(|limited| PastRefusal {
            at: limited.at,
            reason: limited.reason.to_owned(),
        }));
        found.sort_by_key(|refusal| Reverse(refusal.at));
        found
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(i32, PastRefusal)>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what the roster noted, as far as it is an event.
    pub(crate) fn note(&self, note: Note, at: Timestamp) {
        if let Note::Issued {
            entry,
            spiffe_id,
            serial,
            not_before,
            not_after,
            authority_id,
            renew_at,
            previous,
        } = note
        {
            let issued = admin::Issued {
                entry_id: entry.as_str().to_owned(),
                spiffe_id: spiffe_id.as_str().to_owned(),
                serial_number: serial.as_str().to_owned(),
                not_before: Some(timestamp(not_before)),
                not_after: Some(timestamp(not_after)),
                authority_id,
                renew_at: Some(timestamp(renew_at)),
                previous_serial_number: previous.map(|s| s.as_str().to_owned()).unwrap_or_default(),
            };
            self.tell(admin::event::What::Issued(issued), at);
        }
    }
}

/// An instant as protobuf writes it.
pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.unix_millis().rem_euclid(1000);
    prost_types::Timestamp {
        seconds: at.unix_seconds(),
        nanos: i32::try_from(millis * 1_000_000).unwrap_or(0),
    }
}

/// The key of bundle maps (WAPI-30, ID-19).
pub(crate) fn map_key(trust_domain: &TrustDomain) -> String {
    trust_domain.id().as_str().to_owned()
}
