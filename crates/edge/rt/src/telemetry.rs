//! Logs: to standard error, as text for people or as JSON for collectors.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{env, error, fmt, io};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
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

/// The log level of the running process, which may be changed. Clones share it.
#[derive(Clone)]
pub struct LevelControl {
    current: Arc<Mutex<Level>>,
    launch: Level,
    /// What the environment said, if it said anything: it is in force until the level is changed.
    launch_filter: Arc<str>,
    apply: Arc<dyn Fn(EnvFilter) + Send + Sync>,
}

impl LevelControl {
    /// A level that nothing listens to: for a process that started no logging.
    pub fn detached(launch: Level) -> Self {
        Self {
            current: Arc::new(Mutex::new(launch)),
            launch,
            launch_filter: launch.as_str().into(),
            apply: Arc::new(|_filter| {}),
        }
    }

    /// The level in force.
    pub fn current(&self) -> Level {
        *self.lock()
    }

    /// The level of the configuration, or of the environment where that names one.
    pub fn launch(&self) -> Level {
        self.launch
    }

    /// Puts another level in force for everything, whatever the environment said.
    pub fn set(&self, level: Level) {
        let mut current = self.lock();
        (self.apply)(EnvFilter::new(level.as_str()));
        *current = level;
    }

    /// Puts in force again what was at the start, the environment's filter included.
    pub fn reset(&self) {
        let mut current = self.lock();
        (self.apply)(EnvFilter::new(&*self.launch_filter));
        *current = self.launch;
    }

    fn lock(&self) -> MutexGuard<'_, Level> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LevelControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelControl")
            .field("current", &self.current())
            .field("launch", &self.launch)
            .finish_non_exhaustive()
    }
}

/// Starts logging for the whole process. Call it once, before the first task starts.
pub fn start(settings: Settings) -> Result<LevelControl, TelemetryError> {
    let filter = filter(
        settings.level,
        env::var(ENVIRONMENT_VARIABLE).ok().as_deref(),
    )?;
    let launch = filter.max_level_hint().map_or(settings.level, nearest);
    let launch_filter = filter.to_string().into();
    let builder = tracing_subscriber::fmt()
        .with_timer(SystemTime)
        .with_writer(io::stderr as fn() -> io::Stderr)
        .with_ansi(colour_on_stderr());
    // A reload fails only when the subscriber is gone, and that lives as long as the process.
    let (started, apply): (_, Arc<dyn Fn(EnvFilter) + Send + Sync>) = match settings.format {
        Format::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            let apply = move |filter| drop(handle.reload(filter));
            (builder.try_init(), Arc::new(apply))
        }
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_env_filter(filter);
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let apply = move |filter| drop(handle.reload(filter));
            (builder.try_init(), Arc::new(apply))
        }
    };
    started.map_err(|_| TelemetryError::Twice)?;
    Ok(LevelControl {
        current: Arc::new(Mutex::new(launch)),
        launch,
        launch_filter,
        apply,
    })
}

fn nearest(filter: LevelFilter) -> Level {
    match filter.into_level() {
        None | Some(tracing::Level::ERROR) => Level::Error,
        Some(tracing::Level::WARN) => Level::Warn,
        Some(tracing::Level::INFO) => Level::Info,
        Some(tracing::Level::DEBUG) => Level::Debug,
        Some(tracing::Level::TRACE) => Level::Trace,
    }
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
    fn a_level_is_changed_and_comes_back() {
        let level = LevelControl::detached(Level::Warn);
        level.set(Level::Trace);
        assert_eq!(
            (level.current(), level.launch()),
            (Level::Trace, Level::Warn)
        );
        level.reset();
        assert_eq!(level.current(), Level::Warn);
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
