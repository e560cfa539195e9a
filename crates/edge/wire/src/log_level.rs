//! SPIRE's logger API: levels as it numbers them.

use muster_proto::spire::api::types::{LogLevel, Logger};
use muster_rt::telemetry::{Level, LevelControl};
use tonic::Status;

/// The level in force and that of the start, as the API writes them.
///
/// `named` is what a client last asked for: SPIRE has two levels above ERROR that we write no
/// lines at, and a client that set one reads it back.
pub fn write(level: &LevelControl, named: Option<LogLevel>) -> Logger {
    let current = level.current();
    let named = named.filter(|named| read(*named).is_ok_and(|level| level == current));
    Logger {
        current_level: named.unwrap_or_else(|| number(current)).into(),
        launch_level: number(level.launch()).into(),
    }
}

/// The level that a request asks for. SPIRE's PANIC and FATAL are what is nearest: ERROR.
pub fn read(level: LogLevel) -> Result<Level, Status> {
    match level {
        LogLevel::Unspecified => Err(Status::invalid_argument(
            "newLevel value cannot be LogLevel_UNSPECIFIED",
        )),
        LogLevel::Panic | LogLevel::Fatal | LogLevel::Error => Ok(Level::Error),
        LogLevel::Warn => Ok(Level::Warn),
        LogLevel::Info => Ok(Level::Info),
        LogLevel::Debug => Ok(Level::Debug),
        LogLevel::Trace => Ok(Level::Trace),
    }
}

/// The level that a request numbers.
pub fn parse(number: i32) -> Result<LogLevel, Status> {
    LogLevel::try_from(number).map_err(|_| Status::invalid_argument("unsupported log level"))
}

fn number(level: Level) -> LogLevel {
    match level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
        Level::Trace => LogLevel::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_read_back() {
        let level = LevelControl::detached(Level::Info);
        for number in 1..=7 {
            let named = parse(number).unwrap();
            level.set(read(named).unwrap());
            let logger = write(&level, Some(named));
            assert_eq!((logger.current_level, logger.launch_level), (number, 5));
        }
        // Somebody else changed the level meanwhile.
        level.set(Level::Debug);
        assert_eq!(write(&level, Some(LogLevel::Panic)).current_level, 6);
        assert!(read(LogLevel::Unspecified).is_err() && parse(8).is_err());
    }
}
