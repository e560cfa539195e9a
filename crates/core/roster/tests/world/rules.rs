//! Identity rules in the world: how they come and go, and scenes of one sentence each.

use std::sync::Arc;
use std::time::Duration;

use muster_model::{ClassName, Revision, Rule, RuleName, RuleSpec, SpiffeId, Template, Timestamp};
use muster_roster::{Derivation, Event, NotNamed, Refusal, Roster, Want, Who};
use proptest::prelude::*;

use crate::material::{Cert, Token, Wit};
use crate::ops::Op;
use crate::world::{HOLD, World, foreign, node, own, pick, process, selectors};

/// Each process has a name of its own.
const EACH: u8 = 0;
/// All processes with the same facts have one name.
const SHARED: u8 = 1;
/// The name is `/w1`, which entries may give too.
const FIXED: u8 = 2;

const AUDIENCE: &str = "a";

/// A rule that asks for selector `bit`.
fn rule(name: &str, kind: u8, bit: u8, version: u64) -> Rule {
    let template = match kind {
        EACH => "spiffe://{td}/agent/{class}/{instance}",
        SHARED => "spiffe://{td}/svc/{s:0}",
        FIXED => "spiffe://{td}/w1",
        _ => "spiffe://example.org/node/{node}/x-{s:1}",
    };
    Rule {
        name: RuleName::parse(name).unwrap(),
        spec: RuleSpec {
            parent_id: node(),
            selectors: selectors(1 << (bit % 4)),
            template: Template::parse(template).unwrap(),
            class: Some(ClassName::parse("reader").unwrap()),
            x509_svid_ttl: version.is_multiple_of(3).then(|| Duration::from_mins(2)),
            jwt_svid_ttl: version.is_multiple_of(2).then(|| Duration::from_mins(1)),
            federates_with: version
                .is_multiple_of(2)
                .then(|| foreign(bit))
                .into_iter()
                .collect(),
            hint: if version.is_multiple_of(5) {
                "h1".into()
            } else {
                String::new()
            },
            dns_names: Vec::new(),
            per_node: 10,
            in_all: 100,
        },
        version,
        created_at: Timestamp::from_unix_seconds(9),
        created_by: "root".into(),
        updated_at: Timestamp::from_unix_seconds(9),
        updated_by: "root".into(),
        changed_at: Revision(version),
    }
}

impl World {
    pub(crate) fn put_rule(&mut self, name: u8, shape: u8) {
        self.server.revision += 1;
        let version = self.server.revision;
        let rule = rule(&format!("r{}", name % 4), shape % 4, shape / 4, version);
        self.server.rules.insert(rule.name.clone(), rule);
    }

    pub(crate) fn remove_rule(&mut self, which: u8) {
        if let Some(name) = pick(self.server.rules.keys().cloned(), which) {
            self.server.revision += 1;
            self.server.rules.remove(&name);
        }
    }

    /// Bars a name that a rule gave, or bars it no longer.
    pub(crate) fn withhold(&mut self, which: u8) {
        let all = || self.server.withheld.iter().chain(&self.given).cloned();
        if let Some(name) = pick(all(), which) {
            self.server.revision += 1;
            if !self.server.withheld.remove(&name) {
                self.server.withheld.insert(name);
            }
        }
    }

    pub(crate) fn process_gone(&mut self, number: u8) {
        let Some(gone) = process(number) else {
            return;
        };
        let of_it = |c: &&mut crate::world::Caller| c.open && c.who.process == Some(gone);
        self.callers
            .values_mut()
            .filter(of_it)
            .for_each(|c| c.open = false);
        let calls = self
            .callers
            .iter()
            .filter(|(_, c)| c.who.process == Some(gone));
        for call in calls.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.hear(Event::CallEnded(call));
        }
        self.hear(Event::ProcessGone(gone));
    }

    fn rules(&mut self, rules: &[Rule]) {
        for rule in rules {
            self.server.revision += 1;
            self.server.rules.insert(rule.name.clone(), rule.clone());
        }
        self.perform(Op::Deliver);
    }

    /// What the last answer to a call of X509-SVIDs had.
    fn told(&self, call: muster_roster::CallId) -> Vec<SpiffeId> {
        let told = self.callers[&call].x509.as_ref();
        told.map(|update| {
            update
                .identities
                .iter()
                .map(|i| i.spiffe_id.clone())
                .collect()
        })
        .unwrap_or_default()
    }
}

