//! What the tests write.

use std::collections::{BTreeMap, BTreeSet};

use muster_audit::{Actor, Decision, Event, Record};
use muster_model::{Entry, EntryId, Revision, SpiffeId, Timestamp};
use muster_policy::{Caller, Permit, Prune, decide};
use muster_store::Transaction;

pub(crate) fn permit() -> Permit<Prune> {
    decide(&Caller::System("test")).unwrap()
}

pub(crate) fn entry(ordinal: u64) -> Entry {
    Entry {
        id: EntryId::parse(&format!("e{ordinal}")).unwrap(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/w/{ordinal}")).unwrap(),
        parent_id: SpiffeId::parse("spiffe://td/spire/agent/x/1").unwrap(),
        selectors: ["unix:uid:1000".parse().unwrap()].into(),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: BTreeSet::new(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        class: None,
        created_at: Timestamp::from_unix_seconds(1_700_000_000),
        ordinal,
        revision_number: 0,
        changed_at: Revision::default(),
    }
}

/// A transaction that creates the entry of that ordinal, with its audit record.
pub(crate) fn creation(ordinal: u64) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.put_entry(&permit(), entry(ordinal));
    transaction.audit(Record {
        at_ms: 1_700_000_000_000,
        event: Event::EntryCreated,
        actor: Actor::default(),
        decision: Decision::Allowed,
        subject: format!("e{ordinal}"),
        detail: BTreeMap::new(),
    });
    transaction
}
