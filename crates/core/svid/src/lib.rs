//! SVIDs: drafted, assembled, verified; bundles; when to renew; the authority ladder.
//!
//! Start at [`x509::Issuer`] (certificates), [`jwt`] and [`wit`] (tokens) and [`bundle`] (what both are
//! verified with). [`lifetime`] says when an SVID is renewed, [`ladder`] when an authority is.
//!
//! Signing may be slow and remote, so nothing here signs: a *draft* gives the bytes to be signed,
//! whoever holds the key signs them, and *assemble* puts the two together.
//!
//! Deliberately not here: clocks (every function is told the time), randomness (serial numbers
//! and token IDs are arguments), keys at rest (`adapters/keys`), TLS (`edge/tls`).

pub mod bundle;
pub mod bundle_file;
pub mod jwt;
pub mod ladder;
pub mod lifetime;
pub mod pem;
pub mod wit;
pub mod x509;
