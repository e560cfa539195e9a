//! What agents and tasks hold, and until when: the last SVID of each kind that was issued to each.
//!
//! This is knowledge from the audit log, and from nothing else: what stands there of the last day
//! is read once at the start, and what is added later is followed. Other workloads are not
//! remembered; there may be a million of them, and nobody draws them as a tree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_audit::{Decision, Record, SvidKind, identity};
use muster_model::Timestamp;

use crate::audit_log::AuditLog;
use crate::server::Server;

/// The most that is remembered, some 40 MB.
const MOST: usize = 100_000;
/// How far the start reads back: what lives longer is known once it is renewed.
const BACK: Duration = Duration::from_hours(24);
/// How many records the start looks through at the most.
const BACK_RECORDS: usize = 200_000;
/// How many records are read at once.
const PAGE: usize = 1000;
/// How often what has expired is looked for when there is no room, in milliseconds.
const SWEEP_MS: i64 = 10_000;

/// An SVID that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Of which class the agent is.
    pub class: String,
    /// In Unix milliseconds.
    pub issued_at_ms: i64,
    /// In Unix seconds.
    pub expires_at: i64,
    /// Where it went, if to a node.
    pub node: Option<String>,
    /// Serial number, ID or digest.
    pub name: String,
    /// The record of its issuance.
    pub sequence: u64,
}

/// What is remembered.
#[derive(Default)]
pub(crate) struct Holdings(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    held: BTreeMap<(String, SvidKind), Held>,
    /// Something may be missing that has not expired.
    incomplete: bool,
    swept_ms: i64,
}

/// A part of what is remembered.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub held: Vec<((String, SvidKind), Held)>,
    /// Whether there is more.
    pub more: bool,
    /// Whether something may be missing.
    pub incomplete: bool,
}

impl Holdings {
    /// Takes note of a record. Of two about the same, the one with the higher number counts.
    fn note(&self, sequence: u64, record: &Record) {
        let Some(kind) = SvidKind::issued(record) else {
            return;
        };
        let (Some(class), Decision::Allowed) = (identity::class(record), record.decision) else {
            return;
        };
        let said = |name: &str| record.detail.get(name).cloned().unwrap_or_default();
        let Ok(expires_at) = said("expires_at").parse() else {
            return;
        };
        let held = Held {
            class: class.to_owned(),
            issued_at_ms: record.at_ms,
            expires_at,
            node: record.detail.get("node").cloned(),
            name: said(kind.named_by()),
            sequence,
        };
        let mut inner = self.inner();
        let key = (record.subject.clone(), kind);
        let known = inner.held.get(&key).map(|known| known.sequence);
        if known.is_some_and(|known| known > sequence) {
            return;
        }
        if known.is_none() && inner.held.len() >= MOST {
            inner.make_room(record.at_ms);
            if inner.held.len() >= MOST {
                inner.incomplete = true;
                return;
            }
        }
        inner.held.insert(key, held);
    }

