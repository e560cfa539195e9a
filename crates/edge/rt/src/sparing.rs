//! Log lines that others can provoke, sparingly: a flood must not fill a disk.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets a few lines pass in each period, and counts those that it holds back.
#[derive(Debug)]
pub struct Sparing {
    most: u32,
    period: Duration,
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    passed: u32,
    held_back: u64,
}

impl Sparing {
    /// At most `most` lines in each `period`.
    pub const fn new(most: u32, period: Duration) -> Self {
        Self {
            most,
            period,
            state: Mutex::new(None),
        }
    }

    /// Whether a line may be written now; if so, how many were held back since the last one.
    pub fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.get_or_insert(State {
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
        let passed: Vec<_> = (0..5).map(|_| sparing.pass()).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([sparing.pass(), sparing.pass()], [Some(3), Some(0)]);
        assert_eq!(sparing.pass(), None);
    }
}
