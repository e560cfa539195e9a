//! The only place that reads the machine's clocks.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use muster_model::{Now, Timestamp};

/// Tells the time; everything that decides by time is handed one of these, or the [`Now`] that it
/// gave.
pub trait Clock: Send + Sync + 'static {
    /// Civil and monotonic time of this instant.
    fn now(&self) -> Now;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Now {
        (**self).now()
    }
}

/// The machine's clocks.
///
/// Monotonic time counts from the moment the value was made: hand out clones of one
/// `Arc<dyn Clock>`, so that all parts of a program count from the same start.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this module is where time comes from"
    )]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// The same as a shared trait object.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this module is where time comes from"
    )]
    fn now(&self) -> Now {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            // A clock set before 1970 is wrong, but it is what the machine says.
            Err(before) => {
                i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis)
            }
        };
        Now {
            wall: Timestamp::from_unix_millis(wall),
            mono: self.started.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_civil_time_is_in_this_century() {
        let clock = SystemClock::shared();
        let first = clock.now();
        let second = clock.now();
        assert!(second.mono >= first.mono);
        assert!(first.wall > Timestamp::from_unix_seconds(1_700_000_000));
    }
}
