//! A socket that is for some processes and not for everyone.

use crate::held::HeldProcess;
use crate::refused::RefusedPeer;

/// For whom a socket is. Asked when a connection is accepted, for everything that is read from it,
/// and before each thing that is told: who is no longer admitted has no say any more.
///
/// All are called on the threads that serve: they must not block.
pub trait Only: Send + Sync {
    /// Whether the socket is for this process now.
    fn admits(&self, process: &HeldProcess) -> bool;

    /// Whether what this process sends on a connection that it has is read. A connection that is
    /// closed for whatever its client's stack answers cannot say why it ends.
    fn hears(&self, process: &HeldProcess) -> bool {
        self.admits(process)
    }

    /// Somebody was refused: the socket is not for it, it used a connection of one for whom the
    /// socket is, or it could not be told who it is. Not whoever is over a limit.
    fn refused(&self, peer: RefusedPeer);
}
