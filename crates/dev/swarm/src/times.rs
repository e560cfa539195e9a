//! Quantiles and rates.

use std::time::Duration;

/// Measured times, for their quantiles.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time in milliseconds that `per_cent` of all do not exceed (nearest rank); 0 if there is
    /// none.
    pub(crate) fn quantile(&mut self, per_cent: usize) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() * per_cent).div_ceil(100).max(1) - 1;
        millis(self.0.get(rank).copied().unwrap_or_default())
    }
}

/// In milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A count as a number that can be divided; counts here are far below 2^52.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a scenario are far below 2^52"
)]
pub(crate) fn number(count: usize) -> f64 {
    count as f64
}

/// A large count as a number; bytes of a scenario are far below 2^52.
pub(crate) fn large(count: u64) -> f64 {
    number(usize::try_from(count).unwrap_or(usize::MAX))
}

/// So many in that time, by the second; 0 when there was no time.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        number(count) / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut times = Times::default();
        assert!(times.quantile(99).abs() < f64::EPSILON);
        for millis in (1..=200).rev() {
            times.add(Duration::from_millis(millis));
        }
        assert!((times.quantile(50) - 100.0).abs() < 1e-9);
        assert!((times.quantile(99) - 198.0).abs() < 1e-9);
        assert_eq!(times.count(), 200);
    }

    #[test]
    fn no_time_is_no_rate() {
        assert!(rate(5, Duration::ZERO).abs() < f64::EPSILON);
        assert!((rate(5, Duration::from_millis(500)) - 10.0).abs() < 1e-9);
    }
}
