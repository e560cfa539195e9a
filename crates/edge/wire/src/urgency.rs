//! How a node says how urgent a batch of SVIDs is (`docs/adr/0005-storm.md`).

/// The request header of `BatchNewX509SVID`: when the first of the SVIDs that the batch replaces
/// expires, in Unix seconds; 0 where the node holds none. A hint: the server bounds what it is
/// worth, and a client that does not send it is served as before.
pub const EXPIRES_AT: &str = "muster-svid-expires-at";
