//! What is not told yet, by whom it is about: bounded, whatever happens, and however long the server
//! is away.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use muster_model::Now;
use muster_rt::ration::Ration;

/// How much is kept and told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// How many rows there are at a time.
    pub(crate) kept: usize,
    /// How many are told at once.
    pub(crate) batch: usize,
    /// What goes on about the same is told once in so long.
    pub(crate) again: Duration,
    /// How many are told in the long run.
    pub(crate) ration: Ration,
}

/// What happened to somebody, added up.
pub(crate) trait Tally {
    /// How many times, for whoever cannot be told of one by one.
    fn count(&self) -> u64;
    /// Whether there is nothing to tell.
    fn is_empty(&self) -> bool;
    /// Adds what came after.
    fn add(&mut self, later: Self);
    /// Takes what there is to tell, and leaves nothing of it.
    fn take(&mut self) -> Self;
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It was counted: there is more to tell of the same already, or there is no place for it.
    Counted,
    /// It was counted, and there was nothing to tell of the same before.
    Pending,
    /// It is of somebody new, and there is a place for it.
    New,
}

#[derive(Debug)]
struct Row<T> {
    rank: u8,
    tally: T,
    /// Whether what was taken from it is on its way to the server.
    is_being_told: bool,
    /// In which order rows came.
    number: u64,
    /// When the server was told last, on the monotonic clock.
    told: Option<Duration>,
}

impl<T: Tally> Row<T> {
    fn is_quiet(&self) -> bool {
        self.tally.is_empty() && !self.is_being_told
    }

    /// How long until it may be told, if there is anything to tell.
    fn due_in(&self, now: Duration, again: Duration) -> Option<Duration> {
        let wait = self.told.map(|told| (told + again).saturating_sub(now));
        (!self.tally.is_empty()).then(|| wait.unwrap_or_default())
    }
}

/// Something to tell the server.
#[derive(Debug)]
pub(crate) struct Batch<W, T> {
    pub(crate) rows: Vec<(W, T)>,
    /// How many times something happened that is in no row.
    pub(crate) unreported: u64,
}

/// What is not told yet.
#[derive(Debug)]
pub(crate) struct Table<W, T> {
    terms: Terms,
    rows: HashMap<W, Row<T>>,
    next: u64,
    /// How many times something happened for which there was no place.
    unreported: u64,
    /// How many rows have nothing to tell: so that nobody looks for one in vain, in a flood.
    quiet: usize,
    ration: Ration,
}

