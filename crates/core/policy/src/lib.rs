//! Who may do what: a caller and an action in, a [`Permit`] or a [`Denial`] out.
//!
//! Start at [`decide`], then read the table in `actions.rs`: one line per RPC. A [`Permit`] can be
//! made nowhere else, and the store takes one with each write, so that a write which nobody
//! authorized does not compile.
//!
//! Deliberately not here: how a caller was authenticated (`apps/server/caller.rs`), and what a
//! denial looks like on the wire (`edge/wire`).

mod actions;
mod caller;
mod decide;

pub use actions::{
    ALL, Action, ActionRow, ActivateJwtAuthority, ActivateWitAuthority, ActivateX509Authority,
    AppendBundle, AttestAgent, BanAgent, BatchCreateEntry, BatchCreateFederatedBundle,
    BatchDeleteEntry, BatchDeleteFederatedBundle, BatchNewWitSvid, BatchNewX509Svid,
    BatchSetFederatedBundle, BatchUpdateEntry, BatchUpdateFederatedBundle, Bundles, CountAgents,
    CountBundles, CountEntries, CreateJoinToken, DeleteAgent, Entries, ExplainNode, GetAgent,
    GetAuthorizedEntries, GetBundle, GetEntry, GetFederatedBundle, GetJwtAuthorityState, GetLogger,
    GetServerInfo, GetWitAuthorityState, GetX509AuthorityState, Journals, ListAgents, ListEntries,
    ListFederatedBundles, MintJwtSvid, MintWitSvid, MintX509Svid, NewDownstreamX509Ca, NewJwtSvid,
    Nodes, PostStatus, PrepareJwtAuthority, PrepareWitAuthority, PrepareX509Authority, PromoteNode,
    Prune, PublishJwtAuthority, PublishWitAuthority, RenewAgent, ResetLogLevel, RevokeJwtAuthority,
    RevokeWitAuthority, RevokeX509Authority, RevokeX509UpstreamAuthority, RotateAuthority,
    SetLogLevel, SyncAuthorizedEntries, TaintJwtAuthority, TaintWitAuthority, TaintX509Authority,
    TaintX509UpstreamAuthority, Tokens, WatchNodeView, Writes,
};
pub use caller::{Caller, Class, NodeCheck, NodeRefusal};
pub use decide::{Denial, Permit, Principal, decide};
