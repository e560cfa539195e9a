//! How fast something that failed is tried again.

use std::time::Duration;

use muster_crypto::digest::sha256;

/// The wait after the first failure, at the most: most breaks are short.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that double from failure to failure, spread so that nodes that lost their server together
/// do not come back together.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    seed: u64,
    failures: u32,
    /// Counts all waits, so that no two are spread alike.
    waits: u64,
}

impl Pace {
    /// A pace that spreads by `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            failures: 0,
            waits: 0,
        }
    }

    /// How long to wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.waits = self.waits.wrapping_add(1);
        let mut text = [0; 16];
        for (to, from) in text.iter_mut().zip(
            self.seed
                .to_be_bytes()
                .into_iter()
                .chain(self.waits.to_be_bytes()),
        ) {
            *to = from;
        }
        let draw = sha256(&text).first().copied().unwrap_or(0);
        // Between a quarter and the whole.
        full / 4 + full.mul_f64(0.75 * f64::from(draw) / 255.0)
    }

    /// Things are well again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_at_first_then_patient_and_spread() {
        let (mut one, mut other) = (Pace::new(1), Pace::new(2));
        assert!(one.next() <= FIRST && other.next() <= FIRST);
        let mut same = 0;
        for _ in 0..20 {
            let (a, b) = (one.next(), other.next());
            assert!(a <= LONGEST && b <= LONGEST);
            same += u32::from(a == b);
        }
        assert!(same < 3);
        assert!(one.next() >= LONGEST / 4);
        one.reset();
        assert!(one.next() <= FIRST);
    }
}
