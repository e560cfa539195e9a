//! The ladder with a bundle beside it, as a server drives both: no authority signs before its
//! verifiers can know it, nothing that is published outlives it.

use std::time::Duration;

use muster_model::Timestamp;
use muster_svid::ladder::{Ladder, Step};
use proptest::prelude::*;

const DAY: Duration = Duration::from_hours(24);
const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

#[derive(Clone)]
struct Root {
    number: u32,
    since: Timestamp,
    not_after: Timestamp,
}

/// What survives a crash is `kept`; it is written before the driver's own copy changes.
struct World {
    kept: Ladder<u32>,
    bundle: Vec<Root>,
    made: u32,
    life: Duration,
    leads: Vec<Duration>,
}

impl World {
    fn new(life: u64) -> Self {
        Self {
            kept: Ladder::default(),
            bundle: vec![],
            made: 0,
            life: Duration::from_secs(life),
            leads: vec![],
        }
    }

    /// One pass of the driver, which dies once after `crash_at` steps: the key and the root of
    /// that step are made, the ladder is not yet kept.
    fn pass(&mut self, now: Timestamp, crash_at: usize) -> Option<Timestamp> {
        let mut ladder = self.kept.clone();
        for step in 0..10 {
            match ladder.next(now) {
                Step::Prepare(slot) => {
                    self.made += 1;
                    let not_after = now.plus(self.life);
                    self.bundle.push(Root {
                        number: self.made,
                        since: now,
                        not_after,
                    });
                    ladder.prepare(slot, now, not_after, self.made);
                }
                Step::Activate(slot) => {
                    let number = ladder.prepared()?.material;
                    let root = self.bundle.iter().find(|root| root.number == number)?;
                    self.leads.push(now.since(root.since));
                    ladder.activate(slot);
                }
                Step::Wait(until) => {
                    self.prune(now);
                    return Some(until);
                }
            }
            if step == crash_at {
                ladder = self.kept.clone();
            } else {
                self.kept = ladder.clone();
            }
        }
        None
    }

    /// A day after its end a root leaves the bundle, but never the last one.
    fn prune(&mut self, now: Timestamp) {
        let alive = |root: &Root| now <= root.not_after.plus(DAY);
        if self.bundle.iter().any(alive) {
            self.bundle.retain(alive);
        }
    }
}

proptest! {
    /// Whatever the lifetime, the downtime and the crashes: one pass catches up, whoever signs is
    /// alive, and its root is in the bundle for as long as what it signs can live.
    #[test]
    fn who_signs_is_alive_and_known(
        life in 1u64..10_000_000,
        gaps in prop::collection::vec((0u64..30_000_000, 0usize..4), 1..60),
    ) {
        let mut world = World::new(life);
        let mut now = START;
        for (gap, crash_at) in gaps {
            now = now.plus(Duration::from_secs(gap));
            prop_assert!(world.pass(now, crash_at).is_some(), "a pass comes to rest");
            let active = world.kept.active().unwrap();
            prop_assert!(now < active.not_after);
            let root = world.bundle.iter().find(|root| root.number == active.material);
            prop_assert_eq!(root.map(|root| root.not_after), Some(active.not_after));
        }
    }

    /// A driver that looks when it is told to gives every verifier a third of a life (at most 23
    /// days) to learn of a root before it signs; the very first has nobody to wait for.
    #[test]
    fn roots_are_known_long_before_they_sign(life in 60u64..5_000_000) {
        let mut world = World::new(life);
        let mut now = START;
        for _ in 0..40 {
            let next = world.pass(now, usize::MAX).unwrap();
            prop_assert!(next > now, "it is told to look in the future");
            now = next;
        }
        prop_assert!(world.leads.len() > 10);
        let third = Duration::from_secs(life).min(3 * 23 * DAY) / 3;
        for lead in world.leads.iter().skip(1) {
            prop_assert!(*lead + Duration::from_millis(1) >= third, "{:?}", lead);
        }
    }
}