    /// What is not expired at `now`, by ascending identity, after `after`, and at most `most`.
    pub(crate) fn list(
        &self,
        wanted: impl Fn(&str, &Held) -> bool,
        after: Option<&(String, SvidKind)>,
        most: usize,
        now: Timestamp,
    ) -> Page {
        let inner = self.inner();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut found = inner
            .held
            .range((from, std::ops::Bound::Unbounded))
            .filter(|((id, _), held)| held.expires_at > now.unix_seconds() && wanted(id, held));
        let held: Vec<_> = found
            .by_ref()
            .take(most)
            .map(|(key, held)| (key.clone(), held.clone()))
            .collect();
        Page {
            more: found.next().is_some(),
            held,
            incomplete: inner.incomplete,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Forgets what has expired, unless that was looked for just now.
    fn make_room(&mut self, now_ms: i64) {
        if now_ms - self.swept_ms < SWEEP_MS {
            return;
        }
        self.swept_ms = now_ms;
        self.held.retain(|_, held| held.expires_at > now_ms / 1000);
    }
}

/// Reads what the log has of the last day, and follows it; ends with the server.
pub(crate) async fn keep(server: Arc<Server>) {
    let mut follower = server.audit.follow();
    let now = server.clock.now().wall;
    read_back(&server.holdings, &server.audit, follower.at(), now).await;
    while let Some(news) = follower.next().await {
        if let Some((first, last)) = news.missed {
            catch_up(&server.holdings, &server.audit, first, last).await;
        }
        for (sequence, record) in news.records() {
            server.holdings.note(sequence, record);
        }
    }
    // The writer is gone: the server is about to be, too.
    server.shutdown.begun().await;
}

async fn read_back(holdings: &Holdings, log: &AuditLog, head: u64, now: Timestamp) {
    let oldest = now.unix_millis() - i64::try_from(BACK.as_millis()).unwrap_or(i64::MAX);
    let mut before = head.saturating_add(1);
    for _ in 0..BACK_RECORDS / PAGE {
        let page = match log.before(before, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "what agents hold is not known from the past: the audit log cannot be read");
                break;
            }
        };
        for (sequence, record) in &page {
            holdings.note(*sequence, record);
        }
        match page.last() {
            Some((sequence, record)) if record.at_ms >= oldest => before = *sequence,
            // All that could still be good was seen.
            Some(_) | None => return,
        }
    }
    holdings.inner().incomplete = true;
}

async fn catch_up(holdings: &Holdings, log: &AuditLog, first: u64, last: u64) {
    let mut at = first.saturating_sub(1);
    while at < last {
        match log.after(at, PAGE).await {
            Ok(page) if page.is_empty() => return,
            Ok(page) => {
                for (sequence, record) in &page {
                    holdings.note(*sequence, record);
                    at = *sequence;
                }
            }
            Err(error) => {
                tracing::warn!(%error, first, last, "what agents hold is not known in part: the audit log cannot be read");
                holdings.inner().incomplete = true;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_audit::{Actor, Event};

    use super::*;

    fn issued(id: &str, expires_at: i64) -> Record {
        Record {
            at_ms: 1_000_000,
            event: Event::SvidIssued,
            actor: Actor::default(),
            decision: Decision::Allowed,
            subject: id.into(),
            detail: BTreeMap::new(),
        }
        .with("svid", SvidKind::X509.word())
        .with("expires_at", expires_at.to_string())
        .with("serial_number", "17")
    }

    fn ids(holdings: &Holdings, now: i64) -> Vec<(String, i64)> {
        let page = holdings.list(|_, _| true, None, 9, Timestamp::from_unix_seconds(now));
        page.held
            .into_iter()
            .map(|((id, _), held)| (id, held.expires_at))
            .collect()
    }

    #[test]
    fn the_last_of_each_agent_is_remembered_until_it_expires() {
        let holdings = Holdings::default();
        let reader = "spiffe://td/agent/reader/1";
        holdings.note(3, &issued(reader, 1200));
        // Older news that comes later, a workload, a refusal.
        holdings.note(2, &issued(reader, 1100));
        holdings.note(4, &issued("spiffe://td/web", 1200));
        holdings.note(5, &issued("spiffe://td/agent/writer/1", 1200).refused("no"));
        assert_eq!(ids(&holdings, 1000), [(reader.to_owned(), 1200)]);
        assert_eq!(ids(&holdings, 1200), []);
        holdings.note(
            6,
            &issued("spiffe://td/night", 1300).with("class", "reader"),
        );
        assert_eq!(
            ids(&holdings, 1200),
            [("spiffe://td/night".to_owned(), 1300)]
        );
    }

    #[test]
    fn pages_follow_each_other() {
        let holdings = Holdings::default();
        for number in 0..5 {
            holdings.note(
                number,
                &issued(&format!("spiffe://td/agent/a/{number}"), 1200),
            );
        }
        let now = Timestamp::from_unix_seconds(1000);
        let first = holdings.list(|_, _| true, None, 3, now);
        assert!(first.more && first.held.len() == 3);
        let rest = holdings.list(|_, _| true, Some(&first.held[2].0), 3, now);
        assert!(!rest.more && rest.held.len() == 2);
    }
}
