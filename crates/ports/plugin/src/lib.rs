//! What the outside must provide: attestors and key managers, as traits.
//!
//! Each port has a conformance suite in this crate that every adapter runs. Nothing here knows
//! an adapter; the programs in `apps/` choose them.

pub mod keys;
pub mod node;
pub mod workload;
