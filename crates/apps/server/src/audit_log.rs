//! The audit log as its readers see it: the past in the store, and each new record the moment its
//! transaction is durable.
//!
//! The writer numbers what it commits and leaves it here ([`Publisher`]); it waits for nobody. A
//! reader that is slower than the newest few thousand records finds that some are gone from here,
//! and is told which: they are in the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_audit::Record;
use muster_store::{Store, StoreError, Transaction};
use tokio::sync::watch;

/// How many records are kept for those who follow.
const RECENT: usize = 4096;

/// Opens the log of a store: the writer's end, and the readers'.
pub(crate) async fn open(store: &Arc<dyn Store>) -> Result<(Publisher, AuditLog), StoreError> {
    let head = newest(&**store).await?;
    let recent = Arc::new(Mutex::new(Recent::after(head)));
    let (sender, receiver) = watch::channel(head);
    let publisher = Publisher {
        store: Arc::clone(store),
        recent: Arc::clone(&recent),
        head: sender,
    };
    let log = AuditLog {
        store: Arc::clone(store),
        recent,
        head: receiver,
    };
    Ok((publisher, log))
}

async fn newest(store: &dyn Store) -> Result<u64, StoreError> {
    let newest = store.audit_before(u64::MAX, 1).await?;
    Ok(newest.first().map_or(0, |(sequence, _)| *sequence))
}

/// The writer's end.
pub(crate) struct Publisher {
    store: Arc<dyn Store>,
    recent: Arc<Mutex<Recent>>,
    head: watch::Sender<u64>,
}

impl Publisher {
    /// Numbers the records of transactions that are durable, in their order, and tells of them.
    pub(crate) fn publish(&self, transactions: Vec<Arc<Transaction>>) {
        let head = {
            let mut recent = locked(&self.recent);
            for transaction in transactions {
                recent.push(transaction);
            }
            recent.head
        };
        self.head.send_if_modified(|told| {
            let news = *told != head;
            *told = head;
            news
        });
    }

    /// After a commit whose outcome was not known: asks the store where the log stands. Readers
    /// find what they were not told of there.
    pub(crate) async fn start_over(&self) -> Result<(), StoreError> {
        let head = newest(&*self.store).await?;
        *locked(&self.recent) = Recent::after(head);
        self.head.send_replace(head);
        Ok(())
    }
}

/// The readers' end.
#[derive(Clone)]
pub(crate) struct AuditLog {
    store: Arc<dyn Store>,
    recent: Arc<Mutex<Recent>>,
    head: watch::Receiver<u64>,
}

impl AuditLog {
    /// The number of the newest record.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Records before a number, newest first; those before [`u64::MAX`] are the newest of all.
    pub(crate) async fn before(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        self.store.audit_before(sequence, limit).await
    }

    /// Records after a number, oldest first.
    pub(crate) async fn after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        self.store.audit_after(sequence, limit).await
    }

    /// Follows the log from its newest record on.
    pub(crate) fn follow(&self) -> Follower {
        let mut head = self.head.clone();
        let at = *head.borrow_and_update();
        Follower {
            recent: Arc::clone(&self.recent),
            head,
            at,
        }
    }
}

/// A reader's place in the log.
pub(crate) struct Follower {
    recent: Arc<Mutex<Recent>>,
    head: watch::Receiver<u64>,
    at: u64,
}

/// What came since a reader looked last.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The first and the last number of what is no longer here.
    pub missed: Option<(u64, u64)>,
    parts: Vec<(u64, Arc<Transaction>)>,
    after: u64,
}

impl News {
    /// The records with their numbers, oldest first.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, &Record)> {
        self.parts
            .iter()
            .flat_map(|(first, part)| (*first..).zip(part.records()))
            .filter(|(sequence, _)| *sequence > self.after)
    }
}

impl Follower {
    /// The number of the newest record that was seen.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Waits until there is something new, and takes it; `None` once the writer is gone.
    pub(crate) async fn next(&mut self) -> Option<News> {
        loop {
            let news = locked(&self.recent).since(self.at);
            let head = *self.head.borrow_and_update();
            if let Some((news, at)) = news {
                self.at = at;
                return Some(news);
            }
            // Published between the two looks above: look again.
            if head <= self.at {
                self.head.changed().await.ok()?;
            }
        }
    }
}

/// The newest records, in the transactions that they came with.
struct Recent {
    /// The number of the newest record.
    head: u64,
    parts: VecDeque<(u64, Arc<Transaction>)>,
    count: usize,
}

impl Recent {
    fn after(head: u64) -> Self {
        Self {
            head,
            parts: VecDeque::new(),
            count: 0,
        }
    }

