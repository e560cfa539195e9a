//! Scenes: one sentence each.

use std::time::Duration;

use muster_roster::{Refusal, Want};

use crate::ops::Op;
use crate::world::{HOLD, World, X509_LIFE, own};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn world_with_entries(masks: &[u8]) -> World {
    let mut world = World::new();
    for mask in masks {
        world.perform(Op::AddEntry {
            selectors: *mask,
            hint: 0,
            flags: *mask,
        });
    }
    world.perform(Op::Deliver);
    world
}

#[test]
fn a_call_is_held_and_answered_the_moment_its_entry_exists() {
    let mut world = world_with_entries(&[]);
    let call = world.call(1, Want::X509Svids);
    world.advance(seconds(9), true);
    assert_eq!(world.callers[&call].told, 0);
    world.perform(Op::AddEntry {
        selectors: 1,
        hint: 0,
        flags: 0,
    });
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.callers[&call].told, 1);
}

#[test]
fn a_call_without_a_match_is_denied_when_its_hold_is_over() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(2, Want::X509Svids);
    world.advance(HOLD, true);
    assert_eq!(world.callers[&call].ended, Some(Refusal::NoIdentity));
}

/// A caller that waits for less time is told in that time; one that would wait for longer, when the hold
/// is over.
#[test]
fn a_call_is_denied_before_its_caller_has_gone() {
    let mut world = world_with_entries(&[1]);
    let hurried = world.call(2 + 2 * 64, Want::X509Svids);
    let calm = world.call(2 + 3 * 64, Want::X509Svids);
    world.advance(HOLD / 4, true);
    assert_eq!(world.callers[&hurried].ended, None);
    world.advance((HOLD / 3).saturating_sub(HOLD / 4), true);
    assert_eq!(world.callers[&hurried].ended, Some(Refusal::NoIdentity));
    assert_eq!(world.callers[&calm].ended, None);
    world.advance(HOLD, true);
    assert_eq!(world.callers[&calm].ended, Some(Refusal::NoIdentity));
}

/// What a policy refuses is no identity: the caller's others are not held up by it, and who has no
/// other is told that there is none.
#[test]
fn what_a_policy_refuses_takes_nothing_from_the_other_identities() {
    let mut world = world_with_entries(&[]);
    for mask in [1, 2] {
        world.perform(Op::AddEntry {
            selectors: mask,
            hint: 0,
            flags: mask,
        });
    }
    let refused = world.server.entries.keys().next().unwrap().clone();
    world.denied.insert(refused.clone());
    world.perform(Op::Deliver);
    let both = world.call(3, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    let told = world.callers[&both].x509.as_ref().unwrap();
    assert_eq!(told.identities.len(), 1);
    assert_ne!(told.identities[0].entry, refused);
    let alone = world.call(1, Want::X509Svids);
    world.advance(HOLD, true);
    assert_eq!(world.callers[&alone].ended, Some(Refusal::NoIdentity));

    // It is asked for again and again, and not often.
    let before = world.asked_per_entry[&refused];
    world.advance(seconds(600), true);
    let asked = world.asked_per_entry[&refused] - before;
    assert!((5..=30).contains(&asked), "{asked}");

    // So that a policy that permits it is noticed within a minute or so.
    world.denied.clear();
    world.advance(seconds(61), true);
    let told = world.callers[&both].x509.as_ref().unwrap();
    assert_eq!(told.identities.len(), 2);
}

#[test]
fn what_the_node_takes_back_stays_so_until_the_server_has() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.callers[&call].told, 1);
    world.withdraw(1);
    assert_eq!(world.callers[&call].ended, Some(Refusal::EntitlementLost));
    assert_eq!(world.roster.stats().x509_svids, 0, "its keys are gone");

    // A change of the entry does not bring it back.
    world.perform(Op::UpdateEntry {
        which: 0,
        change: 1,
    });
    world.perform(Op::Deliver);
    let call = world.call(1, Want::X509Svids);
    world.advance(HOLD, true);
    assert_eq!(world.callers[&call].ended, Some(Refusal::NoIdentity));

    world.perform(Op::RemoveEntry(0));
    world.perform(Op::Deliver);
    world.perform(Op::AddEntry {
        selectors: 1,
        hint: 0,
        flags: 1,
    });
    world.perform(Op::Deliver);
    let call = world.call(1, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.callers[&call].told, 1);
}

#[test]
fn out_of_step_is_not_a_denial() {
    let mut world = world_with_entries(&[1]);
    world.perform(Op::ServerDown);
    let call = world.call(2, Want::X509Svids);
    world.advance(HOLD, true);
    assert_eq!(world.callers[&call].ended, Some(Refusal::OutOfStep));
}

