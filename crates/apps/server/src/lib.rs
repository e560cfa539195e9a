//! The authority of a trust domain: roll, signing, audit.
//!
//! Start at [`run`], which composes everything; then `operation.rs`, the wrapper of every RPC, and
//! `writer.rs`, through which every change goes. `api/` has one file per service.
//!
//! Deliberately not here: what may be written (`core/roll`), who may (`core/policy`), what
//! certificates look like (`core/svid`).

mod admission;
mod agents;
mod api;
mod audit_log;
mod authority;
mod caller;
pub mod config;
mod connections;
mod crowd;
mod derived;
mod dispatch;
mod errors;
mod holdings;
mod listen;
mod metrics;
mod operation;
mod policies;
mod prune;
mod refusals;
mod run;
mod server;
mod server_svid;
mod sightings;
mod signer;
mod tasks;
mod writer;

pub use run::run;
