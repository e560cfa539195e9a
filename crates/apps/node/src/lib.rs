//! The daemon on every node: attests workloads and gives them their identities.
//!
//! Start at [`run`], which composes everything. `link` is the node's standing with its server
//! (its own SVID, and the long stream of its view); `driver` is the one loop that does what the
//! roster decides; `workload_api` is what workloads call; `sds` is the same for
//! Envoy; `admin` is what operators call.
//!
//! Deliberately not here: what a caller gets and when it is renewed (`core/roster`), how a
//! process is attested (`adapters/attest`), who is at the other end of a socket (`edge/peer`).
//! There is no database: what the node must know after a restart is its own SVID and the bundle.

mod admin;
mod attestations;
mod attestors;
mod broker;
pub mod config;
mod connections;
mod delegated;
mod denials;
mod driver;
mod events;
mod handover;
mod haste;
mod join;
mod link;
mod mark;
mod material;
mod metrics;
mod pace;
mod recovery;
mod refusals;
mod reports;
mod run;
mod sds;
mod sealed;
mod sightings;
mod signer;
mod state;
mod target;
mod tasks;
mod upstream;
mod watched;
mod words;
mod workload_api;

pub use run::{StartError, check, run, serve};
