//! The swarm: thousands of nodes and workloads in one process, as a server or a node sees them.
//!
//! Start at [`scenario`] for what is played, at [`Fleet`] for the nodes. A simulated node speaks
//! our protocol (`muster.node.v1`) or SPIRE's (`SyncAuthorizedEntries` every five seconds), so that
//! the same swarm drives `muster-server` and `spire-server`. A simulated workload holds a stream of
//! the Workload API.
//!
//! What is simulated is the client only: connections, TLS, requests and their bytes are real. All
//! nodes share one key pair and one signing request, because making keys is not what is measured.
//! Deliberately not here: any shortcut into a server or a node; what is known of them comes over
//! their sockets and from `/proc`. The one exception is [`fill`], which writes a server's database
//! through the store port before the server starts.

pub mod fill;
pub mod proc;
pub mod report;
pub mod scenario;

mod cage;
mod clock;
mod entries;
mod fleet;
mod node;
mod server;
mod times;
mod traffic;

use std::error::Error;

pub use cage::{Cage, leave_core};
pub use fleet::Fleet;
pub use node::{Link, Node};
pub use server::{Dialect, Place, Program, Running};
pub use traffic::Traffic;

/// What a scenario fails with: a sentence for the person who ran it.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The trust domain of every scenario.
pub const TRUST_DOMAIN: &str = "example.org";
