//! The node's machine: what its server says it may answer to, the SVIDs that it holds, and the
//! workloads that wait for them, turned into things to do.
//!
//! Start at [`Roster`]: [`Roster::handle`] hears an [`Event`], [`Roster::poll_action`] says what
//! to do, [`Roster::poll_timeout`] when to come back. All decisions are here and none of the
//! doing: no sockets, no clock, no dice, no keys. The machine knows signed material only through
//! [`X509Material`], [`JwtMaterial`] and [`WitMaterial`].
//!
//! What holds at all times:
//!
//! - No call is told of an identity that the view does not give its caller; what the view takes
//!   away is taken back in the same breath.
//! - Nothing is told that has expired, or whose authority is not in the bundle told with it.
//! - Every call is answered, refused or told that it must come again, in bounded time; a server
//!   that is away never turns into a denial.
//! - The same news is not told twice, and the number of requests to the server is bounded by the
//!   number of things to sign, whatever the civil clock does.

mod calls;
mod derived;
mod digest;
mod evaluate;
mod event;
mod explain;
mod groups;
mod holdings;
mod index;
mod jwt;
mod kinds;
mod lru;
mod material;
mod membership;
mod memory;
mod roster;
mod time;
mod view;
mod wit;

pub use digest::ViewDigest;
pub use event::{
    Action, CallId, Derivation, Encoded, Event, JwtBundles, JwtIdentity, Note, OnMiss, Refusal,
    RequestId, SignFault, ToSign, Want, Who, WitBundles, WitIdentity, WitNote, WitUpdate,
    X509Bundles, X509Identity, X509Update,
};
pub use explain::{
    BundleStanding, CacheStanding, Explanation, HeldSvid, Identity, Inventory, Lack, Miss,
    NotNamed, RuleMiss, Standing,
};
pub use material::{JwtMaterial, WitMaterial, X509Material};
pub use memory::{Memory, Remembered};
pub use roster::{Config, Roster, Stats};
pub use view::{NamingStep, Step, StepFault};
