//! When an SVID is renewed: decided once, around half its life, spread by a hash.
//!
//! A renewal instant that is drawn anew at each check bunches up at the early end of its range;
//! one that is computed from the SVID itself does not, and is the same after a restart.

use std::time::Duration;

use muster_crypto::digest;
use muster_model::Timestamp;

/// How far certificates are dated back, to bear with slow clocks (spire-behaviour 2.1; X509I-18).
pub const BACKDATE: Duration = Duration::from_secs(10);

/// The earliest renewal, in parts per million of the lifetime.
const EARLIEST_PPM: u64 = 450_000;
/// The width of the spread, in parts per million of the lifetime.
const SPREAD_PPM: u64 = 100_000;

/// When the X509-SVID that is valid from `not_before` to `not_after` is renewed: between 0.45
/// and 0.55 of its life, by a hash of `spread_seed` (the node and the serial number, say).
///
/// Life is counted from the issue, which is [`BACKDATE`] after `not_before`; otherwise an SVID
/// that lives for seconds would be past its half when it is born. The result is before two thirds
/// of that life (WAPI-53) and never outside the validity.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, spread_seed: &[u8]) -> Timestamp {
    let issued = not_before.plus(BACKDATE);
    // An issuer that does not date back may give less than the correction.
    let start = if issued < not_after {
        issued
    } else {
        not_before
    };
    spread(start, not_after, spread_seed)
}

/// The shortest availability target that may be asked for (spire-behaviour 1.2).
pub const AVAILABILITY_TARGET_MIN: Duration = Duration::from_hours(24);
/// How much longer than the target an SVID must live for the target to count (spire-behaviour 2.6).
const AVAILABILITY_MARGIN: Duration = Duration::from_hours(12);
/// The width of the spread of renewals that come from a target.
const AVAILABILITY_SPREAD: Duration = Duration::from_mins(10);

/// As [`renew_at`], for a node that wants every SVID to have `target` of its life left when its
/// server is lost: renewed when that much and a spread of ten minutes remain, or around half of
/// life, whichever is first. `None` when the SVID lives too short for the target to be kept: less
/// than twelve hours more; the half of life alone decides then (spire-behaviour 2.6).
pub fn renew_for_availability(
    not_before: Timestamp,
    not_after: Timestamp,
    target: Duration,
    spread_seed: &[u8],
) -> Option<Timestamp> {
    if not_after.since(not_before) <= target.saturating_add(AVAILABILITY_MARGIN) {
        return None;
    }
    let left = not_after.minus(target);
    let by_target = spread_within(left.minus(AVAILABILITY_SPREAD), left, spread_seed);
    Some(by_target.min(renew_at(not_before, not_after, spread_seed)))
}

/// When the JWT-SVID issued at `issued_at` that expires at `expires_at` is renewed; as
/// [`renew_at`], without back-dating.
pub fn renew_jwt_at(issued_at: Timestamp, expires_at: Timestamp, spread_seed: &[u8]) -> Timestamp {
    spread(issued_at, expires_at, spread_seed)
}

fn spread(start: Timestamp, end: Timestamp, seed: &[u8]) -> Timestamp {
    // `draw` is below 2^32: this scales it to [0, SPREAD_PPM).
    let ppm = EARLIEST_PPM + ((draw(seed) * SPREAD_PPM) >> 32);
    part(start, end, u128::from(ppm), 1_000_000)
}

/// An instant between `start` and `end`, by a hash.
fn spread_within(start: Timestamp, end: Timestamp, seed: &[u8]) -> Timestamp {
    part(start, end, u128::from(draw(seed)), 1 << 32)
}

/// The instant after `parts` of `all` parts of the way from `start` to `end`.
fn part(start: Timestamp, end: Timestamp, parts: u128, all: u128) -> Timestamp {
    let wait = end.since(start).as_millis() * parts / all;
    start.plus(Duration::from_millis(
        u64::try_from(wait).unwrap_or(u64::MAX),
    ))
}

/// A number below 2^32, the same for the same seed.
fn draw(seed: &[u8]) -> u64 {
    digest::sha256(seed)
        .iter()
        .take(4)
        .fold(0u64, |n, byte| (n << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    /// Two seconds of life, dated back by ten: renewed in the middle of the two.
    #[test]
    fn lifetimes_of_seconds() {
        let now = at(1_000_000);
        for seed in 0..200u32 {
            let renewal = renew_at(
                now.minus(BACKDATE),
                now.plus(Duration::from_secs(2)),
                &seed.to_be_bytes(),
            );
            let wait = renewal.since(now).as_millis();
            assert!((900..1100).contains(&wait), "{wait}");
        }
    }

    /// A week of life, a target of six days: renewed after a day, not after three and a half.
    #[test]
    fn a_target_brings_the_renewal_forward() {
        let day = Duration::from_hours(24);
        let (from, to) = (at(0), at(0).plus(7 * day));
        let mut waits = Vec::new();
        for seed in 0..200u32 {
            let seed = seed.to_be_bytes();
            let renewal = renew_for_availability(from, to, 6 * day, &seed).unwrap();
            let left = to.since(renewal);
            assert!(
                left >= 6 * day && left <= 6 * day + AVAILABILITY_SPREAD,
                "{left:?}"
            );
            waits.push(left);
            // A target that half of life keeps by itself changes nothing.
            assert_eq!(
                renew_for_availability(from, to, day, &seed),
                Some(renew_at(from, to, &seed))
            );
            // Too short a life: twelve hours more than the target is not more.
            let short = from.plus(day + AVAILABILITY_MARGIN);
            assert_eq!(renew_for_availability(from, short, day, &seed), None);
        }
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        let width = most.saturating_sub(*least);
        assert!(width > Duration::from_mins(9), "{width:?}");
    }

    #[test]
    fn the_spread_is_wide_and_repeatable() {
        let (from, to) = (at(0), at(3610));
        let waits: Vec<u128> = (0..1000u32)
            .map(|seed| {
                renew_at(from, to, &seed.to_be_bytes())
                    .since(from)
                    .as_secs()
                    .into()
            })
            .collect();
        let (first, last) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        // An hour: 360 seconds wide, nearly all of it used.
        assert!(last - first > 340, "{first} {last}");
        assert_eq!(renew_at(from, to, b"x"), renew_at(from, to, b"x"));
    }

    proptest! {
        /// WAPI-53, for every lifetime.
        #[test]
        fn between_045_and_two_thirds_of_life(ttl in 1u64..100_000_000, seed: u64) {
            let now = at(1_700_000_000);
            let renewal = renew_at(
                now.minus(BACKDATE),
                now.plus(Duration::from_secs(ttl)),
                &seed.to_be_bytes(),
            );
            let wait = renewal.since(now).as_millis();
            let life = u128::from(ttl) * 1000;
            prop_assert!(wait * 100 >= life * 45 - 100 && wait * 3 <= life * 2);
        }

        #[test]
        fn stays_inside_any_validity(from: i64, to: i64, seed: u64) {
            let (from, to) = (Timestamp::from_unix_millis(from), Timestamp::from_unix_millis(to));
            let renewal = renew_at(from, to, &seed.to_be_bytes());
            prop_assert!(from <= renewal && renewal <= to.max(from));
        }
    }
}
