//! A socket that is for some processes and not for everyone.

use crate::held::HeldProcess;
use crate::refused::RefusedPeer;

/// For whom a socket is.
///
/// All are called on the threads that serve: they must not block.
pub trait Only: Send + Sync {
    /// Whether the socket is for this process now. Asked when a connection is accepted, and before
    /// each thing that is told on it.
    fn admits(&self, process: &HeldProcess) -> bool;

    /// Whether what this process sends is read. Asked for everything that is read; one that is not
    /// heard loses its connection at once, with all that was not told yet.
    fn hears(&self, process: &HeldProcess) -> bool {
        self.admits(process)
    }

    /// Somebody was refused: the socket is not for it, it used a connection of one for whom the
    /// socket is, or it could not be told who it is. Not whoever is over a limit.
    fn refused(&self, peer: RefusedPeer);
}
