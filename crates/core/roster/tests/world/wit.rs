//! Scenes of WIT-SVIDs: one sentence each.

use std::time::Duration;

use muster_roster::{Refusal, Want};

use crate::ops::Op;
use crate::world::{HOLD, World, X509_LIFE, own};

const ALL: Want = Want::WitSvids { spiffe_id: None };

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Entry n has the selectors `masks[n]` and the name `/wM`, where M is the mask modulo 5.
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

fn one(name: &str) -> Want {
    Want::WitSvids {
        spiffe_id: Some(own().with_path(name).unwrap()),
    }
}

/// WIT-17.
#[test]
fn all_identities_or_the_one_that_is_asked_for() {
    let mut world = world_with_entries(&[1, 2]);
    let (all, only) = (world.call(3, ALL), world.call(3, one("/w2")));
    world.advance(Duration::ZERO, true);
    let count = |call| world.callers[&call].wits.as_ref().unwrap().identities.len();
    assert_eq!((count(all), count(only)), (2, 1));
}

#[test]
fn nothing_is_signed_before_somebody_asks() {
    let mut world = world_with_entries(&[1, 2, 3]);
    world.advance(seconds(30), true);
    assert_eq!(world.wits_asked, 0);
    world.call(1, ALL);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.wits_asked, 1);
}

/// WIT-20: held like every call, then denied.
#[test]
fn without_an_identity_a_call_is_held_and_denied() {
    let mut world = world_with_entries(&[1]);
    let (none, other) = (world.call(2, ALL), world.call(1, one("/w4")));
    world.advance(HOLD.saturating_sub(seconds(1)), true);
    assert!(world.callers[&none].open && world.callers[&other].open);
    world.advance(seconds(1), true);
    assert_eq!(world.callers[&none].ended, Some(Refusal::NoIdentity));
    assert_eq!(
        world.callers[&other].ended,
        Some(Refusal::IdentityNotGranted)
    );
}

#[test]
fn the_entry_that_comes_answers_the_held_call() {
    let mut world = world_with_entries(&[]);
    let call = world.call(1, ALL);
    world.advance(seconds(5), true);
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
fn an_entry_that_goes_takes_its_token_along() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, ALL);
    world.advance(Duration::ZERO, true);
    world.perform(Op::RemoveEntry(0));
    world.perform(Op::Deliver);
    assert_eq!(world.callers[&call].ended, Some(Refusal::EntitlementLost));
}

#[test]
fn through_an_outage_tokens_are_served_to_their_real_end() {
    let mut world = world_with_entries(&[1]);
    let stream = world.call(1, ALL);
    world.advance(Duration::ZERO, true);
    world.perform(Op::ServerDown);
    world.advance(X509_LIFE.saturating_sub(seconds(1)), false);
    let late = world.call(1, ALL);
    world.advance(Duration::ZERO, false);
    assert!(world.callers[&stream].open, "an outage ends no stream");
    assert_eq!(world.callers[&late].told, 1, "served from what is held");
    world.advance(seconds(2), false);
    let after = world.call(1, ALL);
    world.advance(HOLD + seconds(31), false);
    assert_eq!(world.callers[&after].ended, Some(Refusal::NotSignedYet));
    assert!(!Refusal::NotSignedYet.is_denial());
}

#[test]
fn a_tainted_key_is_replaced_at_once() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, ALL);
    world.advance(Duration::ZERO, true);
    let before = key_of(&world, call);
    world.perform(Op::AddWitKey);
    world.perform(Op::TaintWitKey(0));
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    assert_ne!(key_of(&world, call), before);
}

#[test]
fn a_key_that_leaves_the_bundle_takes_its_tokens_along() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, ALL);
    world.advance(Duration::ZERO, true);
    let before = key_of(&world, call);
    world.perform(Op::AddWitKey);
    world.perform(Op::RemoveWitKey(0));
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    assert_ne!(key_of(&world, call), before);
}

/// WIT-19: the set is told once the own trust domain has a key.
#[test]
fn bundles_have_the_own_key_and_follow_its_rotation() {
    let mut world = world_with_entries(&[1]);
    let call = world.call(1, Want::WitBundles);
    world.advance(Duration::ZERO, true);
    let keys =
        |world: &World| world.callers[&call].wit_bundles.as_ref().unwrap().by_domain[&own()].len();
    assert_eq!(keys(&world), 1);
    world.perform(Op::AddWitKey);
    world.perform(Op::Deliver);
    assert_eq!(keys(&world), 2);
    assert_eq!(world.callers[&call].told, 2);
}

/// What callers may choose freely must not grow without bound.
#[test]
fn many_wishes_leave_nothing_behind() {
    let mut world = World::with_caches(2, 2);
    for mask in [1, 2, 3, 4, 5, 6] {
        world.perform(Op::AddEntry {
            selectors: mask,
            hint: 0,
            flags: 0,
        });
    }
    world.perform(Op::Deliver);
    for _ in 0..3 {
        let calls: Vec<_> = (1..7).map(|mask| world.call(mask, ALL)).collect();
        world.advance(Duration::ZERO, true);
        assert!(calls.iter().all(|call| world.callers[call].told == 1));
        for _ in calls {
            world.perform(Op::HangUp(0));
        }
        assert!(world.roster.stats().wit_svids <= 2, "the soft cap");
    }
}

fn key_of(world: &World, call: muster_roster::CallId) -> String {
    let update = world.callers[&call].wits.as_ref().unwrap();
    update.identities[0].svid.key_id.clone()
}
