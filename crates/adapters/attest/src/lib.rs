//! How nodes and workloads are attested: one module per way.
//!
//! [`workload`] has what turns a caller into facts; [`node`] has the halves of node attestation;
//! [`plugin`] hosts the programs that do either.
//! Start at [`workload::attest`].
//!
//! Deliberately not here: the traits (`ports/plugin`), who the caller is (`edge/peer`), and what
//! the facts are good for (`core/roll`).

pub mod node;
pub mod plugin;
pub mod workload;
