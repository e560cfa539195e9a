//! Time, for measuring.

use std::time::Duration;

use muster_model::Timestamp;
use muster_rt::{Clock as _, SystemClock};

/// A stopwatch.
pub(crate) struct Stopwatch(SystemClock);

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(SystemClock::new())
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.now().mono
    }
}

/// Civil time, for TLS and for expiries.
pub(crate) fn wall() -> Timestamp {
    SystemClock::new().now().wall
}
