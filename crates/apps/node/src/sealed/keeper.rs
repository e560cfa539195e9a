//! When the memory is sealed: soon after it has changed, not at every change, and at the end.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{Now, SpiffeId};
use muster_svid::x509::X509Svid;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::snapshot::{self, NodeMemory};
use super::{Seal, SealError};
use crate::driver::NodeRoster;

/// How long after one seal the next one may be written, at the earliest. A kill loses what was
/// signed since.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a seal that failed.
const AFTER_FAILURE: Duration = Duration::from_mins(1);
/// How soon to look again at a seal that is being written.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

type Work = (Seal, Result<(), String>);

/// Keeps the sealed state up to date.
pub(crate) struct Keeper {
    seal: Option<Seal>,
    /// Whose memory it is.
    node: watch::Receiver<Option<X509Svid>>,
    known: Option<SpiffeId>,
    running: Option<JoinHandle<Work>>,
    dirty: bool,
    /// Another process seals.
    resting: bool,
    not_before: Duration,
    failed_before: bool,
}

impl Keeper {
    /// A keeper; without a seal it keeps nothing.
    pub(crate) fn new(seal: Option<Seal>, node: watch::Receiver<Option<X509Svid>>) -> Self {
        Self {
            seal,
            node,
            known: None,
            running: None,
            dirty: false,
            resting: false,
            not_before: Duration::ZERO,
            failed_before: false,
        }
    }

    /// What is remembered has changed.
    pub(crate) fn changed(&mut self) {
        self.dirty = true;
    }

    /// Another process seals from now on.
    pub(crate) fn rest(&mut self) {
        self.resting = true;
    }

    /// It does not after all.
    pub(crate) fn go_on(&mut self) {
        self.resting = false;
        self.dirty = true;
    }

    /// How long until [`Keeper::keep`] has something to do; `None` while nothing has changed.
    pub(crate) fn wait(&self, now: Now) -> Option<Duration> {
        match (&self.running, &self.seal) {
            (Some(_), _) => Some(LOOK_AGAIN),
            (None, Some(_)) if self.dirty && !self.resting => {
                Some(self.not_before.saturating_sub(now.mono))
            }
            (None, _) => None,
        }
    }

    /// Seals what has changed, if it is time.
    pub(crate) async fn keep(&mut self, roster: &NodeRoster, now: Now) {
        if self
            .running
            .as_ref()
            .is_some_and(|work| !work.is_finished())
        {
            return;
        }
        self.collect(now).await;
        if self.is_over() {
            self.forget();
        }
        if self.dirty && !self.resting && now.mono >= self.not_before && self.seal.is_some() {
            self.begin(roster, now);
        }
    }

    /// Seals what there is at the end of the process.
    pub(crate) async fn finish(mut self, roster: &NodeRoster, now: Now) {
        self.collect(now).await;
        if self.resting {
            return;
        }
        if self.is_over() {
            self.forget();
            return;
        }
        self.begin(roster, now);
        self.collect(now).await;
    }

    /// Whether the node was somebody and is nobody any more: the server has said that it is
    /// finished, and so is what its workloads had.
    fn is_over(&mut self) -> bool {
        let id = self
            .node
            .borrow()
            .as_ref()
            .map(|svid| svid.spiffe_id.clone());
        if id.is_some() {
            self.known = id;
            return false;
        }
        self.known.is_some()
    }

    fn forget(&mut self) {
        if let Some(seal) = &mut self.seal {
            seal.wipe();
        }
        self.seal = None;
    }

    fn begin(&mut self, roster: &NodeRoster, now: Now) {
        let Some(node) = self.known.clone() else {
            return;
        };
        let Some(memory) = roster.memory() else {
            return;
        };
        let Some(seal) = self.seal.take() else {
            return;
        };
        self.dirty = false;
        self.not_before = now.mono + INTERVAL;
        let lifetime = memory
            .last_expiry
            .map_or(Duration::ZERO, |at| at.since(now.wall));
        let memory = Arc::new(memory);
        self.running = Some(tokio::task::spawn_blocking(move || {
            work(seal, &node, &memory, lifetime)
        }));
    }

    /// Takes the seal back from the work that was begun.
    async fn collect(&mut self, now: Now) {
        let Some(running) = self.running.take() else {
            return;
        };
        // A runtime that goes down takes the seal with it.
        let Ok((seal, result)) = running.await else {
            return;
        };
        self.seal = Some(seal);
        if let Err(error) = result {
            if !self.failed_before {
                tracing::warn!(%error, "the node's memory was not sealed");
            }
            self.failed_before = true;
            self.dirty = true;
            self.not_before = now.mono + AFTER_FAILURE;
        } else {
            self.failed_before = false;
        }
    }
}

fn work(mut seal: Seal, node: &SpiffeId, memory: &NodeMemory, lifetime: Duration) -> Work {
    let result = snapshot::write(memory)
        .map_err(|error| error.to_string())
        .and_then(|plain| {
            seal.put(node, &plain, lifetime)
                .map_err(|error: SealError| error.to_string())
        });
    (seal, result)
}
