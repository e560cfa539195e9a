//! How a node says how urgent it is to sign (`docs/adr/0005-storm.md`).

/// The request header of `BatchNewX509SVID`, `NewJWTSVID` and `BatchNewWITSVID`: when the first of
/// the SVIDs that are replaced expires, in Unix seconds; 0 where the node holds none. A hint: the server bounds what it is
/// worth, and a client that does not send it is served as before.
pub const EXPIRES_AT: &str = "muster-svid-expires-at";
