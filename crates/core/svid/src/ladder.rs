//! The ladder of authorities: when the next one is made, when it takes over, when the old one
//! leaves the bundle (spire-behaviour 2.2). One ladder is for one kind of key: X.509 or JWT.
//!
//! There are two slots. A new authority is *prepared* in one and is in every bundle from then on;
//! well later it becomes *active* and signs, and the one before it is *retiring*: it still
//! verifies what it signed. Once nothing that it signed can live, it is *gone*.
//!
//! Pure: [`Ladder::next_step`] says what is to be done and when to ask again; the driver does it,
//! keeps it, and only then says so with [`Ladder::prepare`] or [`Ladder::activate`]. Asking again
//! at any time is harmless, and one pass catches up with any downtime.

use std::fmt;
use std::time::Duration;

use muster_model::Timestamp;

const DAY: Duration = Duration::from_hours(24);
/// The next authority is made this long before the end of the active one, at most.
const PREPARE_AT_MOST: Duration = Duration::from_hours(30 * 24);
/// The next authority takes over this long before the end of the active one, at most.
const ACTIVATE_AT_MOST: Duration = Duration::from_hours(7 * 24);
/// How long after its end an authority stays in the bundle.
const REMOVE_AFTER: Duration = DAY;

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotName {
    /// The first.
    A,
    /// The second.
    B,
}

impl SlotName {
    /// The other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// From when to when an authority lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it was issued; not the back-dated beginning of its certificate.
    pub issued_at: Timestamp,
    /// When it ends, by the certificate's own word: an upstream may have given less than was
    /// asked for.
    pub not_after: Timestamp,
}

impl Term {
    /// After this instant the next authority is made.
    pub fn prepare_after(self) -> Timestamp {
        self.not_after
            .minus((self.lifetime() / 2).min(PREPARE_AT_MOST))
    }

    /// After this instant the next authority takes over.
    pub fn activate_after(self) -> Timestamp {
        self.not_after
            .minus((self.lifetime() / 6).min(ACTIVATE_AT_MOST))
    }

    fn lifetime(self) -> Duration {
        self.not_after.since(self.issued_at)
    }
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// Nothing, or nothing that matters any longer.
    #[default]
    Gone,
    /// An authority that is in the bundle and does not sign yet.
    Prepared(Term),
    /// The authority that signs.
    Active(Term),
    /// An authority that signed before; its slot may be used again.
    Retiring(Term),
}

impl Slot {
    /// The name of the state, as the API and the log have it.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Prepared(_) => "prepared",
            Self::Active(_) => "active",
            Self::Retiring(_) => "retiring",
        }
    }

    /// From when to when the slot's authority lives.
    pub const fn term(self) -> Option<Term> {
        match self {
            Self::Gone => None,
            Self::Prepared(term) | Self::Active(term) | Self::Retiring(term) => Some(term),
        }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make an authority in this slot: generate its key, have it signed, put it into the bundle,
    /// keep all that, then call [`Ladder::prepare`].
    Prepare(SlotName),
    /// Let the authority in this slot sign: keep that, then call [`Ladder::activate`].
    Activate(SlotName),
    /// Nothing; ask again at this instant.
    Wait(Timestamp),
}

/// A change that the ladder does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// The slot's authority signs: another one takes over first.
    #[error("the authority in slot {0} is active: activate the other slot first")]
    Active(SlotName),
    /// There is no prepared authority in the slot.
    #[error("there is no prepared authority in slot {0}")]
    NotPrepared(SlotName),
    /// The new authority would be over before it begins.
    #[error("an authority that ends at {not_after:?} is over when it is issued at {issued_at:?}")]
    NoLife {
        /// When it was issued.
        issued_at: Timestamp,
        /// When it ends.
        not_after: Timestamp,
    },
}

/// The two slots of one kind of key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ladder {
    a: Slot,
    b: Slot,
}

impl Ladder {
    /// A ladder without authorities.
    pub const fn new() -> Self {
        Self {
            a: Slot::Gone,
            b: Slot::Gone,
        }
    }

