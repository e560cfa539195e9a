//! What is acknowledged survives: the loss of the process, and the loss of power at any byte.

#![expect(clippy::unwrap_used, reason = "what a test needs, it expects")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::creation;
use muster_model::Revision;
use muster_store::{Store as _, Transaction};
use muster_store_sqlite::SqliteStore;
use tempfile::TempDir;

/// How many transactions are committed together; a head that is no multiple of it is a torn batch.
const BATCH: u64 = 3;

/// The database of the child; only set for the child.
const DATABASE: &str = "MUSTER_TEST_CRASH";

fn batch(first: u64) -> Vec<Arc<Transaction>> {
    (first..first + BATCH)
        .map(|n| Arc::new(creation(n)))
        .collect()
}

/// Opens the store, checks that it is whole, and returns its head.
async fn check(path: &Path) -> u64 {
    let store = SqliteStore::open(path).unwrap();
    let loaded = store.load().await.unwrap();
    let head = loaded.head.0;
    assert_eq!(head % BATCH, 0, "a batch is torn");
    let ordinals: Vec<u64> = loaded.entries.iter().map(|entry| entry.ordinal).collect();
    assert_eq!(ordinals, (1..=head).collect::<Vec<_>>());
    assert_eq!(loaded.next_ordinal, head + 1);
    let log = store.changes_after(Revision(0), usize::MAX).await.unwrap();
    let revisions: Vec<u64> = log.iter().map(|(revision, _)| revision.0).collect();
    assert_eq!(revisions, (1..=head).collect::<Vec<_>>());
    let audit = store.audit_after(0, usize::MAX).await.unwrap();
    assert!(audit.iter().map(|(sequence, _)| *sequence).eq(1..=head));
    head
}

/// The child: commits for as long as it lives, and says what was acknowledged.
async fn commit_for_ever(path: &Path) {
    let mut output = std::io::stdout();
    let store = SqliteStore::open(path).unwrap();
    let mut next = store.load().await.unwrap().next_ordinal;
    loop {
        let head = store.commit(batch(next)).await.unwrap();
        writeln!(output, "acknowledged {}", head.0).unwrap();
        next += BATCH;
    }
}

/// Each round kills the writer while it is busy with the commits after the one that was last heard
/// of, and the next round goes on with what it finds.
#[tokio::test]
async fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    if let Ok(path) = std::env::var(DATABASE) {
        return commit_for_ever(Path::new(&path)).await;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    for round in 0..16_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_killed_writer_loses_nothing_that_it_acknowledged",
                "--nocapture",
            ])
            .env(DATABASE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledgements = output.lines().filter_map(|line| {
            let line = line.unwrap();
            let (_, number) = line.split_once("acknowledged ")?;
            Some(number.parse::<u64>().unwrap())
        });
        let first = acknowledgements.nth(round * 5 % 17).unwrap();
        child.kill().unwrap();
        let last = acknowledgements.last().unwrap_or(first);
        child.wait().unwrap();
        let head = check(&path).await;
        assert!(head >= last, "{last} was acknowledged, {head} is there");
    }
}

/// The log is only ever appended to, so that each prefix of it is what the disk may hold when the
/// power goes: at every length, all that was acknowledged by then is there, and no half of a batch.
#[tokio::test]
async fn power_loss_at_any_byte_of_the_log() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("roll.db");
    let wal = dir.path().join("roll.db-wal");
    let store = SqliteStore::open(&path).unwrap();
    let mut acknowledged = vec![(fs::metadata(&wal).unwrap().len(), 0)];
    for n in 0..6 {
        let head = store.commit(batch(n * BATCH + 1)).await.unwrap();
        acknowledged.push((fs::metadata(&wal).unwrap().len(), head.0));
    }
    let (main, log) = (fs::read(&path).unwrap(), fs::read(&wal).unwrap());
    drop(store);
    let mut lengths: Vec<usize> = (0..log.len()).step_by(1999).collect();
    for (length, _) in &acknowledged {
        let length = usize::try_from(*length).unwrap();
        lengths.extend([length.saturating_sub(1), length]);
    }
    for length in lengths {
        let place = TempDir::new().unwrap();
        let path = place.path().join("roll.db");
        fs::write(&path, &main).unwrap();
        fs::write(place.path().join("roll.db-wal"), &log[..length]).unwrap();
        let head = check(&path).await;
        let due = acknowledged
            .iter()
            .rfind(|(at, _)| usize::try_from(*at).unwrap() <= length)
            .map_or(0, |(_, head)| *head);
        assert_eq!(head, due, "with {length} bytes of the log");
    }
    // A last sector that was half written is noticed by its checksum.
    let mut torn = log.clone();
    let end = torn.len();
    torn[end - 100] ^= 0xff;
    let place = TempDir::new().unwrap();
    let path = place.path().join("roll.db");
    fs::write(&path, &main).unwrap();
    fs::write(place.path().join("roll.db-wal"), torn).unwrap();
    assert_eq!(check(&path).await, 5 * BATCH);
}
