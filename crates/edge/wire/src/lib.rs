//! Between protobuf messages and the model, and from our errors to gRPC statuses.
//!
//! Start at [`entry`] for what a registration entry looks like on SPIRE's API, and at [`status`]
//! for how a refusal reaches the other side. One file per noun; each has both directions where
//! both are needed.
//!
//! Deliberately not here: rules about what may be written (`core/roll`), and who may do what
//! (`core/policy`).

pub mod agent;
pub mod attestation;
pub mod bundle;
pub mod denial;
pub mod entry;
pub mod error_info;
pub mod id;
pub mod log_level;
pub mod node;
pub mod rule;
pub mod selector;
pub mod sighting;
pub mod status;
pub mod task;
pub mod trace;
pub mod urgency;
