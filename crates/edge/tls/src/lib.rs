//! TLS between SPIFFE identities: a server that asks for a certificate and does not insist, a
//! client that knows its server by exact SPIFFE ID.
//!
//! Start at [`Acceptor`] and [`Connector`]. [`Identity`] is our own certificate, exchanged while
//! connections live; [`BundleSource`] says what a peer is verified with; the clock is an argument.
//!
//! Deliberately not here: the rules for certificates themselves (`core/svid`), who may do what
//! once it is known who it is (`core/policy`). No host name is ever compared, and no session is
//! resumed: each handshake asks the bundles of its own moment (X509V-11). This is the only crate
//! that names rustls.

mod alert;
mod connect;
mod identity;
mod peer;
mod provider;
mod urgency;
mod verifier;

pub use alert::Rejected;
pub use connect::{Acceptor, ClientStream, Connector, ServerStream};
pub use identity::{Identity, IdentityError};
pub use peer::{BundleSource, Peer, WallClock};
pub use urgency::{HELLO_MAX, Urgency};

/// Why a TLS configuration cannot be made: the cryptographic provider and the protocol versions
/// do not fit each other, which no input can cause.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be configured: {0}")]
pub struct ConfigError(#[from] rustls::Error);
