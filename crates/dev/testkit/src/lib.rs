//! What scenarios are made of: a server as a real process, and a node that speaks to it like any
//! other, without being `muster-node`.
//!
//! Everything here panics when something is not as it must be: it is for tests only.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test harness fails by panicking"
)]

mod clock;
mod faulty_store;
mod process;
mod test_node;

pub use clock::{from_now, now};
pub use faulty_store::{CommitFault, FaultyStore, HeldCommits};
pub use process::{ServerConfig, ServerProcess};
pub use test_node::TestNode;
