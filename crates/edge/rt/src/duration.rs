//! Durations as people write them: `90s`, `10m`, `1h30m`, `500ms`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The units, longest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing was written.
    #[error("a duration is empty")]
    Empty,
    /// A unit has no whole number before it.
    #[error("a duration is a whole number and a unit")]
    Number,
    /// A number has no unit behind it, or one that is not known.
    #[error("a duration has the units d, h, m, s and ms")]
    Unit,
    /// A unit comes twice, or after a shorter one.
    #[error("the units of a duration go from the longest to the shortest, each once")]
    Order,
    /// More than 584 million years.
    #[error("the duration is too long")]
    TooLong,
}

/// Parses a duration: whole numbers with units from the longest to the shortest, no spaces.
///
/// `0s` is a duration; a bare `0` is not, so that nobody has to guess its unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.as_slice();
    while !rest.is_empty() {
        let (number, after) = rest.split_at(run(rest, |c| c.is_ascii_digit()));
        let (unit, after) = after.split_at(run(after, |c| !c.is_ascii_digit()));
        if number.is_empty() {
            return Err(DurationError::Number);
        }
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(DurationError::Unit);
        }
        let place = units
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or(DurationError::Order)?;
        let (_, millis) = units.get(place).ok_or(DurationError::Order)?;
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        total = number
            .checked_mul(*millis)
            .and_then(|part| total.checked_add(part))
            .ok_or(DurationError::TooLong)?;
        units = units.get(place + 1..).unwrap_or_default();
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// Shows a duration as [`parse`] reads it; what is below a millisecond is not shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in UNITS {
            let number = rest / millis;
            if number > 0 {
                write!(f, "{number}{unit}")?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Shown {
    type Err = DurationError;
    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(Self)
    }
}

/// Length in bytes of the leading characters that are `wanted`.
fn run(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_duration() {
        let check = |text: &str, millis: u64| {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        };
        check("24h", 86_400_000);
        check("10m", 600_000);
        check("1h30m", 5_400_000);
        check("90s", 90_000);
        check("500ms", 500);
        check("1s500ms", 1_500);
        check("7d", 604_800_000);
        check("0s", 0);
    }

    #[test]
    fn what_is_not() {
        let check = |text: &str, error| assert_eq!(parse(text), Err(error), "{text}");
        check("", DurationError::Empty);
        check("0", DurationError::Unit);
        check("10", DurationError::Unit);
        check("10 m", DurationError::Unit);
        check("10minutes", DurationError::Unit);
        check("1.5h", DurationError::Unit);
        check("m", DurationError::Number);
        check("-1s", DurationError::Number);
        check("30m1h", DurationError::Order);
        check("1h1h", DurationError::Order);
        check("99999999999999999999s", DurationError::TooLong);
        check("999999999999999999d", DurationError::TooLong);
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in ["0s", "500ms", "1m30s", "1h30m", "1d", "1d1h1m1s1ms"] {
            let parsed: Shown = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(Shown(Duration::from_mins(90)).to_string(), "1h30m");
    }
}
