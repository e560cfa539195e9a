//! Log lines that others can provoke, sparingly: a flood must not fill a disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets a few lines of each kind pass in each period, and counts those that it holds back. A flood
/// of one kind hides none of another.
#[derive(Debug)]
pub struct Sparing {
    most: u32,
    period: Duration,
    kinds: Mutex<BTreeMap<&'static str, State>>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    passed: u32,
    held_back: u64,
}

impl Sparing {
    /// At most `most` lines of a kind in each `period`.
    pub const fn new(most: u32, period: Duration) -> Self {
        Self {
            most,
            period,
            kinds: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether a line of this kind may be written now; if so, how many of it were held back since
    /// the last one. Kinds are words of a closed set, such as reasons.
    pub fn pass(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let state = kinds.entry(kind).or_insert(State {
            since: now,
            passed: 0,
            held_back: 0,
        });
        if now.duration_since(state.since) >= self.period {
            state.since = now;
            state.passed = 0;
        }
        if state.passed >= self.most {
            state.held_back += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_pass_and_the_others_are_counted() {
        let sparing = Sparing::new(2, Duration::from_secs(1));
        let passed: Vec<_> = (0..5).map(|_| sparing.pass("one")).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None, None]);
        assert_eq!(sparing.pass("another"), Some(0), "kinds are apart");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            [sparing.pass("one"), sparing.pass("one")],
            [Some(3), Some(0)]
        );
        assert_eq!(sparing.pass("one"), None);
    }
}
