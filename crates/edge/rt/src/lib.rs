//! What every program of the house needs to run: the clock, configuration, supervision, logs,
//! metrics, and careful files.
//!
//! Start at [`config`] to read a configuration file, at [`lifecycle`] to run tasks until a signal,
//! at [`files`] to keep private state on a disk. Nothing here knows what a server or a node is.
//! There is no global state besides the logging subscriber and the recorder of metrics, which the
//! process owns anyway.

pub mod clock;
pub mod config;
pub mod duration;
pub mod endpoint;
pub mod files;
pub mod lifecycle;
pub mod metrics;
pub mod ration;
pub mod sparing;
pub mod telemetry;

pub use clock::{Clock, SystemClock};
