//! The decision over slices of a set is the decision over the set, for random sets and requests; and
//! what we build of values is what Cedar makes of expressions and finds to fit the schema.

use muster_cedar::{Limits, PolicySet, Reason, Verdict, decide, decide_unsliced};
use muster_policies::{Dice, House, policies};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_slice_decides_as_the_whole_set(seed in any::<u64>(), count in 0_usize..60) {
        let mut dice = Dice::new(seed);
        let house = House::new(&mut dice, 6);
        let text = policies(&mut dice, &house, count);
        let set = PolicySet::load(&text, &Limits::default()).map_err(|error| {
            TestCaseError::fail(format!("{error}\n{text}"))
        })?;
        for _ in 0..50 {
            let asked = house.ask(&mut dice).unwrap();
            let sliced = decide(&set, &asked.facts(), &asked.now);
            let whole = decide_unsliced(&set, &asked.facts(), &asked.now);
            prop_assert_eq!(&sliced, &whole, "{:?}\n{}", asked, text);
            prop_assert_ne!(sliced.reason, Reason::BadFacts, "{:?}", sliced.failures);
            prop_assert_eq!(sliced.allows(), sliced.reason == Reason::Permitted);
        }
    }
}

#[test]
fn random_requests_come_out_in_every_way() {
    let mut seen = Vec::new();
    let mut allowed = 0;
    for seed in 0..4 {
        let mut dice = Dice::new(seed);
        let house = House::new(&mut dice, 6);
        let text = policies(&mut dice, &house, 100);
        let set = PolicySet::load(&text, &Limits::default()).unwrap();
        for _ in 0..300 {
            let asked = house.ask(&mut dice).unwrap();
            let decision = decide(&set, &asked.facts(), &asked.now);
            allowed += usize::from(decision.verdict == Verdict::Allow);
            if !seen.contains(&decision.reason) {
                seen.push(decision.reason);
            }
        }
    }
    // All but bad facts, and neither answer is an exception.
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!((60..1140).contains(&allowed), "{allowed} of 1200");
}