#[test]
fn another_spiffe_id_than_the_callers_is_not_granted() {
    let mut world = world_with_entries(&[1]);
    let want = Want::JwtSvids {
        audience: vec!["a".into()],
        spiffe_id: Some(own().with_path("/other").unwrap()),
    };
    let call = world.call(1, want);
    world.advance(HOLD, true);
    assert_eq!(
        world.callers[&call].ended,
        Some(Refusal::IdentityNotGranted)
    );
}

#[test]
fn losing_part_is_a_smaller_answer_and_losing_all_is_the_end() {
    let mut world = world_with_entries(&[1, 2]);
    let call = world.call(3, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(
        world.callers[&call].x509.as_ref().unwrap().identities.len(),
        2
    );
    world.perform(Op::RemoveEntry(0));
    world.perform(Op::Deliver);
    assert_eq!(
        world.callers[&call].x509.as_ref().unwrap().identities.len(),
        1
    );
    world.perform(Op::RemoveEntry(0));
    world.perform(Op::Deliver);
    assert_eq!(world.callers[&call].ended, Some(Refusal::EntitlementLost));
}

#[test]
fn a_new_root_is_told_before_anything_that_it_signed() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    // The server signs with a root of which the node has not heard.
    world.perform(Op::AddRoot);
    world.advance(X509_LIFE / 2, true);
    assert_eq!(
        world.callers[&call].told, 1,
        "nothing that its bundle does not verify"
    );
    world.perform(Op::Deliver);
    let told = world.callers[&call].x509.clone().unwrap();
    assert_eq!(told.bundle.len(), 16, "both roots");
    assert_eq!(
        told.identities[0].svid.root,
        world.node.bundles[&own()].x509_authorities[1].der
    );
}

#[test]
fn a_tainted_root_has_everything_signed_anew_at_once() {
    let mut world = world_with_entries(&[1, 2]);
    let call = world.call(3, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    world.perform(Op::AddRoot);
    world.perform(Op::TaintRoot(0));
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    let told = world.callers[&call].x509.clone().unwrap();
    assert_eq!(told.identities.len(), 2);
    assert_eq!(world.callers[&call].told, 2, "one change, told once");
}

#[test]
fn with_the_server_away_the_old_answer_stands_until_it_expires() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    world.perform(Op::ServerDown);
    world.advance(X509_LIFE.saturating_sub(seconds(11)), true);
    let late = world.call(1, Want::X509Svids);
    assert_eq!(world.callers[&late].told, 1, "served while it is good");
    world.advance(seconds(2), true);
    let too_late = world.call(1, Want::X509Svids);
    assert_eq!(world.callers[&too_late].told, 0, "not when it has expired");
    assert!(world.callers[&call].open, "a stream outlives an outage");
    world.perform(Op::ServerUp);
    world.perform(Op::Deliver);
    world.advance(seconds(1), true);
    assert_eq!(
        (world.callers[&call].told, world.callers[&too_late].told),
        (2, 1)
    );
}

#[test]
fn an_outage_asks_little_of_a_server_that_is_not_there() {
    let mut world = world_with_entries(&[1, 2, 3, 4, 5, 6, 7, 8]);
    world.call(15, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    world.perform(Op::ServerDown);
    let before = world.asked;
    world.advance(seconds(3600), true);
    assert!(world.asked - before < 3000, "{}", world.asked - before);
}

#[test]
fn a_clock_that_steps_starts_no_storm() {
    for forward in [true, false] {
        let mut world = world_with_entries(&[1, 2, 3, 4, 5, 6, 7, 8]);
        world.call(15, Want::X509Svids);
        world.advance(seconds(1), true);
        let before = world.asked;
        world.perform(Op::StepClock(forward));
        world.advance(seconds(120), true);
        // In 120 s each of eight entries is renewed some four to six times by a good clock. By one
        // that is an hour ahead all that arrives has expired: back-off bounds it.
        let asked = world.asked - before;
        assert!(asked <= 8 * 10, "{forward}: {asked}");
        world.perform(Op::StepClock(!forward));
        world.come_to_rest();
    }
}

/// In an outage there is no other, and by the clock that nobody sets its time is not over.
#[test]
fn what_a_clock_that_ran_ahead_ended_is_good_again_when_it_is_set_right() {
    let mut world = world_with_entries(&[1, 2, 3]);
    let call = world.call(15, Want::X509Svids);
    world.advance(seconds(1), true);
    assert_eq!(world.roster.stats().x509_svids, 3);
    let told = world.callers[&call].told;
    world.perform(Op::ServerDown);
    world.perform(Op::StepClock(true));
    assert_eq!(world.roster.stats().x509_svids, 0);
    let late = world.roster.stats().first_x509_expiry;
    assert!(
        late.is_some_and(|end| end < world.now.wall),
        "it is overdue"
    );
    let look = world.roster.poll_timeout().unwrap();
    assert!(look <= world.now.mono + seconds(5), "it looks at the clock");
    world.advance(seconds(8), true);
    world.perform(Op::StepClock(false));
    assert_eq!(world.roster.stats().x509_svids, 3);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.callers[&call].told, told, "it has them: nothing new");
    let another = world.call(15, Want::X509Svids);
    assert_eq!(world.callers[&another].told, 1, "answered at once");

    // But not when its time is over by either clock.
    world.perform(Op::StepClock(true));
    world.advance(X509_LIFE, true);
    world.perform(Op::StepClock(false));
    assert_eq!(world.roster.stats().x509_svids, 0);
    world.come_to_rest();
}

