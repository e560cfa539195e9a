//! Who was refused and is not told of yet: bounded, whatever happens, and however long the server is
//! away.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_model::{Now, Shown, TaskId, Timestamp, Word};
use muster_rt::ration::Ration;
use muster_wire::denial::{Denial, DenialKind};

/// How many are known at a time.
pub(super) const KEPT: usize = 1024;
/// How many are told of at once.
pub(super) const BATCH: usize = 32;
/// Whoever goes on being refused for the same is told of once in so long.
pub(super) const TOLD_AGAIN: Duration = Duration::from_mins(10);
/// In the long run one in a second: what fills no disk of a server with a thousand nodes.
const RATION: Ration = Ration::new(Duration::from_secs(1), 64);

/// A process that was refused, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refused {
    /// In a word.
    pub(crate) reason: &'static str,
    /// 0 for a process that is not visible here.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// On whose socket.
    pub(crate) task: Option<TaskId>,
}

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was counted: the same was refused before, or there is no place for it.
    Counted,
    /// It is new, and there is a place for it.
    New,
}

#[derive(Debug)]
struct Row {
    kind: DenialKind,
    executable: Shown,
    /// How many times since it was told.
    count: u64,
    last: Timestamp,
    /// In which order rows came.
    number: u64,
    /// When the server was told last, on the monotonic clock.
    told: Option<Duration>,
}

impl Row {
    /// How long until it may be told, if there is anything to tell.
    fn due_in(&self, now: Duration) -> Option<Duration> {
        let wait = self
            .told
            .map(|told| (told + TOLD_AGAIN).saturating_sub(now));
        (self.count > 0).then(|| wait.unwrap_or_default())
    }
}

/// Something to tell the server.
#[derive(Debug)]
pub(super) struct Batch {
    rows: Vec<(Refused, Denial)>,
    /// How many refusals there were beside.
    pub(super) unreported: u64,
}

impl Batch {
    pub(super) fn denials(&self) -> impl Iterator<Item = &Denial> {
        self.rows.iter().map(|(_, denial)| denial)
    }
}

/// Who was refused.
#[derive(Debug)]
pub(super) struct Table {
    rows: BTreeMap<Refused, Row>,
    next: u64,
    /// Refusals for which there was no place.
    unreported: u64,
    /// How many rows have nothing to tell: so that nobody looks for one in vain, in a flood.
    quiet: usize,
    ration: Ration,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            next: 0,
            unreported: 0,
            quiet: 0,
            ration: RATION,
        }
    }

    /// Counts a refusal, or says that it is new and that there is a place for it. Whoever refuses so
    /// much that there is none must not hide attempts to be somebody else: those take the place of
    /// others.
    pub(super) fn place(&mut self, who: &Refused, at: Timestamp) -> Place {
        if let Some(row) = self.rows.get_mut(who) {
            self.quiet -= usize::from(row.count == 0);
            row.count = row.count.saturating_add(1);
            row.last = at;
            return Place::Counted;
        }
        if self.rows.len() < KEPT || self.make_room(DenialKind::of(who.reason)) {
            return Place::New;
        }
        self.unreported = self.unreported.saturating_add(1);
        Place::Counted
    }

    /// Takes note of one that is new.
    pub(super) fn add(&mut self, who: Refused, executable: Shown, at: Timestamp) {
        // Another thread may have come first.
        if self.place(&who, at) == Place::Counted {
            return;
        }
        let row = Row {
            kind: DenialKind::of(who.reason),
            executable,
            count: 1,
            last: at,
            number: self.next,
            told: None,
        };
        self.next += 1;
        self.rows.insert(who, row);
    }

    /// Forgets one that was told and is quiet, or else the last of those that are less than `kind`.
    fn make_room(&mut self, kind: DenialKind) -> bool {
        let rows = self.rows.iter();
        let gives_way = if self.quiet > 0 {
            rows.filter(|(_, row)| row.count == 0)
                .min_by_key(|(_, row)| row.told)
        } else if kind == DenialKind::Denied {
            None
        } else {
            rows.filter(|(_, row)| row.kind > kind)
                .max_by_key(|(_, row)| (row.kind, row.number))
        };
        let Some((who, count)) = gives_way.map(|(who, row)| (*who, row.count)) else {
            return false;
        };
        self.quiet -= usize::from(count == 0);
        self.unreported = self.unreported.saturating_add(count);
        self.rows.remove(&who);
        true
    }

    /// What to tell the server now: attempts to be somebody else first, then in the order in which
    /// they came.
    pub(super) fn due(&mut self, now: Now) -> Option<Batch> {
        self.rows.retain(|_, row| {
            let quiet = row
                .told
                .is_some_and(|told| now.mono.saturating_sub(told) >= TOLD_AGAIN);
            row.count > 0 || !quiet
        });
        self.quiet = self.rows.values().filter(|row| row.count == 0).count();
        let most = usize::try_from(self.ration.left(now.mono)).unwrap_or(BATCH);
        let mut due: Vec<(&Refused, &Row)> = self
            .rows
            .iter()
            .filter(|(_, row)| row.due_in(now.mono) == Some(Duration::ZERO))
            .collect();
        due.sort_by_key(|(_, row)| (row.kind, row.number));
        let rows: Vec<_> = due
            .into_iter()
            .take(most.min(BATCH))
            .filter_map(|(who, row)| Some((*who, denial(who, row)?)))
            .collect();
        (!rows.is_empty()).then_some(Batch {
            rows,
            unreported: self.unreported,
        })
    }

    /// The server has been told.
    pub(super) fn told(&mut self, batch: &Batch, now: Duration) {
        for (who, denial) in &batch.rows {
            if let Some(row) = self.rows.get_mut(who) {
                row.count = row.count.saturating_sub(denial.count);
                row.told = Some(now);
                self.quiet += usize::from(row.count == 0);
            }
        }
        self.unreported = self.unreported.saturating_sub(batch.unreported);
        let count = u32::try_from(batch.rows.len()).unwrap_or(u32::MAX);
        self.ration.take(count, now);
    }

    /// Forgets all that could be told: there is nobody who would listen.
    pub(super) fn forget(&mut self) {
        self.rows.clear();
        self.quiet = 0;
        self.unreported = 0;
    }

    /// How long until something is due, if nothing more comes.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        let rows = self.rows.values();
        rows.filter_map(|row| row.due_in(now)).min()
    }
}

