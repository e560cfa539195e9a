//! A server's database with very many entries, written through the store port while the server is
//! down: creating a million over the API would be a measurement of its own.

use std::path::Path;
use std::sync::Arc;

use muster_model::{Entry, EntryId, Revision, Timestamp, TrustDomain};
use muster_policy::{BatchCreateEntry, Caller, decide};
use muster_store::{Store as _, Transaction};
use muster_store_sqlite::SqliteStore;

use crate::clock::{Stopwatch, wall};
use crate::times::rate;
use crate::{Failure, TRUST_DOMAIN};

/// Entries in one transaction.
const BATCH: usize = 2000;
/// Entries under one parent.
const BY_PARENT: usize = 100;

/// Adds `count` entries to the database at `path`; tells how many by the second. They stand under
/// as many parents as a large domain has nodes: one for every hundred.
pub async fn run(path: &Path, count: usize) -> Result<f64, Failure> {
    let store = SqliteStore::open(path)?;
    let first = store.load().await?.next_ordinal.max(1);
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    let permit = decide::<BatchCreateEntry>(&Caller::Local {
        pid: std::process::id(),
        uid: 0,
    })
    .map_err(|denial| denial.to_string())?;
    let created_at = wall().floor_to_second();
    let watch = Stopwatch::start();
    let numbers: Vec<usize> = (0..count).collect();
    for batch in numbers.chunks(BATCH) {
        let mut transaction = Transaction::new();
        for number in batch {
            let entry = entry(&trust_domain, *number, first, created_at)?;
            transaction.put_entry(&permit, entry);
        }
        store.commit(vec![Arc::new(transaction)]).await?;
    }
    Ok(rate(count, watch.elapsed()))
}

fn entry(
    trust_domain: &TrustDomain,
    number: usize,
    first: u64,
    created_at: Timestamp,
) -> Result<Entry, Failure> {
    let node = number / BY_PARENT;
    let selectors = [
        format!("unix:uid:{}", number % 50_000),
        "unix:group:swarm".to_owned(),
    ];
    Ok(Entry {
        // As long as the IDs that a server makes.
        id: EntryId::parse(&format!("{number:08x}-0000-4000-8000-{number:012x}"))?,
        spiffe_id: trust_domain.with_path(&format!("/swarm/workload/{number}"))?,
        parent_id: trust_domain.with_path(&format!(
            "/spire/agent/join_token/{node:08x}-0000-4000-8000-{node:012x}"
        ))?,
        selectors: selectors
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?,
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: [].into(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        class: None,
        created_at,
        ordinal: first + u64::try_from(number)?,
        revision_number: 0,
        changed_at: Revision::default(),
    })
}