/// However long the clock was wrong: what failed meanwhile does not wait for its back-off.
#[test]
fn a_clock_that_is_set_right_ends_the_waits_that_it_caused() {
    let mut world = world_with_entries(&[1, 2, 3]);
    world.call(15, Want::X509Svids);
    world.advance(seconds(1), true);
    world.perform(Op::StepClock(true));
    world.advance(X509_LIFE / 2, true);
    assert_eq!(world.roster.stats().x509_svids, 0);
    world.perform(Op::StepClock(false));
    world.advance(Duration::ZERO, true);
    assert_eq!(world.roster.stats().x509_svids, 3);
    world.come_to_rest();
}

#[test]
fn a_token_is_signed_once_and_renewed_behind_the_callers_back() {
    let want = || Want::JwtSvids {
        audience: vec!["b".into(), "a".into(), "a".into()],
        spiffe_id: None,
    };
    let mut world = world_with_entries(&[1]);
    let first = world.call(1, want());
    assert_eq!(
        world.pending.len(),
        2,
        "the SVID ahead of time, and the token"
    );
    let second = world.call(1, want());
    assert_eq!(world.pending.len(), 2, "asked once for both");
    world.advance(Duration::ZERO, true);
    let serial = |w: &World, c| w.callers[&c].tokens.as_ref().unwrap()[0].token.issued_at;
    assert_eq!(serial(&world, first), serial(&world, second));

    world.advance(seconds(16), true);
    let third = world.call(1, want());
    assert_eq!(
        serial(&world, third),
        serial(&world, first),
        "answered at once"
    );
    assert_eq!(world.pending.len(), 1, "and renewed");
    world.perform(Op::ServerDown);
    let fourth = world.call(1, want());
    assert_eq!(
        serial(&world, fourth),
        serial(&world, first),
        "a failed renewal costs nothing"
    );
    assert_eq!(
        world.pending.len(),
        0,
        "and is not repeated with every call"
    );

    world.advance(seconds(14), true);
    let fifth = world.call(1, want());
    let pending = world
        .pending
        .pop()
        .expect("an expired token is never served");
    world.answer_with(pending, 1);
    assert!(matches!(
        world.callers[&fifth].ended,
        Some(Refusal::SigningFailed(_))
    ));
}

#[test]
fn a_token_with_a_jti_is_never_shared() {
    let want = || Want::JwtSvids {
        audience: vec!["a".into()],
        spiffe_id: None,
    };
    let mut world = World::new();
    world.perform(Op::AddEntry {
        selectors: 1,
        hint: 0,
        flags: 32 + 16,
    });
    world.perform(Op::Deliver);
    world.call(1, want());
    world.call(1, want());
    assert_eq!(world.pending.len(), 2);
    world.advance(Duration::ZERO, true);
    world.call(1, want());
    assert_eq!(world.pending.len(), 1);
}

#[test]
fn the_cap_is_soft_for_streams_and_hard_for_the_rest() {
    let mut world = World::with_caches(8, 8);
    for _ in 0..10 {
        world.perform(Op::AddEntry {
            selectors: 1,
            hint: 0,
            flags: 0,
        });
    }
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.roster.stats().x509_svids, 8);
    let call = world.call(1, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.roster.stats().x509_svids, 10);
    assert_eq!(
        world.callers[&call].x509.as_ref().unwrap().identities.len(),
        10
    );
    world.perform(Op::HangUp(0));
    assert_eq!(world.roster.stats().x509_svids, 8);
}

#[test]
fn an_entry_that_is_not_to_be_prefetched_is_signed_when_someone_asks() {
    let mut world = World::new();
    world.perform(Op::AddEntry {
        selectors: 1,
        hint: 0,
        flags: 16,
    });
    world.perform(Op::Deliver);
    assert_eq!(world.pending.len(), 0);
    let call = world.call(1, Want::X509Svids);
    assert_eq!(world.pending.len(), 1);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.callers[&call].told, 1);
}

#[test]
fn many_callers_of_one_kind_share_one_answer() {
    let mut world = world_with_entries(&[1]);
    let calls: Vec<_> = (0..50).map(|_| world.call(1, Want::X509Svids)).collect();
    world.advance(Duration::ZERO, true);
    let first = world.callers[&calls[0]].x509.clone().unwrap();
    for call in calls {
        let told = world.callers[&call].x509.clone().unwrap();
        assert!(std::sync::Arc::ptr_eq(&first, &told));
    }
}
