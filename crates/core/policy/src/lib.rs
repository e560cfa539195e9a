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
    AppendBundle, ApproveClass, AttestAgent, BanAgent, BatchCreateEntry,
    BatchCreateFederatedBundle, BatchDeleteEntry, BatchDeleteFederatedBundle, BatchNewWitSvid,
    BatchNewX509Svid, BatchSetFederatedBundle, BatchUpdateEntry, BatchUpdateFederatedBundle,
    Bundles, Classes, ComparePolicies, CountAgents, CountBundles, CountEntries, CreateClass,
    CreateJoinToken, DeleteAgent, Departures, EndTasks, Entries, ExplainNode, ExtendTask,
    FollowTasks, GetAgent, GetAuthorizedEntries, GetBundle, GetClass, GetEntry, GetFederatedBundle,
    GetInstance, GetJwtAuthorityState, GetLogger, GetPolicies, GetPolicySchema, GetServerInfo,
    GetTask, GetWitAuthorityState, GetX509AuthorityState, Instances, Journals, ListAgents,
    ListClasses, ListEntries, ListFederatedBundles, ListInstances, ListNodeTasks, ListPersonsGone,
    ListPolicyVersions, ListTasks, MarkPersonGone, MarkPersonReturned, MintJwtSvid, MintWitSvid,
    MintX509Svid, NewDownstreamX509Ca, NewJwtSvid, Nodes, OpenTask, Policies, PostStatus,
    PrepareJwtAuthority, PrepareWitAuthority, PrepareX509Authority, PromoteNode, Prune,
    PublishJwtAuthority, PublishWitAuthority, PutPolicies, QuarantineClass, QuarantineInstance,
    ReadPolicyRecord, ReconcileAgents, ReconcileTasks, ReinstateClass, ReleaseInstance, RenewAgent,
    ResetLogLevel, RetireClass, RetireInstance, ReviewClass, RevokeJwtAuthority, RevokeTask,
    RevokeWitAuthority, RevokeX509Authority, RevokeX509UpstreamAuthority, RollbackPolicies,
    RotateAuthority, SeeAgents, SetLogLevel, SimulatePolicies, SpendTask, SuspendClass,
    SyncAuthorizedEntries, TaintJwtAuthority, TaintWitAuthority, TaintX509Authority,
    TaintX509UpstreamAuthority, Tasks, Tokens, UpdateClass, ValidatePolicies, WatchNodeView,
    Writes,
};
pub use actions::{
    AcknowledgeSighting, GetSighting, ListSightings, PruneSightings, ReportAttestations,
    ReportRefusals, ReportSightings, Sightings,
};
pub use actions::{
    BatchNewWitDerived, BatchNewX509Derived, CreateRule, DeleteRule, GetRule, ListRules,
    NewJwtDerived, Rules, TryRule, UpdateRule,
};
pub use actions::{ListAuditRecords, ListHeld, TailAudit};
pub use caller::{Caller, Class, NodeCheck, NodeRefusal};
pub use decide::{Denial, Permit, Principal, decide};
