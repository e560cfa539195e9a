//! An open task as its node sees it: an entry like any other.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_model::{Entry, EntryId, Revision, Selector, Task, TaskId};

/// The longest that X509-SVIDs of a task live (agent-identity 4.3, "TTL rule").
pub const X509_TTL: Duration = Duration::from_mins(5);
/// The longest that JWT-SVIDs of a task live.
pub const JWT_TTL: Duration = Duration::from_secs(60);

/// The entry of a task, whatever its state; `None` only where the task could not have been opened.
///
/// Its ID is the task's, its parent the node, and its one selector `muster:task:ID`, which the node
/// gives to callers on the task's socket once the binding has let them through. It is a function of
/// the row alone, and two entries of a task are equal unless something in them was changed: nodes
/// are told of no more. So it has no `changed_at`, which the task has, and no place in the order of
/// creation of entries.
pub fn entry(task: &Task) -> Option<Entry> {
    let selector = Selector::new("muster", format!("task:{}", task.id)).ok()?;
    let lasts = task
        .deadline
        .since(task.opened_at)
        .max(Duration::from_secs(1));
    let ttl = |most: Duration| Some(Duration::from_secs(most.min(lasts).as_secs()));
    Some(Entry {
        id: entry_id(task.id)?,
        spiffe_id: task.spiffe_id().ok()?,
        parent_id: task.node.clone(),
        selectors: [selector].into(),
        x509_svid_ttl: ttl(X509_TTL),
        jwt_svid_ttl: ttl(JWT_TTL),
        federates_with: BTreeSet::new(),
        admin: false,
        downstream: false,
        expires_at: Some(task.deadline),
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        class: Some(task.class.clone()),
        created_at: task.opened_at.floor_to_second(),
        ordinal: 0,
        revision_number: task.edition.into(),
        changed_at: Revision::default(),
    })
}

/// The ID of a task's entry.
pub fn entry_id(task: TaskId) -> Option<EntryId> {
    EntryId::parse(&task.to_string()).ok()
}

/// The task whose entry an ID would be of.
pub fn id_of_entry(entry: &EntryId) -> Option<TaskId> {
    TaskId::parse(entry.as_str()).ok()
}
