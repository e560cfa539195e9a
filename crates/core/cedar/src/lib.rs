//! Policy on task and context: may this agent open that task, start that agent, get that identity?
//!
//! Start at [`decide`]: a [`PolicySet`], the [`Facts`] and a [`Moment`] in, a [`Decision`] out, with the
//! names of the policies that made it. A set is a text in Cedar, read by [`PolicySet::load`] against the
//! schema ([`SCHEMA`]), with the guards of the house ([`BUILTIN`]) in it; [`Slot`] keeps the one in
//! force. `docs/policy.md` is for those who write policies.
//!
//! This is not `core/policy`. That one answers, of every RPC of the server and by a fixed table, whether
//! a *caller* may call it at all, and gives a `Permit` without which no write compiles. This one answers,
//! by rules that operators write, whether what an *agent* asks for is right for its task. A request
//! passes the first, then this, then the invariants that stand in Rust.
//!
//! How it stays fast: `slice.rs` evaluates only policies whose scope fits, `guards.rs` knows when no guard
//! would hold, `known.rs` prepares what
//! changes rarely, `value.rs` builds what changes with each request without parsing anything. What each
//! of these does is checked against Cedar's public interface over the whole set
//! ([`decide_unsliced`], `tests/sliced.rs` of `muster-policies`), and against Cedar in other languages by
//! `cargo xtask interop --only cedar`.
//!
//! Deliberately not here: where policies and records are stored, who may change them, and what happens
//! when a decision is a refusal. No templates, no entity store, no JSON on the way to a decision. This is
//! the only crate that names `cedar-policy`.

mod decide;
mod export;
pub mod facts;
mod fault;
mod guards;
mod known;
mod replay;
mod scan;
mod set;
mod slice;
mod slot;
mod value;
mod vocabulary;

pub use decide::{Decision, Facts, Failure, Reason, Verdict, decide, decide_unsliced};
pub use export::{ExportError, Exported, ExportedUid};
pub use fault::{Fault, FaultKind, LoadError, Place};
pub use known::{FactsError, Principal, PrincipalFacts, Resource, ResourceFacts};
pub use replay::{Change, Comparison, Outcome, Recorded, RecordedRequest, compare, simulate};
pub use scan::Limits;
pub use set::{PolicySet, SetDigest};
pub use slot::{Loaded, Slot};
pub use value::Moment;
pub use vocabulary::{Action, BUILTIN, RESERVED, SCHEMA};
