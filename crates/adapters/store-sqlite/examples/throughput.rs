//! How fast entries become durable, and how fast they are loaded again.
//!
//! `cargo run --release -p muster-store-sqlite --example throughput [FOLDER] [ENTRIES]`
//!
//! Eight writers each put batches of 50 entries with their audit records into a queue, wait for the
//! answer and go on; one task commits together whatever waits, as the server's writer does.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use muster_audit::{Actor, Decision, Event, Record};
use muster_model::{Entry, EntryId, Revision, SpiffeId, Timestamp, TrustDomain};
use muster_policy::{Caller, Prune, decide};
use muster_roll::Roll;
use muster_store::{Store as _, StoreError, Transaction};
use muster_store_sqlite::SqliteStore;
use tokio::sync::{mpsc, oneshot};

const WRITERS: usize = 8;
const PER_TRANSACTION: u64 = 50;

type Failure = Box<dyn Error + Send + Sync>;
type Request = (
    Arc<Transaction>,
    oneshot::Sender<Result<Revision, StoreError>>,
);

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let temporary = tempfile::TempDir::new()?;
    let folder = arguments
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let total: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let path = folder.join("throughput.db");
    let store = Arc::new(SqliteStore::open(&path)?);

    let (queue, requests) = mpsc::channel::<Request>(1024);
    let committer = tokio::spawn(commit_together(Arc::clone(&store), requests));
    let next = Arc::new(AtomicU64::new(1));
    let start = now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| tokio::spawn(write(queue.clone(), Arc::clone(&next), total)))
        .collect();
    drop(queue);
    let mut waits = Vec::new();
    for writer in writers {
        waits.extend(writer.await??);
    }
    let elapsed = start.elapsed();
    let commits = committer.await?;
    waits.sort_unstable();
    say(&format!(
        "write   {total} entries, {WRITERS} writers, {PER_TRANSACTION} in a transaction: {:.2} s, {:.0} entries/s, \
         {commits} commits, a transaction waits p50 {:?} p99 {:?}",
        elapsed.as_secs_f64(),
        seconds_per(total, elapsed),
        quantile(&waits, 50),
        quantile(&waits, 99),
    ))?;
    drop(store);

    let (start, busy) = (now(), processor_time());
    let store = SqliteStore::open(&path)?;
    let opened = start.elapsed();
    let loaded = store.load().await?;
    let read = start.elapsed();
    let busy_reading = processor_time().saturating_sub(busy);
    let roll = Roll::load(TrustDomain::parse("example.org")?, loaded);
    let ready = start.elapsed();
    say(&format!(
        "load    {} entries: open {opened:?}, read {:?}, index {:?}, together {ready:?}; processor time {busy_reading:?} \
         to read, {:?} together; resident {}",
        roll.entry_count(),
        read.saturating_sub(opened),
        ready.saturating_sub(read),
        processor_time().saturating_sub(busy),
        resident(),
    ))?;
    say(&format!(
        "file    {} bytes",
        std::fs::metadata(&path)?.len()
    ))?;
    drop(store);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        // What SQLite has removed itself need not be removed.
        drop(std::fs::remove_file(name));
    }
    Ok(())
}

async fn commit_together(store: Arc<SqliteStore>, mut requests: mpsc::Receiver<Request>) -> u64 {
    let (mut waiting, mut commits) = (Vec::new(), 0);
    while requests.recv_many(&mut waiting, 256).await > 0 {
        let (batch, answers): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
        let outcome = store.commit(batch).await;
        commits += 1;
        for answer in answers {
            drop(answer.send(outcome.clone()));
        }
    }
    commits
}

async fn write(
    queue: mpsc::Sender<Request>,
    next: Arc<AtomicU64>,
    total: u64,
) -> Result<Vec<Duration>, Failure> {
    let mut waits = Vec::new();
    loop {
        let first = next.fetch_add(PER_TRANSACTION, Ordering::Relaxed);
        if first > total {
            return Ok(waits);
        }
        let transaction = Arc::new(creations(first)?);
        let (answer, wait) = oneshot::channel();
        let start = now();
        queue.send((transaction, answer)).await?;
        wait.await??;
        waits.push(start.elapsed());
    }
}

fn creations(first: u64) -> Result<Transaction, Failure> {
    let permit = decide::<Prune>(&Caller::System("benchmark"))?;
    let mut transaction = Transaction::new();
    for ordinal in first..first + PER_TRANSACTION {
        let id = format!("7d6b1f1e-0c35-4d0e-9b7a-{ordinal:012}");
        transaction.audit(Record {
            at_ms: 1_700_000_000_000,
            event: Event::EntryCreated,
            actor: Actor {
                class: "local".into(),
                pid: Some(4711),
                uid: Some(0),
                ..Actor::default()
            },
            decision: Decision::Allowed,
            subject: id.clone(),
            detail: BTreeMap::new(),
        });
        let entry = Entry {
            id: EntryId::parse(&id)?,
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/workload/{ordinal}"))?,
            parent_id: SpiffeId::parse("spiffe://example.org/spire/agent/join_token/node")?,
            selectors: [format!("unix:uid:{ordinal}").parse()?].into(),
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
        };
        transaction.put_entry(&permit, entry);
    }
    Ok(transaction)
}

fn seconds_per(count: u64, elapsed: Duration) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from) / elapsed.as_secs_f64()
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get(sorted.len().saturating_sub(1) * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// The processor time of all threads so far, as the kernel tells it, in steps of 10 ms: on a machine
/// that others use, the time on the clock says little.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The process's resident memory, as the kernel tells it.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
