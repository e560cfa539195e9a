//! The authority ladder: when the next authority is made, and when it begins to sign.
//!
//! There are two slots. While the authority in one of them is active, the next is prepared in the
//! other, and becomes active some time later: by then every verifier has its root or key. The
//! thresholds are SPIRE's (spire-behaviour 2.2); both instants follow from the active authority's
//! own dates.
//!
//! The ladder decides and keeps the books; whoever drives it makes keys and writes the journal.

use std::fmt;
use std::time::Duration;

use muster_model::Timestamp;

const DAY: Duration = Duration::from_hours(24);

/// Where an authority's key and certificate are kept: each new authority takes the place of the
/// one before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// What an authority does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in the bundle and does not sign yet.
    Prepared,
    /// It signs.
    Active,
    /// It no longer signs; what it signed is still verified.
    Retiring,
}

/// An authority in its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung<M> {
    /// Its slot.
    pub slot: Slot,
    /// What it does.
    pub standing: Standing,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// What it is made of; the ladder does not look inside.
    pub material: M,
}

impl<M> Rung<M> {
    /// From when the next authority is to be prepared: half its life before its end, and at most
    /// 30 days.
    pub fn prepare_next_at(&self) -> Timestamp {
        self.not_after.minus((self.lifetime() / 2).min(30 * DAY))
    }

    /// From when the next authority is to sign: a sixth of its life before its end, and at most
    /// 7 days.
    pub fn activate_next_at(&self) -> Timestamp {
        self.not_after.minus((self.lifetime() / 6).min(7 * DAY))
    }

    fn lifetime(&self) -> Duration {
        self.not_after.since(self.issued_at)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a new authority in this slot, then call [`Ladder::prepare`] and ask again.
    Prepare(Slot),
    /// Let the prepared authority of this slot sign, then call [`Ladder::activate`] and ask again.
    Activate(Slot),
    /// Nothing before this instant.
    Wait(Timestamp),
}

/// Two slots, at most one of them active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder<M> {
    rungs: Vec<Rung<M>>,
}

impl<M> Default for Ladder<M> {
    fn default() -> Self {
        Self { rungs: Vec::new() }
    }
}

/// Why what was remembered is not a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// Two authorities in one slot.
    #[error("two authorities are in slot {0}")]
    SlotTaken(Slot),
    /// Two authorities of a standing that only one can have.
    #[error("two authorities are {0:?}")]
    Twice(Standing),
}

impl<M> Ladder<M> {
    /// A ladder without authorities.
    pub const fn empty() -> Self {
        Self { rungs: Vec::new() }
    }

    /// The ladder that was remembered.
    pub fn from_rungs(rungs: Vec<Rung<M>>) -> Result<Self, LadderError> {
        for (index, rung) in rungs.iter().enumerate() {
            for other in rungs.iter().skip(index + 1) {
                if rung.slot == other.slot {
                    return Err(LadderError::SlotTaken(rung.slot));
                }
                if rung.standing == other.standing && rung.standing != Standing::Retiring {
                    return Err(LadderError::Twice(rung.standing));
                }
            }
        }
        Ok(Self { rungs })
    }

    /// The authorities, in no order.
    pub fn rungs(&self) -> &[Rung<M>] {
        &self.rungs
    }

    /// The authority that signs.
    pub fn active(&self) -> Option<&Rung<M>> {
        self.standing(Standing::Active)
    }

    /// The authority that will sign next.
    pub fn prepared(&self) -> Option<&Rung<M>> {
        self.standing(Standing::Prepared)
    }

    /// What is to be done at `now`. After a long pause, several steps follow each other at once.
    pub fn next(&self, now: Timestamp) -> Step {
        // A prepared authority that has ended in the meantime is none.
        let prepared = self.prepared().filter(|rung| now < rung.not_after);
        match (self.active(), prepared) {
            (None, Some(prepared)) => Step::Activate(prepared.slot),
            (None, None) => Step::Prepare(self.free_slot()),
            (Some(active), None) if now >= active.prepare_next_at() => {
                Step::Prepare(active.slot.other())
            }
            (Some(active), None) => Step::Wait(active.prepare_next_at()),
            (Some(active), Some(prepared)) if now >= active.activate_next_at() => {
                Step::Activate(prepared.slot)
            }
            (Some(active), Some(_)) => Step::Wait(active.activate_next_at()),
        }
    }

    /// The new authority of `slot` is in the bundle. What was in the slot before is gone; an active
    /// authority is never replaced, the call then changes nothing.
    pub fn prepare(&mut self, slot: Slot, issued_at: Timestamp, not_after: Timestamp, material: M) {
        if self.active().is_some_and(|active| active.slot == slot) {
            return;
        }
        self.rungs.retain(|rung| rung.slot != slot);
        self.rungs.push(Rung {
            slot,
            standing: Standing::Prepared,
            issued_at,
            not_after,
            material,
        });
    }

