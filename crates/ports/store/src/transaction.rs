//! What is written together.

use std::fmt;
use std::sync::Arc;

use muster_audit::Record;
use muster_model::{
    AgentClass, AgentInstance, Bundle, Departure, Entry, EntryId, JoinToken, Node, PersonId,
    PolicyText, PolicyVersion, Revision, Rule, RuleName, Sighting, SightingId, SpiffeId, Task,
    TaskId, TrustDomain,
};
use muster_policy::{
    Bundles, Classes, Departures, Entries, Instances, Journals, Nodes, Permit, Policies, Rules,
    Sightings, Tasks, Tokens, Writes,
};
use muster_roll::Change;
use muster_roll::agents::AgentChange;

/// Changes to rows and the audit records about them, which become durable together.
///
/// Each method that changes rows takes the permit for an action that writes such rows; the permit
/// itself is not kept: who did it stands in the audit record.
///
/// ```
/// use muster_model::EntryId;
/// use muster_policy::{BatchDeleteEntry, Caller, decide};
/// use muster_store::Transaction;
///
/// let permit = decide::<BatchDeleteEntry>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
/// let mut transaction = Transaction::new();
/// transaction.delete_entry(&permit, EntryId::parse("e").unwrap());
/// assert_eq!(transaction.changes().len(), 1);
/// ```
///
/// A write that nobody authorized does not compile: without a permit,
///
/// ```compile_fail,E0061
/// # use muster_model::EntryId;
/// # use muster_store::Transaction;
/// let mut transaction = Transaction::new();
/// transaction.delete_entry(EntryId::parse("e").unwrap());
/// ```
///
/// with a permit for something else,
///
/// ```compile_fail,E0277
/// # use muster_model::EntryId;
/// # use muster_policy::{Caller, ListEntries, decide};
/// # use muster_store::Transaction;
/// // Whoever may read the entries may not yet delete one.
/// let permit = decide::<ListEntries>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
/// let mut transaction = Transaction::new();
/// transaction.delete_entry(&permit, EntryId::parse("e").unwrap());
/// ```
///
/// with a permit of one's own making,
///
/// ```compile_fail,E0451
/// # use muster_policy::{BatchDeleteEntry, Class, Permit, Principal};
/// let principal = Principal { class: Class::Local, id: None, process: None, work: None };
/// let permit: Permit<BatchDeleteEntry> = Permit { principal, action: std::marker::PhantomData };
/// ```
///
/// or past the methods.
///
/// ```compile_fail,E0451
/// # use muster_store::Transaction;
/// let transaction = Transaction { changes: Vec::new(), records: Vec::new() };
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    changes: Vec<Change>,
    records: Vec<Record>,
}

impl Transaction {
    /// A transaction with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes an entry, new or in place of the one with the same ID.
    pub fn put_entry<A: Writes<Entries>>(&mut self, _permit: &Permit<A>, entry: Entry) {
        self.changes.push(Change::PutEntry(Arc::new(entry)));
    }

    /// Deletes an entry.
    pub fn delete_entry<A: Writes<Entries>>(&mut self, _permit: &Permit<A>, id: EntryId) {
        self.changes.push(Change::DeleteEntry(id));
    }

    /// Writes a node, new or in place of the one with the same ID.
    pub fn put_node<A: Writes<Nodes>>(&mut self, _permit: &Permit<A>, node: Node) {
        self.changes.push(Change::PutNode(Arc::new(node)));
    }

    /// Deletes a node.
    pub fn delete_node<A: Writes<Nodes>>(&mut self, _permit: &Permit<A>, id: SpiffeId) {
        self.changes.push(Change::DeleteNode(id));
    }

    /// Writes a join token.
    pub fn put_join_token<A: Writes<Tokens>>(&mut self, _permit: &Permit<A>, token: JoinToken) {
        self.changes.push(Change::PutJoinToken(token));
    }

    /// Deletes a join token.
    pub fn delete_join_token<A: Writes<Tokens>>(&mut self, _permit: &Permit<A>, value: String) {
        self.changes.push(Change::DeleteJoinToken(value));
    }

    /// Writes a bundle, new or in place of the one of the same trust domain.
    pub fn put_bundle<A: Writes<Bundles>>(&mut self, _permit: &Permit<A>, bundle: Bundle) {
        self.changes.push(Change::PutBundle(Arc::new(bundle)));
    }

    /// Deletes a bundle.
    pub fn delete_bundle<A: Writes<Bundles>>(&mut self, _permit: &Permit<A>, name: TrustDomain) {
        self.changes.push(Change::DeleteBundle(name));
    }

    /// Writes an identity rule, new or in place of the one of the same name.
    pub fn put_rule<A: Writes<Rules>>(&mut self, _permit: &Permit<A>, rule: Rule) {
        self.changes.push(Change::PutRule(Arc::new(rule)));
    }

    /// Deletes an identity rule.
    pub fn delete_rule<A: Writes<Rules>>(&mut self, _permit: &Permit<A>, name: RuleName) {
        self.changes.push(Change::DeleteRule(name));
    }

