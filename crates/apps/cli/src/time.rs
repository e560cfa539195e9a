//! Instants and lifetimes as people write and read them.

use std::time::Duration;

use muster_model::Timestamp;
use muster_rt::duration::{self, DurationError, Shown};
use muster_rt::{Clock, SystemClock};

/// The time at which a command looks.
pub(crate) fn now() -> Timestamp {
    SystemClock::new().now().wall
}

/// RFC 3339 in UTC, whole seconds; the empty text for a time that is not set.
pub(crate) fn rfc3339(unix_seconds: i64) -> String {
    if unix_seconds == 0 {
        return String::new();
    }
    match jiff::Timestamp::from_second(unix_seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{unix_seconds} s after 1970"),
    }
}

/// The same, with how far away it is: "2026-01-01T00:00:00Z (in 5m)".
pub(crate) fn with_distance(unix_seconds: i64, now: Timestamp) -> String {
    let text = rfc3339(unix_seconds);
    if text.is_empty() {
        return text;
    }
    format!("{text} ({})", distance(unix_seconds, now))
}

/// "in 5m", "3h ago".
pub(crate) fn distance(unix_seconds: i64, now: Timestamp) -> String {
    let then = Timestamp::from_unix_seconds(unix_seconds);
    if then >= now {
        format!("in {}", rough(then.since(now)))
    } else {
        format!("{} ago", rough(now.since(then)))
    }
}

/// A duration in at most two units: what a person wants to know.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let kept = match seconds {
        0..3600 => seconds,
        3600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3600,
    };
    Shown(Duration::from_secs(kept)).to_string()
}

/// A lifetime in whole seconds as SPIRE's messages carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) i32);

/// Parses a lifetime from the command line: a duration of whole seconds, or a bare number of them,
/// which is what scripts written for SPIRE pass.
pub(crate) fn parse_ttl(text: &str) -> Result<Ttl, String> {
    let seconds = if let Ok(seconds) = text.parse::<u64>() {
        seconds
    } else {
        let duration = duration::parse(text).map_err(|error: DurationError| {
            format!("{error}; write a duration such as \"90s\", \"10m\" or \"1h30m\"")
        })?;
        if duration.subsec_millis() != 0 {
            return Err("a lifetime has whole seconds".to_owned());
        }
        duration.as_secs()
    };
    i32::try_from(seconds)
        .map(Ttl)
        .map_err(|_| "a lifetime has at most 68 years".to_owned())
}

/// Parses an instant from the command line: RFC 3339, or seconds since 1970.
pub(crate) fn parse_instant(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return if seconds > 0 {
            Ok(seconds)
        } else {
            Err("the seconds since 1970 are more than 0".to_owned())
        };
    }
    text.parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_second)
        .map_err(|_| {
            "write RFC 3339, such as \"2027-01-31T12:00:00Z\", or seconds since 1970".to_owned()
        })
}

/// An instant that is named, or a while from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Seconds since 1970.
    At(i64),
    /// So long from now.
    In(Duration),
}

impl When {
    /// The instant, as messages carry it; what is counted from now is cut to whole seconds.
    pub(crate) fn from(self, now: Timestamp) -> prost_types::Timestamp {
        let seconds = match self {
            Self::At(seconds) => seconds,
            Self::In(duration) => now.plus(duration).unix_seconds(),
        };
        prost_types::Timestamp { seconds, nanos: 0 }
    }
}

/// Parses an instant as [`parse_instant`] does, or a duration from now.
pub(crate) fn parse_when(text: &str) -> Result<When, String> {
    if let Ok(duration) = duration::parse(text) {
        return Ok(When::In(duration));
    }
    parse_instant(text)
        .map(When::At)
        .map_err(|why| format!("{why}, or a duration from now, such as \"90d\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(parse_ttl("1h30m"), Ok(Ttl(5400)));
        assert_eq!(parse_ttl("90"), Ok(Ttl(90)));
        assert!(parse_ttl("1500ms").is_err());
        assert!(parse_ttl("99999999999").is_err());
        assert!(parse_ttl("soon").is_err());
    }

    #[test]
    fn instants() {
        assert_eq!(parse_instant("2026-01-01T00:00:00Z"), Ok(1_767_225_600));
        assert_eq!(
            parse_instant("2026-01-01T01:00:00+01:00"),
            Ok(1_767_225_600)
        );
        assert_eq!(parse_instant("1767225600"), Ok(1_767_225_600));
        assert!(parse_instant("tomorrow").is_err());
        assert!(parse_instant("-1").is_err());
        assert_eq!(rfc3339(1_767_225_600), "2026-01-01T00:00:00Z");
        assert_eq!(rfc3339(0), "");
    }

    #[test]
    fn distances() {
        let now = Timestamp::from_unix_seconds(1_000_000);
        assert_eq!(distance(1_000_090, now), "in 1m30s");
        assert_eq!(distance(996_339, now), "1h1m ago");
        assert_eq!(distance(1_000_000 + 90_061, now), "in 1d1h");
    }
}