    /// A ladder as it was kept. Two active authorities cannot come about by steps; of two, the one
    /// that ends later is taken to have been activated later.
    pub fn restore(a: Slot, b: Slot) -> Self {
        match (a, b) {
            (Slot::Active(first), Slot::Active(second)) if first.not_after < second.not_after => {
                Self {
                    a: Slot::Retiring(first),
                    b,
                }
            }
            (Slot::Active(_), Slot::Active(second)) => Self {
                a,
                b: Slot::Retiring(second),
            },
            _ => Self { a, b },
        }
    }

    /// What a slot holds.
    pub const fn slot(&self, name: SlotName) -> Slot {
        match name {
            SlotName::A => self.a,
            SlotName::B => self.b,
        }
    }

    /// The slot whose authority signs, and its life.
    pub const fn active(&self) -> Option<(SlotName, Term)> {
        match (self.a, self.b) {
            (Slot::Active(term), _) => Some((SlotName::A, term)),
            (_, Slot::Active(term)) => Some((SlotName::B, term)),
            _ => None,
        }
    }

    /// What is to be done at `now`.
    pub fn next_step(&self, now: Timestamp) -> Step {
        let Some((active, term)) = self.active() else {
            return self.first_step(now);
        };
        let next = active.other();
        match self.slot(next) {
            Slot::Prepared(prepared) if prepared.not_after > now => {
                due(term.activate_after(), now, Step::Activate(next))
            }
            // One that ended while it waited is made anew.
            Slot::Prepared(_) => Step::Prepare(next),
            Slot::Gone | Slot::Retiring(_) | Slot::Active(_) => {
                due(term.prepare_after(), now, Step::Prepare(next))
            }
        }
    }

    /// Nobody signs: whoever is prepared does, or the emptier slot is filled.
    fn first_step(&self, now: Timestamp) -> Step {
        for name in [SlotName::A, SlotName::B] {
            if let Slot::Prepared(term) = self.slot(name)
                && term.not_after > now
            {
                return Step::Activate(name);
            }
        }
        match self.a {
            Slot::Retiring(_) => Step::Prepare(SlotName::B),
            Slot::Gone | Slot::Prepared(_) | Slot::Active(_) => Step::Prepare(SlotName::A),
        }
    }

    /// Notes that the authority in slot `name` was made and is in the bundle. One that was
    /// prepared or retiring there is no longer on the ladder; its root stays in the bundle.
    pub fn prepare(&mut self, name: SlotName, term: Term) -> Result<(), LadderError> {
        if let Slot::Active(_) = self.slot(name) {
            return Err(LadderError::Active(name));
        }
        if term.not_after <= term.issued_at {
            return Err(LadderError::NoLife {
                issued_at: term.issued_at,
                not_after: term.not_after,
            });
        }
        self.put(name, Slot::Prepared(term));
        Ok(())
    }

    /// Notes that the authority in slot `name` signs from now on; the other one, if it signed, is
    /// retiring.
    pub fn activate(&mut self, name: SlotName) -> Result<(), LadderError> {
        let Slot::Prepared(term) = self.slot(name) else {
            return Err(LadderError::NotPrepared(name));
        };
        if let Slot::Active(before) = self.slot(name.other()) {
            self.put(name.other(), Slot::Retiring(before));
        }
        self.put(name, Slot::Active(term));
        Ok(())
    }

    /// Notes that the authority in slot `name` left the bundle.
    pub fn forget(&mut self, name: SlotName) -> Result<(), LadderError> {
        if let Slot::Active(_) = self.slot(name) {
            return Err(LadderError::Active(name));
        }
        self.put(name, Slot::Gone);
        Ok(())
    }

    fn put(&mut self, name: SlotName, slot: Slot) {
        match name {
            SlotName::A => self.a = slot,
            SlotName::B => self.b = slot,
        }
    }
}

fn due(after: Timestamp, now: Timestamp, step: Step) -> Step {
    if now > after {
        step
    } else {
        Step::Wait(after.plus(Duration::from_millis(1)))
    }
}

/// Pruning would leave the bundle empty; nothing may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "every authority of the bundle expired more than a day ago: nothing is removed, for an empty bundle would cut everyone off"
)]
pub struct WouldEmptyBundle;

/// Whether an authority that ends at `expires_at` may leave the bundle: a day after its end.
pub fn is_removable(expires_at: Timestamp, now: Timestamp) -> bool {
    now > expires_at.plus(REMOVE_AFTER)
}