fn world_with(rules: &[Rule]) -> World {
    let mut world = World::new();
    world.rules(rules);
    world
}

fn jwt() -> Want {
    Want::JwtSvids {
        audience: vec![AUDIENCE.into()],
        spiffe_id: None,
    }
}

fn who(mask: u8, number: u8) -> Who {
    Who {
        selectors: Arc::new(selectors(mask)),
        process: process(number),
    }
}

#[test]
fn a_process_has_its_identity_by_rule_and_each_has_its_own() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    let calls: Vec<_> = [1, 2, 1]
        .map(|n| world.call_of(who(1, n), Want::X509Svids))
        .into();
    world.advance(Duration::ZERO, true);
    let told: Vec<_> = calls.iter().map(|call| world.told(*call)).collect();
    assert_eq!(told[0].len(), 1);
    assert_ne!(told[0], told[1], "two processes have two");
    assert_eq!(told[0], told[2], "and one process has one");
    assert_eq!(world.asked, 2);
    assert!(told[0][0].path().starts_with("/agent/reader/"));
    world.come_to_rest();
}

/// A change of what a rule federates with reaches who has its name already, as an entry's does.
#[test]
fn a_running_process_is_told_the_bundles_and_the_hint_of_its_rule() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    world.perform(Op::Foreign(2));
    let call = world.call_of(who(1, 1), Want::X509Svids);
    world.advance(Duration::ZERO, true);
    let told = |world: &World| {
        let update = world.callers[&call].x509.clone().unwrap();
        let domains: Vec<_> = update.federated.keys().cloned().collect();
        (update.identities[0].hint.clone(), domains)
    };
    let signed = world.asked;
    assert_eq!(told(&world), (String::new(), vec![]));
    world.rules(&[rule("r", EACH, 0, 10)]);
    world.advance(Duration::ZERO, true);
    assert_eq!(told(&world), ("h1".to_owned(), vec![foreign(0)]));
    assert_eq!(world.asked, signed, "nothing is signed for it");
    world.rules(&[rule("r", EACH, 0, 11)]);
    world.advance(Duration::ZERO, true);
    assert_eq!(told(&world), (String::new(), vec![]));
}

#[test]
fn who_is_only_described_has_no_name_of_one_process() {
    let mut world = world_with(&[rule("each", EACH, 0, 1), rule("shared", SHARED, 0, 1)]);
    let call = world.call_of(who(1, 0), Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.told(call), [own().with_path("/svc/on").unwrap()]);
}

#[test]
fn a_call_is_held_until_its_rule_exists_and_loses_what_it_gave_with_it() {
    let mut world = world_with(&[]);
    let first = world.call_of(who(1, 1), Want::X509Svids);
    let second = world.call_of(who(1, 2), Want::X509Svids);
    world.advance(Duration::from_secs(9), true);
    assert_eq!(world.callers[&first].told, 0);
    // Until then nothing tells the two apart.
    world.rules(&[rule("r", EACH, 0, 1)]);
    world.advance(Duration::ZERO, true);
    assert_ne!(world.told(first), world.told(second));
    assert_eq!(world.told(second).len(), 1);

    world.perform(Op::RemoveRule(0));
    world.perform(Op::Deliver);
    for call in [first, second] {
        assert_eq!(world.callers[&call].ended, Some(Refusal::EntitlementLost));
    }
    assert_eq!(world.roster.stats().x509_svids, 0, "the keys are gone");
}

#[test]
fn a_name_that_an_entry_gives_is_the_entrys() {
    let mut world = world_with(&[rule("r", FIXED, 0, 1)]);
    let call = world.call_of(who(1, 1), Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.told(call), [own().with_path("/w1").unwrap()]);
    // The entry is of others.
    world.perform(Op::AddEntry {
        selectors: 2,
        hint: 0,
        flags: 1,
    });
    world.perform(Op::Deliver);
    assert_eq!(world.callers[&call].ended, Some(Refusal::EntitlementLost));
    let explained = world.roster.explain(&who(1, 1), 5);
    assert!(matches!(
        explained.nearest_rules[0].why,
        NotNamed::OfAnEntry(_)
    ));

    let waits = world.call_of(who(1, 1), Want::X509Svids);
    world.perform(Op::RemoveEntry(0));
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.told(waits).len(), 1, "free again");
}

