//! The table of actions: one line per RPC and per periodic work of the server.

use crate::Class;

/// A kind of row that a write changes; a [`crate::Permit`] for an action that has it allows the write.
pub trait Writes<Rows> {}

/// Registration entries.
#[derive(Debug)]
pub enum Entries {}
/// Attested nodes.
#[derive(Debug)]
pub enum Nodes {}
/// Join tokens.
#[derive(Debug)]
pub enum Tokens {}
/// Bundles.
#[derive(Debug)]
pub enum Bundles {}
/// The journals of the signing authorities.
#[derive(Debug)]
pub enum Journals {}

/// Agent classes.
#[derive(Debug)]
pub enum Classes {}
/// Agents that run, or ran.
#[derive(Debug)]
pub enum Instances {}
/// Tasks of agents.
#[derive(Debug)]
pub enum Tasks {}
/// Persons who are known to be gone.
#[derive(Debug)]
pub enum Departures {}
/// Sets of policies on agents.
#[derive(Debug)]
pub enum Policies {}

/// Identity rules.
#[derive(Debug)]
pub enum Rules {}

/// Processes that look like agents, as nodes found them.
#[derive(Debug)]
pub enum Sightings {}

/// Something that a caller may or may not do.
pub trait Action {
    /// The row of the table.
    const ROW: ActionRow;
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionRow {
    /// The full gRPC method, `/package.Service/Method`, or a name for the server's own work.
    pub method: &'static str,
    /// The classes that may, in the order in which they are tried; the first that fits is the one
    /// recorded (spire-behaviour 1.12.1).
    pub allowed: &'static [Class],
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $method:literal [$($class:ident),+] $(writes $($rows:ident),+)?;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub enum $name {}
            impl Action for $name {
                const ROW: ActionRow = ActionRow { method: $method, allowed: &[$(Class::$class),+] };
            }
            $($(impl Writes<$rows> for $name {})+)?
        )+
        /// Every row, in the order of the table.
        pub const ALL: &[ActionRow] = &[$($name::ROW),+];
    };
}