    fn push(&mut self, transaction: Arc<Transaction>) {
        let records = transaction.records().len();
        if records == 0 {
            return;
        }
        self.parts.push_back((self.head + 1, transaction));
        self.head += u64::try_from(records).unwrap_or(u64::MAX);
        self.count += records;
        // The newest transaction stays, however large it is: it has been in memory anyway.
        while self.count > RECENT && self.parts.len() > 1 {
            if let Some((_, dropped)) = self.parts.pop_front() {
                self.count -= dropped.records().len();
            }
        }
    }

    /// What came after `at`, and the number up to which that reaches.
    fn since(&self, at: u64) -> Option<(News, u64)> {
        if self.head <= at {
            return None;
        }
        let first = self
            .parts
            .front()
            .map_or(self.head + 1, |(first, _)| *first);
        let missed = (first > at + 1).then(|| (at + 1, first - 1));
        let from = self.parts.partition_point(|(first, part)| {
            let records = u64::try_from(part.records().len()).unwrap_or(u64::MAX);
            first.saturating_add(records) <= at + 1
        });
        let news = News {
            missed,
            parts: self.parts.iter().skip(from).cloned().collect(),
            after: at,
        };
        Some((news, self.head))
    }
}

fn locked(recent: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::FutureExt as _;
    use muster_audit::{Actor, Decision, Event};
    use muster_store_sqlite::SqliteStore;

    use super::*;

    fn transaction(subjects: &[&str]) -> Arc<Transaction> {
        let mut transaction = Transaction::new();
        for subject in subjects {
            transaction.audit(Record {
                at_ms: 1,
                event: Event::EntryCreated,
                actor: Actor::default(),
                decision: Decision::Allowed,
                subject: (*subject).to_owned(),
                detail: BTreeMap::new(),
            });
        }
        Arc::new(transaction)
    }

    async fn log() -> (tempfile::TempDir, Publisher, AuditLog) {
        let dir = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(dir.path().join("roll.db")).unwrap();
        store.commit(vec![transaction(&["a", "b"])]).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let (publisher, log) = open(&store).await.unwrap();
        (dir, publisher, log)
    }

    fn told(news: &News) -> Vec<(u64, &str)> {
        news.records()
            .map(|(sequence, record)| (sequence, record.subject.as_str()))
            .collect()
    }

    #[tokio::test]
    async fn each_record_is_told_once_with_its_number() {
        let (_dir, publisher, log) = log().await;
        assert_eq!(log.head(), 2);
        let mut follower = log.follow();
        assert!(follower.next().now_or_never().is_none());
        publisher.publish(vec![
            transaction(&["c"]),
            transaction(&[]),
            transaction(&["d", "e"]),
        ]);
        let news = follower.next().await.unwrap();
        assert_eq!(told(&news), [(3, "c"), (4, "d"), (5, "e")]);
        assert_eq!(news.missed, None);
        assert!(follower.next().now_or_never().is_none());
        // One that came later is told of what is new to it only.
        let mut late = log.follow();
        publisher.publish(vec![transaction(&["f"])]);
        assert_eq!(told(&late.next().await.unwrap()), [(6, "f")]);
        assert_eq!(told(&follower.next().await.unwrap()), [(6, "f")]);
        drop(publisher);
        assert!(late.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_reader_learns_what_it_missed_and_what_is_kept_is_bounded() {
        let (_dir, publisher, log) = log().await;
        let mut follower = log.follow();
        let many = u64::try_from(RECENT).unwrap();
        for _ in 0..many + 10 {
            publisher.publish(vec![transaction(&["x"])]);
        }
        let news = follower.next().await.unwrap();
        assert_eq!(news.missed, Some((3, 12)));
        let numbers: Vec<u64> = news.records().map(|(sequence, _)| sequence).collect();
        assert_eq!(numbers.len(), RECENT);
        assert_eq!((numbers[0], numbers[RECENT - 1]), (13, many + 12));
    }

    #[tokio::test]
    async fn after_a_commit_in_doubt_the_store_says_where_the_log_stands() {
        let (_dir, publisher, log) = log().await;
        let mut follower = log.follow();
        let lost = transaction(&["c", "d"]);
        log.store.commit(vec![lost]).await.unwrap();
        publisher.start_over().await.unwrap();
        let news = follower.next().await.unwrap();
        assert_eq!(news.missed, Some((3, 4)));
        assert_eq!(told(&news), []);
        publisher.publish(vec![transaction(&["e"])]);
        assert_eq!(told(&follower.next().await.unwrap()), [(5, "e")]);
    }
}
