//! The machine in a virtual world: one server, one roster, callers, a link and two clocks, with
//! everything going wrong that can. Each step checks what must never happen; the end checks what
//! must happen at last.

#[cfg(test)]
mod checks;
#[cfg(test)]
mod material;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod scenes;
#[cfg(test)]
mod server;
#[cfg(test)]
mod wit;
#[cfg(test)]
mod world;

use proptest::prelude::*;

use ops::Op;
use world::World;

proptest! {
    #[test]
    fn whatever_happens(ops in prop::collection::vec(ops::op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.perform(op);
        }
        world.come_to_rest();
    }

    #[test]
    fn a_small_cache_changes_nothing_for_callers(
        ops in prop::collection::vec(ops::op(), 1..80)
    ) {
        let mut world = World::with_caches(2, 2);
        for op in ops {
            world.perform(op);
        }
        world.come_to_rest();
    }

    /// Steps of an hour either way, between everything that goes on: nothing that has expired is
    /// told (`told_x509`, `told_jwt`), and no step asks the server for more than one SVID of each
    /// entry and try (`asked`).
    #[test]
    fn whatever_happens_to_the_clock(
        steps in prop::collection::vec((any::<bool>(), 0u32..40_000, any::<bool>()), 1..30)
    ) {
        let mut world = World::new();
        for n in 0..6 {
            world.perform(Op::AddEntry { selectors: n, hint: 0, flags: 0 });
        }
        world.perform(Op::Deliver);
        for n in 0..6 {
            world.perform(Op::Call { selectors: n | 8, want: n });
        }
        for (forward, millis, server_is_up) in steps {
            world.perform(if server_is_up { Op::ServerUp } else { Op::ServerDown });
            let asked = world.asked;
            world.perform(Op::StepClock(forward));
            let stormed = world.asked - asked;
            prop_assert!(stormed <= world.node.entries.len(), "{stormed} SVIDs asked for at once");
            world.advance(std::time::Duration::from_millis(millis.into()), server_is_up);
        }
        world.come_to_rest();
    }

    #[test]
    fn a_server_that_only_comes_and_goes(
        flaps in prop::collection::vec((any::<bool>(), 0u32..90_000), 1..40)
    ) {
        let mut world = World::new();
        for n in 0..6 {
            world.perform(Op::AddEntry { selectors: n, hint: 0, flags: 0 });
        }
        world.perform(Op::Deliver);
        for (up, millis) in flaps {
            world.perform(if up { Op::ServerUp } else { Op::ServerDown });
            world.perform(Op::Advance { millis });
        }
        world.come_to_rest();
    }
}
