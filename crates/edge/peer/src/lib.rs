//! Unix sockets on which the caller is the process that *sends*, known by the kernel.
//!
//! Start at [`Listener`]: bind it, turn it into [`Incoming`] and serve its connections
//! (`edge/http2`). [`PeerStream::peer`] gives the [`PeerInfo`], and that the [`Caller`]: its pid,
//! user, pidfd, and a `/proc/PID` that is surely its own. [`connect()`] is the client's end. [`HeldProcess`] is a
//! process without a connection, such as one that was named by its number.
//!
//! ```no_run
//! # use muster_peer::{Limits, ListenOptions, Listener, PeerInfo};
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind("/run/muster/node/workload.sock", &ListenOptions::default())?;
//! let incoming = listener.incoming(Limits::default())?;
//! // muster_http2::for_each(incoming, shutdown, |connection, ended| ...).await
//! # Ok(()) }
//! ```
//!
//! What holds:
//!
//! - No byte reaches a server unless the process that sent it is the one that connected
//!   ([`PeerStream`]); a violation ends the connection.
//! - No descriptor that another process sends stays open here.
//! - Connections, and those among them that say nothing, are bounded ([`Limits`]), and each
//!   neighbour has an allowance ([`Allowance`]).
//!
//! Deliberately not here: what the facts about a caller mean (`adapters/attest`), and who may call
//! (`apps`). This is the only crate with `unsafe`, all of it in `sys.rs` and,
//! for what stands between `fork` and `execve`, `child.rs`.

mod activation;
mod allowance;
mod ancestry;
mod caller;
mod cgroup;
pub mod child;
mod connect;
pub mod descriptors;
mod gate;
pub mod harden;
mod held;
mod incoming;
pub mod keyring;
mod listener;
mod only;
pub mod pidfd;
pub mod process;
mod processes;
pub mod procfs;
mod refused;
mod stream;
mod sys;

pub use activation::{Activated, ActivationError, Unfit, activated};
pub use allowance::{Allowance, CallPlace, OverLimit, Rate};
pub use ancestry::NotDescendant;
pub use caller::{Assurance, Caller, PeerInfo, Refusal};
pub use cgroup::{Cgroup, CgroupError};
pub use connect::{ConnectError, connect, connect_lazy};
pub use gate::{Limits, Tally};
pub use held::HeldProcess;
pub use incoming::{Connection, Incoming, SharedLimits, TallyReader};
pub use listener::{BindError, ListenOptions, Listener, Owner, Taken};
pub use muster_rt::endpoint::MAX_SOCKET_PATH;
pub use only::Only;
pub use processes::Processes;
pub use procfs::{ExecutableId, ProcDir, ProcError};
pub use refused::{Observer, RefusedPeer};
pub use stream::PeerStream;
