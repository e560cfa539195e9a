//! Time, for measuring.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Civil time, for TLS.
pub(crate) fn wall() -> Timestamp {
    SystemClock::new().now().wall
}

/// Nanoseconds that two processes of one machine can compare.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the house tells milliseconds, and a wait may be shorter"
)]
pub(crate) fn shared_nanoseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
