//! The roll: the server's authoritative list of entries, nodes, join tokens and bundles, as a
//! value in memory, and the rules about it.
//!
//! Start at [`Roll`], the memory image: readers hold a snapshot, the writer computes the next one
//! on a clone (a clone shares everything and costs nothing) and publishes it once the store has
//! made the [`Change`]s durable. Then [`matching`]: which entries a node may see; [`NodeView`]:
//! the same, kept up to date change by change, for the stream that a node holds; [`Concern`]: whose
//! view a commit may have changed. [`rules`] says which entries may be written, [`explain`] why a
//! workload has none, [`node`] how a node lives, [`bundle`] how authorities come and go, [`agents`]
//! who agents are and who answers for them, [`naming`] how identity rules name processes.
//!
//! Deliberately not here: durability (`ports/store`), who may write (`core/policy`), the wire
//! (`edge/wire`), signing (`core/svid`). Nothing in this crate reads a clock, does I/O or logs.

pub mod agents;
pub mod bundle;
mod change;
mod concern;
mod digest;
pub mod explain;
mod filter;
mod index;
mod loaded;
pub mod matching;
pub mod naming;
pub mod node;
mod roll;
pub mod rules;
mod view;
#[cfg(test)]
mod world;

pub use change::Change;
pub use concern::Concern;
pub use digest::Digest;
pub use filter::{Comparable, EntryFilter, NodeFilter, Overlap, Page};
pub use loaded::Loaded;
pub use roll::Roll;
pub use view::{Delta, NodeView};
