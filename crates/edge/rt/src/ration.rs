//! So much in the long run, and more after a silence.

use std::time::Duration;

/// A ration of something, such as records: one each `each`, and up to `burst` at once after a
/// silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ration {
    each: Duration,
    burst: u32,
    /// When all that was taken is earned again, on the monotonic clock.
    earned_at: Duration,
}

impl Ration {
    /// A ration of which nothing was taken.
    pub const fn new(each: Duration, burst: u32) -> Self {
        Self {
            each,
            burst,
            earned_at: Duration::ZERO,
        }
    }

    /// How many may be taken at `now`, which is monotonic.
    pub fn left(&self, now: Duration) -> u32 {
        let owed = self.earned_at.saturating_sub(now);
        // A part of one that is owed is one that cannot be taken.
        let owed = owed.as_nanos().div_ceil(self.each.as_nanos().max(1));
        self.burst
            .saturating_sub(u32::try_from(owed).unwrap_or(u32::MAX))
    }

    /// Takes so many, of which there are as many left.
    pub fn take(&mut self, count: u32, now: Duration) {
        self.earned_at = self.earned_at.max(now) + self.each.saturating_mul(count);
    }

    /// Whether nothing is owed at `now`: it is then as good as a new one.
    pub fn is_full(&self, now: Duration) -> bool {
        self.earned_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_earned_again() {
        let second = Duration::from_secs(1);
        let mut ration = Ration::new(second, 3);
        let now = second * 100;
        assert_eq!(ration.left(now), 3);
        ration.take(3, now);
        assert_eq!(ration.left(now), 0);
        assert_eq!(ration.left(now + second / 2), 0);
        assert_eq!(ration.left(now + second), 1);
        assert!(!ration.is_full(now + second * 2));
        assert!(ration.is_full(now + second * 3));
        assert_eq!(ration.left(now + second * 1000), 3);
    }
}