    /// Writes an agent class, new or in place of the one of the same name. There is no deletion.
    pub fn put_class<A: Writes<Classes>>(&mut self, _permit: &Permit<A>, class: AgentClass) {
        self.agent(AgentChange::PutClass(Arc::new(class)));
    }

    /// Writes an agent, new or in place of the one of the same identity.
    pub fn put_instance<A: Writes<Instances>>(
        &mut self,
        _permit: &Permit<A>,
        instance: AgentInstance,
    ) {
        self.agent(AgentChange::PutInstance(Arc::new(instance)));
    }

    /// Forgets an agent.
    pub fn delete_instance<A: Writes<Instances>>(&mut self, _permit: &Permit<A>, id: SpiffeId) {
        self.agent(AgentChange::DeleteInstance(id));
    }

    /// Writes a task, new or in place of the one of the same name.
    pub fn put_task<A: Writes<Tasks>>(&mut self, _permit: &Permit<A>, task: Task) {
        self.agent(AgentChange::PutTask(Arc::new(task)));
    }

    /// Forgets a task.
    pub fn delete_task<A: Writes<Tasks>>(&mut self, _permit: &Permit<A>, id: TaskId) {
        self.agent(AgentChange::DeleteTask(id));
    }

    /// Notes that a person is gone.
    pub fn put_departure<A: Writes<Departures>>(
        &mut self,
        _permit: &Permit<A>,
        departure: Departure,
    ) {
        self.agent(AgentChange::PutDeparture(Arc::new(departure)));
    }

    /// Notes that a person is back.
    pub fn delete_departure<A: Writes<Departures>>(
        &mut self,
        _permit: &Permit<A>,
        person: PersonId,
    ) {
        self.agent(AgentChange::DeleteDeparture(person));
    }

    /// Writes a set of policies, which becomes the newest.
    pub fn put_policies<A: Writes<Policies>>(
        &mut self,
        _permit: &Permit<A>,
        version: PolicyVersion,
        text: PolicyText,
    ) {
        self.agent(AgentChange::PutPolicies {
            version: Arc::new(version),
            text,
        });
    }

    /// Forgets a set of policies.
    pub fn delete_policies<A: Writes<Policies>>(&mut self, _permit: &Permit<A>, number: u64) {
        self.agent(AgentChange::DeletePolicies(number));
    }

    /// Writes a sighting, new or in place of the one of the same node and key.
    pub fn put_sighting<A: Writes<Sightings>>(&mut self, _permit: &Permit<A>, sighting: Sighting) {
        self.agent(AgentChange::PutSighting(Arc::new(sighting)));
    }

    /// Forgets a sighting.
    pub fn delete_sighting<A: Writes<Sightings>>(&mut self, _permit: &Permit<A>, id: SightingId) {
        self.agent(AgentChange::DeleteSighting(id));
    }

    fn agent(&mut self, change: AgentChange) {
        self.changes.push(Change::Agent(change));
    }

    /// Writes the journal of a signing authority.
    pub fn put_journal<A: Writes<Journals>>(
        &mut self,
        _permit: &Permit<A>,
        name: impl Into<String>,
        content: impl Into<Arc<[u8]>>,
    ) {
        self.changes.push(Change::PutJournal {
            name: name.into(),
            content: content.into(),
        });
    }

    /// Says which revision the transaction will be committed as: the rows in it, which so far had
    /// none, need not be copied to get it. The store and the roll give a row that revision in any
    /// case.
    pub fn stamp(&mut self, revision: Revision) {
        for change in &mut self.changes {
            match change {
                Change::PutEntry(entry) => stamp(entry, |entry| entry.changed_at = revision),
                Change::PutNode(node) => stamp(node, |node| node.changed_at = revision),
                Change::PutBundle(bundle) => stamp(bundle, |bundle| bundle.changed_at = revision),
                Change::PutRule(rule) => stamp(rule, |rule| rule.changed_at = revision),
                Change::Agent(change) => change.stamp(revision),
                Change::DeleteEntry(_)
                | Change::DeleteNode(_)
                | Change::PutJoinToken(_)
                | Change::DeleteJoinToken(_)
                | Change::DeleteBundle(_)
                | Change::DeleteRule(_)
                | Change::PutJournal { .. } => {}
            }
        }
    }

    /// Adds an audit record.
    pub fn audit(&mut self, record: Record) {
        self.records.push(record);
    }

    /// The changes in the order in which they were put in.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The audit records in the order in which they were put in.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether the transaction changes no row, so that it gets no revision.
    pub fn is_audit_only(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Only what nobody else holds: everybody else was promised that it does not change.
fn stamp<T>(row: &mut Arc<T>, put: impl FnOnce(&mut T)) {
    if let Some(row) = Arc::get_mut(row) {
        put(row);
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("changes", &self.changes)
            .field("records", &self.records.len())
            .finish()
    }
}