#[test]
fn entries_and_rules_are_told_together() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    world.perform(Op::AddEntry {
        selectors: 1,
        hint: 0,
        flags: 2,
    });
    world.perform(Op::Deliver);
    let call = world.call_of(who(1, 1), Want::X509Svids);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.told(call).len(), 2);
    world.perform(Op::RemoveRule(0));
    world.perform(Op::Deliver);
    assert_eq!(world.told(call), [own().with_path("/w2").unwrap()]);
    assert!(world.callers[&call].open);
}

#[test]
fn a_barred_name_is_nobodys_until_it_is_released() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    let (one, other) = (who(1, 1), who(1, 2));
    let barred = world.call_of(one.clone(), Want::X509Svids);
    let free = world.call_of(other, Want::X509Svids);
    world.advance(Duration::ZERO, true);
    let name = world.told(barred)[0].clone();
    world.server.withheld.insert(name.clone());
    world.server.revision += 1;
    world.perform(Op::Deliver);
    assert_eq!(world.callers[&barred].ended, Some(Refusal::EntitlementLost));
    assert!(world.callers[&free].open);
    let explained = world.roster.explain(&one, 5);
    assert_eq!(
        explained.nearest_rules[0].why,
        NotNamed::Withheld(name.clone())
    );
    world.server.withheld.clear();
    world.server.revision += 1;
    let waits = world.call_of(one, Want::X509Svids);
    world.perform(Op::Deliver);
    world.advance(Duration::ZERO, true);
    assert_eq!(world.told(waits), [name]);
}

/// The bound is the server's; a node that gets no more says why, and asks again.
#[test]
fn at_the_bound_the_reason_is_told_and_what_is_given_stays() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    world.bound = Some(1);
    let first = world.call_of(who(1, 1), Want::X509Svids);
    world.advance(Duration::ZERO, true);
    let second = world.call_of(who(1, 2), Want::X509Svids);
    world.advance(HOLD, true);
    assert_eq!(world.callers[&second].ended, Some(Refusal::BoundReached));
    assert!(!Refusal::BoundReached.is_denial());
    assert_eq!(world.callers[&first].told, 1);

    world.bound = Some(2);
    let third = world.call_of(who(1, 2), Want::X509Svids);
    world.advance(Duration::from_secs(9), true);
    assert_eq!(world.told(third).len(), 1);
}

#[test]
fn ten_thousand_processes_leave_nothing_behind() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    let mark = process(1).unwrap();
    for pid in 0..10_000 {
        let mark = muster_model::ProcessMark { pid, ..mark };
        let caller = Who {
            selectors: Arc::new(selectors(1)),
            process: Some(mark),
        };
        let call = world.call_of(caller, Want::X509Svids);
        world.advance(Duration::ZERO, true);
        assert_eq!(world.told(call).len(), 1);
        world.callers.remove(&call);
        world.roster.handle(Event::CallEnded(call), world.now);
        assert_eq!(world.roster.stats().names, 1, "for a call that may follow");
        world.roster.handle(Event::ProcessGone(mark), world.now);
        let stats = world.roster.stats();
        assert_eq!((stats.names, stats.x509_svids), (0, 0));
        assert_eq!(world.roster.poll_timeout(), None, "no alarm is left");
    }
}

#[test]
fn names_that_nobody_uses_are_kept_for_a_minute_and_bounded() {
    let mut world = World::with_caches(3, 3);
    world.rules(&[rule("r", EACH, 0, 1)]);
    let mark = process(1).unwrap();
    for pid in 0..10 {
        let caller = Who {
            selectors: Arc::new(selectors(1)),
            process: Some(muster_model::ProcessMark { pid, ..mark }),
        };
        world.call_of(caller, jwt());
        world.advance(Duration::ZERO, true);
    }
    assert_eq!(world.roster.stats().names, 3);
    assert_eq!(world.roster.stats().jwt_svids, 3);
    world.advance(Duration::from_secs(59), true);
    assert_eq!(world.roster.stats().names, 3);
    world.advance(Duration::from_secs(2), true);
    assert_eq!(world.roster.stats().names, 0);
}

/// A client that asks for tokens in one call after the other has each signed once.
#[test]
fn a_token_is_kept_between_the_calls_of_a_process() {
    let mut world = world_with(&[rule("r", EACH, 0, 1)]);
    let first = world.call_of(who(1, 1), jwt());
    world.advance(Duration::ZERO, true);
    let second = world.call_of(who(1, 1), jwt());
    assert!(world.pending.is_empty());
    let token = |w: &World, call| w.callers[&call].tokens.as_ref().unwrap()[0].token.clone();
    assert!(Arc::ptr_eq(&token(&world, first), &token(&world, second)));
}

