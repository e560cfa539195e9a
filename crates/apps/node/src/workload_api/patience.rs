//! How long a caller waits, by its own word.

use std::time::Duration;

use http::HeaderMap;

const HEADER: &str = "grpc-timeout";

/// How long a refusal may be held back: one that is to arrive before the caller's deadline leaves
/// somewhat earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    /// That of the request, if it says for how long it waits.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let timeout = parse(headers.get(HEADER)?.to_str().ok()?)?;
        Some(Self(timeout.saturating_sub(timeout / 10)))
    }
}

/// gRPC over HTTP/2, Requests: at most eight digits, and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if value.len() > 8 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = value.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let check = |text: &str, expected: Option<Duration>| {
            assert_eq!(parse(text), expected, "{text:?}");
        };
        check("2H", Some(Duration::from_hours(2)));
        check("3M", Some(Duration::from_mins(3)));
        check("1S", Some(Duration::from_secs(1)));
        check("999999u", Some(Duration::from_micros(999_999)));
        check("20m", Some(Duration::from_millis(20)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "123456789S",
            "1 S",
            "\u{e9}",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_refusal_leaves_before_the_deadline() {
        let mut headers = HeaderMap::new();
        assert_eq!(Patience::of(&headers), None);
        headers.insert(HEADER, HeaderValue::from_static("1S"));
        let patience = Patience(Duration::from_millis(900));
        assert_eq!(Patience::of(&headers), Some(patience));
    }
}
