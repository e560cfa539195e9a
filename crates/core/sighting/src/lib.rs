//! From what a process shows to what it looks like.
//!
//! Start at [`Look`], what was seen of one process, and [`Signatures::judge`], which makes a
//! [`Finding`] of it. The table of signatures is data, in one file (`table.rs`); an operator adds to
//! it with [`Custom`]. [`proc`] reads the formats of `/proc`. [`standing`] says how a finding stands
//! to the classes of the identities that the process has, [`inherited()`] which secrets agents hand
//! down to what they start.
//!
//! What holds: a finding has no text of the process in it. Arguments are compared word by word, and
//! what is kept is the rule that matched and the shape of the command line ([`shape_of`]). Of the
//! environment only names that a rule knows are kept, and the bytes are wiped
//! ([`proc::environ::take_names`]). [`providers`] says for which providers of models a process with
//! such variables was started.
//!
//! Deliberately not here: reading `/proc` (`apps/node/sightings`), what is done about a finding
//! (`core/roll/agents/sightings.rs`).

mod heirs;
mod judge;
mod look;
mod pattern;
pub mod proc;
mod provider;
mod secret;
mod signature;
mod standing;
mod table;

pub use heirs::{Bearer, Kin, Kinship, inherited};
pub use judge::{Finding, Match, Signatures};
pub use look::{Look, shape_of};
pub use provider::providers;
pub use secret::holds_secret;
pub use signature::{Custom, CustomFault};
pub use standing::{not_allowed, standing};
pub use table::is_product;