impl<W: Clone + Eq + Hash, T: Tally> Table<W, T> {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            rows: HashMap::new(),
            next: 0,
            unreported: 0,
            quiet: 0,
            ration: terms.ration,
        }
    }

    /// Counts something with `with`, or says that it is of somebody new and that there is a place
    /// for it. Whoever causes so much that there is none must not hide those of a lower `rank`: they
    /// take the place of others.
    pub(crate) fn place(&mut self, who: &W, rank: u8, with: impl FnOnce(&mut T)) -> Place {
        if let Some(row) = self.rows.get_mut(who) {
            let was = row.is_quiet();
            let was_empty = row.tally.is_empty();
            with(&mut row.tally);
            self.quiet -= usize::from(was && !row.is_quiet());
            return if was_empty && !row.tally.is_empty() {
                Place::Pending
            } else {
                Place::Counted
            };
        }
        if self.rows.len() < self.terms.kept || self.make_room(rank) {
            return Place::New;
        }
        self.unreported = self.unreported.saturating_add(1);
        Place::Counted
    }

    /// Takes note of somebody new.
    pub(crate) fn add(&mut self, who: W, rank: u8, tally: T) {
        let mut tally = Some(tally);
        let add = |known: &mut T| tally.take().into_iter().for_each(|new| known.add(new));
        // Another thread may have come first.
        if self.place(&who, rank, add) != Place::New {
            return;
        }
        let Some(tally) = tally else { return };
        let row = Row {
            rank,
            tally,
            is_being_told: false,
            number: self.next,
            told: None,
        };
        self.next += 1;
        self.quiet += usize::from(row.is_quiet());
        self.rows.insert(who, row);
    }

    /// Forgets one that was told and is quiet, or else the last of those that are less than `rank`.
    fn make_room(&mut self, rank: u8) -> bool {
        let rows = self.rows.iter().filter(|(_, row)| !row.is_being_told);
        let gives_way = if self.quiet > 0 {
            rows.filter(|(_, row)| row.is_quiet())
                .min_by_key(|(_, row)| row.told)
        } else {
            rows.filter(|(_, row)| row.rank > rank)
                .max_by_key(|(_, row)| (row.rank, row.number))
        };
        let gives_way = gives_way.map(|(who, row)| (who.clone(), row.tally.count()));
        let Some((who, count)) = gives_way else {
            return false;
        };
        self.quiet -= self
            .rows
            .remove(&who)
            .map_or(0, |row| usize::from(row.is_quiet()));
        self.unreported = self.unreported.saturating_add(count);
        true
    }

    /// What to tell the server now: by rank, then in the order in which it came. It is taken out:
    /// [`Table::told`] or [`Table::put_back`] follows.
    pub(crate) fn due(&mut self, now: Now) -> Option<Batch<W, T>> {
        let again = self.terms.again;
        self.rows.retain(|_, row| {
            let is_old = row
                .told
                .is_some_and(|told| now.mono.saturating_sub(told) >= again);
            !(is_old && row.is_quiet())
        });
        let most = usize::try_from(self.ration.left(now.mono)).unwrap_or(self.terms.batch);
        let mut due: Vec<(&W, &mut Row<T>)> = self
            .rows
            .iter_mut()
            .filter(|(_, row)| row.due_in(now.mono, again) == Some(Duration::ZERO))
            .collect();
        due.sort_by_key(|(_, row)| (row.rank, row.number));
        let rows: Vec<(W, T)> = due
            .into_iter()
            .take(most.min(self.terms.batch))
            .map(|(who, row)| {
                row.is_being_told = true;
                (who.clone(), row.tally.take())
            })
            .collect();
        self.quiet = self.rows.values().filter(|row| row.is_quiet()).count();
        (!rows.is_empty()).then(|| Batch {
            rows,
            unreported: std::mem::take(&mut self.unreported),
        })
    }

    /// The server has been told.
    pub(crate) fn told(&mut self, batch: &Batch<W, T>, now: Duration) {
        for (who, _) in &batch.rows {
            if let Some(row) = self.rows.get_mut(who) {
                row.told = Some(now);
                row.is_being_told = false;
                self.quiet += usize::from(row.is_quiet());
            }
        }
        let count = u32::try_from(batch.rows.len()).unwrap_or(u32::MAX);
        self.ration.take(count, now);
    }

    /// The server has not been told: it is told the next time.
    pub(crate) fn put_back(&mut self, batch: Batch<W, T>) {
        for (who, mut earlier) in batch.rows {
            if let Some(row) = self.rows.get_mut(&who) {
                earlier.add(row.tally.take());
                row.tally = earlier;
                row.is_being_told = false;
                self.quiet += usize::from(row.is_quiet());
            }
        }
        self.unreported = self.unreported.saturating_add(batch.unreported);
    }

    /// Forgets all that could be told: there is nobody who would listen.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.quiet = 0;
        self.unreported = 0;
    }

    /// How long until something is due, if nothing more comes.
    pub(crate) fn wait(&self, now: Duration) -> Option<Duration> {
        let rows = self.rows.values();
        rows.filter_map(|row| row.due_in(now, self.terms.again))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use muster_model::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const KEPT: usize = 16;
    const BATCH: usize = 4;
    const AGAIN: Duration = Duration::from_mins(10);

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Times(u64);

    impl Tally for Times {
        fn count(&self) -> u64 {
            self.0
        }

        fn is_empty(&self) -> bool {
            self.0 == 0
        }

        fn add(&mut self, later: Self) {
            self.0 += later.0;
        }

        fn take(&mut self) -> Self {
            std::mem::take(self)
        }
    }

    fn table() -> Table<u32, Times> {
        Table::new(Terms {
            kept: KEPT,
            batch: BATCH,
            again: AGAIN,
            ration: Ration::new(Duration::from_secs(1), 8),
        })
    }

    fn at(seconds: u64) -> Now {
        Now {
            wall: Timestamp::from_unix_seconds(1_767_225_600).plus(Duration::from_secs(seconds)),
            mono: Duration::from_secs(1000 + seconds),
        }
    }

    fn note(table: &mut Table<u32, Times>, who: u32, rank: u8) -> Place {
        let place = table.place(&who, rank, |times| times.0 += 1);
        if place == Place::New {
            table.add(who, rank, Times(1));
        }
        place
    }

    fn told(table: &mut Table<u32, Times>, now: Now) -> Vec<(u32, u64)> {
        let Some(batch) = table.due(now) else {
            return Vec::new();
        };
        table.told(&batch, now.mono);
        batch
            .rows
            .iter()
            .map(|(who, times)| (*who, times.0))
            .collect()
    }

    #[test]
    fn the_same_is_told_at_once_and_then_seldom() {
        let mut table = table();
        for expected in [Place::New, Place::Counted, Place::Counted] {
            assert_eq!(note(&mut table, 7, 1), expected);
        }
        assert_eq!(table.wait(at(0).mono), Some(Duration::ZERO));
        assert_eq!(told(&mut table, at(0)), [(7, 3)]);
        assert_eq!(table.wait(at(0).mono), None);
        // Whoever waits for news is woken for this: it is due some time.
        assert_eq!(note(&mut table, 7, 1), Place::Pending);
        assert_eq!(note(&mut table, 7, 1), Place::Counted);
        note(&mut table, 8, 1);
        assert_eq!(told(&mut table, at(5)), [(8, 1)]);
        assert_eq!(table.wait(at(5).mono), Some(Duration::from_secs(595)));
        assert_eq!(told(&mut table, at(600)), [(7, 2)]);
        // Quiet for as long: forgotten.
        assert_eq!(told(&mut table, at(1200)), []);
        assert!(table.rows.is_empty());
    }

    #[test]
    fn what_comes_while_it_is_told_is_told_later() {
        let mut table = table();
        note(&mut table, 7, 1);
        let batch = table.due(at(0)).unwrap();
        assert_eq!(note(&mut table, 7, 1), Place::Pending);
        table.told(&batch, at(1).mono);
        assert_eq!(told(&mut table, at(601)), [(7, 1)]);
    }

    #[test]
    fn what_was_not_told_is_told_the_next_time_with_what_came_after() {
        let mut table = table();
        for who in 0..20 {
            note(&mut table, who, 1);
        }
        let batch = table.due(at(0)).unwrap();
        assert_eq!(batch.unreported, 4);
        note(&mut table, 0, 1);
        // What is on its way keeps its place.
        for who in 20..40 {
            note(&mut table, who, 0);
        }
        table.put_back(batch);
        let batch = table.due(at(60)).unwrap();
        let first: Vec<u32> = batch.rows.iter().map(|(who, _)| *who).collect();
        assert_eq!(first, [20, 21, 22, 23], "what is more goes first");
        // 20 at first; of the 21 after them one was counted, and twelve made room.
        assert_eq!(batch.unreported, 4 + 12 + 8);
        table.put_back(batch);
        assert!(table.rows.contains_key(&0));
        assert_eq!(table.rows[&0].tally, Times(2));
    }

    #[test]
    fn what_is_more_goes_first_and_a_flood_does_not_hide_it() {
        let mut table = table();
        for who in 0..100 {
            note(&mut table, who, 2);
        }
        assert_eq!((table.rows.len(), table.unreported), (KEPT, 84));
        note(&mut table, 1000, 0);
        assert_eq!((table.rows.len(), table.unreported), (KEPT, 85));
        let batch = table.due(at(0)).unwrap();
        assert_eq!((batch.rows.len(), batch.unreported), (BATCH, 85));
        assert_eq!(batch.rows[0].0, 1000);
        table.told(&batch, at(0).mono);
        assert_eq!(table.unreported, 0);
        // Then by the ration.
        assert_eq!(told(&mut table, at(0)).len(), BATCH);
        assert_eq!(told(&mut table, at(0)).len(), 0);
        assert_eq!(told(&mut table, at(3)).len(), 3);
        // Those that were told give way to what is new.
        note(&mut table, 5000, 2);
        assert_eq!((table.rows.len(), table.unreported), (KEPT, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Note(u32, u8),
        Told,
        Lost,
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..40_u32, 0..3_u8).prop_map(|(who, rank)| Step::Note(who, rank)),
            1 => Just(Step::Told),
            1 => Just(Step::Lost),
            1 => (0..900_u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever comes, fails and is told again: all that happened is told once, in a row or as a
        /// number, and the table keeps its bounds.
        #[test]
        fn nothing_is_lost_or_told_twice(steps in steps()) {
            let mut table = table();
            let (mut happened, mut heard, mut seconds) = (0_u64, 0_u64, 0_u64);
            let mut last: HashMap<u32, u64> = HashMap::new();
            for step in steps {
                match step {
                    Step::Note(who, rank) => {
                        happened += 1;
                        note(&mut table, who, rank);
                    }
                    Step::Told => if let Some(batch) = table.due(at(seconds)) {
                        table.told(&batch, at(seconds).mono);
                        prop_assert!(batch.rows.len() <= BATCH);
                        heard += batch.unreported;
                        for (who, times) in &batch.rows {
                            heard += times.0;
                            let before = last.insert(*who, seconds);
                            // The same again only after its time, unless it had made room for others.
                            let soon = before.is_some_and(|before| seconds - before < AGAIN.as_secs());
                            prop_assert!(!soon || happened > u64::try_from(KEPT).unwrap_or(0));
                        }
                    },
                    Step::Lost => if let Some(batch) = table.due(at(seconds)) {
                        table.put_back(batch);
                    },
                    Step::Wait(by) => seconds += by,
                }
                prop_assert!(table.rows.len() <= KEPT);
                let quiet = table.rows.values().filter(|row| row.is_quiet()).count();
                prop_assert_eq!(table.quiet, quiet);
            }
            // In the end there is time for all of it.
            while table.wait(at(seconds).mono).is_some() {
                seconds += AGAIN.as_secs();
                while let Some(batch) = table.due(at(seconds)) {
                    table.told(&batch, at(seconds).mono);
                    heard += batch.unreported + batch.rows.iter().map(|(_, times)| times.0).sum::<u64>();
                }
            }
            prop_assert_eq!(happened, heard + table.unreported);
        }
    }
}
