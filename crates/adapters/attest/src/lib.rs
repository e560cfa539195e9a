//! How nodes and workloads are attested: one module per way.
//!
//! [`workload`] has what turns a caller into facts; [`node`] has the halves of node attestation.
//! Start at [`workload::attest`].
//!
//! Deliberately not here: the traits (`ports/plugin`), who the caller is (`edge/peer`), and what
//! the facts are good for (`core/roll`).

pub mod node;
pub mod workload;