    /// The prepared authority of `slot` signs from now on, and the one that did is retiring. A slot
    /// that is not prepared changes nothing.
    pub fn activate(&mut self, slot: Slot) {
        if self.prepared().is_none_or(|prepared| prepared.slot != slot) {
            return;
        }
        for rung in &mut self.rungs {
            rung.standing = if rung.slot == slot {
                Standing::Active
            } else {
                Standing::Retiring
            };
        }
    }

    /// The authority that signed before.
    pub fn retiring(&self) -> Option<&Rung<M>> {
        self.standing(Standing::Retiring)
    }

    /// The key in the prepared authority's slot is about to be replaced: from here on, whatever
    /// comes of that, nobody may sign with it.
    pub fn give_up_prepared(&mut self) {
        self.rungs
            .retain(|rung| rung.standing != Standing::Prepared);
    }

    /// The retiring authority of `slot` has left the bundle. Any other changes nothing.
    pub fn forget_retiring(&mut self, slot: Slot) {
        self.rungs
            .retain(|rung| rung.slot != slot || rung.standing != Standing::Retiring);
    }

    fn standing(&self, standing: Standing) -> Option<&Rung<M>> {
        self.rungs.iter().find(|rung| rung.standing == standing)
    }

    /// With no active authority: the slot of a prepared one that ended, or an empty one, or that of
    /// the older of two that retired.
    fn free_slot(&self) -> Slot {
        if let Some(ended) = self.prepared() {
            return ended.slot;
        }
        let issued = |slot| {
            let rung = self.rungs.iter().find(|rung| rung.slot == slot);
            rung.map(|rung| rung.issued_at)
        };
        if issued(Slot::A) <= issued(Slot::B) {
            Slot::A
        } else {
            Slot::B
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    /// Takes every step that is due, each authority living for `ttl` seconds.
    fn climb(ladder: &mut Ladder<u32>, now: i64, ttl: i64, made: &mut u32) -> Vec<String> {
        let mut steps = Vec::new();
        loop {
            match ladder.next(at(now)) {
                Step::Prepare(slot) => {
                    *made += 1;
                    ladder.prepare(slot, at(now), at(now + ttl), *made);
                    steps.push(format!("prepare {slot}"));
                }
                Step::Activate(slot) => {
                    ladder.activate(slot);
                    steps.push(format!("activate {slot}"));
                }
                Step::Wait(_) => return steps,
            }
            assert!(
                steps.len() < 10,
                "the ladder does not come to rest: {steps:?}"
            );
        }
    }

    #[test]
    fn a_day_on_the_ladder() {
        let (mut ladder, mut made) = (Ladder::default(), 0);
        let mut at_hour = |hour| climb(&mut ladder, hour * HOUR, 24 * HOUR, &mut made);
        assert_eq!(at_hour(0), ["prepare A", "activate A"]);
        assert!(at_hour(11).is_empty());
        assert_eq!(at_hour(12), ["prepare B"]);
        assert!(at_hour(19).is_empty());
        assert_eq!(at_hour(20), ["activate B"]);
        assert!(at_hour(23).is_empty());
        assert_eq!(
            at_hour(24),
            ["prepare A"],
            "B was made at 12 and is half through at 24"
        );
        assert_eq!(at_hour(32), ["activate A"]);
    }

    #[test]
    fn after_a_long_pause_it_catches_up_in_one_pass() {
        let (mut ladder, mut made) = (Ladder::default(), 0);
        climb(&mut ladder, 0, 24 * HOUR, &mut made);
        assert_eq!(
            climb(&mut ladder, 21 * HOUR, 24 * HOUR, &mut made),
            ["prepare B", "activate B"]
        );
        // Down until everything has ended, a prepared authority included.
        climb(&mut ladder, 33 * HOUR, 24 * HOUR, &mut made);
        assert!(ladder.prepared().is_some());
        let steps = climb(&mut ladder, 400 * HOUR, 24 * HOUR, &mut made);
        assert_eq!(steps, ["prepare A", "activate A"]);
    }

    #[test]
    fn long_lives_are_renewed_in_their_last_month() {
        let (mut ladder, mut made) = (Ladder::default(), 0);
        let year = 365 * 24 * HOUR;
        climb(&mut ladder, 0, year, &mut made);
        assert_eq!(ladder.next(at(0)), Step::Wait(at(year - 30 * 24 * HOUR)));
        climb(&mut ladder, year - 30 * 24 * HOUR, year, &mut made);
        assert_eq!(
            ladder.next(at(year - 29 * 24 * HOUR)),
            Step::Wait(at(year - 7 * 24 * HOUR))
        );
    }

    /// The transition table: its diff is the review.
    #[test]
    fn transitions() {
        use std::fmt::Write as _;

        let rung = |slot, standing| Rung {
            slot,
            standing,
            issued_at: at(0),
            not_after: at(60),
            material: (),
        };
        let states: [(&str, Vec<Rung<()>>); 6] = [
            ("empty", vec![]),
            ("prepared", vec![rung(Slot::A, Standing::Prepared)]),
            ("active", vec![rung(Slot::A, Standing::Active)]),
            (
                "active+prepared",
                vec![
                    rung(Slot::A, Standing::Active),
                    rung(Slot::B, Standing::Prepared),
                ],
            ),
            (
                "active+retiring",
                vec![
                    rung(Slot::A, Standing::Active),
                    rung(Slot::B, Standing::Retiring),
                ],
            ),
            ("retiring", vec![rung(Slot::A, Standing::Retiring)]),
        ];
        let mut table = String::new();
        for (name, rungs) in states {
            let ladder = Ladder::from_rungs(rungs).unwrap();
            for (when, now) in [("young", 1), ("half", 30), ("late", 50), ("ended", 60)] {
                writeln!(table, "{name:<16} {when:<6} -> {:?}", ladder.next(at(now))).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn an_operator_is_ahead_of_time() {
        let (mut ladder, mut made) = (Ladder::default(), 0);
        climb(&mut ladder, 0, 24 * HOUR, &mut made);
        ladder.prepare(Slot::B, at(HOUR), at(25 * HOUR), 7);
        // A second thought: the key is replaced, so the first one never signs.
        ladder.give_up_prepared();
        assert_eq!(ladder.rungs().len(), 1);
        ladder.activate(Slot::B);
        assert_eq!(ladder.active().unwrap().material, 1);
        ladder.prepare(Slot::B, at(HOUR), at(25 * HOUR), 8);
        ladder.activate(Slot::B);
        assert_eq!(ladder.active().unwrap().material, 8);
        assert_eq!(ladder.retiring().unwrap().slot, Slot::A);
        ladder.forget_retiring(Slot::B);
        assert_eq!(ladder.rungs().len(), 2, "only what retires is forgotten");
        ladder.forget_retiring(Slot::A);
        assert_eq!(ladder.retiring(), None);
        assert!(climb(&mut ladder, 12 * HOUR, 24 * HOUR, &mut made).is_empty());
        assert_eq!(
            climb(&mut ladder, 13 * HOUR, 24 * HOUR, &mut made),
            ["prepare A"]
        );
    }

    /// The keys of both are lost, as after a restart with keys in memory.
    #[test]
    fn the_older_of_two_makes_room() {
        let retired = |slot, issued| Rung {
            slot,
            standing: Standing::Retiring,
            issued_at: at(issued),
            not_after: at(99),
            material: (),
        };
        for (a, b, next) in [(1, 2, Slot::A), (2, 1, Slot::B)] {
            let rungs = vec![retired(Slot::A, a), retired(Slot::B, b)];
            let ladder = Ladder::from_rungs(rungs).unwrap();
            assert_eq!(ladder.next(at(3)), Step::Prepare(next));
        }
    }

    #[test]
    fn what_cannot_be_a_ladder_is_refused() {
        let rung = |slot, standing| Rung {
            slot,
            standing,
            issued_at: at(0),
            not_after: at(9),
            material: (),
        };
        let refused = |rungs| Ladder::<()>::from_rungs(rungs).unwrap_err();
        assert_eq!(
            refused(vec![
                rung(Slot::A, Standing::Active),
                rung(Slot::A, Standing::Retiring)
            ]),
            LadderError::SlotTaken(Slot::A)
        );
        assert_eq!(
            refused(vec![
                rung(Slot::A, Standing::Active),
                rung(Slot::B, Standing::Active)
            ]),
            LadderError::Twice(Standing::Active)
        );
    }

    proptest! {
        /// Looked at often enough, there is always an authority that signs and has not ended, and
        /// none signs in the moment in which it was made but the very first.
        #[test]
        fn somebody_always_signs(ttl in 60_i64..100_000, steps in prop::collection::vec(1_i64..10, 1..200)) {
            let (mut ladder, mut made) = (Ladder::default(), 0);
            let mut now = 0;
            climb(&mut ladder, now, ttl, &mut made);
            for step in steps {
                now += step;
                let before = made;
                climb(&mut ladder, now, ttl, &mut made);
                let active = ladder.active().expect("an active authority");
                prop_assert!(at(now) < active.not_after);
                prop_assert!(before == made || active.material != made, "it signs before anyone has heard of it");
            }
        }

        /// However long it slept, it ends up with an authority that signs.
        #[test]
        fn it_recovers_from_any_pause(pauses in prop::collection::vec(0_i64..1_000_000, 1..20)) {
            let (mut ladder, mut made) = (Ladder::default(), 0);
            let mut now = 0;
            for pause in pauses {
                now += pause;
                climb(&mut ladder, now, 3600, &mut made);
                prop_assert!(at(now) < ladder.active().expect("an active authority").not_after);
                prop_assert!(ladder.rungs().len() <= 2);
            }
        }
    }
}