/// Which of the authorities with these ends may leave the bundle at `now`, by their places in
/// the list. `None` never ends. The last one never leaves.
pub fn removable(
    ends: &[Option<Timestamp>],
    now: Timestamp,
) -> Result<Vec<usize>, WouldEmptyBundle> {
    let places: Vec<usize> = ends
        .iter()
        .enumerate()
        .filter(|(_, end)| end.is_some_and(|end| is_removable(end, now)))
        .map(|(place, _)| place)
        .collect();
    if !places.is_empty() && places.len() == ends.len() {
        return Err(WouldEmptyBundle);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000).plus(Duration::from_hours(hours))
    }

    fn term(from: u64, hours: u64) -> Term {
        Term {
            issued_at: at(from),
            not_after: at(from + hours),
        }
    }

    /// Each state of a slot under each change: the review of this file.
    #[test]
    fn transition_table() {
        let states = [
            Slot::Gone,
            Slot::Prepared(term(0, 24)),
            Slot::Active(term(0, 24)),
            Slot::Retiring(term(0, 24)),
        ];
        let mut table = String::new();
        for before in states {
            for change in ["prepare", "activate", "forget"] {
                let mut ladder = Ladder {
                    a: before,
                    b: Slot::Gone,
                };
                let result = match change {
                    "prepare" => ladder.prepare(SlotName::A, term(12, 24)),
                    "activate" => ladder.activate(SlotName::A),
                    _ => ladder.forget(SlotName::A),
                };
                let after = match result {
                    Ok(()) => ladder.a.status().to_owned(),
                    Err(reason) => format!("refused: {reason}"),
                };
                writeln!(table, "{:<8} {change:<8} {after}", before.status()).unwrap();
            }
        }
        assert_eq!(
            table,
            "\
gone     prepare  prepared
gone     activate refused: there is no prepared authority in slot A
gone     forget   gone
prepared prepare  prepared
prepared activate active
prepared forget   gone
active   prepare  refused: the authority in slot A is active: activate the other slot first
active   activate refused: there is no prepared authority in slot A
active   forget   refused: the authority in slot A is active: activate the other slot first
retiring prepare  prepared
retiring activate refused: there is no prepared authority in slot A
retiring forget   gone
"
        );
    }

    /// A day's authority: the next is made after 12 hours and signs after 20.
    #[test]
    fn thresholds_of_a_day() {
        let mut ladder = Ladder::new();
        assert_eq!(ladder.next_step(at(0)), Step::Prepare(SlotName::A));
        ladder.prepare(SlotName::A, term(0, 24)).unwrap();
        assert_eq!(ladder.next_step(at(0)), Step::Activate(SlotName::A));
        ladder.activate(SlotName::A).unwrap();
        let soon = Duration::from_millis(1);
        assert_eq!(ladder.next_step(at(0)), Step::Wait(at(12).plus(soon)));
        assert_eq!(ladder.next_step(at(12)), Step::Wait(at(12).plus(soon)));
        assert_eq!(
            ladder.next_step(at(12).plus(soon)),
            Step::Prepare(SlotName::B)
        );
        ladder.prepare(SlotName::B, term(12, 24)).unwrap();
        assert_eq!(ladder.next_step(at(13)), Step::Wait(at(20).plus(soon)));
        assert_eq!(
            ladder.next_step(at(20).plus(soon)),
            Step::Activate(SlotName::B)
        );
        ladder.activate(SlotName::B).unwrap();
        assert_eq!(ladder.slot(SlotName::A).status(), "retiring");
        assert_eq!(ladder.active().map(|(name, _)| name), Some(SlotName::B));
    }

    #[test]
    fn thresholds_of_a_decade_are_days() {
        let decade = term(0, 87_600);
        assert_eq!(decade.prepare_after(), decade.not_after.minus(30 * DAY));
        assert_eq!(decade.activate_after(), decade.not_after.minus(7 * DAY));
    }

    #[test]
    fn two_active_authorities_are_sorted_out() {
        let ladder = Ladder::restore(Slot::Active(term(0, 24)), Slot::Active(term(12, 24)));
        assert_eq!(ladder.active(), Some((SlotName::B, term(12, 24))));
        assert_eq!(ladder.slot(SlotName::A), Slot::Retiring(term(0, 24)));
    }

    #[test]
    fn the_last_authority_stays() {
        let (dead, alive) = (Some(at(0)), Some(at(100)));
        assert_eq!(removable(&[dead, alive, None], at(25)), Ok(vec![0]));
        assert_eq!(removable(&[dead, alive], at(24)), Ok(vec![]));
        assert_eq!(removable(&[dead, dead], at(25)), Err(WouldEmptyBundle));
        assert_eq!(removable(&[], at(25)), Ok(vec![]));
    }

    /// A driver as the server has it: does what the ladder says, keeps a bundle, prunes it.
    struct World {
        ladder: Ladder,
        /// Each slot's root by number, and all roots of the bundle with number and end.
        roots: [Option<u32>; 2],
        bundle: Vec<(u32, Timestamp, Timestamp)>,
        made: u32,
        life: Duration,
        /// When the root that signs came into the bundle and when it began to sign.
        leads: Vec<Duration>,
    }

    impl World {
        fn new(life: Duration) -> Self {
            Self {
                ladder: Ladder::new(),
                roots: [None; 2],
                bundle: vec![],
                made: 0,
                life,
                leads: vec![],
            }
        }

        /// One pass; `crash_after` steps the process dies and another one goes on.
        fn pass(&mut self, now: Timestamp, crash_after: usize) -> Option<Timestamp> {
            for step in 0..8 {
                if step == crash_after {
                    self.ladder = Ladder::restore(
                        self.ladder.slot(SlotName::A),
                        self.ladder.slot(SlotName::B),
                    );
                }
                match self.ladder.next_step(now) {
                    Step::Prepare(name) => {
                        self.made += 1;
                        let not_after = now.plus(self.life);
                        self.bundle.push((self.made, not_after, now));
                        self.roots[name as usize] = Some(self.made);
                        let term = Term {
                            issued_at: now,
                            not_after,
                        };
                        self.ladder.prepare(name, term).unwrap();
                    }
                    Step::Activate(name) => {
                        let number = self.roots[name as usize].unwrap();
                        let root = self.bundle.iter().find(|r| r.0 == number);
                        let (_, _, since) = root.expect("a root is in the bundle before it signs");
                        self.leads.push(now.since(*since));
                        self.ladder.activate(name).unwrap();
                    }
                    Step::Wait(until) => {
                        assert!(until > now, "asking again is in the future");
                        self.prune(now);
                        return Some(until);
                    }
                }
            }
            None
        }

        fn prune(&mut self, now: Timestamp) {
            let ends: Vec<_> = self.bundle.iter().map(|root| Some(root.1)).collect();
            let Ok(places) = removable(&ends, now) else {
                return;
            };
            for place in places.into_iter().rev() {
                let (_, end, _) = self.bundle.remove(place);
                assert!(now > end.plus(DAY), "removed within a day of its end");
            }
            assert!(!self.bundle.is_empty(), "the last root was removed");
        }
    }

    proptest! {
        /// Whatever the lifetime and however long the server is down: one pass catches up, there
        /// is a living active authority, and its root is in the bundle.
        #[test]
        fn there_is_always_an_authority(
            life in 1u64..10_000_000,
            gaps in prop::collection::vec((0u64..30_000_000, 0usize..4), 1..60),
        ) {
            let mut world = World::new(Duration::from_secs(life));
            let mut now = at(0);
            for (gap, crash_after) in gaps {
                now = now.plus(Duration::from_secs(gap));
                prop_assert!(world.pass(now, crash_after).is_some(), "one pass is enough");
                let (name, term) = world.ladder.active().unwrap();
                prop_assert!(term.not_after > now);
                let number = world.roots[name as usize].unwrap();
                prop_assert!(world.bundle.iter().any(|root| root.0 == number));
            }
        }

        /// A server that asks when it is told to gives every verifier a third of a life to learn
        /// of a root before it signs.
        #[test]
        fn roots_are_known_long_before_they_sign(life in 60u64..5_000_000) {
            let mut world = World::new(Duration::from_secs(life));
            let mut now = at(0);
            for _ in 0..40 {
                now = world.pass(now, usize::MAX).unwrap();
            }
            prop_assert!(world.leads.len() > 10);
            let third = Duration::from_secs(life).min(3 * 23 * DAY) / 3;
            for lead in world.leads.iter().skip(1) {
                prop_assert!(*lead + Duration::from_secs(1) >= third, "{:?}", lead);
            }
        }
    }
}
