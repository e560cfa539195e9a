//! Logs: to standard error, as text for people or as JSON for collectors.

use std::io::IsTerminal;
use std::{env, error, fmt, io};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{self, Table};

/// The environment variable that overrides the configured level, in the syntax of
/// `tracing_subscriber::EnvFilter`: `debug`, or `info,muster_node=debug`.
pub const ENVIRONMENT_VARIABLE: &str = "MUSTER_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line of text.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// The least severe lines that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What failed.
    Error,
    /// What is wrong but goes on.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The word in configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The `[log]` table of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `format`: "text" (default) or "json".
    pub format: Format,
    /// `level`: "info" by default.
    pub level: Level,
}

impl Settings {
    /// Reads the table; what is absent has its default.
    pub fn read(table: &Table<'_>) -> Self {
        let format = config::one_of(&[("text", Format::Text), ("json", Format::Json)]);
        let level = config::one_of(&[
            ("error", Level::Error),
            ("warn", Level::Warn),
            ("info", Level::Info),
            ("debug", Level::Debug),
            ("trace", Level::Trace),
        ]);
        Self {
            format: table.default("format", format, Format::default()),
            level: table.default("level", level, Level::default()),
        }
    }
}

/// Why logging cannot start.
#[derive(Debug)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `MUSTER_LOG` is not a filter.
    Filter(String),
    /// Logging was started before in this process.
    Twice,
}

impl fmt::Display for TelemetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(why) => write!(
                f,
                "the environment variable {ENVIRONMENT_VARIABLE} is not a filter: {why}; \
                 set it to a level such as \"debug\", or unset it"
            ),
            Self::Twice => f.write_str("logging was started twice in this process"),
        }
    }
}

impl error::Error for TelemetryError {}

/// Starts logging for the whole process. Call it once, before the first task starts.
pub fn start(settings: Settings) -> Result<(), TelemetryError> {
    let filter = filter(
        settings.level,
        env::var(ENVIRONMENT_VARIABLE).ok().as_deref(),
    )?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(io::stderr)
        .with_ansi(colour_on_stderr());
    let started = match settings.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| TelemetryError::Twice)
}

/// Whether colour may be written to standard error: a terminal, and `NO_COLOR` unset or empty.
pub fn colour_on_stderr() -> bool {
    io::stderr().is_terminal() && colour_is_wanted()
}

/// Whether colour may be written to standard output.
pub fn colour_on_stdout() -> bool {
    io::stdout().is_terminal() && colour_is_wanted()
}

fn colour_is_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn filter(level: Level, overriding: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    match overriding {
        Some(text) if !text.is_empty() => EnvFilter::builder()
            .parse(text)
            .map_err(|error| TelemetryError::Filter(error.to_string())),
        _ => Ok(EnvFilter::new(level.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    #[test]
    fn the_log_table() {
        let doc = Document::parse("t", "[log]\nformat = \"json\"\nlevel = \"debug\"").unwrap();
        let settings = Settings::read(&doc.root().table("log"));
        let expected = Settings {
            format: Format::Json,
            level: Level::Debug,
        };
        assert_eq!(doc.finish(|| Some(settings)).unwrap(), expected);

        let doc = Document::parse("t", "").unwrap();
        let settings = Settings::read(&doc.root().table("log"));
        assert_eq!(doc.finish(|| Some(settings)).unwrap(), Settings::default());
    }

    #[test]
    fn the_environment_wins_and_nonsense_is_refused() {
        assert_eq!(filter(Level::Info, None).unwrap().to_string(), "info");
        assert_eq!(filter(Level::Info, Some("")).unwrap().to_string(), "info");
        assert_eq!(
            filter(Level::Info, Some("warn")).unwrap().to_string(),
            "warn"
        );
        assert!(filter(Level::Info, Some("a=b=c")).is_err());
    }
}
