//! What is to be said to the server: in batches, one at a time, again and again until it is heard.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_model::TaskId;

/// The most in one batch; the server takes twice as many.
const BATCH: usize = 500;
/// The wait after a first failure.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// One kind of thing to say, by task.
#[derive(Debug)]
pub(crate) struct Mail<T> {
    waiting: BTreeMap<TaskId, T>,
    under_way: BTreeMap<TaskId, T>,
    failures: u32,
    resting: bool,
}

impl<T> Default for Mail<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            under_way: BTreeMap::new(),
            failures: 0,
            resting: false,
        }
    }
}

impl<T: Clone> Mail<T> {
    /// Something is to be said, in place of what was.
    pub(crate) fn post(&mut self, id: TaskId, what: T) {
        self.waiting.insert(id, what);
    }

    /// Whether something about the task waits or is under way.
    pub(crate) fn has(&self, id: TaskId) -> bool {
        self.waiting.contains_key(&id) || self.under_way.contains_key(&id)
    }

    /// The next batch, if there is something to say and nothing is under way.
    pub(crate) fn next(&mut self) -> Option<Vec<(TaskId, T)>> {
        if self.resting || !self.under_way.is_empty() || self.waiting.is_empty() {
            return None;
        }
        while self.under_way.len() < BATCH
            && let Some((id, what)) = self.waiting.pop_first()
        {
            self.under_way.insert(id, what);
        }
        let batch = self.under_way.iter();
        Some(batch.map(|(id, what)| (*id, what.clone())).collect())
    }

    /// What was under way was heard; which tasks that was about, and of which nothing newer waits.
    pub(crate) fn heard(&mut self) -> Vec<TaskId> {
        self.failures = 0;
        let heard = std::mem::take(&mut self.under_way);
        let is_last = |id: &TaskId| !self.waiting.contains_key(id);
        heard.into_keys().filter(is_last).collect()
    }

    /// What was under way was not heard. How long to wait before the next attempt; `None` if
    /// nothing was under way.
    pub(crate) fn unheard(&mut self) -> Option<Duration> {
        if self.under_way.is_empty() {
            return None;
        }
        for (id, what) in std::mem::take(&mut self.under_way) {
            self.waiting.entry(id).or_insert(what);
        }
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        self.resting = true;
        Some(FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT))
    }

    /// The wait is over.
    pub(crate) fn go_on(&mut self) {
        self.resting = false;
    }
}