#[test]
fn the_server_is_told_what_a_name_was_derived_from() {
    let mut world = world_with(&[rule("each", EACH, 0, 1), rule("shared", SHARED, 0, 1)]);
    world.call_of(who(1, 1), Want::X509Svids);
    let Some(crate::world::Pending::X509(_, entries)) = world.pending.pop() else {
        panic!("nothing is asked for");
    };
    let derived: Vec<Derivation> = entries.into_iter().filter_map(|e| e.derived).collect();
    assert_eq!(derived.len(), 2);
    for derivation in derived {
        let each = derivation.rule.as_str() == "each";
        assert_eq!(derivation.facts.process, process(1).filter(|_| each));
        assert_eq!(derivation.facts.selectors, selectors(1));
    }
}

#[test]
fn a_restart_keeps_the_names_and_what_was_signed_for_them() {
    let mut world = world_with(&[rule("each", EACH, 0, 1), rule("shared", SHARED, 0, 1)]);
    let call = world.call_of(who(1, 1), Want::X509Svids);
    world.call_of(who(1, 1), jwt());
    world.advance(Duration::ZERO, true);
    let told = world.told(call);
    let memory = world.roster.memory().unwrap();

    let mut next = World::new();
    next.roster = Roster::<Cert, Token, Wit>::new(World::config(1000, 1000), world.now);
    next.now = world.now;
    next.node = world.node.clone();
    next.callers.clear();
    next.roster.handle(Event::NodeIs(node()), world.now);
    let remembered = next.roster.remember(memory, world.now).unwrap();
    assert_eq!(
        (
            remembered.names,
            remembered.x509_svids,
            remembered.jwt_svids
        ),
        (2, 2, 2)
    );
    next.pending.clear();
    let again = next.call_of(who(1, 1), Want::X509Svids);
    assert_eq!(next.told(again), told, "while every server is away");
    let tokens = next.call_of(who(1, 1), jwt());
    assert_eq!(next.callers[&tokens].tokens.as_ref().unwrap().len(), 2);
    assert!(next.pending.is_empty());
    // What nobody comes back for is forgotten like any other.
    next.all_hang_up();
    next.advance(Duration::from_secs(61), false);
    assert_eq!(next.roster.stats().names, 0);
}

#[test]
fn the_nearest_rule_says_what_differs() {
    let mut world = world_with(&[rule("near", EACH, 1, 1), rule("nameless", EACH, 0, 1)]);
    world.perform(Op::Deliver);
    let explained = world.roster.explain(&who(1, 0), 5);
    let rules: Vec<_> = explained
        .nearest_rules
        .iter()
        .map(|miss| (miss.rule.as_str(), miss.lacks.len(), miss.why.reason()))
        .collect();
    assert_eq!(
        rules,
        [
            ("nameless", 0, "PROCESS_UNKNOWN"),
            ("near", 1, "SELECTOR_MISSING")
        ]
    );
}

proptest! {
    /// The result is the same for the same facts: on two nodes of one name, whatever came first, a
    /// caller has the same identities.
    #[test]
    fn the_order_of_events_changes_no_name(
        shapes in prop::collection::vec((0u8..4, any::<u8>()), 1..8),
        callers in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let mut early = World::new();
        let calls: Vec<_> = callers.iter().map(|c| early.call(*c, Want::X509Svids)).collect();
        for (name, shape) in &shapes {
            early.put_rule(*name, *shape);
            early.perform(Op::Deliver);
        }
        // Long enough for what was refused in between to be asked for again.
        early.advance(Duration::from_secs(5), true);
        let mut late = World::new();
        for (name, shape) in &shapes {
            late.put_rule(*name, *shape);
        }
        late.perform(Op::Deliver);
        for (caller, call) in callers.iter().zip(calls) {
            let second = late.call(*caller, Want::X509Svids);
            late.advance(Duration::ZERO, true);
            // A stream that lost its last identity on the way has ended.
            if early.callers[&call].open {
                prop_assert_eq!(early.told(call), late.told(second));
            }
            let who = &late.callers[&second].who;
            prop_assert_eq!(early.roster.identities(who), late.roster.identities(who));
        }
    }
}
