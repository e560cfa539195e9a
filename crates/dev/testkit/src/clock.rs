//! The real clock, as servers under test have it.

use std::time::SystemTime;

/// Unix seconds.
#[expect(
    clippy::disallowed_methods,
    reason = "the server under test has the real clock"
)]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// So many seconds from now, as requests have it.
pub fn from_now(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: now() + seconds,
        nanos: 0,
    }
}
