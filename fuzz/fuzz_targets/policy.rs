//! Sets of policies: any text is refused with faults that have a place, or is a set, and that decides
//! by its slices as it does whole.

#![no_main]

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use muster_cedar::{Limits, PolicySet, decide, decide_unsliced};
use muster_policies::{Asked, Dice, House};

/// How many requests each set decides; they are the same for all.
const REQUESTS: usize = 16;

thread_local! {
    static REQUESTED: OnceCell<Vec<Asked>> = const { OnceCell::new() };
}

fuzz_target!(|text: &str| {
    decided(text);
    // Few texts are sets; as a condition, more of them are.
    decided(&format!(
        "@id(\"fuzz\")\npermit (principal is Muster::Agent, action == Muster::Action::\"task.open\", resource)\nwhen {{ {text} }};"
    ));
});

fn decided(text: &str) {
    let set = match PolicySet::load(text, &Limits::default()) {
        Ok(set) => set,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.faults.iter().all(|fault| fault.place.line > 0));
            return;
        }
    };
    REQUESTED.with(|requested| {
        for asked in requested.get_or_init(requests) {
            let sliced = decide(&set, &asked.facts(), &asked.now);
            let whole = decide_unsliced(&set, &asked.facts(), &asked.now);
            assert_eq!(sliced, whole);
        }
    });
    // What it is does not depend on when it is read.
    let again = PolicySet::load(text, &Limits::default()).unwrap();
    assert_eq!(again.digest(), set.digest());
}

fn requests() -> Vec<Asked> {
    let mut dice = Dice::new(1);
    let house = House::new(&mut dice, 3);
    (0..REQUESTS)
        .map(|_| house.ask(&mut dice).unwrap())
        .collect()
}