actions! {
    /// Count nodes.
    CountAgents = "/spire.api.server.agent.v1.Agent/CountAgents" [Local, Admin];
    /// List nodes.
    ListAgents = "/spire.api.server.agent.v1.Agent/ListAgents" [Local, Admin];
    /// Read a node.
    GetAgent = "/spire.api.server.agent.v1.Agent/GetAgent" [Local, Admin];
    /// Evict a node.
    DeleteAgent = "/spire.api.server.agent.v1.Agent/DeleteAgent" [Local, Admin] writes Nodes;
    /// Ban a node.
    BanAgent = "/spire.api.server.agent.v1.Agent/BanAgent" [Local, Admin] writes Nodes;
    /// Attest as a node. The attestor decides; the first use of a join token also deletes it.
    AttestAgent = "/spire.api.server.agent.v1.Agent/AttestAgent" [Any] writes Nodes, Tokens;
    /// Renew a node's SVID.
    RenewAgent = "/spire.api.server.agent.v1.Agent/RenewAgent" [Node, Lapsed] writes Nodes;
    /// Create a join token, with an alias entry if asked.
    CreateJoinToken = "/spire.api.server.agent.v1.Agent/CreateJoinToken" [Local, Admin] writes Tokens, Entries;
    /// Report a node's version.
    PostStatus = "/spire.api.server.agent.v1.Agent/PostStatus" [Node] writes Nodes;

    /// Count bundles.
    CountBundles = "/spire.api.server.bundle.v1.Bundle/CountBundles" [Local, Admin];
    /// Read the own bundle.
    GetBundle = "/spire.api.server.bundle.v1.Bundle/GetBundle" [Any];
    /// Add authorities to the own bundle.
    AppendBundle = "/spire.api.server.bundle.v1.Bundle/AppendBundle" [Local, Admin] writes Bundles;
    /// Publish a downstream server's JWT key.
    PublishJwtAuthority = "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority" [Downstream] writes Bundles;
    /// Publish a downstream server's WIT key.
    PublishWitAuthority = "/spire.api.server.bundle.v1.Bundle/PublishWITAuthority" [Downstream] writes Bundles;
    /// List foreign bundles.
    ListFederatedBundles = "/spire.api.server.bundle.v1.Bundle/ListFederatedBundles" [Local, Admin];
    /// Read a foreign bundle.
    GetFederatedBundle = "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle" [Local, Admin, Node];
    /// Add foreign bundles.
    BatchCreateFederatedBundle = "/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle" [Local, Admin] writes Bundles;
    /// Change foreign bundles.
    BatchUpdateFederatedBundle = "/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle" [Local, Admin] writes Bundles;
    /// Add or replace foreign bundles.
    BatchSetFederatedBundle = "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle" [Local, Admin] writes Bundles;
    /// Remove foreign bundles.
    BatchDeleteFederatedBundle = "/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle" [Local, Admin] writes Bundles, Entries, Rules;

    /// Count entries.
    CountEntries = "/spire.api.server.entry.v1.Entry/CountEntries" [Local, Admin];
    /// List entries.
    ListEntries = "/spire.api.server.entry.v1.Entry/ListEntries" [Local, Admin];
    /// Read an entry.
    GetEntry = "/spire.api.server.entry.v1.Entry/GetEntry" [Local, Admin];
    /// Create entries.
    BatchCreateEntry = "/spire.api.server.entry.v1.Entry/BatchCreateEntry" [Local, Admin] writes Entries;
    /// Change entries.
    BatchUpdateEntry = "/spire.api.server.entry.v1.Entry/BatchUpdateEntry" [Local, Admin] writes Entries;
    /// Delete entries.
    BatchDeleteEntry = "/spire.api.server.entry.v1.Entry/BatchDeleteEntry" [Local, Admin] writes Entries;
    /// Read the entries of the calling node.
    GetAuthorizedEntries = "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries" [Node];
    /// Read the entries of the calling node, revisions first.
    SyncAuthorizedEntries = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries" [Node];

    /// Sign an X509-SVID without an entry.
    MintX509Svid = "/spire.api.server.svid.v1.SVID/MintX509SVID" [Local, Admin];
    /// Sign a JWT-SVID without an entry.
    MintJwtSvid = "/spire.api.server.svid.v1.SVID/MintJWTSVID" [Local, Admin];
    /// Sign X509-SVIDs for entries of the calling node.
    BatchNewX509Svid = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID" [Node];
    /// Sign a JWT-SVID for an entry of the calling node.
    NewJwtSvid = "/spire.api.server.svid.v1.SVID/NewJWTSVID" [Node];
    /// Sign a WIT-SVID without an entry.
    MintWitSvid = "/spire.api.server.svid.v1.SVID/MintWITSVID" [Local, Admin];
    /// Sign WIT-SVIDs for entries of the calling node.
    BatchNewWitSvid = "/spire.api.server.svid.v1.SVID/BatchNewWITSVID" [Node];
    /// Sign a CA certificate for a downstream server.
    NewDownstreamX509Ca = "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA" [Downstream];

    /// Read the X.509 authorities.
    GetX509AuthorityState = "/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState" [Local, Admin];
    /// Make the next X.509 authority.
    PrepareX509Authority = "/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority" [Local, Admin] writes Bundles, Journals;
    /// Let the next X.509 authority sign.
    ActivateX509Authority = "/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority" [Local, Admin] writes Journals;
    /// Declare an X.509 authority compromised.
    TaintX509Authority = "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority" [Local, Admin] writes Bundles;
    /// Remove a tainted X.509 authority.
    RevokeX509Authority = "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority" [Local, Admin] writes Bundles, Journals;
    /// Declare an upstream authority compromised.
    TaintX509UpstreamAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority" [Local, Admin];
    /// Remove a tainted upstream authority.
    RevokeX509UpstreamAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority" [Local, Admin];
    /// Read the JWT authorities.
    GetJwtAuthorityState = "/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState" [Local, Admin];
    /// Make the next JWT authority.
    PrepareJwtAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority" [Local, Admin] writes Bundles, Journals;
    /// Let the next JWT authority sign.
    ActivateJwtAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority" [Local, Admin] writes Journals;
    /// Declare a JWT authority compromised.
    TaintJwtAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority" [Local, Admin] writes Bundles;
    /// Remove a tainted JWT authority.
    RevokeJwtAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority" [Local, Admin] writes Bundles, Journals;
    /// Read the WIT authorities.
    GetWitAuthorityState = "/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState" [Local, Admin];
    /// Make the next WIT authority.
    PrepareWitAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority" [Local, Admin] writes Bundles, Journals;
    /// Let the next WIT authority sign.
    ActivateWitAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority" [Local, Admin] writes Journals;
    /// Declare a WIT authority compromised.
    TaintWitAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority" [Local, Admin] writes Bundles;
    /// Remove a tainted WIT authority.
    RevokeWitAuthority = "/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority" [Local, Admin] writes Bundles, Journals;

    /// Read the log level.
    GetLogger = "/spire.api.server.logger.v1.Logger/GetLogger" [Local, Admin];
    /// Change the log level.
    SetLogLevel = "/spire.api.server.logger.v1.Logger/SetLogLevel" [Local, Admin];
    /// Bring back the configured log level.
    ResetLogLevel = "/spire.api.server.logger.v1.Logger/ResetLogLevel" [Local, Admin];

    /// Read how the server stands.
    GetServerInfo = "/spire.api.server.debug.v1.Debug/GetInfo" [Local, Admin];

    /// Ask what a workload is entitled to on a node.
    ExplainNode = "/muster.server.admin.v1.ServerAdmin/ExplainNode" [Local, Admin];

    /// Look up what was done.
    ListAuditRecords = "/muster.server.admin.v1.Audit/ListRecords" [Local, Admin];
    /// Follow what is being done.
    TailAudit = "/muster.server.admin.v1.Audit/Tail" [Local, Admin];
    /// List what agents and tasks hold.
    ListHeld = "/muster.server.admin.v1.Audit/ListHeld" [Local, Admin];

    /// Propose an agent class.
    CreateClass = "/muster.agent.v1.Registry/CreateClass" [Local, Admin] writes Classes;
    /// Change what is written about an agent class.
    UpdateClass = "/muster.agent.v1.Registry/UpdateClass" [Local, Admin] writes Classes;
    /// Read an agent class.
    GetClass = "/muster.agent.v1.Registry/GetClass" [Local, Admin];
    /// List agent classes.
    ListClasses = "/muster.agent.v1.Registry/ListClasses" [Local, Admin];
    /// Let a proposed class have identities.
    ApproveClass = "/muster.agent.v1.Registry/ApproveClass" [Local, Admin] writes Classes;
    /// Pause a class.
    SuspendClass = "/muster.agent.v1.Registry/SuspendClass" [Local, Admin] writes Classes;
    /// Withdraw the identities of a class that is suspected.
    QuarantineClass = "/muster.agent.v1.Registry/QuarantineClass" [Local, Admin] writes Classes;
    /// Let a class have identities again.
    ReinstateClass = "/muster.agent.v1.Registry/ReinstateClass" [Local, Admin] writes Classes;
    /// End a class for good.
    RetireClass = "/muster.agent.v1.Registry/RetireClass" [Local, Admin] writes Classes;
    /// Record that someone looked at a class, and set the next date.
    ReviewClass = "/muster.agent.v1.Registry/ReviewClass" [Local, Admin] writes Classes;
    /// List agents that run, or ran.
    ListInstances = "/muster.agent.v1.Registry/ListInstances" [Local, Admin];
    /// Read an agent that runs, or ran.
    GetInstance = "/muster.agent.v1.Registry/GetInstance" [Local, Admin];
    /// Withdraw the identity of one agent that is suspected.
    QuarantineInstance = "/muster.agent.v1.Registry/QuarantineInstance" [Local, Admin] writes Instances;
    /// Let one agent have its identity again.
    ReleaseInstance = "/muster.agent.v1.Registry/ReleaseInstance" [Local, Admin] writes Instances;
    /// End one agent for good.
    RetireInstance = "/muster.agent.v1.Registry/RetireInstance" [Local, Admin] writes Instances;
    /// Note that a person is gone; what nobody answers for is quarantined.
    MarkPersonGone = "/muster.agent.v1.Registry/MarkPersonGone" [Local, Admin] writes Departures, Classes;
    /// Note that a person is back.
    MarkPersonReturned = "/muster.agent.v1.Registry/MarkPersonReturned" [Local, Admin] writes Departures;
    /// List the persons who are known to be gone.
    ListPersonsGone = "/muster.agent.v1.Registry/ListPersonsGone" [Local, Admin];

    /// List the tasks of all nodes.
    ListTasks = "/muster.agent.v1.TaskLedger/ListTasks" [Local, Admin];
    /// Read a task of any node.
    GetTask = "/muster.agent.v1.TaskLedger/GetTask" [Local, Admin];
    /// End a task, and all that are part of it.
    RevokeTask = "/muster.agent.v1.TaskLedger/RevokeTask" [Local, Admin] writes Tasks;

    /// Open a task on the calling node.
    OpenTask = "/muster.node.v1.NodeTasks/Open" [Node] writes Tasks, Instances;
    /// Move the deadline of a task of the calling node.
    ExtendTask = "/muster.node.v1.NodeTasks/Extend" [Node] writes Tasks;
    /// Count against the budget of a task of the calling node.
    SpendTask = "/muster.node.v1.NodeTasks/Spend" [Node] writes Tasks;
    /// End tasks of the calling node.
    EndTasks = "/muster.node.v1.NodeTasks/End" [Node] writes Tasks;
    /// List the tasks of the calling node.
    ListNodeTasks = "/muster.node.v1.NodeTasks/List" [Node];

    /// Put a set of policies on agents in force.
    PutPolicies = "/muster.agent.v1.Policies/Put" [Local, Admin] writes Policies;
    /// Read a set of policies.
    GetPolicies = "/muster.agent.v1.Policies/Get" [Local, Admin];
    /// List the sets of policies that are kept.
    ListPolicyVersions = "/muster.agent.v1.Policies/ListVersions" [Local, Admin];
    /// Put an earlier set of policies in force again.
    RollbackPolicies = "/muster.agent.v1.Policies/Rollback" [Local, Admin] writes Policies;
    /// Check a set of policies.
    ValidatePolicies = "/muster.agent.v1.Policies/Validate" [Local, Admin];
    /// Read the words of policies.
    GetPolicySchema = "/muster.agent.v1.Policies/GetSchema" [Local, Admin];
    /// Have a set of policies decide requests.
    SimulatePolicies = "/muster.agent.v1.Policies/Simulate" [Local, Admin];
    /// Compare a set of policies with what was decided.
    ComparePolicies = "/muster.agent.v1.Policies/Compare" [Local, Admin];
    /// Read the decisions on record.
    ReadPolicyRecord = "/muster.agent.v1.Policies/ReadRecord" [Local, Admin];

    /// Write an identity rule.
    CreateRule = "/muster.agent.v1.Rules/CreateRule" [Local, Admin] writes Rules;
    /// Change an identity rule.
    UpdateRule = "/muster.agent.v1.Rules/UpdateRule" [Local, Admin] writes Rules;
    /// Delete an identity rule.
    DeleteRule = "/muster.agent.v1.Rules/DeleteRule" [Local, Admin] writes Rules;
    /// Read an identity rule.
    GetRule = "/muster.agent.v1.Rules/GetRule" [Local, Admin];
    /// List identity rules.
    ListRules = "/muster.agent.v1.Rules/ListRules" [Local, Admin];
    /// Ask what an identity rule would make of facts.
    TryRule = "/muster.agent.v1.Rules/TryRule" [Local, Admin];

    /// Sign X509-SVIDs that the calling node derived by rule.
    BatchNewX509Derived = "/muster.node.v1.DerivedSvid/BatchNewX509Svid" [Node];
    /// Sign a JWT-SVID that the calling node derived by rule.
    NewJwtDerived = "/muster.node.v1.DerivedSvid/NewJwtSvid" [Node];
    /// Sign WIT-SVIDs that the calling node derived by rule.
    BatchNewWitDerived = "/muster.node.v1.DerivedSvid/BatchNewWitSvid" [Node];

    /// List what looks like agents on nodes.
    ListSightings = "/muster.agent.v1.Sightings/ListSightings" [Local, Admin];
    /// Read one such sighting.
    GetSighting = "/muster.agent.v1.Sightings/GetSighting" [Local, Admin];
    /// Note that a sighting is known, and why it is left as it is.
    AcknowledgeSighting = "/muster.agent.v1.Sightings/AcknowledgeSighting" [Local, Admin] writes Sightings;
    /// Tell what looks like agents on the calling node.
    ReportSightings = "/muster.node.v1.NodeSightings/ReportSightings" [Node] writes Sightings;

    /// Tell whom the calling node refused.
    ReportRefusals = "/muster.node.v1.NodeRefusals/ReportRefusals" [Node];
    /// Tell whom the calling node attested and served.
    ReportAttestations = "/muster.node.v1.NodeAttestations/ReportAttestations" [Node];

    /// Follow the calling node's view of the roll.
    WatchNodeView = "/muster.node.v1.NodeView/Watch" [Node] writes Nodes;

    /// Prepare, activate and retire signing authorities.
    RotateAuthority = "rotate-authority" [System] writes Bundles, Journals;
    /// Let a renewed node certificate take the place of the old one.
    PromoteNode = "promote-node" [System] writes Nodes;
    /// Act upon dates of agent classes, and upon agents that are no longer seen.
    ReconcileAgents = "reconcile-agents" [System] writes Classes, Instances;
    /// End tasks that nothing holds open any longer.
    ReconcileTasks = "reconcile-tasks" [System] writes Tasks;
    /// End the tasks that a change takes the ground from.
    FollowTasks = "follow-tasks" [System] writes Tasks;
    /// Note that an agent received an SVID.
    SeeAgents = "see-agents" [System] writes Instances;
    /// Forget sightings that are gone for long, and note those whose node is.
    PruneSightings = "prune-sightings" [System] writes Sightings;
    /// Remove what has expired.
    Prune = "prune" [System] writes Entries, Nodes, Tokens, Bundles;
}