/// A row as the server is told it. The reasons of the house are all words.
fn denial(who: &Refused, row: &Row) -> Option<Denial> {
    Some(Denial {
        reason: Word::parse(who.reason).ok()?,
        pid: who.pid,
        uid: who.uid,
        executable: row.executable.clone(),
        task: who.task,
        count: row.count,
        last_at: row.last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            wall: Timestamp::from_unix_seconds(1_767_225_600).plus(Duration::from_secs(seconds)),
            mono: Duration::from_secs(1000 + seconds),
        }
    }

    fn who(reason: &'static str, pid: u32) -> Refused {
        Refused {
            reason,
            pid,
            uid: 1000,
            task: None,
        }
    }

    fn refuse(table: &mut Table, reason: &'static str, pid: u32, now: Now) {
        let who = who(reason, pid);
        if table.place(&who, now.wall) == Place::New {
            table.add(who, Shown::empty(), now.wall);
        }
    }

    fn told(table: &mut Table, now: Now) -> Vec<(String, u32, u64)> {
        let Some(batch) = table.due(now) else {
            return Vec::new();
        };
        table.told(&batch, now.mono);
        batch
            .denials()
            .map(|d| (d.reason.to_string(), d.pid, d.count))
            .collect()
    }

    #[test]
    fn the_same_is_told_at_once_and_then_seldom() {
        let mut table = Table::new();
        for _ in 0..3 {
            refuse(&mut table, "no_identity", 7, at(0));
        }
        assert_eq!(table.wait(at(0).mono), Some(Duration::ZERO));
        assert_eq!(told(&mut table, at(0)), [("no_identity".into(), 7, 3)]);
        assert_eq!(table.wait(at(0).mono), None);
        refuse(&mut table, "no_identity", 7, at(5));
        refuse(&mut table, "traced", 7, at(5));
        assert_eq!(told(&mut table, at(5)), [("traced".into(), 7, 1)]);
        assert_eq!(table.wait(at(5).mono), Some(Duration::from_secs(595)));
        assert_eq!(told(&mut table, at(600)), [("no_identity".into(), 7, 1)]);
        // Quiet for as long: forgotten.
        assert_eq!(told(&mut table, at(1200)), []);
        assert!(table.rows.is_empty());
    }

    #[test]
    fn what_comes_while_it_is_told_is_told_later() {
        let mut table = Table::new();
        refuse(&mut table, "no_identity", 7, at(0));
        let batch = table.due(at(0)).unwrap();
        refuse(&mut table, "no_identity", 7, at(1));
        table.told(&batch, at(1).mono);
        assert_eq!(told(&mut table, at(601)), [("no_identity".into(), 7, 1)]);
    }

    #[test]
    fn attempts_go_first_and_a_flood_does_not_hide_them() {
        let mut table = Table::new();
        for pid in 0..2000 {
            refuse(&mut table, "no_identity", pid, at(0));
        }
        assert_eq!((table.rows.len(), table.unreported), (KEPT, 2000 - 1024));
        refuse(&mut table, "not_bound", 9, at(0));
        assert_eq!((table.rows.len(), table.unreported), (KEPT, 2000 - 1023));
        let batch = table.due(at(0)).unwrap();
        assert_eq!(batch.rows.len(), BATCH);
        assert_eq!(batch.unreported, 2000 - 1023);
        assert_eq!(batch.rows[0].0, who("not_bound", 9));
        table.told(&batch, at(0).mono);
        assert_eq!(table.unreported, 0);
        // Then by the ration.
        assert_eq!(told(&mut table, at(0)).len(), BATCH);
        assert_eq!(told(&mut table, at(0)).len(), 0);
        assert_eq!(told(&mut table, at(3)).len(), 3);
        // Those that were told give way to what is new.
        refuse(&mut table, "no_identity", 5000, at(4));
        assert_eq!((table.rows.len(), table.unreported), (KEPT, 0));
    }

    #[test]
    fn whoever_is_not_told_is_told_the_next_time() {
        let mut table = Table::new();
        refuse(&mut table, "no_identity", 7, at(0));
        assert!(table.due(at(0)).is_some());
        assert_eq!(told(&mut table, at(60)), [("no_identity".into(), 7, 1)]);
    }
}
